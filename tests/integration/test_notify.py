"""notify() and anotify(): tied to the outcome of their transaction."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext

from django_pgnotify import anotify, event_context, notify
from django_pgnotify.exceptions import (
    InvalidEvent,
    InvalidGroup,
    LedgerMissing,
    LiveOutsideTransactionManagement,
)
from django_pgnotify.publish import durable as durable_module
from django_pgnotify.publish.message import MAX_EVENT_BYTES
from tests.ears import Ears, LedgerReader, Rollback, rolled_back

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def ears() -> Iterator[Ears]:
    with Ears() as ears:
        yield ears


@pytest.fixture
def ledger() -> Iterator[LedgerReader]:
    with LedgerReader() as ledger:
        yield ledger


@pytest.fixture
async def close_connections() -> AsyncIterator[None]:
    """Close what the thread of sync_to_async opened: the database is dropped at the end."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture(params=["durable", "live"])
def published(request: Any, ears: Ears, ledger: LedgerReader) -> Iterator[Any]:
    """A function that publishes, with what has arrived as its attribute."""

    def publish(data: Any, **options: Any) -> None:
        notify("news", data, durable=request.param == "durable", **options)

    publish.arrived = (ledger if request.param == "durable" else ears).data  # type: ignore[attr-defined]
    return publish


def test_a_commit_publishes_and_not_before(published: Any) -> None:
    with transaction.atomic():
        published(1)
        assert published.arrived() == []
    assert published.arrived() == [1]


def test_a_rollback_takes_back(published: Any) -> None:
    with rolled_back():
        published(1)
    assert published.arrived() == []


def test_data_of_a_rolled_back_savepoint_is_not_published(published: Any) -> None:
    with transaction.atomic():
        published("outer")
        with rolled_back():
            published("inner")
            with transaction.atomic():
                published("innermost")
        with transaction.atomic():
            published("second")
        published("last")
    assert published.arrived() == ["outer", "second", "last"]


def test_a_savepoint_rolled_back_last_takes_only_its_own(published: Any) -> None:
    with transaction.atomic():
        published("a")
        with transaction.atomic():
            published("b")
        published("c")
        with rolled_back():
            published("gone")
    assert published.arrived() == ["a", "b", "c"]


def test_autocommit_publishes_at_once(published: Any) -> None:
    published(1)
    assert published.arrived() == [1]


def test_events_keep_their_order(published: Any) -> None:
    with transaction.atomic():
        for n in range(200):
            published(n)
    assert published.arrived() == list(range(200))


def test_each_database_has_its_own_outcome(published: Any) -> None:
    with Ears("other") as other_ears, LedgerReader("other") as other_ledger:
        with transaction.atomic("other"), rolled_back():
            published("default")
            published("other", using="other")
        assert published.arrived() == []
        assert other_ears.data() + other_ledger.data() == ["other"]


@pytest.mark.usefixtures("close_connections")
async def test_anotify_takes_part_in_the_callers_transaction(
    ears: Ears, ledger: LedgerReader
) -> None:
    def begin() -> Any:
        block = transaction.atomic()
        block.__enter__()
        return block

    block = await sync_to_async(begin)()
    await anotify("news", 1)
    await anotify("news", 2, durable=False)
    assert (ledger.data(), ears.data()) == ([], [])
    await sync_to_async(block.__exit__)(None, None, None)
    assert (ledger.data(), ears.data()) == ([1], [2])


def test_an_apostrophe_is_data_and_no_sql(published: Any) -> None:
    for text in (
        "it's",
        "x'); drop table shop_order; --",
        '%s %(x)s {0} "',
        "\\u0000 \0 \ud800",
    ):
        published({"text": text})
        assert published.arrived() == [{"text": text}]


