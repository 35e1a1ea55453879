"""WebSocket: the consumer that a project puts into its routing."""

from __future__ import annotations

from typing import Any

from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer

from ..exceptions import InvalidGroup
from .base import Subscriber
from .browser import (
    PONG,
    BadRequest,
    Ping,
    Pong,
    Subscribe,
    check_wanted_group,
    error,
    parse_request,
)

INTERNAL_ERROR = 4500
"""WebSocket close code for a mistake of the server's. Not 1011: Daphne refuses all codes of an
application but 1000 and 3000 to 4999, and leaves the socket open."""


class EventConsumer(Subscriber, AsyncWebsocketConsumer):
    """Gives a browser the events of the groups that it may have.

    Set ``groups_on_connect`` and ``using``; override ``authorize``, and ``visible`` and
    ``snapshot`` if you need them. The frames are in the reference.
    """

    async def connect(self) -> None:
        """Accept an allowed origin and join ``groups_on_connect``; override to do more."""
        if not self.origin_allowed(without=False):
            raise DenyConnection()
        await self.accept()
        self.session.start()
        for group in self.groups_on_connect:
            self._join(group)

    async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
        """Take a frame from the browser; one that can't be understood gets an error."""
        try:
            request = parse_request(text_data, self.using)
        except BadRequest as problem:
            self.session.outbox.put(error(problem.code, str(problem), problem.group))
            return
        if isinstance(request, Ping):
            self.session.outbox.put(PONG)
        elif not isinstance(request, Pong):
            self.session.request(request)

    async def websocket_receive(self, message: Any) -> None:
        """Servers may leave out either key, or send both."""
        await self.receive(text_data=message.get("text"), bytes_data=message.get("bytes"))

    def sends_positions(self) -> bool:
        """Only for one who overrides send_frame(): the position is in the text."""
        return type(self).send_frame is not EventConsumer.send_frame

    async def send_frame(self, type: str, text: str, position: str | None) -> None:
        """Send a browser frame."""
        await self.send(text_data=text)

    async def give_up(self) -> None:
        """Close the connection; the client may try again."""
        await self.close(code=INTERNAL_ERROR)

    def _join(self, group: str) -> None:
        try:
            self.session.request(Subscribe(check_wanted_group(group, self.using)))
        except InvalidGroup as problem:
            self.session.outbox.put(error("bad_frame", str(problem), group))
