"""Handling: ``@on_event`` functions, each with a place of its own in the ledger.

handlers.py     all of one database, for as long as a process leads
runner.py       one at work, from its stored place on
order.py        which events may be under way, and which waits for which
calls.py        the calls of the process, which outlive a session
  calling.py    a single one, whatever it does
  branches.py   the tasks that it begins
reached.py      how far it has come
parking.py      where that is kept, and the events that were given up on
retries.py      of those, what somebody asked to try once more
"""
