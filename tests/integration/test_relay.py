"""The relay brings the ledger's events to the groups of the channel layer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction

from django_pgnotify.relay import session
from tests.sessions import open_session

pytestmark = pytest.mark.django_db(transaction=True)


def execute(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone() if cursor.description else None


def publish(topic: str, data: Any, groups: list[str] | None = None) -> None:
    execute("SELECT pgnotify_publish(%s, %s::jsonb, %s)", topic, json.dumps(data), groups)


@pytest.fixture(autouse=True)
def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    call_command("pglisten", once=True)


class Subscriber:
    """A plain member of groups."""

    def __init__(self, *groups: str) -> None:
        self.layer = get_channel_layer()
        self.channel = async_to_sync(self.layer.new_channel)()
        for group in groups:
            async_to_sync(self.layer.group_add)(group, self.channel)

    def frames(self) -> list[dict[str, Any]]:
        """All that has arrived."""
        queue = self.layer.channels.get(self.channel)
        found = []
        while queue is not None and not queue.empty():
            found.append(queue.get_nowait()[1])
        return found

    def data(self) -> list[Any]:
        """The data of all events that have arrived."""
        return [event["data"] for frame in self.frames() for event in frame["events"]]


def test_committed_event_arrives_in_its_group_as_one_frame() -> None:
    subscriber = Subscriber("orders")
    publish("recount", {"total": 12}, ["orders"])
    call_command("pglisten", once=True)
    (frame,) = subscriber.frames()
    (event,) = frame["events"]
    assert frame["type"] == "pgnotify.frame"
    assert frame["group"] == "orders"
    assert frame["part"] == [1, 1]
    assert event["topic"] == "recount"
    assert event["kind"] == "message"
    assert event["data"] == {"total": 12}
    assert event["changed"] == []


def test_frame_carries_what_section_8_says() -> None:
    subscriber = Subscriber("orders")
    publish("recount", 1, ["orders"])
    call_command("pglisten", once=True)
    publish("other", 2, ["elsewhere"])
    publish("recount", 3, ["orders"])
    call_command("pglisten", once=True)
    first, second = subscriber.frames()
    assert set(first) == {
        *("type", "v", "group", "epoch", "tick", "prev", "bits", "part", "control", "events"),
    }
    assert first["v"] == 1
    assert first["epoch"] == second["epoch"]
    assert first["tick"] == second["prev"] < second["tick"]
    assert (
        int(first["bits"])
        == execute("SELECT bits FROM django_pgnotify_tick WHERE number = %s", first["tick"])[0]
    )


def test_rolled_back_event_is_never_seen() -> None:
    subscriber = Subscriber("t")
    with transaction.atomic():
        publish("t", "gone")
        transaction.set_rollback(True)
    publish("t", "marker")
    call_command("pglisten", once=True)
    assert subscriber.data() == ["marker"]


def test_groups_default_to_the_topic_and_one_event_reaches_all_its_groups() -> None:
    subscribers = [Subscriber(name) for name in ("t", "a", "b")]
    publish("t", 1)
    publish("t", 2, ["a", "b"])
    call_command("pglisten", once=True)
    assert [subscriber.data() for subscriber in subscribers] == [[1], [2], [2]]


PUBLISH = "SELECT pgnotify_publish('t', %s::jsonb)"


def test_transactions_that_commit_in_reverse_id_order_both_arrive() -> None:
    # "id > last" loses the one with the lower id, which commits later.
    subscriber = Subscriber("t")
    with open_session() as earlier:
        earlier.execute(PUBLISH, ['"lower id"'])
        publish("t", "higher id")
        call_command("pglisten", once=True)
        assert subscriber.data() == ["higher id"]
    call_command("pglisten", once=True)
    assert subscriber.data() == ["lower id"]


def test_long_foreign_transaction_delays_nobody() -> None:
    subscriber = Subscriber("t")
    with open_session() as foreign:
        foreign.execute("SELECT pg_current_xact_id()")
        for number in range(3):
            publish("t", number)
            call_command("pglisten", once=True)
        assert subscriber.data() == [0, 1, 2]


def test_events_of_one_transaction_are_never_split_over_ticks() -> None:
    subscriber = Subscriber("t")
    with open_session() as other:
        other.execute(PUBLISH, ["1"])
        call_command("pglisten", once=True)
        other.execute(PUBLISH, ["2"])
    call_command("pglisten", once=True)
    assert [[e["data"] for e in frame["events"]] for frame in subscriber.frames()] == [[1, 2]]


def test_hundred_thousand_events_of_one_transaction_arrive_in_bounded_frames(
    settings: Any,
) -> None:
    settings.PGNOTIFY = {"MAX_FRAME_BYTES": 64 * 1024}
    subscriber = Subscriber("t")
    get_channel_layer().capacity = 10_000
    execute(
        """
        SELECT pgnotify_append('t', NULL, (
            SELECT '[' || string_agg('{"kind":"message","pk":null,"data":' || n
                || ',"groups":["t"]}', ',') || ']'
            FROM generate_series(chunk * 1000, chunk * 1000 + 999) AS n), NULL)
        FROM generate_series(0, 99) AS chunk
        """
    )
    call_command("pglisten", once=True)
    frames = subscriber.frames()
    assert [e["data"] for frame in frames for e in frame["events"]] == list(range(100_000))
    assert max(len(json.dumps(frame, separators=(",", ":"))) for frame in frames) <= 64 * 1024
    parts = [frame["part"] for frame in frames]
    assert [number for number, _ in parts] == list(range(1, len(frames) + 1))
    # The first ones went before anybody knew how many there would be.
    assert parts[0] == [1, 0]
    assert parts[-1] == [len(frames), len(frames)]
    assert len({(frame["tick"], frame["prev"]) for frame in frames}) == 1


def test_parts_of_a_tick_that_fits_in_memory_are_counted(settings: Any) -> None:
    settings.PGNOTIFY = {"MAX_FRAME_BYTES": 2000}
    subscriber = Subscriber("t")
    with transaction.atomic():
        for _ in range(10):
            publish("t", "x" * 400)
    call_command("pglisten", once=True)
    frames = subscriber.frames()
    assert len(frames) > 1
    assert [frame["part"] for frame in frames] == [
        [part, len(frames)] for part in range(1, len(frames) + 1)
    ]


def test_event_of_20_megabytes_arrives_truncated() -> None:
    subscriber = Subscriber("t")
    execute("SELECT pgnotify_publish('t', to_jsonb(repeat('x', 20 * 1024 * 1024)))")
    execute("SELECT pgnotify_publish('t', to_jsonb(repeat('x', 2 * 1024 * 1024)))")
    publish("t", "small")
    call_command("pglisten", once=True)
    events = [event for frame in subscriber.frames() for event in frame["events"]]
    assert [event.get("truncated") for event in events] == [True, True, None]
    assert "data" not in events[0]
    assert "data" not in events[1]
    assert events[2]["data"] == "small"


def test_tick_that_was_stored_and_not_known_to_be_sent_is_sent_again() -> None:
    subscriber = Subscriber("t")
    publish("t", 1)
    call_command("pglisten", once=True)
    (frame,) = subscriber.frames()
    execute("UPDATE django_pgnotify_state SET sent = sent - 1")
    publish("t", 2)
    call_command("pglisten", once=True)
    again, following = subscriber.frames()
    assert again == frame
    assert (following["prev"], following["tick"]) == (frame["tick"], frame["tick"] + 1)


def test_empty_ticks_are_not_stored() -> None:
    before = execute("SELECT max(number) FROM django_pgnotify_tick")
    call_command("pglisten", once=True)
    assert execute("SELECT max(number) FROM django_pgnotify_tick") == before


def test_truncate_travels_to_the_hubs_and_to_untemplated_groups_once() -> None:
    hubs, plain = Subscriber("pgnotify.hubs"), Subscriber("orders")
    changes = [
        {
            "kind": "truncate",
            "pk": None,
            "data": None,
            "groups": ["orders"],
            "templates": ["customer-{customer_id}"],
        }
    ]
    execute("SELECT pgnotify_append('t', 'shop.order', %s, NULL)", json.dumps(changes))
    call_command("pglisten", once=True)
    (frame,) = plain.frames()
    (control,) = (m for m in hubs.frames() if m["type"] == "pgnotify.control")
    assert frame["events"][0]["kind"] == "truncate"
    assert control["control"] == "truncate"
    assert control["templates"] == ["customer-{customer_id}"]
    assert control["event"] == frame["events"][0]


def test_revoke_reaches_hubs_only() -> None:
    hubs, group = Subscriber("pgnotify.hubs"), Subscriber("orders")
    changes = [{"kind": "message", "pk": None, "data": None, "groups": ["orders"]}]
    execute("SELECT pgnotify_append('pgnotify.revoke', NULL, %s, NULL)", json.dumps(changes))
    publish("marker", 0, ["orders"])
    call_command("pglisten", once=True)
    (control,) = (m for m in hubs.frames() if m["type"] == "pgnotify.control")
    assert (control["control"], control["groups"]) == ("revoke", ["orders"])
    assert group.data() == [0]


def test_heartbeat_tells_the_tick_and_which_groups_had_events() -> None:
    hubs = Subscriber("pgnotify.hubs")
    publish("t", 1, ["a", "b"])
    call_command("pglisten", once=True)
    tick = execute("SELECT max(number) FROM django_pgnotify_tick")[0]
    last = [m for m in hubs.frames() if m["type"] == "pgnotify.heartbeat"][-1]
    assert last["tick"] == tick
    assert last["prev"] == tick - 1
    assert last["groups"] == {"a": tick, "b": tick}


def test_restored_copy_starts_at_now_and_a_new_timeline_goes_on() -> None:
    subscriber = Subscriber("t")
    identity = execute("SELECT identity FROM django_pgnotify_state")[0]
    system, timeline, rest = identity.split(":", 2)
    set_identity = "UPDATE django_pgnotify_state SET identity = %s"

    publish("t", "on the old timeline")
    execute(set_identity, f"{system}:0000FFFF:{rest}")
    call_command("pglisten", once=True)
    assert subscriber.data() == ["on the old timeline"]

    publish("t", "of the original")
    execute(set_identity, f"1:{timeline}:{rest}")
    call_command("pglisten", once=True)
    publish("t", "of the copy")
    call_command("pglisten", once=True)
    assert subscriber.data() == ["of the copy"]
    assert execute("SELECT identity FROM django_pgnotify_state")[0] == identity


def test_restored_rows_from_the_future_are_never_relayed() -> None:
    execute(
        "INSERT INTO django_pgnotify_ledger (xid, topic, changes) VALUES"
        " ((pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000000)::text::xid8,"
        """ 'future', '[{"kind":"message","data":"from the future","groups":["t"]}]')"""
    )
    execute("UPDATE django_pgnotify_state SET identity = '1:00000001:2:elsewhere'")
    call_command("pglisten", once=True)
    count = "SELECT count(*) FROM django_pgnotify_ledger WHERE topic = 'future'"
    assert execute(count) == (0,)


def test_row_that_is_no_json_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    subscriber = Subscriber("t")
    execute("SELECT pgnotify_append('t', NULL, 'no json', NULL)")
    publish("t", "next")
    call_command("pglisten", once=True)
    assert subscriber.data() == ["next"]
    assert "is left out" in caplog.text


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_events_of_another_alias_travel_in_prefixed_groups() -> None:
    call_command("pglisten", database="other", once=True)
    prefixed, plain = Subscriber("other.t"), Subscriber("t")
    with connections["other"].cursor() as cursor:
        cursor.execute("SELECT pgnotify_publish('t', '1'::jsonb)")
    call_command("pglisten", once=True)
    call_command("pglisten", database="other", once=True)
    (frame,) = prefixed.frames()
    assert frame["group"] == "t"
    assert frame["events"][0]["data"] == 1
    assert plain.frames() == []


def test_once_beside_a_leader_exits_3_with_one_line() -> None:
    from django_pgnotify.relay.leader import lock_key

    with open_session() as leader:
        leader.execute("SELECT pg_advisory_lock(%s)", [lock_key("public")])
        with pytest.raises(CommandError, match="Another pglisten is running") as raised:
            call_command("pglisten", once=True)
    assert raised.value.returncode == 3
    assert "\n" not in str(raised.value)


def test_a_database_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match="Choose one of 'default', 'other'"):
        call_command("pglisten", once=True, database="nope")


def publish_and_relay() -> None:
    publish("t", 1)
    call_command("pglisten", once=True)
    connection.close()


async def test_once_works_from_an_async_test_while_a_consumer_waits() -> None:
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("t", channel)
    waiting = asyncio.create_task(layer.receive(channel))
    await sync_to_async(publish_and_relay)()
    frame = await waiting
    assert frame["events"][0]["data"] == 1


def test_once_gives_up_on_a_layer_that_takes_nothing_and_the_ledger_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class DownLayer(InMemoryChannelLayer):
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            raise ConnectionError("nobody there")

    monkeypatch.setattr(session, "ONCE_PATIENCE_SECONDS", 0.2)
    subscriber = Subscriber("orders")
    publish("t", "kept", ["orders"])
    try:
        working = channel_layers.set("default", DownLayer())
        with pytest.raises(CommandError, match=r"Run it again.*nobody there"):
            call_command("pglisten", once=True)
    finally:
        channel_layers.set("default", working)
    call_command("pglisten", once=True)
    assert subscriber.data() == ["kept"]
