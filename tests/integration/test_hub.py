"""The hub: what the channel layer drops is noticed and refilled, once a process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.test import override_settings

from django_pgnotify import Event
from django_pgnotify.consumers import access, hub, hubs
from django_pgnotify.consumers.catching_up import CatchingUp
from django_pgnotify.groups import HUB_GROUP
from django_pgnotify.ledger.positions import Position
from django_pgnotify.ledger.reader import read_batches
from django_pgnotify.ledger.steps import read_step
from tests.hub_kit import PATIENCE_SECONDS, Browser, OpenConsumer, publish, query, relay, tell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


class LossyLayer(InMemoryChannelLayer):
    """Drops, or keeps back, what `drops` says, as a layer at capacity does; counts joins."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drops: Any = lambda group, message: False
        self.dropped: list[tuple[str, dict[str, Any]]] = []
        self.joins: list[str] = []
        self.is_down = False
        self.broke = asyncio.Event()

    async def group_add(self, group: str, channel: str) -> None:
        self.check()
        self.joins.append(group)
        await super().group_add(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if self.drops(group, message):
            self.dropped.append((group, message))
        else:
            await super().group_send(group, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        self.check()
        message: dict[str, Any] = await super().receive(channel)
        if message.get("type") == "test.break":
            self.is_down = True
            self.broke.set()
        self.check()
        return message

    def check(self) -> None:
        if self.is_down:
            raise ConnectionError("Redis is down")


class Fickle(OpenConsumer):
    """Lets everybody in until a test says otherwise."""

    allowed = True

    async def authorize(self, group: str) -> bool:
        return Fickle.allowed


@pytest.fixture
async def layer() -> AsyncIterator[LossyLayer]:
    layer = LossyLayer(capacity=1000)
    before = get_channel_layer()
    channel_layers.set("default", layer)
    await relay()
    yield layer
    channel_layers.set("default", before)


class Reads:
    """Counts what the hub asks the ledger."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.reads = 0
        original_look = access.look

        async def counted_look(*args: Any) -> Any:
            self.looks += 1
            return await original_look(*args)

        def counted(read: Any) -> Any:
            def counted_read(*args: Any, **options: Any) -> Any:
                self.reads += 1
                return read(*args, **options)

            return counted_read

        monkeypatch.setattr(access, "look", counted_look)
        monkeypatch.setattr(access, "read_batches", counted(read_batches))
        monkeypatch.setattr(access, "read_step", counted(read_step))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def frames_of(group: str) -> Any:
    return lambda sent_to, message: sent_to == group and "events" in message


# Losses -----------------------------------------------------------------------------------


async def test_dropped_frame_is_noticed_by_the_next_one(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        layer.drops = lambda group, message: True
        await tell(1, "orders")
        layer.drops = lambda group, message: group == HUB_GROUP
        await tell(2, "orders")
        assert len([m for g, m in layer.dropped if g == "orders"]) == 1
        assert await browser.data() == [1, 2]
        await tell(3, "orders")
        assert await browser.data() == [3]
        assert await browser.waiting() == []


async def test_dropped_last_frame_is_noticed_by_a_heartbeat(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        layer.drops = frames_of("orders")
        await tell(1, "orders")
        assert await browser.data() == [1]


async def test_lost_frame_of_one_group_refills_that_group_only(
    layer: LossyLayer, reads: Reads
) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await browser.subscribe("customers")
        layer.drops = frames_of("orders")
        await publish(1, "orders")
        await tell(2, "customers")
        seen = {}
        for _ in range(2):
            frame = await browser.events()
            seen[frame["group"]] = [event["data"] for event in frame["events"]]
        assert seen == {"orders": [1], "customers": [2]}
        assert reads.reads == 1
        assert await browser.waiting() == []


async def test_hub_behind_reads_the_ledger_once_for_all_groups_and_sockets(
    layer: LossyLayer, reads: Reads
) -> None:
    groups = [f"customer-{n}" for n in range(50)]
    browsers = [await Browser().__aenter__() for _ in range(4)]
    for browser in browsers:
        for group in groups:
            await browser.subscribe(group)
    layer.drops = lambda group, message: "events" in message
    for group in groups:
        await publish(group, group)
    reads.reads = 0
    await relay()
    for browser in browsers:
        seen = sorted([(await browser.data())[0] for _ in groups])
        assert seen == sorted(groups)
    assert reads.reads == 1
    for browser in browsers:
        await browser.__aexit__()


@pytest.mark.parametrize("lost", [1, 2, 3])
@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 2_000})
async def test_lost_part_of_a_large_tick_is_refilled(layer: LossyLayer, lost: int) -> None:
    async with Browser() as browser:
        before = (await browser.subscribe("orders"))["position"]
        layer.drops = lambda group, m: group == "orders" and m["part"][0] == lost
        await query(
            "SELECT pgnotify_publish('t', to_jsonb(n), ARRAY['orders'])"
            " FROM generate_series(1, 30) AS n"
        )
        await relay()
        assert [message["part"] for _, message in layer.dropped] == [[lost, 3]]
        seen: list[int] = []
        while True:
            frame = await browser.events()
            seen += [event["data"] for event in frame["events"]]
            assert frame["position"] == before or not frame.get("more")
            if not frame.get("more"):
                break
        assert sorted(set(seen)) == list(range(1, 31))
        assert seen[-30:] == list(range(1, 31))


async def test_frame_that_comes_twice_or_late_is_ignored(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        layer.drops = frames_of("orders")
        await tell(1, "orders")
        assert await browser.data() == [1]
        layer.drops = lambda group, message: False
        (late,) = [message for _, message in layer.dropped]
        for _ in range(2):
            await layer.group_send("orders", late)
        await tell(2, "orders")
        assert await browser.data() == [2]


async def test_dropped_truncate_is_noticed(layer: LossyLayer) -> None:
    change = {
        "kind": "truncate",
        "pk": None,
        "data": None,
        "groups": [],
        "templates": ["customer-{customer_id}"],
    }
    async with Browser() as browser:
        await browser.subscribe("customer-7")
        layer.drops = lambda group, message: group == HUB_GROUP
        await query("SELECT pgnotify_append('t', NULL, %s, NULL)", json.dumps([change]))
        await tell("after", "customer-7")
        kinds = [event["kind"] for event in (await browser.events())["events"]]
        assert kinds == ["truncate", "message"]


async def test_dropped_revoke_is_noticed(
    layer: LossyLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_pgnotify.consumers import revoke

    async with Browser(Fickle) as browser:
        await browser.subscribe("orders")
        monkeypatch.setattr(Fickle, "allowed", False)
        await revoke("orders")
        layer.drops = lambda group, message: message["type"] == "pgnotify.control"
        await relay()
        assert (await browser.receive())["reason"] == "revoked"


@override_settings(PGNOTIFY={"RECONNECT_MIN_SECONDS": 0.01})
async def test_heartbeat_that_overtakes_a_look_has_nobody_asked_again(
    layer: LossyLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    looked, moved, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
    gate.set()
    original_look, original_skip = access.look, CatchingUp.skip_control

    async def late_look(*args: Any) -> Any:
        answer = await original_look(*args)
        looked.set()
        await gate.wait()
        return answer

    def noted_skip(self: CatchingUp, position: Position) -> None:
        original_skip(self, position)
        moved.set()

    class Asked(OpenConsumer):
        async def authorize(self, group: str) -> bool:
            asked.append(group)
            return True

    monkeypatch.setattr(access, "look", late_look)
    monkeypatch.setattr(CatchingUp, "skip_control", noted_skip)
    async with Browser(Asked) as browser, asyncio.timeout(PATIENCE_SECONDS):
        await browser.subscribe("orders")
        asked.clear()
        looked.clear()
        gate.clear()
        await layer.group_send("orders", {"type": "test.break"})
        await layer.broke.wait()
        layer.is_down = False
        await looked.wait()
        moved.clear()
        await tell(1, "orders")
        await moved.wait()
        gate.set()
        assert await browser.data() == [1]
        assert await browser.waiting() == []
        assert asked == []


async def test_new_epoch_has_everybody_asked_again(
    layer: LossyLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether one was revoked in the history that is gone, or in the new one, nobody can tell."""

    async with Browser(Fickle) as browser:
        await browser.subscribe("orders")
        monkeypatch.setattr(Fickle, "allowed", False)
        await query("UPDATE django_pgnotify_state SET generation = gen_random_uuid()")
        await tell("secret", "orders")
        assert (await browser.receive())["reason"] == "revoked"
        assert await browser.waiting() == []


async def test_stale_frame_of_another_epoch_moves_nothing(layer: LossyLayer) -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        await layer.group_send("orders", frame(epoch="f" * 16, tick=10**9))
        assert (await browser.subscribe("orders"))["position"] == position
        await tell(1, "orders")
        assert await browser.data() == [1]


async def test_new_epoch_resets_every_group_with_its_new_position(layer: LossyLayer) -> None:
    async with Browser() as browser:
        before = (await browser.subscribe("orders"))["position"]
        await browser.subscribe("customers")
        await query("UPDATE django_pgnotify_state SET generation = gen_random_uuid()")
        await relay()
        resets = [await browser.receive() for _ in range(2)]
        assert {(r["type"], r["reason"]) for r in resets} == {("reset", "epoch")}
        assert {r["group"] for r in resets} == {"orders", "customers"}
        assert before not in {r["position"] for r in resets}
        await tell(1, "orders")
        assert await browser.data() == [1]
        answer = await browser.subscribe("orders", since=before)
        assert answer["recovered"] is False
        assert (await browser.receive())["reason"] == "epoch"


@pytest.fixture
async def backup() -> AsyncIterator[Any]:
    """Puts the rows of the ledger's tables back as they are now, the tables staying."""
    tables = [f"django_pgnotify_{name}" for name in ("ledger", "tick", "state")]
    await relay()
    for table in tables:
        await query(f"CREATE TABLE backup_{table} AS TABLE {table}")

    async def restore() -> None:
        for table in tables:
            await query(f"DELETE FROM {table}")
            await query(
                f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM backup_{table}"
            )

    yield restore
    for table in tables:
        await query(f"DROP TABLE backup_{table}")


async def test_ticks_that_begin_anew_within_the_epoch_silence_nobody(
    layer: LossyLayer, backup: Any
) -> None:
    async with Browser() as old, Browser() as new:
        await old.subscribe("orders")
        for number in range(5):
            await tell(number, "orders")
            assert await old.data() == [number]
        await backup()
        await new.subscribe("orders")
        await relay()
        for browser in (old, new):
            reset = await browser.receive()
            assert (reset["type"], reset["reason"]) == ("reset", "unknown")
        await tell("after it", "orders")
        for browser in (old, new):
            assert await browser.data() == ["after it"]


async def test_tick_with_the_number_of_one_that_is_gone_is_another_one(
    layer: LossyLayer, backup: Any
) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await tell("before", "orders")
        assert await browser.data() == ["before"]
        await backup()
        layer.drops = lambda group, message: group == HUB_GROUP
        await tell("after it", "orders")
        reset = await browser.receive()
        assert (reset["type"], reset["reason"]) == ("reset", "unknown")
        await tell("and on", "orders")
        assert await browser.data() == ["and on"]


async def test_hub_that_fell_behind_the_trim_mark_says_expired(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        layer.drops = lambda group, message: True
        await tell(1, "orders")
        await query(
            "UPDATE django_pgnotify_state"
            " SET trimmed = (SELECT max(number) - 1 FROM django_pgnotify_tick)"
        )
        layer.drops = lambda group, message: False
        await tell(2, "orders")
        reset = await browser.receive()
        assert (reset["type"], reset["reason"]) == ("reset", "expired")
        await tell(3, "orders")
        # The relay's first heartbeat may have come before 2 was stored.
        seen = [event["data"] for f in await browser.waiting() for event in f["events"]]
        assert seen in ([3], [2, 3])


# Malformed messages and a layer that fails ------------------------------------------------


def frame(**parts: Any) -> dict[str, Any]:
    return {
        "type": "pgnotify.frame",
        "v": 1,
        "group": "orders",
        "epoch": "0" * 16,
        "tick": 5,
        "prev": 4,
        "bits": "1",
        "part": [1, 1],
        "events": [],
        **parts,
    }


MALFORMED: list[dict[str, Any]] = [
    {"type": "something.else"},
    {"type": "pgnotify.frame"},
    frame(v=2),
    frame(v="1"),
    frame(tick="5"),
    frame(tick=None),
    frame(prev=True),
    frame(bits=1),
    frame(bits="x"),
    frame(part=[1]),
    frame(part=None),
    frame(part=["1", 1]),
    frame(events=None),
    frame(events=[7]),
    frame(events=[{"no": "id"}]),
    frame(events=[{"id": "1-0", "data": float("nan")}]),
    frame(group=7),
    frame(control="7"),
    {"type": "pgnotify.frame", "v": 1, "group": "orders", "run": 1, "seq": 1, "events": []},
    {"type": "pgnotify.heartbeat", "v": 1, "groups": 7},
    {"type": "pgnotify.heartbeat", "v": 1, "epoch": "e", "tick": 1, "bits": "1", "prev": None},
    {"type": "pgnotify.control", "v": 1},
]


@pytest.mark.parametrize("message", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_message_of_the_layer_is_logged_and_ignored(
    layer: LossyLayer, message: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await layer.group_send("orders", message)
        await tell(1, "orders")
        assert await browser.data() == [1]
    assert "malformed" in caplog.text


@override_settings(PGNOTIFY={"RECONNECT_MIN_SECONDS": 0.01})
async def test_layer_that_was_down_is_rejoined_and_the_gap_refilled(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        await layer.group_send("orders", {"type": "test.break"})
        await layer.broke.wait()
        layer.groups.clear()
        await tell(1, "orders")
        layer.joins.clear()
        layer.is_down = False
        assert await browser.data() == [1]
        assert sorted(layer.joins) == ["orders", HUB_GROUP]
        await tell(2, "orders")
        assert await browser.data() == [2]


@override_settings(PGNOTIFY={"RECONNECT_MIN_SECONDS": 0.01})
async def test_subscribed_waits_for_a_layer_that_is_down(layer: LossyLayer) -> None:
    layer.is_down = True
    async with Browser() as browser:
        await browser.send(type="subscribe", group="orders")
        assert await browser.waiting() == []
        layer.is_down = False
        assert (await browser.receive())["type"] == "subscribed"


@override_settings(PGNOTIFY={"HEARTBEAT_SECONDS": 0.05})
async def test_layer_that_forgot_the_hub_in_silence_is_rejoined(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        layer.groups.clear()
        await publish(1, "orders")
        await relay()
        assert await browser.data() == [1]


# One for all ------------------------------------------------------------------------------


async def test_thousand_sockets_join_the_group_once_and_read_a_handful_of_times(
    layer: LossyLayer, reads: Reads
) -> None:
    async with Browser() as first:
        position = (await first.subscribe("orders"))["position"]
        await tell("missed", "orders")
        await first.data()
        layer.joins.clear()
        reads.looks = reads.reads = 0
        browsers = [await Browser().__aenter__() for _ in range(1000)]
        for browser in browsers:
            await browser.send(type="subscribe", group="orders", since=position)
        for browser in browsers:
            assert (await browser.receive())["recovered"] is True
            assert await browser.data() == ["missed"]
        assert layer.joins == []
        assert reads.looks <= 50
        assert reads.reads <= 25
        await tell("live", "orders")
        texts = {await browser.socket.receive_from(timeout=5) for browser in browsers}
        assert len(texts) == 1
        assert "live" in texts.pop()
        for browser in browsers:
            await browser.__aexit__()


async def test_all_sockets_get_the_very_same_text(layer: LossyLayer) -> None:
    sent: list[str] = []

    class Noting(OpenConsumer):
        async def send_frame(self, type: str, text: str, position: str | None) -> None:
            if type == "events":
                sent.append(text)
            await super().send_frame(type, text, position)

    async with Browser(Noting) as first, Browser(Noting) as second:
        await first.subscribe("orders")
        await second.subscribe("orders")
        await tell({"a": 1}, "orders")
        await first.data()
        await second.data()
    assert len(sent) == 2
    assert sent[0] is sent[1]


class SlowConsumer(OpenConsumer):
    """Its socket takes events only while the gate is open."""

    gate: asyncio.Event

    async def send_frame(self, type: str, text: str, position: str | None) -> None:
        if type == "events":
            await self.gate.wait()
        await super().send_frame(type, text, position)


@override_settings(PGNOTIFY={"SOCKET_QUEUE_SIZE": 5})
async def test_slow_socket_gets_a_reset_and_nobody_else_waits(layer: LossyLayer) -> None:
    SlowConsumer.gate = asyncio.Event()
    async with Browser(SlowConsumer) as slow, Browser() as fast:
        await slow.subscribe("orders")
        await fast.subscribe("orders")
        for number in range(10):
            await tell(number, "orders")
            frame = await fast.events()
            assert [event["data"] for event in frame["events"]] == [number]
        SlowConsumer.gate.set()
        frames = await slow.waiting()
        (reset,) = [f for f in frames if f["type"] == "reset"]
        assert reset["reason"] == "overflow"
        after = frames[frames.index(reset) + 1 :]
        numbers = [event["data"] for f in after for event in f["events"]]
        # Whoever reads the state at the reset and goes on misses nothing.
        assert numbers == list(range(10))[10 - len(numbers) :]
    async with Browser() as browser:
        await browser.subscribe("orders", since=reset["position"])
        replayed = await browser.data() if numbers else []
        assert replayed == numbers


@override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 1_000, "SOCKET_QUEUE_SIZE": 20})
async def test_long_replay_to_a_socket_that_reads_never_overflows(layer: LossyLayer) -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
    await query(
        "SELECT pgnotify_publish('t', to_jsonb(n), ARRAY['orders'])"
        " FROM generate_series(1, 1000) AS n"
    )
    await relay()
    async with Browser() as browser:
        assert (await browser.subscribe("orders", since=position))["recovered"] is True
        seen: list[int] = []
        while len(seen) < 1000:
            seen += await browser.data()
        assert seen == list(range(1, 1001))


# Live events ------------------------------------------------------------------------------


def live(seq: int, data: Any, run: str = "first") -> dict[str, Any]:
    event = {
        "id": f"{run}-{seq}",
        "topic": "typing",
        "kind": "message",
        "model": None,
        "pk": None,
        "data": data,
        "changed": [],
        "at": "2026-01-01T00:00:00Z",
    }
    return {
        "type": "pgnotify.frame",
        "v": 1,
        "group": "orders",
        "run": run,
        "seq": seq,
        "events": [event],
    }


async def test_live_events_repeat_the_position_and_a_gap_is_announced(
    layer: LossyLayer,
) -> None:
    async with Browser() as browser:
        position = (await browser.subscribe("orders"))["position"]
        for message in (live(7, "a"), live(8, "b"), live(8, "b again"), live(10, "d")):
            await layer.group_send("orders", message)
        first, second = await browser.events(), await browser.events()
        assert {first["position"], second["position"]} == {position}
        assert [e["data"] for e in first["events"] + second["events"]] == ["a", "b"]
        reset = await browser.receive()
        assert (reset["reason"], reset["position"]) == ("gap", position)
        assert await browser.data() == ["d"]
        await layer.group_send("orders", live(1, "e", run="second"))
        assert (await browser.receive())["reason"] == "gap"
        assert await browser.data() == ["e"]


# Time -------------------------------------------------------------------------------------


async def test_quiet_group_hears_its_position_before_it_expires(
    layer: LossyLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_REFRESH_SECONDS", 0.05)
    async with Browser() as browser:
        before = (await browser.subscribe("orders"))["position"]
        await tell(1, "elsewhere")
        frame = await browser.events()
        while frame["position"] == before:
            frame = await browser.events()
        assert frame["events"] == []
    async with Browser() as browser:
        answer = await browser.subscribe("orders", since=frame["position"])
        assert answer["recovered"] is True


async def test_a_position_is_told_once_while_nothing_happens(layer: LossyLayer) -> None:
    async with Browser() as browser:
        await browser.subscribe("orders")
        shared = hubs.running("default")
        assert shared is not None
        group = shared.groups["orders"]
        group.refresh()
        assert await browser.waiting() == []
        await tell(1, "elsewhere")
        assert await browser.waiting() == []
        for _ in range(3):
            group.refresh()
        told = [frame["position"] for frame in await browser.waiting()]
        assert group.position is not None
        assert told == [group.position.token]


async def test_client_that_may_see_nothing_hears_its_position_at_the_next_refresh(
    layer: LossyLayer,
) -> None:
    class Blind(OpenConsumer):
        async def visible(self, events: list[Event]) -> list[Event]:
            return []

    async with Browser(Blind) as blind, Browser() as other:
        await blind.subscribe("orders")
        await other.subscribe("orders")
        await tell(1, "orders")
        told = await other.events()
        assert await blind.waiting() == []
        shared = hubs.enter("default")
        shared.groups["orders"].refresh()
        await hubs.leave(shared)
        frame = await blind.events()
        assert (frame["events"], frame["position"]) == ([], told["position"])
        assert await other.waiting() == []


async def test_layer_of_another_name_can_be_used() -> None:
    named = LossyLayer()
    channel_layers.backends["events"] = named
    try:
        with override_settings(PGNOTIFY={"CHANNEL_LAYER": "events"}):
            await relay()
            async with Browser() as browser:
                await browser.subscribe("orders")
                assert sorted(named.joins) == ["orders", HUB_GROUP]
                await tell(1, "orders")
                assert await browser.data() == [1]
    finally:
        del channel_layers.backends["events"]
