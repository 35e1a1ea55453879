"""The relay: from the ledger and the pg channels into the groups of the channel layer.

service.py      the supervisor: one session after another, until told to stop
session.py      one life of the connections, and the tasks that share them
connections.py  what makes a server unfit, and the sudden end of a connection
listener.py     LISTEN: bells become a flag, live events a bounded queue
leader.py       the lock that lets one relay store ticks
epoch.py        where to go on: same history, new timeline, or a restored copy
relay.py        what a leader runs, joined:
  gate.py       when to look again: asleep until the bell, or awake and unrung
  pace.py       how often, while it is awake
  ticker.py     ticks, and their rows turned into frames
  ahead.py      the next rows are read meanwhile
  fullness.py   what becomes of a ledger that is full
  frames.py     which frames a tick makes; pure
  queues.py     the bounded queues
  sender.py     frames into the channel layer, in order within a group
  progress.py   what has been sent: recorded, and told to the hubs
notify_queue.py who lets the server's notify queue fill
live.py         live events into frames
trimmer.py      the ledger's retention, now and then
unclaimed.py    retries of handlers that are gone
probes.py       pglisten --check
process.py      what pglisten does to its own process
"""
