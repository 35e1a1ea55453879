"""Hubs: which hub serves an event loop and a database.

The first client makes it, the last one ends it, and so does the end of its loop.
"""

from __future__ import annotations

import asyncio
from functools import partial
from weakref import WeakKeyDictionary

from ..ending import before_close
from .hub import Hub

Loop = asyncio.AbstractEventLoop

_hubs: WeakKeyDictionary[Loop, dict[str, Hub]] = WeakKeyDictionary()
_open: WeakKeyDictionary[Loop, set[Hub]] = WeakKeyDictionary()
"""Those that have not ended yet, of loops that tell when they are closed."""


def running(alias: str) -> Hub | None:
    """The hub of this event loop and database, if there is one."""
    return _hubs.get(asyncio.get_running_loop(), {}).get(alias)


def enter(alias: str) -> Hub:
    """The hub of this event loop and database, with one client more."""
    hubs = _hubs.setdefault(asyncio.get_running_loop(), {})
    if alias not in hubs:
        hubs[alias] = Hub(alias, uses_layer=_end_with_loop)
    hubs[alias].clients += 1
    return hubs[alias]


async def leave(hub: Hub) -> None:
    """One client less; the last one ends the hub and all its tasks."""
    hub.clients -= 1
    if not hub.clients:
        # First, so that a client that comes meanwhile gets a new hub.
        _make_room(hub)
        await _end(hub)


def _make_room(hub: Hub) -> None:
    hubs = _hubs[asyncio.get_running_loop()]
    if hubs.get(hub.alias) is hub:
        del hubs[hub.alias]


async def _end(hub: Hub) -> None:
    await hub.end()
    _open.get(asyncio.get_running_loop(), set()).discard(hub)


def _end_with_loop(hub: Hub) -> None:
    """End the hub before its loop is closed, if it still runs: the loop cancels all tasks, those of
    clients that are leaving too. To be called when the channel layer is in use, which may end
    itself in the same way, and must not do so first."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        _open[loop] = set()
        before_close(loop, partial(_end_all, _open[loop]))
    _open[loop].add(hub)


async def _end_all(hubs: set[Hub]) -> None:
    while hubs:
        hub = next(iter(hubs))
        _make_room(hub)
        await hub.end()
        hubs.discard(hub)
