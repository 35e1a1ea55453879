"""SSE: the consumer for Server-Sent Events, for pages that only listen."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer

from ..conf import settings
from ..ending import end
from ..exceptions import InvalidGroup
from .asking import authorized
from .base import Subscriber
from .browser import FORBIDDEN, Answer, Subscribe, check_wanted_group, error
from .session import ClientGone

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0
"""Proxies close a connection that is silent for a minute, some after 30 seconds."""

STALLED_SECONDS = 120.0
"""A server that waits for its clients keeps one for ever that does not read: HTTP has no ping. Time
for the largest frame, 512 KiB, over a line of 4.4 KB a second."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect the stream until its buffer is full.
    (b"x-accel-buffering", b"no"),
]
PLAIN_HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    # What is wrong with a name is told with the name, which the request has brought.
    (b"x-content-type-options", b"nosniff"),
]
METHODS = ("GET", "HEAD")


class EventStreamConsumer(Subscriber, AsyncHttpConsumer):
    """Gives a browser's ``EventSource`` the events of the groups that it may have.

    The groups are ``groups_on_connect`` and each ``?group=``. ``event:`` is the frame's type,
    ``data:`` the same JSON as over a WebSocket. ``id:`` is the lowest position of all groups at
    that moment, so that one id resumes them all (``Last-Event-ID``, or ``?since=``) without a
    gap; events above it may come again, with their own id. No id is given before every group is
    live and has its snapshot. If all groups are refused, the answer is 403; if none is asked for,
    400; to another method than GET and HEAD, 405.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ended = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None

    async def http_request(self, message: Any) -> None:
        """Begin the stream when the request is complete, and stay free to hear of its end."""
        if not message.get("more_body"):
            self._stream = asyncio.create_task(self._run(), name="pgnotify event stream")

    async def http_disconnect(self, message: Any) -> None:
        """The browser has gone, or we have ended the stream."""
        await self.disconnect()
        raise StopConsumer()

    def more_sources(self) -> list[Any]:
        """Our own end of the stream ends the connection too."""
        return [self._end]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection; see Subscriber."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._stream is not None:
                await end([self._stream])

    async def send_frame(self, type: str, text: str, position: str | None) -> None:
        """Send a browser frame as a server-sent event."""
        identity = "" if position is None else f"id: {position}\n"
        await self._write(f"{identity}event: {type}\ndata: {text}\n\n")
        if self.session.is_idle:
            await self.give_up()

    async def give_up(self) -> None:
        """End the stream; the browser comes again by itself."""
        if not self._ended.is_set():
            self._ended.set()
            await self.send_body(b"")

    async def _end(self) -> dict[str, Any]:
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def _run(self) -> None:
        try:
            await self._answer()
        except ClientGone:
            pass
        except Exception:
            logger.exception("an event stream can't be served")
        self._ended.set()

    async def _answer(self) -> None:
        if self._method not in METHODS:
            allow = (b"allow", ", ".join(METHODS).encode())
            await self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "Use GET.", allow)
            return
        try:
            wanted = self._wanted_groups()
        except InvalidGroup as problem:
            await self._refuse(HTTPStatus.BAD_REQUEST, str(problem))
            return
        if not wanted:
            await self._refuse(HTTPStatus.BAD_REQUEST, "Ask for a group.")
        elif not self.origin_allowed(without=True):
            await self._refuse(HTTPStatus.FORBIDDEN, "Not from this origin.")
        else:
            await self._authorize(wanted)

    async def _authorize(self, wanted: list[str]) -> None:
        # No more questions than there can be groups, whatever the address holds.
        most = settings.MAX_GROUPS_PER_SOCKET
        asked, beyond = wanted[:most], wanted[most:]
        allowed = [group for group in asked if await authorized(self, group)]
        if not allowed:
            await self._refuse(HTTPStatus.FORBIDDEN, "You may have none of the groups.")
        elif self._method == "HEAD":
            await self.send_headers(headers=HEADERS)
            await self.send_body(b"")
        else:
            too_many = f"Subscribe to {most} groups at most."
            errors = [error("forbidden", FORBIDDEN, one) for one in asked if one not in allowed]
            errors += [error("too_many", too_many, group) for group in beyond]
            await self._serve(allowed, errors)

    async def _refuse(
        self, status: HTTPStatus, text: str, *headers: tuple[bytes, bytes]
    ) -> None:
        body = b"" if self._method == "HEAD" else text.encode()
        await self.send_response(status, body, headers=[*PLAIN_HEADERS, *headers])

    async def _serve(self, groups: list[str], errors: list[Answer]) -> None:
        await self.send_headers(headers=HEADERS)
        await self._write(": connected\n\n")
        self.session.expect(groups)
        self.session.start()
        for answer in errors:
            self.session.outbox.put(answer)
        since = self._since()
        for group in groups:
            self.session.request(Subscribe(group, since, is_authorized=True))
        while not self._ended.is_set():
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    # Where frames wait for the client, this does too: it costs them no timer.
                    await self._write(": keep-alive\n\n")
            except TimeoutError:
                await self._give_up_stalled()
                return

    async def _give_up_stalled(self) -> None:
        """Keep nothing for the client but the end of the stream, after which it comes again."""
        logger.info("a client does not read its stream", extra={"action": "stream_stalled"})
        await self.session.close()
        await self.send_body(b"")

    async def _write(self, text: str) -> None:
        if self._ended.is_set():
            raise ClientGone
        await self.send_body(text.encode(), more_body=True)

    @property
    def _method(self) -> str:
        return str(self.scope["method"])

    def _wanted_groups(self) -> list[str]:
        wanted = [*self.groups_on_connect, *self._query().get("group", [])]
        return list(dict.fromkeys(check_wanted_group(group, self.using) for group in wanted))

    def _since(self) -> str | None:
        for name, value in self.scope.get("headers", ()):
            if name == b"last-event-id" and value:
                return str(value.decode("latin1"))
        since = self._query().get("since")
        return since[0] if since else None

    def _query(self) -> dict[str, list[str]]:
        query: bytes = self.scope.get("query_string", b"")
        return parse_qs(query.decode("latin1"))
