"""What the web processes serve: our consumer, and the plain one of the Channels tutorial."""

from __future__ import annotations

from typing import Any

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
