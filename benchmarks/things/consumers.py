"""What the web processes serve: our consumer, and the plain one of the Channels tutorial."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from django_pgnotify.consumers import EventConsumer, EventStreamConsumer


class Ours(EventConsumer):
    """All events of the things."""

    groups_on_connect = ("things",)

    async def authorize(self, group: str) -> bool:
        """Yes."""
        return True


class OursAsStream(EventStreamConsumer):
    """The same as Server-Sent Events."""

    groups_on_connect = ("things",)

    async def authorize(self, group: str) -> bool:
        """Yes."""
        return True


class PlainConsumer(AsyncJsonWebsocketConsumer):
    """Encodes each message for each socket."""

    groups = ["plain"]

    async def connect(self) -> None:
        """Say that the group is joined, as ours does."""
        await self.accept()
        await self.send_json({"type": "subscribed"})

    async def thing_changed(self, message: dict[str, Any]) -> None:
        """Send it on."""
        await self.send_json({"type": "events", "events": [message["event"]]})


class BareLoop(AsyncJsonWebsocketConsumer):
    """What a fan-out can't be quicker than: each message is encoded once, and one loop hands the
    text to the server for each socket, past all of Channels. No queue, no filter, no resume."""

    sockets: ClassVar[set[BareLoop]] = set()

    async def connect(self) -> None:
        """Join the group once for the process."""
        await self.accept()
        is_first = not self.sockets
        self.sockets.add(self)
        if is_first:
            await self.channel_layer.group_add("bare", self.channel_name)
        await self.send_json({"type": "subscribed"})

    async def disconnect(self, code: int) -> None:
        """Be left out from now on."""
        self.sockets.discard(self)

    async def thing_changed(self, message: dict[str, Any]) -> None:
        """Send it on to all sockets."""
        text = json.dumps({"type": "events", "events": [message["event"]]})
        for socket in list(self.sockets):
            await socket.base_send({"type": "websocket.send", "text": text, "bytes": None})
