"""channels_postgres' part: its settings. The workers are the same as for the other layers."""
