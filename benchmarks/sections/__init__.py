"""The questions, one module each; ``run(place)`` gives the findings."""

SECTIONS = (
    "writers",
    "bulk",
    "sessions",
    "relay",
    "drain",
    "latency",
    "fanout",
    "idle",
    "sockets",
    "peers",
    "growth",
)
"""In the order of a run and of the table."""
