"""The channel layer itself: the contract of Channels, said in terms of mailbox and branches."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import uuid
from typing import Any, TypeVar
from weakref import WeakSet

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from ..jsontext import loads
from .branch import Branch, owner_of
from .branches import Branches
from .encoding import TAG_AS_JSON, decode, encode
from .envelope import Kind
from .heard import Heard
from .losses import Losses
from .mailbox import Mailbox
from .storing import Sweeping

DAY_SECONDS = 86_400

T = TypeVar("T")


class PostgresChannelLayer(BaseChannelLayer):
    """A channel layer on LISTEN / NOTIFY: no Redis, at most once, in order from each sender.

    `database` is the alias; `capacity` the messages that may wait for one name, with exceptions
    by pattern in `channel_capacity`; `expiry` the seconds that a message may wait; layers with
    different `prefix` don't hear each other; after `group_expiry` seconds without a reader a
    name and its memberships are forgotten.

    Messages are sent at once, not with Django's transaction: what a rolled-back block sent
    is sent. Use `notify()` or `transaction.on_commit` to tie a message to a commit.
    """

    extensions = ["groups", "flush"]

    def __init__(
        self,
        database: str = "default",
        *,
        capacity: int = 100,
        channel_capacity: dict[Any, int] | None = None,
        expiry: float = 60,
        group_expiry: float = DAY_SECONDS,
        prefix: str = "asgi",
    ) -> None:
        super().__init__(capacity=capacity)
        self.expiry = expiry  # type: ignore[assignment] # the stubs want whole seconds
        # get_capacity() wants it compiled, which the base class leaves to us.
        self.channel_capacity = self.compile_capacities(channel_capacity or {})  # type: ignore[assignment]
        self.database = database
        self.group_expiry = group_expiry
        self.prefix = prefix
        self._losses = Losses()
        self._sweeping = Sweeping()
        self._begin()
        _layers.add(self)

    def _begin(self) -> None:
        """Have nothing. Again in a forked child, which is another process with other names."""
        self._process = uuid.uuid4().hex
        self._mailbox = Mailbox(
            capacity=self.get_capacity, expiry=self.expiry, forget_after=self.group_expiry
        )
        self._heard = Heard()
        self._branches = Branches(self._new_branch)
        self._numbers = itertools.count()

    @property
    def dropped(self) -> int:
        """How many messages a full queue or an outage kept from a receiver in this process."""
        return self._losses.dropped

    @property
    def refused(self) -> int:
        """How many notifications this process ignored as malformed or wrongly signed."""
        return self._losses.refused

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send to one receiver; ChannelFull if it is a full specific name of this process, or a
        plain name for which `capacity` messages wait."""
        self.require_valid_channel_name(channel)
        body = encode(message)
        if not await self._accepted(channel, body):
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message. A specific name is read in the process that made it."""
        self.require_valid_channel_name(channel)
        if "!" not in channel:
            return decode(await self._branches.use(lambda own: own.receive_plain(channel)))
        if not self._owns(channel):
            raise ValueError(
                f"{channel!r} can't be read here: only the process whose new_channel() made it"
                " receives its messages."
            )
        return decode(await self._branches.use(lambda own: own.receive(channel)))

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a new specific name; what any process sends to it from now on arrives here, as
        long as an event loop of this process uses the layer."""
        await self._branches.use(lambda own: own.listening.wait_live())
        return f"{prefix}.{self._process}!{uuid.uuid4().hex}"

    async def group_add(self, group: str, channel: str) -> None:
        """Add a name to a group. When this returns, the group's messages arrive.

        A plain name gets them in this process. A specific name of another process is added there,
        some milliseconds after this returns.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        if self._is_elsewhere(channel):
            await self._tell_owner(Kind.JOIN, group, channel)
            return
        await self._branches.use(lambda own: own.listening.wait_live())
        self._mailbox.join(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a name out of a group; nothing happens if it is not in it."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        if self._is_elsewhere(channel):
            await self._tell_owner(Kind.LEAVE, group, channel)
            return
        self._mailbox.leave(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send to all members, in all processes, by one NOTIFY; full ones are left out."""
        self.require_valid_group_name(group)
        await self._send_to_group(group, encode(message))

    async def group_send_encoded(self, group: str, text: str) -> None:
        """The same for a message that is JSON in ASCII already, as the relay's frames are."""
        if TAG_AS_JSON in text:
            # Its meaning in a body is another one: see encoding.py.
            await self.group_send(group, loads(text))
            return
        self.require_valid_group_name(group)
        await self._send_to_group(group, text)

    async def flush(self) -> None:
        """Forget all messages and memberships of this prefix, in all processes."""
        self._mailbox.clear()
        await self._branches.here().flush()

    async def close(self) -> None:
        """Close this event loop's connections, as closing the loop does. Names and memberships
        stay."""
        await self._branches.leave(asyncio.get_running_loop())

    async def _accepted(self, channel: str, body: str) -> bool:
        if "!" not in channel:
            return await self._branches.here().enqueue(channel, body)
        if self._owns(channel):
            return self._mailbox.put(channel, body)
        owner = owner_of(channel)
        if owner is None:
            self._losses.drop(1, f"no process made the name {channel!r}")
        else:
            await self._branches.here().send_to_process(owner, Kind.CHANNEL, channel, body)
        return True

    async def _send_to_group(self, group: str, body: str) -> None:
        await self._branches.here().send_to_group(group, body)
        full = self._mailbox.put_group(group, body)
        self._losses.drop(full, "members of a group were over capacity")

    def _owns(self, channel: str) -> bool:
        return owner_of(channel) == self._process

    def _is_elsewhere(self, channel: str) -> bool:
        return "!" in channel and not self._owns(channel)

    async def _tell_owner(self, kind: Kind, group: str, channel: str) -> None:
        if (owner := owner_of(channel)) is not None:
            await self._branches.here().send_to_process(owner, kind, channel, json.dumps(group))

    def _new_branch(self) -> Branch:
        return Branch(
            self._process,
            next(self._numbers),
            mailbox=self._mailbox,
            heard=self._heard,
            alias=self.database,
            prefix=self.prefix,
            expiry=self.expiry,
            capacity=self.get_capacity,
            losses=self._losses,
            sweeping=self._sweeping,
        )


_layers: WeakSet[PostgresChannelLayer] = WeakSet()


def _begin_anew() -> None:
    for layer in list(_layers):
        layer._begin()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
