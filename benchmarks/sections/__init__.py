"""The questions, one module each; `run(place)` gives the findings."""
