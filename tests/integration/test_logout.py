"""Who logs out loses its sockets' events, as the page about authorisation shows."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import Client

from django_pgnotify import group_name
from tests.hub_kit import Browser, relay, tell
from tests.markdown import blocks

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@sync_to_async
def session_of(user: User) -> str:
    """Log in; gives the key of the session."""
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def browser_in(session: str, consumer: Any) -> Browser:
    """A page with the cookie of a session."""
    browser = Browser()
    browser.socket = WebsocketCommunicator(
        AuthMiddlewareStack(consumer.as_asgi()),
        "/events/",
        headers=[(b"cookie", f"sessionid={session}".encode())],
    )
    return browser


async def test_who_logs_out_is_revoked_and_its_other_session_is_not() -> None:
    await relay()
    (shown,) = [block for block in blocks("howto/authorisation.md") if "log_out" in block.text]
    names: dict[str, Any] = {"__name__": "documented"}
    exec(compile(shown.text, "authorisation.md", "exec"), names)
    user = await User.objects.acreate_user("ada")
    group, request = group_name("customer-{}", user.pk), HttpRequest()
    request.user, request.session = user, SessionStore(await session_of(user))
    consumer = names["CustomerConsumer"]
    here = browser_in(str(request.session.session_key), consumer)
    elsewhere = browser_in(await session_of(user), consumer)
    async with here, elsewhere:
        for browser in (here, elsewhere):
            assert (await browser.subscribe(group))["type"] == "subscribed"
        await sync_to_async(names["log_out"])(request)
        await tell(1, group)
        assert (await here.receive())["reason"] == "revoked"
        assert await elsewhere.data() == [1]
        assert await here.waiting() == []
