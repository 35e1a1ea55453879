"""EventStreamConsumer as an EventSource sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from channels.testing import HttpCommunicator
from django.test import override_settings

from django_pgnotify.consumers import EventStreamConsumer, sse
from tests.hub_kit import PATIENCE_SECONDS, Browser, publish, query, relay, tell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
async def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    await relay()


class OpenStream(EventStreamConsumer):
    async def authorize(self, group: str) -> bool:
        return not group.startswith("secret")


class EventSource:
    """A page with an EventSource, without its reconnecting."""

    def __init__(
        self,
        *groups: str,
        consumer: type[EventStreamConsumer] = OpenStream,
        last_id: str | None = None,
        **query: str,
    ) -> None:
        asked = urlencode([*(("group", group) for group in groups), *query.items()])
        headers = [(b"last-event-id", last_id.encode())] if last_id else []
        self.http = HttpCommunicator(
            consumer.as_asgi(), "GET", f"/events/?{asked}", headers=headers
        )
        self.last_id = last_id
        self.text = ""

    async def __aenter__(self) -> EventSource:
        await self.http.send_input({"type": "http.request", "body": b"", "more_body": False})
        self.start = await self.http.receive_output(timeout=PATIENCE_SECONDS)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.http.future.done():
            await self.http.send_input({"type": "http.disconnect"})
        await self.http.wait(timeout=PATIENCE_SECONDS)

    async def receive(self) -> dict[str, Any]:
        """The next frame; notes its id as a browser does."""
        while "\n\n" not in self.text:
            output = await self.http.receive_output(timeout=PATIENCE_SECONDS)
            self.text += output["body"].decode()
            if not output.get("more_body"):
                raise EOFError
        block, _, self.text = self.text.partition("\n\n")
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":")
        if not fields:
            return await self.receive()
        self.last_id = fields.get("id", self.last_id)
        frame: dict[str, Any] = json.loads(fields["data"])
        assert fields["event"] == frame["type"]
        return frame

    async def data(self) -> list[Any]:
        frame = await self.receive()
        assert frame["type"] == "events", frame
        return [event["data"] for event in frame["events"]]


async def until_no_hub() -> None:
    """Wait until nobody reads the ledger for a client; a backend ends a moment later."""
    hubs = (
        "SELECT 1 FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE %s"
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await query(hubs, "django_pgnotify hub%"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_stream_has_headers_frames_and_ids() -> None:
    async with EventSource("orders") as source:
        headers = dict(source.start["headers"])
        assert source.start["status"] == 200
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"cache-control"] == b"no-cache"
        assert headers[b"x-accel-buffering"] == b"no"
        subscribed = await source.receive()
        assert (subscribed["type"], subscribed["group"]) == ("subscribed", "orders")
        assert source.last_id == subscribed["position"]
        await tell({"total": 12}, "orders")
        frame = await source.receive()
        assert frame["events"][0]["data"] == {"total": 12}
        assert source.last_id == frame["position"] != subscribed["position"]


async def test_last_event_id_resumes_without_gap() -> None:
    async with EventSource("orders") as source:
        await source.receive()
        await tell(1, "orders")
        assert await source.data() == [1]
    await tell(2, "orders")
    async with EventSource("orders", last_id=source.last_id) as source:
        assert (await source.receive())["recovered"] is True
        assert await source.data() == [2]
        await tell(3, "orders")
        assert await source.data() == [3]


async def test_since_parameter_resumes_too() -> None:
    async with EventSource("orders") as source:
        since = (await source.receive())["position"]
    await tell(1, "orders")
    async with EventSource("orders", since=since) as source:
        await source.receive()
        assert await source.data() == [1]


async def test_one_id_resumes_all_groups() -> None:
    """Whatever the order in which frames of several groups come, no id skips one."""
    groups = ("a", "b", "c")
    ids: list[str | None] = []
    async with EventSource(*groups) as source:
        for _ in groups:
            await source.receive()
            ids.append(source.last_id)
        assert ids[0] is None
        for number in range(6):
            await publish(number, groups[number % 3])
            await relay()
        for _ in range(6):
            await source.receive()
            ids.append(source.last_id)
    for seen, last_id in enumerate(ids[3:], start=1):
        async with EventSource(*groups, last_id=last_id) as source:
            missing, got = set(range(seen, 6)), set()
            while not missing <= got:
                got |= {event["data"] for event in (await source.receive()).get("events", ())}


async def test_no_id_passes_a_reset_that_waits_for_permission() -> None:
    asked_again, gate = asyncio.Event(), asyncio.Event()
    gate.set()

    class Slow(OpenStream):
        async def authorize(self, group: str) -> bool:
            if group == "b" and not gate.is_set():
                asked_again.set()
                await gate.wait()
            return True

    async with EventSource("a", "b", consumer=Slow) as source:
        for _ in range(2):
            await source.receive()
        before = source.last_id
        assert before is not None
        gate.clear()
        await query("UPDATE django_pgnotify_state SET generation = gen_random_uuid()")
        await relay()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asked_again.wait()
        assert (await source.receive())["group"] == "a"
        await tell(1, "a")
        assert await source.data() == [1]
        assert source.last_id == before
        gate.set()
        reset = await source.receive()
        assert (reset["group"], reset["reason"]) == ("b", "epoch")
        await tell(2, "a")
        assert await source.data() == [2]
        assert source.last_id != before


async def test_bad_last_event_id_is_answered_with_a_reset() -> None:
    async with EventSource("orders", last_id="nonsense") as source:
        assert (await source.receive())["recovered"] is False
        assert (await source.receive())["reason"] == "unknown"


async def test_groups_on_connect_and_parameters_are_joined_once_each() -> None:
    class Desk(OpenStream):
        groups_on_connect = ["orders"]

    async with EventSource("orders", "customers", consumer=Desk) as source:
        assert [(await source.receive())["group"] for _ in range(2)] == ["orders", "customers"]
        await tell(1, "orders")
        assert await source.data() == [1]


async def test_stream_cut_before_the_end_of_its_snapshot_gets_one_when_it_comes_again() -> None:
    class WithSnapshot(OpenStream):
        def snapshot(self, group: str) -> Any:
            return ["a" * 3000, "b" * 3000]

    with override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 4096}):
        async with EventSource("orders", consumer=WithSnapshot) as source:
            assert (await source.receive())["type"] == "subscribed"
            assert (await source.receive())["more"]
            assert source.last_id is None
            assert "more" not in await source.receive()
            assert source.last_id is not None
        async with EventSource(
            "orders", consumer=WithSnapshot, last_id=source.last_id
        ) as source:
            assert (await source.receive())["recovered"]


@pytest.mark.parametrize(
    ("groups", "status"),
    [((), 400), (("no group",), 400), (("pgnotify.hubs",), 400), (("secret",), 403)],
)
async def test_stream_that_can_have_nothing_is_refused(
    groups: tuple[str, ...], status: int
) -> None:
    http = HttpCommunicator(
        OpenStream.as_asgi(), "GET", "/?" + urlencode([("group", group) for group in groups])
    )
    response = await http.get_response(timeout=PATIENCE_SECONDS)
    assert response["status"] == status
    headers = dict(response["headers"])
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_than_get_are_refused(method: str) -> None:
    http = HttpCommunicator(OpenStream.as_asgi(), method, "/?group=orders", body=b"x")
    response = await http.get_response(timeout=PATIENCE_SECONDS)
    assert response["status"] == 405
    assert dict(response["headers"])[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize(("group", "status"), [("orders", 200), ("secret", 403), ("", 400)])
async def test_head_has_the_headers_of_get_and_ends(group: str, status: int) -> None:
    http = HttpCommunicator(OpenStream.as_asgi(), "HEAD", f"/?group={group}")
    response = await http.get_response(timeout=PATIENCE_SECONDS)
    assert (response["status"], response["body"]) == (status, b"")
    type = b"text/event-stream" if status == 200 else b"text/plain"
    assert dict(response["headers"])[b"content-type"].startswith(type)


class Counting(EventStreamConsumer):
    asked: list[str] = []

    async def authorize(self, group: str) -> bool:
        self.asked.append(group)
        return True


@override_settings(PGNOTIFY={"ALLOWED_ORIGINS": ["https://good.example"]})
async def test_nobody_is_asked_for_a_page_of_another_origin() -> None:
    Counting.asked = []
    http = HttpCommunicator(Counting.as_asgi(), "GET", "/?group=orders")
    http.scope["headers"].append((b"origin", b"https://evil.example"))
    assert (await http.get_response(timeout=PATIENCE_SECONDS))["status"] == 403
    assert Counting.asked == []


@override_settings(PGNOTIFY={"MAX_GROUPS_PER_SOCKET": 2})
async def test_groups_beyond_the_limit_are_refused_without_asking() -> None:
    Counting.asked = []
    async with EventSource("a", "b", "c", "d", consumer=Counting) as source:
        for group in ("c", "d"):
            refusal = await source.receive()
            assert (refusal["code"], refusal["group"]) == ("too_many", group)
        assert [(await source.receive())["group"] for _ in range(2)] == ["a", "b"]
    assert set(Counting.asked) == {"a", "b"}


async def test_everything_is_refused_by_default() -> None:
    http = HttpCommunicator(EventStreamConsumer.as_asgi(), "GET", "/?group=orders")
    assert (await http.get_response())["status"] == 403


async def test_refused_group_beside_an_allowed_one_is_told() -> None:
    async with EventSource("secret", "orders") as source:
        refusal = await source.receive()
        assert (refusal["code"], refusal["group"]) == ("forbidden", "secret")
        assert (await source.receive())["type"] == "subscribed"


@override_settings(PGNOTIFY={"ALLOWED_ORIGINS": ["https://good.example"]})
@pytest.mark.parametrize(
    ("origin", "status"),
    [(b"https://evil.example", 403), (b"https://[::1", 403), (b"https://good.example", 200)],
)
async def test_allowed_origins_hold_for_streams(origin: bytes, status: int) -> None:
    source = EventSource("orders")
    source.http.scope["headers"].append((b"origin", origin))
    async with source:
        assert source.start["status"] == status


async def test_stream_whose_last_group_is_revoked_ends() -> None:
    from django_pgnotify.consumers import revoke

    class Fickle(EventStreamConsumer):
        allowed = True

        async def authorize(self, group: str) -> bool:
            return Fickle.allowed

    async with EventSource("orders", consumer=Fickle) as source:
        await source.receive()
        Fickle.allowed = False
        await revoke("orders")
        await relay()
        assert (await source.receive())["reason"] == "revoked"
        with pytest.raises(EOFError):
            await source.receive()


async def test_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.01)
    async with EventSource("orders") as source:
        texts = ""
        while ": keep-alive\n\n" not in texts:
            texts += (await source.http.receive_output())["body"].decode()


async def test_a_stream_that_nobody_reads_keeps_nothing_and_ends_when_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.01)
    monkeypatch.setattr(sse, "STALLED_SECONDS", 0.1)
    reads = asyncio.Event()
    reads.set()
    stream = OpenStream.as_asgi()

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        async def wait_for_reader(message: Any) -> None:
            await reads.wait()
            await send(message)

        await stream(scope, receive, wait_for_reader)  # type: ignore[arg-type]

    source = EventSource("orders")
    source.http = HttpCommunicator(patient, "GET", "/events/?group=orders")
    async with source:
        await source.receive()
        reads.clear()
        await publish(1, "orders")
        await relay()
        await until_no_hub()
        reads.set()
        with pytest.raises(EOFError):
            await source.receive()
    async with EventSource("orders", last_id=source.last_id) as source:
        assert (await source.receive())["recovered"] is True
        assert await source.data() == [1]


async def test_a_mistake_in_send_body_is_logged_and_ends_the_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Counting(OpenStream):
        async def send_body(self, body: bytes, *, more_body: bool = False) -> None:
            if b"event: events" in body:
                raise KeyError("positon")
            await super().send_body(body, more_body=more_body)

    async with EventSource("orders", consumer=Counting) as source:
        await source.receive()
        await tell(1, "orders")
        with pytest.raises(EOFError):
            await source.receive()
    assert "positon" in caplog.text


async def test_disconnected_stream_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    async with EventSource("orders") as source:
        await source.receive()
    assert asyncio.all_tasks() == before
    await until_no_hub()


async def test_a_stream_that_ends_calls_the_hook_of_channels() -> None:
    ended = []

    class Told(OpenStream):
        async def disconnect(self) -> None:
            ended.append(self.scope["path"])

    async with EventSource("orders", consumer=Told) as source:
        await source.receive()
    assert ended == ["/events/"]


async def test_stream_and_socket_share_one_hub() -> None:
    async with Browser() as browser, EventSource("orders") as source:
        await browser.subscribe("orders")
        await source.receive()
        await tell(1, "orders")
        assert await browser.data() == [1]
        assert await source.data() == [1]
