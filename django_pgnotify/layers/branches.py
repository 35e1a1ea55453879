"""Branches: a layer's branches in this process, by event loop, and what ended loops have left.

Sync code has an event loop for each call of `async_to_sync`, so what a branch holds is kept when
its loop ends: whoever asks for a name of it next gets the branch anew, under its old id. Until then
nobody listens for it: what this process sends reaches it, what other processes send is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from ..ending import before_close
from .branch import Branch, owner_of
from .mailbox import Mailbox

PROCESS_DIGITS = 24
"""Hex digits of a branch's id that tell the process: 96 random bits are two processes' never."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """The mailbox of a branch whose loop has ended."""

    mailbox: Mailbox
    until: float
    """Seconds of the clock after which it is forgotten, memberships too."""

    def is_over(self, now: float) -> bool:
        return now >= self.until or self.mailbox.is_empty(now)


class Branches:
    """Safe for threads: each has loops of its own. `new_branch` makes one of an id, a mailbox and
    all branches of its loop by id, `new_mailbox` an empty mailbox; what is left is swept every
    `expiry` seconds and kept for `group_expiry` seconds at most."""

    def __init__(
        self,
        *,
        new_branch: Callable[[str, Mailbox, Mapping[str, Branch]], Branch],
        new_mailbox: Callable[[], Mailbox],
        expiry: float,
        group_expiry: float,
    ) -> None:
        self._new_branch = new_branch
        self._new_mailbox = new_mailbox
        self._expiry = expiry
        self._group_expiry = group_expiry
        self._begin()

    def here(self) -> Branch:
        """The running loop's branch: the first of them, if it has taken over others."""
        loop = asyncio.get_running_loop()
        with self._of_this_process():
            if loop not in self._live:
                self._open(loop, f"{self._process}{next(self._numbers):08x}")
            return next(iter(self._live[loop].values()))

    def of(self, name: str) -> Branch | None:
        """The branch of the running loop that the name belongs to, None if that is another
        loop's or process's. A name of a loop that has ended comes to this one."""
        if "!" not in name:
            own = self.here()
            self._adopt(name, own.mailbox)
            return own
        loop, owner = asyncio.get_running_loop(), owner_of(name) or ""
        with self._of_this_process():
            branch = self._live.get(loop, {}).get(owner)
            if branch is None and self._is_left(owner):
                branch = self._open(loop, owner)
            return branch

    def put(self, name: str, body: str) -> bool | None:
        """Deliver to a specific name, if no other loop has it: False if it is full, None if
        another loop or process has it."""
        loop, owner = asyncio.get_running_loop(), owner_of(name) or ""
        now = time.monotonic()
        with self._of_this_process():
            if (branch := self._live.get(loop, {}).get(owner)) is not None:
                return branch.put(name, body)
            if not self._is_left(owner):
                return None
            return self._left_by(owner, now).mailbox.put(name, body, now)

    def put_group(self, group: str, body: str) -> int:
        """Deliver to the members in the running loop, and to those that ended loops have left;
        return how many were full."""
        now = time.monotonic()
        with self._of_this_process():
            return sum(mailbox.put_group(group, body, now) for mailbox in self._mailboxes())

    def is_full_elsewhere(self, name: str) -> bool:
        """Say whether the name is a full one of another loop of this process."""
        owner = owner_of(name)
        with self._of_this_process():
            live = [branches[owner] for branches in self._live.values() if owner in branches]
        return any(branch.is_full(name) for branch in live)

    def clear(self) -> None:
        """Forget what the running loop has, and what ended loops have left."""
        with self._of_this_process():
            for mailbox in self._mailboxes():
                mailbox.clear()
            self._left.clear()

    async def close(self) -> None:
        """Close the running loop's branches, and forget them."""
        for branch in self._live.pop(asyncio.get_running_loop(), {}).values():
            await branch.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._process = uuid.uuid4().hex[:PROCESS_DIGITS]
        self._numbers = itertools.count()
        self._live: dict[asyncio.AbstractEventLoop, dict[str, Branch]] = {}
        self._left: dict[str, Left] = {}
        self._swept_at = 0.0

    def _of_this_process(self) -> threading.Lock:
        # After a fork all of this is the parent's, perhaps the held lock too.
        if self._pid != os.getpid():
            self._begin()
        return self._lock

    def _open(self, loop: asyncio.AbstractEventLoop, owner: str) -> Branch:
        if loop not in self._live:
            self._live[loop] = {}
            # Else each call of async_to_sync would leave a connection behind.
            before_close(loop, partial(self._leave, loop))
        left = self._left.pop(owner, None)
        mailbox = left.mailbox if left else self._new_mailbox()
        branch = self._live[loop][owner] = self._new_branch(owner, mailbox, self._live[loop])
        return branch

    def _is_left(self, owner: str) -> bool:
        """Say whether a branch of this process had the id, and no loop has it now."""
        return owner.startswith(self._process) and not any(
            owner in branches for branches in self._live.values()
        )

    def _left_by(self, owner: str, now: float) -> Left:
        return self._left.get(owner) or self._keep(owner, self._new_mailbox(), now)

    def _keep(self, owner: str, mailbox: Mailbox, now: float) -> Left:
        if now >= self._swept_at + self._expiry:
            self._swept_at = now
            self._left = {id: left for id, left in self._left.items() if not left.is_over(now)}
        self._left[owner] = Left(mailbox=mailbox, until=now + self._group_expiry)
        return self._left[owner]

    def _mailboxes(self) -> Iterator[Mailbox]:
        for branch in self._live.get(asyncio.get_running_loop(), {}).values():
            yield branch.mailbox
        for left in self._left.values():
            yield left.mailbox

    def _adopt(self, name: str, mailbox: Mailbox) -> None:
        with self._of_this_process():
            for left in self._left.values():
                left.mailbox.hand_over(name, mailbox)

    async def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        for branch in list(self._live.get(loop, {}).values()):
            await branch.close()
        now = time.monotonic()
        with self._of_this_process():
            for branch in self._live.pop(loop, {}).values():
                if not branch.mailbox.is_empty(now):
                    branch.mailbox.unbind()
                    self._keep(branch.id, branch.mailbox, now)
