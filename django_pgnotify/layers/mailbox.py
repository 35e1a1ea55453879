"""Mailbox: the messages and group members of one branch, in memory, without any I/O.

Delivery never waits: what exceeds a capacity is refused here and counted by the caller.
Bodies stay encoded and shared among members until each one decodes a copy of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Inbox:
    """What waits for one name."""

    read_at: float
    """Seconds of the clock when somebody last waited here, or when it was made."""
    letters: deque[tuple[float, str]] = field(default_factory=deque)
    """(time when it expires, encoded message), oldest first."""
    readers: int = 0
    """receive() calls that wait now."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a reader should look again."""

    def drop_expired(self, now: float) -> None:
        while self.letters and self.letters[0][0] <= now:
            self.letters.popleft()


class Mailbox:
    """Local queues and memberships.

    `capacity` gives the messages that may wait for a name; `expiry` is in seconds;
    `forget_after` seconds without a reader make a name and its memberships go away.
    """

    def __init__(
        self, *, capacity: Callable[[str], int], expiry: float, forget_after: float
    ) -> None:
        self._capacity = capacity
        self._expiry = expiry
        self._forget_after = forget_after
        self._swept_at = 0.0
        self._inboxes: dict[str, Inbox] = {}
        self._groups: dict[str, dict[str, None]] = {}

    def put(self, name: str, body: str, now: float) -> bool:
        """Add a message for `name`; False if it is full, and then nothing happened."""
        self._sweep(now)
        inbox = self._inbox(name, now)
        inbox.drop_expired(now)
        if len(inbox.letters) >= self._capacity(name):
            return False
        inbox.letters.append((now + self._expiry, body))
        inbox.stirred.set()
        return True

    def put_group(self, group: str, body: str, now: float) -> int:
        """Add a message for every member of `group`; return how many were full."""
        # A copy: the sweep in put() may end memberships.
        members = list(self._groups.get(group, ()))
        return sum(not self.put(name, body, now) for name in members)

    def take(self, name: str, now: float) -> str | None:
        """Remove and return the oldest message that has not expired."""
        inbox = self._inbox(name, now)
        inbox.drop_expired(now)
        return inbox.letters.popleft()[1] if inbox.letters else None

    def reading(self, name: str, now: float) -> Inbox:
        """Begin to read `name`; each call is followed by one of done_reading()."""
        inbox = self._inbox(name, now)
        inbox.readers += 1
        return inbox

    def done_reading(self, name: str, inbox: Inbox, now: float) -> None:
        """End a read. A message that another reader should see is announced again."""
        inbox.readers -= 1
        inbox.read_at = now
        if inbox.letters:
            inbox.stirred.set()
        elif not inbox.readers and self._inboxes.get(name) is inbox:
            del self._inboxes[name]

    def wake(self, name: str) -> None:
        """Make the readers of `name` look again."""
        if name in self._inboxes:
            self._inboxes[name].stirred.set()

    def join(self, group: str, name: str) -> None:
        """Make `name` a member of `group`."""
        self._groups.setdefault(group, {})[name] = None

    def leave(self, group: str, name: str) -> None:
        """End a membership, if there is one."""
        members = self._groups.get(group, {})
        members.pop(name, None)
        if not members:
            self._groups.pop(group, None)

    def has_group(self, group: str) -> bool:
        """Say whether anybody here is a member of `group`."""
        return group in self._groups

    def is_full(self, name: str, now: float) -> bool:
        """Say whether put() would refuse; a guess if another thread asks."""
        inbox = self._inboxes.get(name)
        if inbox is None or len(inbox.letters) < self._capacity(name):
            return False
        try:
            return inbox.letters[0][0] > now
        except IndexError:  # the owner's thread has just emptied it
            return False

    def is_empty(self, now: float) -> bool:
        """Say whether nothing is kept: no membership, and no message that has not expired."""
        for inbox in self._inboxes.values():
            inbox.drop_expired(now)
        return not self._groups and not any(inbox.letters for inbox in self._inboxes.values())

    def unbind(self) -> None:
        """Make ready for another event loop. Whoever waited in the old one is forgotten."""
        for name, inbox in self._inboxes.items():
            self._inboxes[name] = Inbox(read_at=inbox.read_at, letters=inbox.letters)
            inbox.letters = deque()

    def hand_over(self, name: str, other: Mailbox) -> None:
        """Give the memberships and messages of a name to a mailbox of the running event loop."""
        for group in [group for group, members in self._groups.items() if name in members]:
            self.leave(group, name)
            other.join(group, name)
        if (inbox := self._inboxes.pop(name, None)) is not None:
            there = other._inbox(name, inbox.read_at)
            there.letters.extend(inbox.letters)
            there.stirred.set()

    def clear(self) -> None:
        """Forget all messages and memberships; those who wait go on waiting."""
        self._groups.clear()
        for inbox in self._inboxes.values():
            inbox.letters.clear()

    def _inbox(self, name: str, now: float) -> Inbox:
        if name not in self._inboxes:
            self._inboxes[name] = Inbox(read_at=now)
        return self._inboxes[name]

    def _sweep(self, now: float) -> None:
        # Nothing says that a consumer has died, so its inbox would stay for ever.
        if now < self._swept_at + self._expiry:
            return
        self._swept_at = now
        for name, inbox in list(self._inboxes.items()):
            if inbox.readers:
                continue
            inbox.drop_expired(now)
            if inbox.read_at + self._forget_after <= now:
                self._forget(name)

    def _forget(self, name: str) -> None:
        del self._inboxes[name]
        for group in list(self._groups):
            self.leave(group, name)
