"""event_context: the context of one transaction, and of no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import Count, Exists, OuterRef, Q
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.views import View

from django_pgnotify import event_context, notify
from django_pgnotify.exceptions import InvalidDeclaration, InvalidEvent
from django_pgnotify.publish.context import current_context, install_context
from tests.ears import LedgerReader, Rollback, rolled_back
from tests.shop.models import Customer, Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def ledger() -> Iterator[LedgerReader]:
    with LedgerReader() as ledger:
        yield ledger


@pytest.fixture
async def close_connections() -> AsyncIterator[None]:
    """Close what the thread of sync_to_async opened: the database is dropped at the end."""
    yield
    await sync_to_async(connections.close_all)()


def contexts(ledger: LedgerReader) -> list[Any]:
    return [row["context"] for row in ledger.rows()]


def setting(using: str = "default") -> str:
    """The setting as the next statement's triggers see it, past our wrapper."""
    raw: Any = connections[using].connection
    with raw.cursor() as cursor:
        cursor.execute("SELECT current_setting('django_pgnotify.context', true)")
        return cursor.fetchone()[0] or ""


def run(sql: str, using: str = "default") -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(sql)


def test_events_carry_the_context_in_autocommit(ledger: LedgerReader) -> None:
    with event_context(user=7):
        notify("a")
    notify("a")
    assert contexts(ledger) == [{"user": 7}, None]


def test_events_carry_the_context_in_a_transaction(ledger: LedgerReader) -> None:
    with event_context(user=7), transaction.atomic():
        notify("a")
        Customer.objects.create(name="x")
        notify("a")
    assert contexts(ledger) == [{"user": 7}] * 2


def test_a_block_inside_a_transaction_ends_before_it(ledger: LedgerReader) -> None:
    with transaction.atomic():
        notify("a")
        with event_context(user=7):
            notify("a")
        notify("a")
    assert contexts(ledger) == [None, {"user": 7}, None]


def test_inner_blocks_add_and_win_and_end(ledger: LedgerReader) -> None:
    with event_context(user=7, request="r"), transaction.atomic():
        with event_context(user=8, job="j"):
            notify("a")
        notify("a")
    assert contexts(ledger) == [
        {"user": 8, "request": "r", "job": "j"},
        {"user": 7, "request": "r"},
    ]


def test_the_context_of_one_transaction_is_not_seen_by_the_next(ledger: LedgerReader) -> None:
    with event_context(user=7):
        with transaction.atomic():
            notify("a")
        with rolled_back():
            notify("a")
    assert setting() == ""
    with transaction.atomic():
        notify("a")
    assert contexts(ledger) == [{"user": 7}, None]


def test_each_new_transaction_in_a_block_gets_the_context(ledger: LedgerReader) -> None:
    with event_context(user=7):
        for _ in range(3):
            with transaction.atomic():
                notify("a")
    assert contexts(ledger) == [{"user": 7}] * 3


def test_a_rolled_back_savepoint_keeps_the_context(ledger: LedgerReader) -> None:
    with event_context(user=7), transaction.atomic():
        with rolled_back():
            notify("gone")
        notify("a")
    assert contexts(ledger) == [{"user": 7}]


def test_a_rolled_back_savepoint_brings_no_ended_context_back(ledger: LedgerReader) -> None:
    with transaction.atomic():
        with event_context(user=7):
            notify("a")
        with rolled_back():
            notify("gone")
        notify("a")
    assert contexts(ledger) == [{"user": 7}, None]


def test_a_context_begun_in_a_savepoint_that_fails_goes_on(ledger: LedgerReader) -> None:
    with transaction.atomic(), event_context(user=7):
        with pytest.raises(IntegrityError), transaction.atomic():
            run("INSERT INTO shop_order (customer_id) VALUES (NULL)")
        notify("a")
    assert contexts(ledger) == [{"user": 7}]


def test_a_failed_transaction_is_left_alone() -> None:
    with event_context(user=7), pytest.raises(IntegrityError), transaction.atomic():
        run("INSERT INTO shop_order (customer_id) VALUES (NULL)")
    assert Order.objects.count() == 0


def test_errors_at_the_commit_of_a_wrapped_statement_are_djangos() -> None:
    with event_context(user=7), pytest.raises(IntegrityError):
        Order.objects.create(customer_id=12345)


