"""What a project may put between our frames and the server: they all pass through it, in order."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from tests.hub_kit import Browser, OpenConsumer, relay, tell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

span: ContextVar[str] = ContextVar("span", default="none")


@pytest.fixture(autouse=True)
async def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    await relay()


async def test_subclass_that_overrides_send_sees_every_frame() -> None:
    sent: list[str] = []

    class Counting(OpenConsumer):
        async def send(self, text_data: Any = None, *args: Any, **kwargs: Any) -> None:
            sent.append(text_data)
            await super().send(text_data, *args, **kwargs)

    async with Browser(Counting) as browser:
        await browser.subscribe("orders")
        await tell(1, "orders")
        assert await browser.data() == [1]
        assert await browser.waiting() == []
    assert [text.partition(",")[0] for text in sent] == [
        '{"type":"subscribed"',
        '{"type":"events"',
        '{"type":"pong"}',
    ]


async def test_subclass_that_overrides_send_frame_is_told_the_position() -> None:
    told: list[tuple[str, str | None]] = []

    class Noting(OpenConsumer):
        async def send_frame(self, type: str, text: str, position: str | None) -> None:
            told.append((type, position))
            await super().send_frame(type, text, position)

    async with Browser(Noting) as browser:
        answer = await browser.subscribe("orders")
        await tell(1, "orders")
        frame = await browser.events()
    assert told == [("subscribed", answer["position"]), ("events", frame["position"])]


async def test_middleware_around_send_keeps_its_context_and_its_time_out() -> None:
    """As tracing does it: a variable is set before the server takes a frame, and reset after."""
    seen: list[str] = []

    class Traced(OpenConsumer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def traced(message: dict[str, Any]) -> None:
                seen.append(span.get())
                token = span.set(message["type"])
                try:
                    async with asyncio.timeout(5):
                        await asyncio.sleep(0)
                        await send(message)
                finally:
                    span.reset(token)

            span.set("of the connection")
            await super().__call__(scope, receive, traced)

    async with Browser(Traced) as one, Browser(Traced) as two:
        await one.subscribe("orders")
        await two.subscribe("orders")
        await tell(1, "orders")
        assert await one.data() == await two.data() == [1]
    assert set(seen) == {"of the connection"}


async def test_middleware_that_fails_closes_its_connection_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(OpenConsumer):
        async def send_frame(self, type: str, text: str, position: str | None) -> None:
            if type == "events":
                raise RuntimeError("no frame today")
            await super().send_frame(type, text, position)

    async with Browser(Failing) as failing, Browser() as other:
        await failing.subscribe("orders")
        await other.subscribe("orders")
        await tell(1, "orders")
        closed = await failing.socket.receive_output(timeout=5)
        assert closed == {"type": "websocket.close", "code": 4500}
        assert await other.data() == [1]
        await tell(2, "orders")
        assert await other.data() == [2]
    assert "no frame today" in caplog.text