def test_groups_default_to_the_topic(ledger: LedgerReader, ears: Ears) -> None:
    for durable in (True, False):
        notify("news", durable=durable)
        notify("news", groups=("a", "b", "a"), durable=durable)
        notify("news", groups=[], durable=durable)
        notify("news", groups=dict.fromkeys("cd").keys(), durable=durable)
    groups = [["news"], ["a", "b"], [], ["c", "d"]]
    assert [change["groups"] for change in ledger.changes()] == groups
    assert [event["groups"] for event in ears.events()] == groups


def test_a_live_event_is_complete(ears: Ears) -> None:
    with event_context(user=7):
        notify("news", {"a": 2**60}, durable=False)
    (event,) = ears.events()
    assert event["id"]
    assert event["at"].endswith("Z")
    assert event["context"] == {"user": 7}
    wanted = {"topic": "news", "kind": "message", "model": None, "pk": None, "changed": []}
    assert wanted.items() <= event.items()
    assert event["data"] == {"a": str(2**60)}


@pytest.mark.parametrize("size", [7_000, 7_999, 8_000, 20_000])
@pytest.mark.parametrize("char", ["x", "€", "😀"])
def test_payloads_around_the_limit_of_notify_pass(published: Any, size: int, char: str) -> None:
    published(char * size)
    assert published.arrived() in ([char * size], [None])


def test_16_mib_keep_their_data_and_more_does_not(ledger: LedgerReader) -> None:
    notify("news", "x" * (MAX_EVENT_BYTES - 2))
    notify("news", "x" * (MAX_EVENT_BYTES - 1))
    whole, cut = ledger.changes()
    assert len(whole["data"]) == MAX_EVENT_BYTES - 2
    assert cut["truncated"] is True
    assert "data" not in cut


def test_live_events_of_a_transaction_travel_in_one_round_trip(ears: Ears) -> None:
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        for n in range(50):
            notify("news", n, durable=False)
            transaction.on_commit(lambda: None)
            with transaction.atomic():
                notify("news", -n, durable=False)
    assert sum("pg_notify" in query["sql"] for query in queries) == 1
    assert len(ears.data()) == 100


def test_a_failing_callback_of_the_users_loses_no_event(ears: Ears) -> None:
    def fail() -> None:
        raise Rollback

    def publish() -> None:
        with transaction.atomic():
            notify("news", 1, durable=False)
            transaction.on_commit(fail)
            notify("news", 2, durable=False)

    with pytest.raises(Rollback):
        publish()
    assert ears.data() == [1, 2]


def test_a_callback_may_publish_and_roll_back_by_itself(ears: Ears) -> None:
    def callback() -> None:
        notify("news", "at once", durable=False)
        with rolled_back():
            notify("news", "gone", durable=False)

    with transaction.atomic():
        transaction.on_commit(callback)
        notify("news", 1, durable=False)
        with transaction.atomic():
            notify("news", 2, durable=False)
    assert ears.data() == ["at once", 1, 2]


def test_a_rolled_back_transaction_leaves_nothing_for_the_next(ears: Ears) -> None:
    with rolled_back():
        notify("news", "gone", durable=False)
    notify("news", "autocommit", durable=False)
    with transaction.atomic():
        notify("news", "atomic", durable=False)
    assert ears.data() == ["autocommit", "atomic"]


def test_manual_transactions_refuse_live_events_and_take_durable_ones(
    ledger: LedgerReader, ears: Ears
) -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(LiveOutsideTransactionManagement):
            notify("news", 1, durable=False)
        notify("news", 2)
        transaction.commit()
        notify("news", 3)
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert ledger.data() == [2]
    assert ears.data() == []


def test_what_fails_after_the_commit_is_logged_and_not_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "pg_notify" in sql:
            raise Rollback
        return execute(sql, params, many, context)

    with caplog.at_level(logging.ERROR), connection.execute_wrapper(refuse):
        with transaction.atomic():
            notify("news", 1, durable=False)
        notify("news", 2, durable=False)
    assert [record.action for record in caplog.records] == ["live_not_sent"] * 2  # type: ignore[attr-defined]


