"""The app whose rows the oracle writes, follows and counts."""