def test_every_database_gets_the_context() -> None:
    with LedgerReader("default") as default, LedgerReader("other") as other:
        with event_context(user=7):
            with transaction.atomic(), transaction.atomic("other"):
                notify("a")
                notify("a", using="other")
            notify("a", using="other")
        assert contexts(default) == [{"user": 7}]
        assert contexts(other) == [{"user": 7}] * 2


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM shop_customer",
        "CREATE INDEX CONCURRENTLY for_test ON shop_customer (name); ",
        "DROP INDEX CONCURRENTLY IF EXISTS for_test",
        "DO $$ BEGIN COMMIT; END $$",
        "SET search_path = public",
        "SHOW search_path",
        "/* why */ -- because\n VACUUM shop_customer",
    ],
)
def test_statements_that_refuse_a_transaction_still_work(sql: str) -> None:
    with event_context(user=7):
        run(sql)


def test_a_transactions_first_statement_may_set_its_isolation(ledger: LedgerReader) -> None:
    with event_context(user=7), transaction.atomic():
        run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        notify("a")
    assert contexts(ledger) == [{"user": 7}]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO shop_customer (name) VALUES ('a') RETURNING set_config('t.seen', {}, false)",
        "/* why */ WITH a AS (SELECT 1) SELECT set_config('t.seen', {}, false)",
        "  (SELECT set_config('t.seen', {}, false))",
        "select set_config('t.seen', {}, false)",
    ],
)
def test_every_statement_that_may_write_sees_the_context(sql: str) -> None:
    with event_context(user=7):
        run(sql.format("current_setting('django_pgnotify.context', true)"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('t.seen')")
        assert cursor.fetchone() == ('{"user":7}',)


def test_executemany_and_composed_sql_see_the_context(ledger: LedgerReader) -> None:
    from psycopg import sql

    with event_context(user=7), connection.cursor() as cursor:
        cursor.executemany("SELECT pgnotify_publish(%s, NULL)", [["a"], ["b"]])
        cursor.execute(sql.SQL("SELECT pgnotify_publish({}, NULL)").format(sql.Literal("c")))
    assert contexts(ledger) == [{"user": 7}] * 3


def test_reading_costs_nothing_and_counts_show_the_users_queries_only() -> None:
    Customer.objects.bulk_create(Customer(name=str(n)) for n in range(10))
    with event_context(user=7), CaptureQueriesContext(connection) as queries:
        assert len(list(Customer.objects.iterator(chunk_size=3))) == 10
        assert setting() == ""
        Customer.objects.create(name="x")
        with transaction.atomic():
            Customer.objects.create(name="y")
    verbs = [query["sql"].split()[0] for query in queries]
    assert [verb for verb in verbs if verb not in ("BEGIN", "COMMIT")] == [
        "DECLARE" if "DECLARE" in verbs else "SELECT",
        "INSERT",
        "INSERT",
    ]


@pytest.mark.usefixtures("close_connections")
async def test_async_code_carries_the_context_and_keeps_it_apart(ledger: LedgerReader) -> None:
    async def work(user: int) -> None:
        async with event_context(user=user):
            await asyncio.sleep(0)
            await sync_to_async(notify)("a", user)

    await asyncio.gather(work(1), work(2), work(3))
    await sync_to_async(notify)("a", None)
    rows = await sync_to_async(ledger.rows)()
    found = {row["changes"][0]["data"]: row["context"] for row in rows}
    assert found == {1: {"user": 1}, 2: {"user": 2}, 3: {"user": 3}, None: None}


async def test_it_decorates_sync_and_async_functions() -> None:
    @event_context(job="sync")
    def job(depth: int) -> list[Any]:
        return [current_context(), *(job(depth - 1) if depth else [])]

    @event_context(job="async")
    async def ajob() -> dict[str, Any]:
        await asyncio.sleep(0)
        return current_context()

    assert job(1) == [{"job": "sync"}] * 2
    assert await asyncio.gather(ajob(), ajob()) == [{"job": "async"}] * 2
    assert current_context() == {}
    assert job.__name__ == "job"


def test_a_block_ends_with_an_error_too() -> None:
    with pytest.raises(Rollback), event_context(user=7):
        raise Rollback
    assert current_context() == {}


def test_values_follow_the_rule_of_event_data() -> None:
    with event_context(big=2**60, text="it's", none=None, self="me"):
        assert current_context() == {
            "big": str(2**60), "text": "it's", "none": None, "self": "me"
        }  # fmt: skip


def test_what_is_no_json_or_too_large_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="user"):
        event_context(user=object())
    large = event_context(b="x" * 5000)
    with event_context(a="x" * 5000), pytest.raises(InvalidEvent, match="8192"), large:
        pass
    assert current_context() == {}


def test_it_is_installed_once_on_every_connection() -> None:
    for using in ("default", "other"):
        connections[using].close()
        connections[using].ensure_connection()
        install_context(connection=connections[using])
        names = [type(wrapper).__name__ for wrapper in connections[using].execute_wrappers]
        assert names.count("_ContextWrapper") == 1


def test_a_users_wrapper_removes_itself_and_not_ours(ledger: LedgerReader) -> None:
    def wrapper(execute: Any, *args: Any) -> Any:
        return execute(*args)

    with connection.execute_wrapper(wrapper):
        connection.close()
        connection.ensure_connection()
    with event_context(user=7):
        notify("a")
    assert contexts(ledger) == [{"user": 7}]


def test_the_first_message_of_a_connection_has_the_context_too(ledger: LedgerReader) -> None:
    with event_context(user=7):
        with transaction.atomic():
            notify("a")
        connection.close()
        with transaction.atomic():
            notify("a")
    assert contexts(ledger) == [{"user": 7}] * 2


SELECT = "SELECT pgnotify_publish('t', to_jsonb(name)) FROM \"shop_customer\""


def test_a_select_whose_function_writes_has_the_context(ledger: LedgerReader) -> None:
    Customer.objects.create(name="x")
    with event_context(user=7):
        run(SELECT)
    assert contexts(ledger) == [{"user": 7}]


def test_a_select_behind_a_block_does_not_have_its_context(ledger: LedgerReader) -> None:
    Customer.objects.create(name="x")
    with transaction.atomic():
        with event_context(user=7):
            notify("a")
        run(SELECT)
    assert contexts(ledger) == [{"user": 7}, None]


def test_what_the_orm_reads_costs_no_round_trip() -> None:
    wanted = Customer.objects.filter(Q(pk__in=[1, 2]) | ~Q(name="x"), order__status="new")
    with event_context(user=7), transaction.atomic():
        list(wanted.annotate(orders=Count("order", filter=Q(order__total__gt=1)))[:3])
        list(wanted.filter(Exists(Order.objects.filter(customer=OuterRef("pk")))))
        wanted.distinct().count()
        assert setting() == ""
        Customer.objects.create(name="x")
        assert setting() != ""


@pytest.mark.parametrize("call", ['"public"."pgnotify_publish"', "public.pgnotify_publish "])
def test_a_function_that_writes_is_known_however_it_is_written(
    ledger: LedgerReader, call: str
) -> None:
    Customer.objects.create(name="x")
    with event_context(user=7):
        run(SELECT.replace("pgnotify_publish", call))
    assert contexts(ledger) == [{"user": 7}]


def test_a_block_that_ends_late_takes_itself_away_and_no_other() -> None:
    def rows() -> Iterator[int]:
        with event_context(source="import"):
            yield 1

    with event_context(user=7):
        opened = rows()
        next(opened)
    assert current_context() == {"source": "import"}
    with event_context(user=8):
        opened.close()  # type: ignore[attr-defined]
        assert current_context() == {"user": 8}
    assert current_context() == {}


async def test_one_block_may_be_entered_by_several_tasks_at_once() -> None:
    shared = event_context(user="system")
    entered = asyncio.Barrier(2)

    async def work(number: int) -> dict[str, Any]:
        with shared, event_context(number=number):
            await entered.wait()
            return current_context()

    found = await asyncio.gather(work(1), work(2))
    assert found == [{"user": "system", "number": 1}, {"user": "system", "number": 2}]
    assert current_context() == {}


def test_what_goes_past_wrappers_takes_no_context_from_the_writes_behind_it(
    ledger: LedgerReader,
) -> None:
    with event_context(user=7):
        for first in (None, "copy"):
            with transaction.atomic(), connection.cursor() as cursor:
                if first:
                    with cursor.copy("COPY shop_customer (name) FROM STDIN") as copy:
                        copy.write_row(("copied",))
                notify("a")
    assert [row["context"] for row in ledger.rows() if row["topic"] == "a"] == [{"user": 7}] * 2


def test_a_connection_that_is_older_than_the_app_gets_the_context(
    ledger: LedgerReader,
) -> None:
    connection.execute_wrappers.clear()
    apps.get_app_config("django_pgnotify").connect_context()
    with event_context(user=7):
        notify("a")
    assert contexts(ledger) == [{"user": 7}]


def test_it_decorates_async_views_and_no_generators() -> None:
    class Looks(View):
        async def get(self, request: object) -> object:
            return current_context()

    view: Any = event_context(user=7)(Looks.as_view())
    assert async_to_sync(view)(RequestFactory().get("/")) == {"user": 7}

    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidDeclaration, match="with block"):
        event_context(user=7)(numbers)


def test_bytes_are_sql_too(ledger: LedgerReader) -> None:
    with event_context(user=7), connection.cursor() as cursor:
        cursor.execute(b"SELECT pgnotify_publish('a', '1')")
    assert contexts(ledger) == [{"user": 7}]