def _holds_itself() -> list[Any]:
    data: list[Any] = []
    data.append(data)
    return data


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"topic": "a b"}, InvalidEvent),
        ({"topic": "pgnotify.revoke"}, InvalidEvent),
        ({"topic": ""}, InvalidEvent),
        ({"topic": None}, InvalidEvent),
        ({"groups": "orders"}, InvalidGroup),
        ({"groups": ["a b"]}, InvalidGroup),
        ({"groups": [7]}, InvalidGroup),
        ({"groups": ["pgnotify.hubs"]}, InvalidGroup),
        ({"groups": [f"g{n}" for n in range(1001)]}, InvalidGroup),
        ({"data": object()}, InvalidEvent),
        ({"data": {"a": {1}}}, InvalidEvent),
        ({"data": _holds_itself()}, InvalidEvent),
        ({"data": 10**5000}, InvalidEvent),
        ({"groups": {"orders": 1}}, InvalidGroup),
        ({"groups": 7}, InvalidGroup),
    ],
)
def test_what_can_not_travel_is_refused_before_anything_is_sent(
    published: Any, call: dict[str, Any], error: type[Exception]
) -> None:
    with transaction.atomic():
        with pytest.raises(error):
            notify(**{"topic": "news", **call})
        published("the transaction goes on")
    assert published.arrived() == ["the transaction goes on"]


def test_a_missing_ledger_is_said_and_breaks_no_transaction() -> None:
    with transaction.atomic("other"):
        with connections["other"].cursor() as cursor:
            cursor.execute("ALTER FUNCTION pgnotify_append RENAME TO pgnotify_appended")
            durable_module._schemas.clear()
            with pytest.raises(LedgerMissing, match="migrate"):
                notify("news", using="other")
            cursor.execute("SELECT 1")
        transaction.set_rollback(True, using="other")


def test_the_ledger_is_found_under_another_search_path(ledger: LedgerReader) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL search_path = pg_catalog")
        durable_module._schemas.clear()
        notify("news", 1)
    assert ledger.data() == [1]


def test_only_the_first_message_of_a_connection_looks_for_the_ledger(
    django_assert_num_queries: Any,
) -> None:
    connection.close()
    connection.ensure_connection()
    for _ in range(2):
        with django_assert_num_queries(1):
            notify("news")


def test_on_other_databases_nothing_happens(tmp_path: Any) -> None:
    connections.databases["sqlite"] = {
        **connections.databases["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db"),
    }
    try:
        notify("news", 1, using="sqlite")
        notify("news", 1, using="sqlite", durable=False)
        assert connections["sqlite"].connection is None
    finally:
        del connections["sqlite"]
        del connections.databases["sqlite"]


def test_the_ledger_row_is_what_the_relay_reads(ledger: LedgerReader) -> None:
    notify("news", {"a": 1.5}, groups=["a"])
    (row,) = ledger.rows()
    assert row["topic"] == "news"
    assert row["model"] is None
    assert row["changes"] == [
        {"kind": "message", "pk": None, "data": {"a": 1.5}, "groups": ["a"]}
    ]


class TestInTestCase:
    """Inside a TestCase nothing commits; callbacks run by captureOnCommitCallbacks."""

    pytestmark = pytest.mark.django_db(databases=["default", "other"])

    def test_captured_callbacks_send_only_what_they_captured(
        self, django_capture_on_commit_callbacks: Any
    ) -> None:
        notify("news", "before", durable=False)
        with (
            CaptureQueriesContext(connection) as queries,
            django_capture_on_commit_callbacks(execute=True) as callbacks,
        ):
            notify("news", "one", durable=False)
            notify("news", "two", durable=False)
        sent = [query["sql"] for query in queries if "pg_notify" in query["sql"]]
        assert len(callbacks) == 2
        assert len(sent) == 1
        assert "before" not in sent[0]
        assert sent[0].index("one") < sent[0].index("two")
