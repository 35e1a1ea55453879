"""Base: what a user declares and overrides in a ready consumer, WebSocket or SSE alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast
from urllib.parse import urlparse

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer
from channels.security.websocket import OriginValidator
from channels.utils import await_many_dispatch
from django.db import DEFAULT_DB_ALIAS

from ..conf import settings
from ..events import Event
from ..exceptions import InvalidDeclaration
from .session import ClientGone, Session


class Subscriber(AsyncConsumer):
    """The part that EventConsumer and EventStreamConsumer share.

    It hears the channel layer through the hub only, so that a layer that is down for a while
    closes no connection: it has no channel name, and can send to groups but be in none.
    """

    using: str = DEFAULT_DB_ALIAS
    """Alias of the database whose events these are."""
    groups_on_connect: Sequence[str] = ()
    """Groups joined at once, after authorize()."""

    session: Session

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.groups_on_connect, str):
            raise InvalidDeclaration(
                f"{cls.__name__}.groups_on_connect = {cls.groups_on_connect!r} must be a list of "
                "groups."
            )
        groups = getattr(cls, "groups", None)
        if isinstance(groups, list | tuple | set) and groups:
            raise InvalidDeclaration(
                f"{cls.__name__}.groups: this consumer is in no group of the channel layer. Name "
                "the groups whose events it gives in groups_on_connect, or write a consumer of "
                "Channels' own for the others."
            )

    async def authorize(self, group: str) -> bool:
        """May this client have the group's events? Refuses everything until overridden.

        Asked, with ``self.scope`` at hand, at each subscription, before a snapshot is sent, and
        whenever someone may have been revoked: by ``revoke(group)``, while the group was being
        joined, or in a history that has ended. An exception is a refusal; a database that is
        away is waited for.
        """
        return False

    async def visible(self, events: list[Event]) -> list[Event]:
        """Which of these events this client sees, and in what shape; by default all.

        Given a whole batch. Overriding it costs decoding and encoding for each client. It is
        asked again with the same events if the database is away; an exception is a reset.
        """
        return events

    def snapshot(self, group: str) -> Iterable[Any] | None:
        """Rows that the group's events change, sent before them; by default none.

        A ``.values()`` queryset or any rows of JSON-able values. Called in a thread, in a
        REPEATABLE READ READ ONLY transaction on a connection of its own: the events go on
        exactly where it stands.
        """
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection; whatever ends it, nothing of it is left behind."""
        self.scope = scope
        self._server_send = send
        # May be None, as in every consumer where none is configured.
        self.channel_layer = cast(Any, get_channel_layer(self.channel_layer_alias))
        self.session = Session(
            self,
            send=self.send_frame,
            failed=self.give_up,
            stamps=self.sends_positions(),
            filters=_overrides(self, "visible"),
            takes_snapshots=_overrides(self, "snapshot"),
        )
        try:
            if sources := self.more_sources():
                await await_many_dispatch([receive, *sources], self.dispatch)
            while True:
                # Without a task for each message, as there is nothing else to wait for.
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        except ClientGone as gone:
            # The project's own code has sent something: the server knows what it has raised.
            raise gone.__cause__ or gone from None
        finally:
            await self.session.close()

    async def base_send(self, message: Any) -> None:
        """Hand a message to the server, whose errors mean that the client is gone; those of a
        project's own ``send()`` are mistakes. Uvicorn's is a RuntimeError after a disconnect."""
        try:
            await self._server_send(message)
        except (OSError, RuntimeError) as gone:
            raise ClientGone(str(gone)) from gone

    def more_sources(self) -> list[Any]:
        """Where messages to dispatch come from, beside the server."""
        return []

    def sends_positions(self) -> bool:
        """True if send_frame() needs to know the position, which costs something to find."""
        return True

    async def send_frame(self, type: str, text: str, position: str | None) -> None:
        """Send a browser frame."""
        raise NotImplementedError

    async def give_up(self) -> None:
        """Close the connection after a mistake; the client may try again."""
        raise NotImplementedError

    def origin_allowed(self, *, without: bool) -> bool:
        """True if ``ALLOWED_ORIGINS`` lets the connection's origin in; `without` says whether
        one may come without an origin."""
        if settings.ALLOWED_ORIGINS is None:
            return True
        headers = dict(self.scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is None:
            return without or "*" in settings.ALLOWED_ORIGINS
        validator = OriginValidator(cast(Any, None), settings.ALLOWED_ORIGINS)
        try:
            return bool(validator.valid_origin(urlparse(origin.decode("latin1"))))
        except ValueError:  # no address: half an IPv6 one, or a port that can't be
            return False


def _overrides(consumer: Subscriber, method: str) -> bool:
    return getattr(type(consumer), method) is not getattr(Subscriber, method)
