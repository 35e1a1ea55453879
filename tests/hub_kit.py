"""What the tests of hub and consumers share: a relay in this process, and browsers."""

from __future__ import annotations

import json
from typing import Any

from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.core.management import call_command
from django.db import connections

from django_pgnotify.consumers import EventConsumer

PATIENCE_SECONDS = 5.0
"""How long a frame may take on a busy machine before the test fails."""


class OpenConsumer(EventConsumer):
    """Lets everybody have everything."""

    async def authorize(self, group: str) -> bool:
        return True


def execute(sql: str, *params: Any, using: str = "default") -> list[Any]:
    """Run one statement in autocommit; gives its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else []


def publish_now(data: Any, *groups: str, using: str = "default") -> None:
    """Commit one event with this data."""
    execute(
        "SELECT pgnotify_publish('t', %s::jsonb, %s)",
        json.dumps(data),
        list(groups),
        using=using,
    )


def relay_now(using: str = "default") -> None:
    """Relay all that has been committed."""
    call_command("pglisten", once=True, database=using)


publish = sync_to_async(publish_now)
relay = sync_to_async(relay_now)
query = sync_to_async(execute)


async def tell(data: Any, *groups: str) -> None:
    """Commit one event and relay it."""
    await publish(data, *groups)
    await relay()


class Browser:
    """A page with a WebSocket."""

    def __init__(self, consumer: type[EventConsumer] = OpenConsumer, **scope: Any) -> None:
        self.socket = WebsocketCommunicator(consumer.as_asgi(), "/events/")
        self.socket.scope.update(scope)

    async def __aenter__(self) -> Browser:
        connected, _ = await self.socket.connect(timeout=PATIENCE_SECONDS)
        assert connected
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.socket.disconnect(timeout=PATIENCE_SECONDS)

    async def send(self, **frame: Any) -> None:
        await self.socket.send_to(text_data=json.dumps(frame))

    async def send_text(self, text: str) -> None:
        """Send a text frame as it is; the communicator refuses an empty one."""
        await self.socket.send_input({"type": "websocket.receive", "text": text})

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        text = await self.socket.receive_from(timeout=PATIENCE_SECONDS)
        frame: dict[str, Any] = json.loads(text)
        return frame

    async def subscribe(self, group: str, **more: Any) -> dict[str, Any]:
        """Subscribe and give the answer."""
        await self.send(type="subscribe", group=group, **more)
        return await self.receive()

    async def events(self) -> dict[str, Any]:
        """The next frame, which must be one of events."""
        frame = await self.receive()
        assert frame["type"] == "events", frame
        return frame

    async def data(self) -> list[Any]:
        """The data of the next frame's events."""
        return [event.get("data") for event in (await self.events())["events"]]

    async def waiting(self) -> list[dict[str, Any]]:
        """Every frame that was on its way when this was called."""
        await self.send(type="ping")
        frames = []
        while (frame := await self.receive())["type"] != "pong":
            frames.append(frame)
        return frames
