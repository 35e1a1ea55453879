"""A channel layer on PostgreSQL: the station "fan out" without Redis.

    layer.py       PostgresChannelLayer: the contract of Channels
    branch.py      its part in one event loop: sends, receives, delivers
    encoding.py    message <-> ASCII JSON
    envelope.py    what stands in one NOTIFY, signed
    mailbox.py     the process's queues and group members, without I/O
    heard.py       what came from other processes, delivered once
    sending.py     the connection for statements
    statements.py  what waits for it, and goes together
    storing.py     the table for large messages and for plain names
    listening.py   the connection for LISTEN
    losses.py      what was dropped or refused, counted

Inside one process messages are handed over in memory; to all others they go as one NOTIFY, on
one pg channel for the groups of a prefix and one per process for its specific names. A
pg channel per group would save nothing: up to PostgreSQL 18 every NOTIFY wakes every listener.
"""

from __future__ import annotations

from .layer import PostgresChannelLayer

__all__ = ["PostgresChannelLayer"]
