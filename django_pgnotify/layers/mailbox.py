"""Mailbox: the messages and group members of one process, in memory, without any I/O.

All event loops of the process share it: sync code has one for each call of `async_to_sync`, so a
name that belonged to its loop would be gone with the call. Any loop, in any thread, may send to
any name and read it.

Delivery never waits: what exceeds a capacity is refused here and counted by the caller.
Bodies stay encoded and shared among members until each one decodes a copy of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from .inbox import Inbox, Waiter


class Mailbox:
    """Queues and memberships. Safe for threads.

    `capacity` gives the messages that may wait for a name; `expiry` is in seconds;
    `forget_after` seconds without a reader make a name and its memberships go away.
    """

    def __init__(
        self,
        *,
        capacity: Callable[[str], int],
        expiry: float,
        forget_after: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._expiry = expiry
        self._forget_after = forget_after
        self._clock = clock
        # Reentrant, since the end of a reader that is collected as garbage may come at any point.
        self._lock = threading.RLock()
        self._swept_at = clock()
        self._inboxes: dict[str, Inbox] = {}
        self._groups: dict[str, dict[str, Inbox]] = {}

    def put(self, name: str, body: str) -> bool:
        """Add a message for `name`; False if it is full, and then nothing happened."""
        now = self._clock()
        woken: list[Waiter] = []
        with self._lock:
            self._sweep(now)
            fits = self._put(name, self._inbox(name, now), body, now, woken)
        _wake(woken)
        return fits

    def put_group(self, group: str, body: str) -> int:
        """Add a message for every member of `group`; return how many were full."""
        if group not in self._groups:
            return 0
        now = self._clock()
        woken: list[Waiter] = []
        with self._lock:
            self._sweep(now)
            full = sum(
                not self._put(name, inbox, body, now, woken)
                for name, inbox in list(self._groups.get(group, {}).items())
            )
        _wake(woken)
        return full

    def take(self, name: str) -> str | None:
        """Remove and return the oldest message that has not expired."""
        now = self._clock()
        with self._lock:
            inbox = self._inboxes.get(name)
            if inbox is None:
                return None
            inbox.used_at = now
            inbox.drop_expired(now)
            body = inbox.letters.popleft()[1] if inbox.letters else None
            self._tidy(name)
            return body

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Waiter]:
        """Wait for `name`: what comes makes the waiter done, at once if something is there. A
        reader that leaves by an exception hands its wake-up on."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            inbox = self._inbox(name, self._clock())
            if inbox.letters:
                waiter.set_result(None)
            else:
                inbox.waiters.append(waiter)
        is_done = False
        try:
            yield waiter
            is_done = True
        finally:
            with self._lock:
                was_woken = self._end_reading(name, waiter)
            if was_woken and not is_done:
                self.wake(name)

    def wake(self, name: str) -> None:
        """Make one reader of `name` look again."""
        with self._lock:
            inbox = self._inboxes.get(name)
            woken = [] if inbox is None else inbox.next_woken(self._clock())
        _wake(woken)

    def join(self, group: str, name: str) -> None:
        """Make `name` a member of `group`."""
        now = self._clock()
        with self._lock:
            self._sweep(now)
            inbox = self._inbox(name, now)
            inbox.used_at = now
            inbox.groups.add(group)
            self._groups.setdefault(group, {})[name] = inbox

    def leave(self, group: str, name: str) -> None:
        """End a membership, if there is one."""
        with self._lock:
            self._leave(group, name)
            self._tidy(name)

    def has_group(self, group: str) -> bool:
        """Say whether anybody here is a member of `group`."""
        return group in self._groups

    def clear(self) -> None:
        """Forget all messages and memberships; those who wait go on waiting."""
        with self._lock:
            self._groups.clear()
            for name, inbox in list(self._inboxes.items()):
                inbox.letters.clear()
                inbox.groups.clear()
                self._tidy(name)

    def _put(self, name: str, inbox: Inbox, body: str, now: float, woken: list[Waiter]) -> bool:
        inbox.drop_expired(now)
        if len(inbox.letters) >= self._capacity(name):
            return False
        inbox.letters.append((now + self._expiry, body))
        woken += inbox.woken(now)
        return True

    def _inbox(self, name: str, now: float) -> Inbox:
        if name not in self._inboxes:
            self._inboxes[name] = Inbox(used_at=now)
        return self._inboxes[name]

    def _end_reading(self, name: str, waiter: Waiter) -> bool:
        """Take the waiter away; say whether it was woken."""
        inbox = self._inboxes.get(name)
        if inbox is None:
            return True
        inbox.used_at = self._clock()
        was_woken = waiter not in inbox.waiters
        if not was_woken:
            inbox.waiters.remove(waiter)
        self._tidy(name)
        return was_woken

    def _leave(self, group: str, name: str) -> None:
        members = self._groups.get(group, {})
        if (inbox := members.pop(name, None)) is not None:
            inbox.groups.discard(group)
        if not members:
            self._groups.pop(group, None)

    def _tidy(self, name: str) -> None:
        if name in self._inboxes and not self._inboxes[name].is_needed:
            del self._inboxes[name]

    def _sweep(self, now: float) -> None:
        # Nothing says that a consumer has died, so its inbox would stay for ever.
        if now < self._swept_at + self._expiry:
            return
        self._swept_at = now
        for name, inbox in list(self._inboxes.items()):
            if inbox.is_read:
                continue
            inbox.drop_expired(now)
            if inbox.used_at + self._forget_after <= now:
                for group in list(inbox.groups):
                    self._leave(group, name)
                self._inboxes.pop(name, None)
            else:
                self._tidy(name)


def _wake(waiters: list[Waiter]) -> None:
    """Make them done, each in its own event loop; one call for all of a loop."""
    running = asyncio._get_running_loop()
    by_loop: dict[asyncio.AbstractEventLoop, list[Waiter]] = {}
    for waiter in waiters:
        by_loop.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, its in by_loop.items():
        if loop is running:
            _set(its)
        else:
            with contextlib.suppress(RuntimeError):  # it is closed, and its readers gone
                loop.call_soon_threadsafe(_set, its)


def _set(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
