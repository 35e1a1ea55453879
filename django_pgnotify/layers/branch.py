"""Branch: the layer inside one event loop, where mailbox, sender and listening meet.

A process has an id; the specific names that it makes carry it, so that every sender knows whose
they are. Its event loops share one mailbox, and each has a branch with connections of its own,
which end with the loop. What goes from one loop to another stays in memory: a branch ignores what
branches of its process notify.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Awaitable, Callable

import psycopg

from ..conf import settings
from .claims import Claims
from .envelope import (
    PAYLOAD_MAX_BYTES,
    REFERENCE,
    Envelope,
    Kind,
    groups_pg_channel,
    opened,
    process_pg_channel,
)
from .heard import Heard
from .inbox import Waiter
from .listening import Closed, Listening
from .losses import Losses
from .mailbox import Mailbox
from .sending import Sender
from .storing import Store, Sweeping

OWNER = re.compile(r"\.([0-9a-f]{32})!")
"""The id of the process in a specific name that new_channel() made."""


def owner_of(name: str) -> str | None:
    """Return the id of the process that made this specific name, None if none of ours did."""
    found = OWNER.search(name)
    return found[1] if found else None


class Branch:
    """Everything the layer holds for one event loop; see PostgresChannelLayer for the words.

    `process` is the id of the process, `number` the branch's own among all that it ever had;
    `mailbox` and `heard` are those of all its branches.
    """

    def __init__(
        self,
        process: str,
        number: int,
        *,
        mailbox: Mailbox,
        heard: Heard,
        alias: str,
        prefix: str,
        expiry: float,
        capacity: Callable[[str], int],
        losses: Losses,
        sweeping: Sweeping,
    ) -> None:
        self._process = process
        self._origin = f"{process}.{number}"
        self._numbers = itertools.count()
        self._mailbox = mailbox
        self._heard = heard
        self._prefix = prefix
        self._capacity = capacity
        self._losses = losses
        self._waits: set[Waiter] = set()
        """Of receive() calls that wait in this branch now."""
        self.is_closed = False
        """True from the beginning of close()."""
        self._sender = Sender(alias)
        self._store = Store(self._sender, prefix=prefix, expiry=expiry, sweeping=sweeping)
        self._claims = Claims(self._store, announce=self._announce, losses=losses)
        self._groups_pg_channel = groups_pg_channel(prefix)
        own_pg_channel = process_pg_channel(prefix, process)
        self.listening = Listening(
            alias,
            pg_channels=(self._groups_pg_channel, own_pg_channel),
            own_pg_channel=own_pg_channel,
            sender=self._sender,
            handle=self._handle,
            losses=losses,
            heard=heard,
        )

    async def send_to_group(self, group: str, body: str) -> None:
        """One NOTIFY for all other processes."""
        await self._post(self._groups_pg_channel, Kind.GROUP, group, body)

    async def send_to_process(self, owner: str, kind: Kind, name: str, body: str) -> None:
        """Tell the process that owns the specific name."""
        await self._post(process_pg_channel(self._prefix, owner), kind, name, body)

    async def enqueue(self, name: str, body: str) -> bool:
        """Let a message wait for the one receiver of a plain name; False if it is full."""
        if not await self._store.enqueue(name, body, self._capacity(name)):
            return False
        await self._announce(name)
        return True

    async def receive(self, name: str) -> str:
        """Wait for the next message of a specific name of this process; Closed if the branch is."""
        self.listening.start()
        while (body := self._mailbox.take(name)) is None:
            with self._mailbox.reading(name) as stirred:
                await self._wait(stirred)
        return body

    async def receive_plain(self, name: str) -> str:
        """Wait for the next message of a plain name: a group's, or a stored one; Closed if the
        branch is."""
        self.listening.start()
        while (body := self._mailbox.take(name)) is None:
            with self._mailbox.reading(name) as stirred:
                if (body := await self._claims.take(name)) is not None:
                    self._mailbox.wake(name)  # there may be more, for another reader here
                    return body
                # A wake-up can be lost with the listening connection; the row waits all the same.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(settings.POLL_SECONDS):
                        await self._wait(stirred)
        return body

    async def flush(self) -> None:
        """Delete what waits in the table, and have all other processes forget."""
        await self._store.flush()
        await self._post(self._groups_pg_channel, Kind.FLUSH, "", "")

    async def close(self) -> None:
        """End tasks and connections. Who waits to receive hears of it. After one that was
        cancelled another one does the rest."""
        self.is_closed = True
        for waiter in self._waits:
            if not waiter.done():
                waiter.set_result(None)
        self._claims.close()
        await self.listening.close()
        await self._claims.settle()
        await self._sender.close()
        await self._claims.finish()
        await self._claims.settle()  # by a sender that is open again
        await self._sender.close()

    async def _wait(self, stirred: Waiter) -> None:
        if self.is_closed:
            raise Closed
        self._waits.add(stirred)
        try:
            await stirred
        finally:
            self._waits.discard(stirred)

    async def _post(self, pg_channel: str, kind: Kind, target: str, body: str) -> None:
        envelope = Envelope(
            origin=self._origin,
            number=next(self._numbers),
            kind=kind,
            target=target,
            body=body,
        )
        head = envelope.sealed_head(pg_channel)
        if len(head) + len(body) <= PAYLOAD_MAX_BYTES:
            await self._sender.notify(pg_channel, head + body)
        else:
            await self._store.store_and_notify(pg_channel, head + REFERENCE, body)

    async def _announce(self, name: str) -> None:
        self._mailbox.wake(name)
        # The row is there: without the wake-up a reader finds it at its next look.
        with contextlib.suppress(psycopg.OperationalError):
            await self._post(self._groups_pg_channel, Kind.WAKE, name, "")

    def _handle(self, pg_channel: str, payload: str) -> Awaitable[None] | None:
        envelope = opened(payload)
        if envelope is None:
            self._losses.refuse(pg_channel)
        elif self._concerns(envelope):
            if envelope.row is not None:
                return self._fetch(pg_channel, envelope, envelope.row)
            self._accept(pg_channel, envelope, envelope.body)
        return None

    async def _fetch(self, pg_channel: str, envelope: Envelope, row: int) -> None:
        self._accept(pg_channel, envelope, await self._store.fetch(row))

    def _accept(self, pg_channel: str, envelope: Envelope, body: str | None) -> None:
        if body is None or not envelope.is_genuine(pg_channel, body):
            self._losses.refuse(pg_channel)
        elif self._heard.is_news(envelope.origin, envelope.number):
            self._deliver(envelope.kind, envelope.target, body)

    def _concerns(self, envelope: Envelope) -> bool:
        # First, since most group messages of a big site are for other processes.
        if envelope.kind == Kind.GROUP and not self._mailbox.has_group(envelope.target):
            return False
        is_own = envelope.origin.startswith(self._process)
        return not is_own and self._heard.delivers(self.listening)

    def _deliver(self, kind: Kind, target: str, body: str) -> None:
        match kind:
            case Kind.GROUP:
                full = self._mailbox.put_group(target, body)
                self._losses.drop(full, "members of a group were over capacity")
            case Kind.CHANNEL:
                full = not self._mailbox.put(target, body)
                self._losses.drop(full, "a name was over capacity")
            case Kind.WAKE:
                self._mailbox.wake(target)
            case Kind.JOIN:
                self._mailbox.join(json.loads(body), target)
            case Kind.LEAVE:
                self._mailbox.leave(json.loads(body), target)
            case Kind.FLUSH:
                self._mailbox.clear()
