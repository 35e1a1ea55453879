"""The processes of a measurement, each started by `python -m` and read line by line."""
