"""EventConsumer as a browser sees it: real PostgreSQL, real relay, one process."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import InterfaceError, OperationalError, transaction
from django.test import override_settings

from django_pgnotify import Event
from django_pgnotify.consumers import EventConsumer, revoke
from django_pgnotify.exceptions import InvalidDeclaration, InvalidGroup
from django_pgnotify.ledger.positions import Position
from tests.hub_kit import (
    PATIENCE_SECONDS,
    Browser,
    OpenConsumer,
    execute,
    publish,
    publish_now,
    query,
    relay,
    tell,
)
from tests.own_server import wait_until
from tests.shop.models import Customer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
async def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    await relay()


# Subscribing ------------------------------------------------------------------------------


async def test_subscriber_gets_the_events_of_its_group() -> None:
    async with Browser() as browser:
        answer = await browser.subscribe("orders")
        assert answer["type"] == "subscribed"
        assert answer["group"] == "orders"
        assert "recovered" not in answer
        await tell({"total": 12}, "orders")
        frame = await browser.events()
        (event,) = frame["events"]
        assert frame["group"] == "orders"
        assert frame["position"] != answer["position"]
        assert "more" not in frame
        assert event["data"] == {"total": 12}


async def test_events_of_other_groups_do_not_arrive() -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await publish(1, "customers")
        await tell(2, "orders")
        assert await browser.data() == [2]


async def test_everything_is_refused_by_default() -> None:
    async with Browser(EventConsumer) as browser:
        answer = await browser.subscribe("orders")
        assert (answer["type"], answer["code"], answer["group"]) == (
            "error",
            "forbidden",
            "orders",
        )
        await tell(1, "orders")
        assert await browser.waiting() == []


async def test_authorize_sees_the_user_of_the_scope() -> None:
    class OwnOnly(EventConsumer):
        async def authorize(self, group: str) -> bool:
            return group == f"customer-{self.scope['user']}"

    async with Browser(OwnOnly, user=7) as browser:
        assert (await browser.subscribe("customer-7"))["type"] == "subscribed"
        assert (await browser.subscribe("customer-8"))["code"] == "forbidden"


async def test_a_database_that_is_away_refuses_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = iter([OperationalError("the connection is closed"), InterfaceError("lost")])

    class Asks(EventConsumer):
        async def authorize(self, group: str) -> bool:
            if (error := next(answers, None)) is not None:
                raise error
            return group == "orders"

    async with Browser(Asks) as browser:
        assert (await browser.subscribe("orders"))["type"] == "subscribed"
        assert (await browser.subscribe("others"))["code"] == "forbidden"
    assert caplog.text.count("ask the database, tries again") == 2


async def cancelled_by_somebody_else() -> None:
    looked_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    looked_up.cancel()
    await looked_up


async def test_what_authorize_waits_for_may_be_cancelled() -> None:
    class Asks(EventConsumer):
        async def authorize(self, group: str) -> bool:
            if group == "odd":
                await cancelled_by_somebody_else()
            return True

    async with Browser(Asks) as browser:
        assert (await browser.subscribe("odd"))["code"] == "forbidden"
        assert (await browser.subscribe("orders"))["type"] == "subscribed"


async def test_what_visible_waits_for_may_be_cancelled() -> None:
    class Sees(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            if events[0].data == 1:
                await cancelled_by_somebody_else()
            return events

    async with Browser(Sees) as browser:
        await browser.subscribe("orders")
        await tell(1, "orders")
        assert (await browser.receive())["type"] == "reset"
        await tell(2, "orders")
        assert await browser.data() == [2]


async def test_authorize_that_raises_or_is_not_async_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(EventConsumer):
        async def authorize(self, group: str) -> bool:
            raise RuntimeError("no database")

    class Sync(EventConsumer):
        def authorize(self, group: str) -> bool:  # type: ignore[override]
            return True

    for consumer in (Broken, Sync):
        async with Browser(consumer) as browser:
            assert (await browser.subscribe("orders"))["code"] == "forbidden"
            assert [f["type"] for f in await browser.waiting()] == []
    assert "no database" in caplog.text


async def test_groups_on_connect_are_joined_at_once_and_refused_ones_told() -> None:
    class Desk(EventConsumer):
        groups_on_connect = ["orders", "secrets"]

        async def authorize(self, group: str) -> bool:
            return group == "orders"

    async with Browser(Desk) as browser:
        assert (await browser.receive())["type"] == "subscribed"
        refusal = await browser.receive()
        assert (refusal["code"], refusal["group"]) == ("forbidden", "secrets")
        await tell(1, "orders")
        assert await browser.data() == [1]


async def test_unsubscribed_group_stays_silent() -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await browser.subscribe("marker")
        await browser.send(type="unsubscribe", group="orders")
        await browser.send(type="unsubscribe", group="orders")
        assert (await browser.receive())["code"] == "unknown_group"
        await publish(1, "orders")
        await tell(2, "marker")
        assert await browser.data() == [2]


async def test_subscribing_again_is_answered_again_and_doubles_nothing() -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await tell(1, "orders")
        position = (await browser.events())["position"]
        again = await browser.subscribe("orders")
        assert (again["type"], again["position"]) == ("subscribed", position)
        await tell(2, "orders")
        assert await browser.data() == [2]
        assert await browser.waiting() == []


@override_settings(PGNOTIFY={"MAX_GROUPS_PER_SOCKET": 2})
async def test_groups_of_a_socket_are_limited() -> None:
    async with Browser() as browser:
        await browser.subscribe("a")
        await browser.subscribe("b")
        answer = await browser.subscribe("c")
        assert (answer["code"], answer["group"]) == ("too_many", "c")
        assert (await browser.subscribe("a"))["type"] == "subscribed"


@override_settings(PGNOTIFY={"MAX_GROUPS_PER_SOCKET": 600})
async def test_a_client_may_leave_all_its_groups_and_come_back_at_once() -> None:
    gate = asyncio.Event()

    class Slow(EventConsumer):
        async def authorize(self, group: str) -> bool:
            await gate.wait()
            await asyncio.sleep(0)  # as a query would, so that answers go out meanwhile
            return False

    async with Browser(Slow) as browser:
        for number in range(600):
            await browser.send(type="unsubscribe", group=f"g{number}")
            await browser.send(type="subscribe", group=f"g{number}")
        await browser.send(type="ping")
        while (frame := await browser.receive())["type"] != "pong":
            assert frame["code"] == "unknown_group"
        gate.set()
        codes = {(await browser.receive())["code"] for _ in range(1_199)}
        assert codes == {"unknown_group", "forbidden"}


async def test_two_databases_do_not_meet() -> None:
    class Other(OpenConsumer):
        using = "other"

    await relay("other")
    async with Browser() as first, Browser(Other) as second:
        await first.subscribe("orders")
        await second.subscribe("orders")
        await publish("other", "orders", using="other")
        await relay("other")
        await tell("default", "orders")
        assert await first.data() == ["default"]
        assert await second.data() == ["other"]
        # On the wire this is the other database's group "orders".
        assert (await first.subscribe("other.orders"))["code"] == "bad_frame"


# Malformed frames -------------------------------------------------------------------------

MALFORMED = {
    "no JSON": "hello",
    "empty": "",
    "an array": "[]",
    "a number": "7",
    "null": "null",
    "no type": "{}",
    "unknown type": '{"type":"delete"}',
    "a type that is a list": '{"type":["subscribe"]}',
    "no group": '{"type":"subscribe"}',
    "a group that is a number": '{"type":"subscribe","group":7}',
    "a group that is an object": '{"type":"subscribe","group":{}}',
    "an empty group": '{"type":"subscribe","group":""}',
    "a group with a space": '{"type":"subscribe","group":"a b"}',
    "a group with a NUL": '{"type":"subscribe","group":"a\\u0000b"}',
    "a group with a lone surrogate": '{"type":"subscribe","group":"\\ud800"}',
    "a group of 100 characters": json.dumps({"type": "subscribe", "group": "x" * 100}),
    "the hubs' own group": '{"type":"subscribe","group":"pgnotify.hubs"}',
    "deep nesting": "[" * 60_000,
    "deep objects": '{"a":' * 10_000,
    "NaN": '{"type":"ping","n":NaN}',
    "a number of 5,000 digits": '{"type":"ping","n":' + "9" * 5_000 + "}",
    "a NUL": "\x00",
    "two objects": '{"type":"ping"}{"type":"ping"}',
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_frame_gets_an_error_and_the_socket_lives(text: str) -> None:
    async with Browser() as browser:
        await browser.send_text(text)
        answer = await browser.receive()
        assert (answer["type"], answer["code"]) == ("error", "bad_frame")
        assert set(answer) <= {"type", "code", "message", "group"}
        await browser.send(type="ping")
        assert await browser.receive() == {"type": "pong"}


@pytest.mark.parametrize("name", ["my orders", "", "x" * 1_000, "a\x00b", "\ud800"])
async def test_error_names_what_is_no_group(name: str) -> None:
    async with Browser() as browser:
        for type in ("subscribe", "unsubscribe"):
            await browser.send(type=type, group=name)
            answer = await browser.receive()
            assert (answer["code"], answer["group"]) == ("bad_frame", name)
        for nothing in ("x" * 1_001, 7, None):
            await browser.send(type="subscribe", group=nothing)
            assert "group" not in await browser.receive()


async def test_pong_is_taken_without_an_answer() -> None:
    async with Browser() as browser:
        await browser.send(type="pong")
        await browser.send(type="ping")
        assert await browser.receive() == {"type": "pong"}


async def test_binary_frame_gets_an_error() -> None:
    async with Browser() as browser:
        await browser.socket.send_to(bytes_data=b'{"type":"ping"}')
        assert (await browser.receive())["code"] == "bad_frame"


async def test_huge_frame_gets_an_error() -> None:
    async with Browser() as browser:
        await browser.send(type="ping", padding="x" * 70_000)
        assert (await browser.receive())["code"] == "too_large"


async def test_malformed_frame_of_one_socket_disturbs_no_other() -> None:
    async with Browser() as bad, Browser() as good:
        await good.subscribe("orders")
        for text in MALFORMED.values():
            await bad.send_text(text)
        await tell(1, "orders")
        assert await good.data() == [1]


@pytest.mark.parametrize(
    ("allowed", "origin", "connects"),
    [
        (None, b"http://evil.example", True),
        (["https://good.example"], b"https://good.example", True),
        (["https://good.example"], b"https://evil.example", False),
        ([".good.example"], b"https://www.good.example", True),
        (["https://good.example"], b"https://[::1", False),
        (["https://good.example"], b"https://good.example:99999", False),
        (["https://good.example"], b"null", False),
        (["https://good.example"], None, False),
        (["*"], None, True),
    ],
)
async def test_allowed_origins_decide_who_connects(
    allowed: list[str] | None, origin: bytes | None, connects: bool
) -> None:
    headers = [(b"origin", origin)] if origin else []
    with override_settings(PGNOTIFY={"ALLOWED_ORIGINS": allowed}):
        socket = WebsocketCommunicator(OpenConsumer.as_asgi(), "/", headers=headers)
        connected, _ = await socket.connect()
        assert connected is connects
        if connected:
            await socket.disconnect()


# Resuming ---------------------------------------------------------------------------------


async def test_resuming_client_gets_exactly_what_it_missed_then_live_events() -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await tell(1, "orders")
        position = (await browser.events())["position"]
    await tell(2, "orders")
    await publish("no", "customers")
    await publish(3, "orders")
    await relay()
    async with Browser() as browser:
        answer = await browser.subscribe("orders", since=position)
        assert (answer["type"], answer["recovered"]) == ("subscribed", True)
        assert answer["position"] == position
        assert await browser.data() == [2, 3]
        await tell(4, "orders")
        frame = await browser.events()
        assert [event["data"] for event in frame["events"]] == [4]
        assert await browser.waiting() == []


async def test_client_that_missed_nothing_gets_no_events() -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
    async with Browser() as browser:
        assert (await browser.subscribe("orders", since=position))["recovered"] is True
        assert await browser.waiting() == []


async def test_resuming_beside_a_live_client_gives_each_its_own() -> None:
    async with Browser() as first, Browser() as second:
        position = (await first.subscribe("orders"))["position"]
        await tell(1, "orders")
        assert await first.data() == [1]
        assert (await second.subscribe("orders", since=position))["recovered"] is True
        assert await second.data() == [1]
        await tell(2, "orders")
        assert await first.data() == [2]
        assert await second.data() == [2]
        assert await first.waiting() == []


async def test_resuming_again_on_the_same_socket_replays_again() -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        await tell(1, "orders")
        assert await browser.data() == [1]
        assert (await browser.subscribe("orders", since=position))["recovered"] is True
        assert await browser.data() == [1]
        await tell(2, "orders")
        assert await browser.data() == [2]


def changed(position: str, **parts: Any) -> str:
    parsed = Position.parse(position)
    assert parsed is not None
    fields = {"epoch": parsed.epoch, "tick": parsed.tick, "bits": parsed.bits, **parts}
    return Position(**fields).token


BAD_POSITIONS = {
    "malformed": (lambda p: "hello", "unknown"),
    "empty": (lambda p: "", "unknown"),
    "huge": (lambda p: p + "0" * 1_000, "unknown"),
    "with a NUL": (lambda p: p + "\x00", "unknown"),
    "with other digits": (lambda p: p.replace("1.", "\u0661.", 1), "unknown"),
    "a number": (lambda p: 12345, "unknown"),
    "an object": (lambda p: {"tick": 1}, "unknown"),
    "forged bits": (lambda p: changed(p, bits=12345), "unknown"),
    "ahead of the server": (lambda p: changed(p, tick=2**62), "unknown"),
    "another epoch": (lambda p: changed(p, epoch="0" * 16), "epoch"),
}


@pytest.mark.parametrize("bad", BAD_POSITIONS.values(), ids=BAD_POSITIONS)
async def test_position_that_cannot_be_used_is_answered_with_a_reset(bad: Any) -> None:
    spoil, reason = bad
    await tell(1, "orders")
    async with Browser() as browser:
        good = (await browser.subscribe("marker"))["position"]
        answer = await browser.subscribe("orders", since=spoil(good))
        assert (answer["type"], answer["recovered"]) == ("subscribed", False)
        reset = await browser.receive()
        assert (reset["type"], reset["group"], reset["reason"]) == ("reset", "orders", reason)
        assert reset["position"] == good
        await tell(2, "orders")
        assert await browser.data() == [2]


async def test_expired_position_is_answered_with_a_reset() -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
    await tell(1, "orders")
    parsed = Position.parse(position)
    assert parsed is not None
    await query("UPDATE django_pgnotify_state SET trimmed = %s", parsed.tick)
    async with Browser() as browser:
        assert (await browser.subscribe("orders", since=position))["recovered"] is False
        assert (await browser.receive())["reason"] == "expired"


# Sizes ------------------------------------------------------------------------------------


@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 2_000})
async def test_large_transaction_arrives_in_bounded_frames_and_one_position() -> None:
    async with Browser() as browser:
        before = (await browser.subscribe("orders"))["position"]
        await query(
            "SELECT pgnotify_publish('t', to_jsonb(n), ARRAY['orders'])"
            " FROM generate_series(1, 200) AS n"
        )
        await relay()
        seen: list[Any] = []
        more = True
        while more:
            text = await browser.socket.receive_from(timeout=5)
            assert len(text) <= 2_000
            frame = json.loads(text)
            more = frame.get("more", False)
            seen += [event["data"] for event in frame["events"]]
            assert (frame["position"] == before) is more
        assert seen == list(range(1, 201))
    async with Browser() as browser:
        # The same in a replay.
        await browser.subscribe("orders", since=before)
        replayed: list[Any] = []
        while len(replayed) < 200:
            replayed += await browser.data()
        assert replayed == seen


async def test_event_of_20_megabytes_arrives_truncated() -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        await query(
            "SELECT pgnotify_publish('t', to_jsonb(repeat('x', 20000000)), ARRAY['orders'])"
        )
        await tell("small", "orders")
        large, small = (await browser.events())["events"]
        assert large["truncated"] is True
        assert "data" not in large
        assert small["data"] == "small"
    async with Browser() as browser:
        await browser.subscribe("orders", since=position)
        assert [e.get("truncated") for e in (await browser.events())["events"]] == [True, None]


async def test_json_that_python_cannot_hold_arrives_as_written() -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        await query(
            "SELECT pgnotify_append('t', NULL, %s, NULL)",
            '[{"kind":"message","pk":null,"data":[1e400,123456789012345678901234567890],'
            '"groups":["orders"]}]',
        )
        await relay()
        text = await browser.socket.receive_from(timeout=5)
        assert '"data":[1e400,123456789012345678901234567890]' in text
    async with Browser() as browser:
        await browser.subscribe("orders", since=position)
        assert "1e400" in await browser.socket.receive_from(timeout=5)


# visible() --------------------------------------------------------------------------------


class EvenOnly(OpenConsumer):
    async def visible(self, events: list[Event]) -> list[Event]:
        return [event for event in events if event.data % 2 == 0]


async def test_visible_filters_whole_batches_and_tells_nothing_of_what_it_leaves_out() -> None:
    async with Browser(EvenOnly) as browser:
        first = (await browser.subscribe("orders"))["position"]
        for number in (1, 2, 3, 4):
            await publish(number, "orders")
        await relay()
        assert await browser.data() == [2, 4]
        await tell(5, "orders")
        await tell(6, "orders")
        frame = await browser.events()
        assert [event["data"] for event in frame["events"]] == [6]
    async with Browser(EvenOnly) as browser:
        assert (await browser.subscribe("orders", since=frame["position"]))["recovered"] is True
        assert await browser.waiting() == []
    async with Browser(EvenOnly) as browser:
        await browser.subscribe("orders", since=first)
        assert await browser.data() == [2, 4, 6]


@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 2_000})
async def test_batch_in_several_frames_has_an_end_if_the_last_holds_nothing_visible() -> None:
    class Early(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            return [event for event in events if event.data["n"] == 0]

    async with Browser(Early) as browser:
        await browser.subscribe("orders")
        await query(
            "SELECT pgnotify_publish('t', jsonb_build_object('n', n, 'x', repeat('x', 900)),"
            " ARRAY['orders']) FROM generate_series(0, 9) AS n"
        )
        await relay()
        first, end = await browser.events(), await browser.events()
        assert [event["data"]["n"] for event in first["events"]] == [0]
        assert first["more"] is True
        assert end["events"] == []
        assert "more" not in end
        assert end["position"] != first["position"]


async def test_visible_may_reshape_events() -> None:
    from dataclasses import replace

    class Hashed(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            assert all(event.using == "default" and event.durable for event in events)
            return [replace(event, data={"was": event.data}) for event in events]

    async with Browser(Hashed) as browser, Browser() as other:
        await browser.subscribe("orders")
        await other.subscribe("orders")
        await tell(1, "orders")
        assert await browser.data() == [{"was": 1}]
        assert await other.data() == [1]


ORDER = '[{"kind":"insert","pk":1,"data":{"id":1,"total":"12.50"},"groups":["orders"]}]'
MADE = [Decimal("1.5"), UUID(int=1), float("nan"), datetime(2026, 1, 1, tzinfo=UTC), 2**60]
MADE_JSON = ["1.5", str(UUID(int=1)), None, "2026-01-01T00:00:00Z", str(2**60)]


async def test_what_visible_makes_of_data_follows_the_rule_of_all_json() -> None:
    from dataclasses import replace

    class Python(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            return [
                replace(e, data={**e.python_data(), "more": MADE}, pk=2**60) for e in events
            ]

    async with Browser(Python) as browser:
        await browser.subscribe("orders")
        await publish({"kept": 2**60, "gone": None}, "orders")
        await query("SELECT pgnotify_append('t', 'shop.order', %s, NULL)", ORDER)
        await relay()
        message, order = (await browser.events())["events"]
        assert message["pk"] == order["pk"] == str(2**60)
        assert message["data"] == {"kept": 2**60, "gone": None, "more": MADE_JSON}
        assert order["data"]["total"] == "12.50"
        assert order["data"]["more"] == MADE_JSON


async def test_visible_may_make_a_boolean_of_a_number() -> None:
    from dataclasses import replace

    class Flags(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            return [
                replace(e, data={"flag": bool(e.data["flag"]), "n": e.data["n"]})
                for e in events
            ]

    async with Browser(Flags) as browser:
        await browser.subscribe("orders")
        await tell({"flag": 1, "n": 1}, "orders")
        (data,) = await browser.data()
        assert data["flag"] is True
        assert data["n"] is not True


async def test_visible_leaves_exact_text_alone_where_it_changes_nothing() -> None:
    class Same(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            return events

    async with Browser(Same) as browser:
        await browser.subscribe("orders")
        await query(
            "SELECT pgnotify_append('t', NULL, %s, NULL)",
            '[{"kind":"message","pk":null,"data":[1e400],"groups":["orders"]}]',
        )
        await relay()
        assert '"data":[1e400]' in await browser.socket.receive_from(timeout=5)


async def test_visible_that_raises_resets_its_own_client_only() -> None:
    class Broken(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            raise RuntimeError("bug")

    async with Browser(Broken) as broken, Browser() as fine:
        await broken.subscribe("orders")
        await fine.subscribe("orders")
        await tell(1, "orders")
        assert await fine.data() == [1]
        reset = await broken.receive()
        assert (reset["type"], reset["reason"]) == ("reset", "gap")


async def test_what_is_async_or_plain_by_mistake_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mistaken(OpenConsumer):
        def visible(self, events: list[Event]) -> list[Event]:  # type: ignore[override]
            return events

        async def snapshot(self, group: str) -> Any:  # type: ignore[override]
            return []

    class Userless(EventConsumer):
        async def authorize(self, group: str) -> bool:
            return bool(self.scope["user"].is_staff)

    async with Browser(Mistaken) as browser:
        await browser.send(type="subscribe", group="orders")
        assert await browser.socket.receive_output(PATIENCE_SECONDS)
        closed = await browser.socket.receive_output(PATIENCE_SECONDS)
        assert closed["type"] == "websocket.close"
    async with Browser(Userless) as browser:
        assert (await browser.subscribe("orders"))["code"] == "forbidden"
    Mistaken.snapshot = OpenConsumer.snapshot  # type: ignore[method-assign, assignment]
    async with Browser(Mistaken) as browser:
        await browser.subscribe("orders")
        await tell(1, "orders")
        assert (await browser.receive())["reason"] == "gap"
    for text in (
        "snapshot() must be a plain function",
        "visible() must be an async function",
        "AuthMiddlewareStack",
    ):
        assert text in caplog.text


def test_groups_on_connect_are_a_list() -> None:
    with pytest.raises(InvalidDeclaration, match="groups_on_connect"):

        class Consumer(EventConsumer):
            groups_on_connect = "orders"


# snapshot() -------------------------------------------------------------------------------


class CustomerConsumer(OpenConsumer):
    def snapshot(self, group: str) -> Any:
        return Customer.objects.order_by("pk").values("id", "name")


async def test_snapshot_comes_between_subscribed_and_events() -> None:
    customer = await Customer.objects.acreate(name="Ada")
    async with Browser(CustomerConsumer) as browser:
        assert (await browser.subscribe("customers"))["type"] == "subscribed"
        frame = await browser.receive()
        assert frame["type"] == "snapshot"
        assert frame["group"] == "customers"
        assert frame["data"] == [{"id": customer.pk, "name": "Ada"}]
        await tell(1, "customers")
        assert await browser.data() == [1]


async def test_resumed_client_gets_no_snapshot_and_a_reset_one_does() -> None:
    async with Browser(CustomerConsumer) as browser:
        await browser.subscribe("customers")
        position = (await browser.receive())["position"]
    async with Browser(CustomerConsumer) as browser:
        await browser.subscribe("customers", since=position)
        assert await browser.waiting() == []
    async with Browser(CustomerConsumer) as browser:
        await browser.subscribe("customers", since="lost")
        assert (await browser.receive())["type"] == "reset"
        assert (await browser.receive())["type"] == "snapshot"


async def test_snapshot_has_no_gap_and_no_overlap_with_the_events() -> None:
    """A row committed before the snapshot and not relayed yet is in the rows and no event."""

    def write(name: str) -> None:
        with transaction.atomic():
            Customer.objects.create(name=name)
            publish_now(name, "customers")

    class Slow(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            rows = list(Customer.objects.order_by("pk").values_list("name", flat=True))
            write_elsewhere("during")
            return rows

    def write_elsewhere(name: str) -> None:
        # The snapshot's own connection is read-only: another thread has another one.
        from concurrent.futures import ThreadPoolExecutor

        from django.db import connections

        def work() -> None:
            write(name)
            connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()

    await sync_to_async(write)("relayed")
    await relay()
    await sync_to_async(write)("not relayed yet")
    async with Browser(Slow) as browser:
        await browser.subscribe("customers")
        snapshot = await browser.receive()
        assert snapshot["data"] == ["relayed", "not relayed yet"]
        await sync_to_async(write)("after")
        await relay()
        seen = await browser.data()
        assert seen == ["during", "after"]
        await sync_to_async(write)("later")
        await relay()
        assert await browser.data() == ["later"]
        assert await browser.waiting() == []
    async with Browser() as browser:
        await browser.subscribe("customers", since=snapshot["position"])
        assert "during" in await browser.data()


async def test_tick_that_the_snapshot_holds_whole_is_not_told() -> None:
    class Names(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            return list(Customer.objects.values_list("name", flat=True))

    def write(name: str) -> None:
        with transaction.atomic():
            Customer.objects.create(name=name)
            publish_now(name, "customers")

    await relay()
    await sync_to_async(write)("not relayed yet")
    async with Browser(Names) as browser:
        await browser.subscribe("customers")
        assert (await browser.receive())["data"] == ["not relayed yet"]
        await relay()
        await sync_to_async(write)("later")
        await relay()
        assert (await browser.receive())["events"][0]["data"] == "later"


async def test_snapshot_runs_read_only_and_repeatable() -> None:
    class Telling(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            rows = execute(
                "SELECT current_setting('transaction_isolation'),"
                " current_setting('transaction_read_only')"
            )
            return [*rows, [Decimal("1.50")]]

    async with Browser(Telling) as browser:
        await browser.subscribe("orders")
        assert (await browser.receive())["data"] == [["repeatable read", "on"], ["1.50"]]


@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 2_000})
async def test_large_snapshot_comes_in_bounded_frames() -> None:
    class Large(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            return [{"n": n, "text": "x" * (5_000 if n == 50 else 100)} for n in range(100)]

    async with Browser(Large) as browser:
        await browser.subscribe("orders")
        numbers, errors, more = [], [], True
        while more:
            text = await browser.socket.receive_from(timeout=5)
            assert len(text) <= 2_000
            frame = json.loads(text)
            if frame["type"] == "error":
                errors.append(frame["code"])
                continue
            numbers += [row["n"] for row in frame["data"]]
            more = frame.get("more", False)
        assert numbers == [n for n in range(100) if n != 50]
        assert errors == ["too_large"]


async def test_snapshot_of_more_frames_than_a_queue_holds_arrives_whole() -> None:
    class Large(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            return [{"number": number, "text": "x" * 2000} for number in range(20)]

    with override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 4096, "SOCKET_QUEUE_SIZE": 5}):
        async with Browser(Large) as browser:
            await browser.subscribe("orders")
            numbers = []
            more = True
            while more:
                frame = await browser.receive()
                numbers += [row["number"] for row in frame["data"]]
                more = frame.get("more", False)
    assert numbers == list(range(20))


async def test_snapshot_that_raises_ends_its_own_connection_only() -> None:
    class Broken(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            raise RuntimeError("bug")

    async with Browser() as fine:
        await fine.subscribe("orders")
        async with Browser(Broken) as browser:
            await browser.subscribe("orders")
            assert (await browser.socket.receive_output(timeout=5))["code"] == 4500
        await tell(1, "orders")
        assert await fine.data() == [1]


async def test_snapshot_that_takes_too_long_ends_its_connection_and_is_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow(OpenConsumer):
        def snapshot(self, group: str) -> Any:
            execute("SET LOCAL statement_timeout = '20ms'")
            execute("SELECT pg_sleep(60)")

    async with Browser(Slow) as browser:
        await browser.subscribe("orders")
        assert (await browser.socket.receive_output(timeout=5))["code"] == 4500
    (record,) = [one for one in caplog.records if "snapshot" in one.getMessage()]
    assert record.levelname == "ERROR"


async def test_snapshot_whose_connection_is_lost_is_read_again() -> None:
    class Lost(OpenConsumer):
        calls = 0

        def snapshot(self, group: str) -> Any:
            Lost.calls += 1
            if Lost.calls == 1:
                execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return [Lost.calls]

    async with Browser(Lost) as browser:
        await browser.subscribe("orders")
        assert (await browser.receive())["data"] == [2]


# A client that takes nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake", [KeyError("positon"), RuntimeError("bug"), ConnectionError("no such host")]
)
async def test_a_mistake_in_send_is_logged_and_ends_its_own_connection_only(
    mistake: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(OpenConsumer):
        async def send(self, text_data: str | None = None, **more: Any) -> None:
            raise mistake

    async with Browser() as fine, Browser(Counting) as browser:
        await fine.subscribe("orders")
        await browser.send(type="subscribe", group="orders")
        assert (await browser.socket.receive_output(PATIENCE_SECONDS))["code"] == 4500
        await tell(1, "orders")
        assert await fine.data() == [1]
    assert str(mistake) in caplog.text


@pytest.mark.parametrize("answer", [OSError("gone"), RuntimeError("closed"), TimeoutError()])
@pytest.mark.parametrize("takes_close", [True, False])
async def test_a_server_that_takes_nothing_any_more_ends_the_connection_without_a_word(
    answer: Exception, takes_close: bool, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = OpenConsumer.as_asgi()

    async def unwilling(scope: Any, receive: Any, send: Any) -> None:
        async def refuse(message: Any) -> None:
            if message["type"] == "websocket.send":
                refused.set()
                raise answer
            if message["type"] == "websocket.close" and not takes_close:
                raise answer
            await send(message)

        await consumer(scope, receive, refuse)  # type: ignore[arg-type]

    refused = asyncio.Event()
    browser = Browser()
    browser.socket = WebsocketCommunicator(unwilling, "/events/")
    async with browser:
        await browser.send(type="subscribe", group="orders")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await refused.wait()
        if takes_close:
            closed = await browser.socket.receive_output(PATIENCE_SECONDS)
            assert closed["type"] == "websocket.close"
    assert not [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]


# revoke() ---------------------------------------------------------------------------------


class WithGuests(EventConsumer):
    guests: set[str] = set()

    async def authorize(self, group: str) -> bool:
        return self.scope["user"] in self.guests


async def test_revoked_client_is_unsubscribed_and_others_stay() -> None:
    WithGuests.guests = {"ada", "bob"}
    async with Browser(WithGuests, user="ada") as ada, Browser(WithGuests, user="bob") as bob:
        await ada.subscribe("orders")
        await bob.subscribe("orders")
        WithGuests.guests = {"bob"}
        await revoke("orders")
        await tell(1, "orders")
        reset = await ada.receive()
        assert (reset["type"], reset["group"], reset["reason"]) == (
            "reset",
            "orders",
            "revoked",
        )
        assert await bob.data() == [1]
        await tell(2, "orders")
        assert await bob.data() == [2]
        assert await ada.waiting() == []
        await ada.send(type="unsubscribe", group="orders")
        assert (await ada.receive())["code"] == "unknown_group"


async def test_revoke_of_a_rolled_back_transaction_never_happens() -> None:
    WithGuests.guests = {"ada"}
    async with Browser(WithGuests, user="ada") as ada:
        await ada.subscribe("orders")
        WithGuests.guests = set()

        def roll_back() -> None:
            with transaction.atomic():
                async_to_sync(revoke)("orders")
                transaction.set_rollback(True)

        await sync_to_async(roll_back)()
        await tell(1, "orders")
        assert await ada.data() == [1]

        def commit() -> None:
            with transaction.atomic():
                async_to_sync(revoke)("orders")

        await sync_to_async(commit)()
        await relay()
        assert (await ada.receive())["reason"] == "revoked"


async def test_revoke_refuses_what_is_no_group() -> None:
    with pytest.raises(InvalidGroup):
        await revoke("no group")


async def test_client_revoked_while_away_gets_no_replay() -> None:
    WithGuests.guests = {"ada"}
    async with Browser(WithGuests, user="ada") as ada:
        position = (await ada.subscribe("orders"))["position"]
    await tell("secret", "orders")
    WithGuests.guests = set()
    async with Browser(WithGuests, user="ada") as ada:
        assert (await ada.subscribe("orders", since=position))["code"] == "forbidden"
        assert await ada.waiting() == []


# Truncates --------------------------------------------------------------------------------


async def append(kind: str, groups: list[str], templates: list[str]) -> None:
    change = {"kind": kind, "pk": None, "data": None, "groups": groups}
    if templates:
        change["templates"] = templates
    await query("SELECT pgnotify_append('t', 'shop.order', %s, NULL)", json.dumps([change]))


async def test_truncate_reaches_templated_and_plain_groups_once_and_in_order() -> None:
    async with Browser() as browser:
        for group in ("orders", "customer-7", "unrelated-7"):
            await browser.subscribe(group)
        await append("insert", ["orders", "customer-7"], [])
        await append("truncate", ["orders"], ["customer-{customer_id}"])
        await append("insert", ["orders", "customer-7"], [])
        await relay()
        kinds: dict[str, list[str]] = {"orders": [], "customer-7": []}
        while sum(map(len, kinds.values())) < 6:
            frame = await browser.events()
            kinds[frame["group"]] += [event["kind"] for event in frame["events"]]
        assert list(kinds.values()) == [["insert", "truncate", "insert"]] * 2
        assert await browser.waiting() == []


async def test_truncate_is_in_the_replay_of_a_templated_group() -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("customer-7"))["position"]
    await append("truncate", ["orders"], ["customer-{customer_id}"])
    await relay()
    async with Browser() as browser:
        await browser.subscribe("customer-7", since=position)
        assert [e["kind"] for e in (await browser.events())["events"]] == ["truncate"]


# Within Channels --------------------------------------------------------------------------


async def test_a_subclass_can_send_to_groups_of_the_channel_layer() -> None:
    from channels.layers import get_channel_layer

    class Chat(OpenConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
            message = {"type": "chat.said", "text": text_data}
            await self.channel_layer.group_send("chat", message)

    layer = get_channel_layer()
    await layer.group_add("chat", name := await layer.new_channel())
    async with Browser(Chat) as browser:
        await browser.send_text("hello")
        assert (await layer.receive(name))["text"] == "hello"


def test_groups_of_the_channel_layer_are_refused_at_once() -> None:
    mixin = type("Mixin", (), {"groups": ["chat"]})
    for bases, members in (
        ((EventConsumer,), {"groups": ["chat"]}),
        ((mixin, EventConsumer), {}),
    ):
        with pytest.raises(InvalidDeclaration, match="groups_on_connect"):
            type("Chat", bases, members)


# Endings ----------------------------------------------------------------------------------


OURS = """
    SELECT application_name FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, 'django_pgnotify ')
