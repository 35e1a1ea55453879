"""Branch: the layer inside one event loop, where mailbox, sender and listening meet.

A branch has an id; the specific names that it makes carry it, so that every sender knows whose
they are. Two loops of one process are two branches: they talk like two processes. What a loop
leaves when it ends, and who gets it, is told in ``branches.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping

import psycopg

from ..conf import settings
from .envelope import (
    PAYLOAD_MAX_BYTES,
    REFERENCE,
    Envelope,
    Kind,
    branch_pg_channel,
    groups_pg_channel,
    opened,
)
from .listening import Listening
from .losses import Losses
from .mailbox import Inbox, Mailbox
from .sending import Sender
from .storing import Claim, Store, Sweeping

OWNER = re.compile(r"\.([0-9a-f]{32})!")
"""The id of the branch in a specific name that new_channel() made."""


def owner_of(name: str) -> str | None:
    """Return the id of the branch that made this specific name, None if none of ours did."""
    found = OWNER.search(name)
    return found[1] if found else None


class Branch:
    """Everything the layer holds for one event loop; see PostgresChannelLayer for the words.

    `siblings` are the branches of its loop by id, itself included: what one of them sends is
    handed to the others in memory. `flushed` is called for a flush of another loop or process.
    """

    def __init__(
        self,
        id: str,
        mailbox: Mailbox,
        siblings: Mapping[str, Branch],
        *,
        alias: str,
        prefix: str,
        expiry: float,
        capacity: Callable[[str], int],
        losses: Losses,
        sweeping: Sweeping,
        flushed: Callable[[], None],
    ) -> None:
        self.id = id
        self.mailbox = mailbox
        self._siblings = siblings
        self._flushed = flushed
        self._prefix = prefix
        self._capacity = capacity
        self._losses = losses
        self._clock = time.monotonic
        self._background: set[asyncio.Task[None]] = set()
        self._sender = Sender(alias)
        self._store = Store(self._sender, prefix=prefix, expiry=expiry, sweeping=sweeping)
        self._groups_pg_channel = groups_pg_channel(prefix)
        own_pg_channel = branch_pg_channel(prefix, self.id)
        self.listening = Listening(
            alias,
            pg_channels=(self._groups_pg_channel, own_pg_channel),
            own_pg_channel=own_pg_channel,
            sender=self._sender,
            handle=self._handle,
            losses=losses,
        )

    def new_name(self, prefix: str) -> str:
        """Make a specific name of this branch."""
        return f"{prefix}.{self.id}!{uuid.uuid4().hex}"

    async def send_to_group(self, group: str, body: str) -> None:
        """One NOTIFY for all other loops and processes."""
        await self._post(self._groups_pg_channel, Kind.GROUP, group, body)

    async def send_to_branch(self, owner: str, kind: Kind, name: str, body: str) -> None:
        """Tell the branch that owns the specific name."""
        await self._post(branch_pg_channel(self._prefix, owner), kind, name, body)

    def is_full(self, name: str) -> bool:
        """Say whether put() would refuse; another thread may ask."""
        return self.mailbox.is_full(name, self._clock())

    def put(self, name: str, body: str) -> bool:
        """Deliver to a name of this branch; False if it is full."""
        return self.mailbox.put(name, body, self._clock())

    async def enqueue(self, name: str, body: str) -> bool:
        """Let a message wait for the one receiver of a plain name; False if it is full."""
        if not await self._store.enqueue(name, body, self._capacity(name)):
            return False
        await self._announce(name)
        return True

    async def receive(self, name: str) -> str:
        """Wait for the next message of a specific name of this branch."""
        inbox = self.mailbox.reading(name, self._clock())
        try:
            while (body := self.mailbox.take(name, self._clock())) is None:
                inbox.stirred.clear()
                await inbox.stirred.wait()
            return body
        finally:
            self.mailbox.done_reading(name, inbox, self._clock())

    async def receive_plain(self, name: str) -> str:
        """Wait for the next message of a plain name: a group's, or a stored one."""
        inbox = self.mailbox.reading(name, self._clock())
        try:
            while (body := self.mailbox.take(name, self._clock())) is None:
                inbox.stirred.clear()
                if (body := await self._claim(name)) is not None:
                    self.mailbox.wake(name)  # there may be more, for another reader here
                    return body
                await _stirred(inbox)
            return body
        finally:
            self.mailbox.done_reading(name, inbox, self._clock())

    async def flush(self) -> None:
        """Delete what waits in the table, and have all other loops and processes forget."""
        await self._store.flush()
        await self._post(self._groups_pg_channel, Kind.FLUSH, "", "")

    async def close(self) -> None:
        """End tasks and connections."""
        await self.listening.close()
        if self._background:
            await asyncio.wait(self._background)
        await self._sender.close()

    async def _post(self, pg_channel: str, kind: Kind, target: str, body: str) -> None:
        envelope = Envelope(origin=self.id, kind=kind, target=target, body=body)
        head = envelope.sealed_head(pg_channel)
        if len(head) + len(body) <= PAYLOAD_MAX_BYTES:
            await self._sender.notify(pg_channel, head + body)
        else:
            await self._store.store_and_notify(pg_channel, head + REFERENCE, body)

    async def _announce(self, name: str) -> None:
        self.mailbox.wake(name)
        # The row is there: without the wake-up a reader finds it at its next look.
        with contextlib.suppress(psycopg.OperationalError):
            await self._post(self._groups_pg_channel, Kind.WAKE, name, "")

    async def _claim(self, name: str) -> str | None:
        claiming = asyncio.create_task(self._store.claim(name))
        try:
            claim = await asyncio.shield(claiming)
        except psycopg.OperationalError:
            return None  # a worker outlives the server; that it is gone, the listener has said
        except asyncio.CancelledError:
            returning = asyncio.create_task(self._return(name, claiming))
            self._background.add(returning)
            returning.add_done_callback(self._background.discard)
            raise
        return None if claim is None else claim.body.decode("ascii")

    async def _return(self, name: str, claiming: asyncio.Task[Claim | None]) -> None:
        """A cancelled receive() must not lose the message that it was just claiming."""
        try:
            claim = await claiming
            if claim is not None:
                await self._store.give_back(claim)
                await self._announce(name)
        except Exception as error:
            self._losses.drop(1, f"a claimed message could not be given back: {error!r}")

    def _handle(self, pg_channel: str, payload: str) -> Awaitable[None] | None:
        envelope = opened(payload)
        if envelope is None:
            self._losses.refuse(pg_channel)
        elif envelope.origin not in self._siblings and self._concerns(envelope):
            if envelope.row is not None:
                return self._fetch(pg_channel, envelope, envelope.row)
            self._accept(pg_channel, envelope, envelope.body)
        return None

    async def _fetch(self, pg_channel: str, envelope: Envelope, row: int) -> None:
        self._accept(pg_channel, envelope, await self._store.fetch(row))

    def _accept(self, pg_channel: str, envelope: Envelope, body: str | None) -> None:
        if body is None or not envelope.is_genuine(pg_channel, body):
            self._losses.refuse(pg_channel)
        else:
            self._deliver(envelope.kind, envelope.target, body)

    def _concerns(self, envelope: Envelope) -> bool:
        # First, since most group messages of a big site are for other processes.
        return envelope.kind != Kind.GROUP or self.mailbox.has_group(envelope.target)

    def _deliver(self, kind: Kind, target: str, body: str) -> None:
        match kind:
            case Kind.GROUP:
                full = self.mailbox.put_group(target, body, self._clock())
                self._losses.drop(full, "members of a group were over capacity")
            case Kind.CHANNEL:
                self._losses.drop(not self.put(target, body), "a name was over capacity")
            case Kind.WAKE:
                self.mailbox.wake(target)
            case Kind.JOIN:
                self.mailbox.join(json.loads(body), target)
            case Kind.LEAVE:
                self.mailbox.leave(json.loads(body), target)
            case Kind.FLUSH:
                self._flushed()


async def _stirred(inbox: Inbox) -> None:
    # A wake-up can be lost with the listening connection; the row waits all the same.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.POLL_SECONDS):
            await inbox.stirred.wait()
