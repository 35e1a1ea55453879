"""Live updates for Django on PostgreSQL: every committed change reaches the browser.

The journey of a change, one folder or module for each station:

1. declare    ``publish/``    ``NotifyTrigger`` in ``Meta.constraints``
2. install    ``publish/``    stock migrations make functions and triggers of it
3. write      in the database a ledger row in the writer's transaction; the bell rings
4. from code  ``publish/``    ``notify()`` and ``publish_signals()`` write such rows too
5. read       ``ledger/``     one snapshot after another: what is new between two is a tick
6. relay      ``relay/``      ``manage.py pglisten`` sends each tick to groups and handlers
7. fan out    ``layers/``     a channel layer: ours on PostgreSQL, or channels_redis
8. hub        ``consumers/``  one per web process: notices gaps, refills from the ledger
9. see        ``consumers/``  ``EventConsumer``, ``EventStreamConsumer``, ``pgnotify.js``
10. ``events.py``, ``groups.py`` and ``values.py`` hold what travels, to where, and as what.
"""

from __future__ import annotations

from .events import Event
from .groups import group_name
from .handlers import on_event
from .publish.context import event_context
from .publish.message import anotify, notify
from .publish.signals import publish_signals
from .publish.trigger import NotifyTrigger

__all__ = [
    "Event",
    "NotifyTrigger",
    "anotify",
    "event_context",
    "group_name",
    "notify",
    "on_event",
    "publish_signals",
]