"""


@pytest.mark.parametrize(
    "backend",
    [
        "channels.layers.InMemoryChannelLayer",
        "django_pgnotify.layers.PostgresChannelLayer",
    ],
)
def test_a_socket_that_is_never_closed_leaves_nothing_behind_its_loop(backend: str) -> None:
    async def forgetful() -> None:
        socket = WebsocketCommunicator(OpenConsumer.as_asgi(), "/events/")
        await socket.connect(timeout=PATIENCE_SECONDS)
        await socket.send_json_to({"type": "subscribe", "group": "orders"})
        answer = await socket.receive_json_from(timeout=PATIENCE_SECONDS)
        assert answer["type"] == "subscribed"
        assert await query(OURS) != []

    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend}}):
        asyncio.run(forgetful())
    wait_until(lambda: not execute(OURS), "all connections closed")


@pytest.mark.parametrize("turns", range(8))
def test_a_loop_that_ends_while_a_socket_leaves_closes_what_is_left(turns: int) -> None:
    async def hasty() -> None:
        socket = WebsocketCommunicator(OpenConsumer.as_asgi(), "/events/")
        await socket.connect(timeout=PATIENCE_SECONDS)
        await socket.send_json_to({"type": "subscribe", "group": "orders"})
        await socket.receive_json_from(timeout=PATIENCE_SECONDS)
        socket.future.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)

    asyncio.run(hasty())
    wait_until(lambda: not execute(OURS), "all connections closed")


async def test_nothing_is_left_when_the_last_socket_has_gone() -> None:
    from channels.layers import get_channel_layer

    from django_pgnotify.consumers import hubs

    before = asyncio.all_tasks()
    async with Browser() as first, Browser() as second:
        await first.subscribe("orders")
        await second.subscribe("orders")
    assert asyncio.all_tasks() == before
    assert get_channel_layer().groups == {}
    assert not hubs._hubs.get(asyncio.get_running_loop())
    assert await query(OURS) == []


async def test_cancelled_connection_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    browser = await Browser().__aenter__()
    await browser.subscribe("orders")
    browser.socket.future.cancel()
    await asyncio.wait([browser.socket.future])
    assert asyncio.all_tasks() == before


async def test_connection_that_is_cancelled_again_while_it_ends_leaves_nothing() -> None:
    from django_pgnotify.consumers import hubs

    before = asyncio.all_tasks()
    browser = await Browser().__aenter__()
    await browser.subscribe("orders")
    while not browser.socket.future.done():
        browser.socket.future.cancel()
        await asyncio.sleep(0)
    if ending := asyncio.all_tasks() - before:
        await asyncio.wait(ending, timeout=5)
    assert asyncio.all_tasks() == before
    assert not hubs._hubs.get(asyncio.get_running_loop())
