"""What the documentation shows of the database is run: values, cases, rights."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import ProgrammingError, connection, models, transaction

from django_pgnotify import NotifyTrigger, notify
from django_pgnotify.database_checks import check_databases
from django_pgnotify.layers import storing
from tests.markdown import Block, blocks, code, tables
from tests.tables import Ledger, make

pytestmark = pytest.mark.django_db


def json_rows() -> list[Any]:
    rows = [row for table in tables("reference/json.md") for row in table]
    return [
        pytest.param(code(row["SQL value"]), code(row["JSON"]), id=row["type"]) for row in rows
    ]


@pytest.mark.parametrize(("value", "shown"), json_rows())
def test_a_documented_value_travels_as_documented(value: str, shown: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pgnotify_json({value})")
        (text,) = cursor.fetchone()
    # Compared as tokens, so that 1 is not 1.0 and a large number keeps its digits.
    parsed = (
        json.loads(one, parse_int=lambda digits: f"int {digits}", parse_float=str)
        for one in (text, shown)
    )
    assert next(parsed) == next(parsed)


def case_blocks() -> list[Any]:
    found = [block for block in blocks("cases.md") if "caption" in block.options]
    assert len(found) == 5
    return [pytest.param(block, id=block.options["caption"]) for block in found]


@pytest.fixture
def order() -> Any:
    """The model that the cases are about."""
    return make(
        "Order",
        db_table="case_order",
        item=models.CharField(max_length=80),
        constraints=[NotifyTrigger(name="case_order", fields=["id", "item"])],
    )


@pytest.mark.parametrize("block", case_blocks())
def test_a_documented_case_is_as_it_says(block: Block, order: Any) -> None:
    names = {
        "Order": order,
        "published": Ledger().take,
        "notify": notify,
        "transaction": transaction,
    }
    exec(compile(block.text, block.options["caption"], "exec"), names)


@pytest.fixture
def roles() -> None:
    """The roles of the page, gone with the test's transaction."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE web; CREATE ROLE relay")


@pytest.fixture
def granted(roles: None) -> None:
    """The GRANTs of the page."""
    grants = [block.text for block in blocks("howto/deploying.md") if "GRANT" in block.text]
    assert len(grants) == 2
    with connection.cursor() as cursor:
        for text in grants:
            cursor.execute(text)


def as_role(role: str, *statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {role}")
        for statement in statements:
            cursor.execute(statement)
        cursor.execute("RESET ROLE")


def test_the_documented_rights_are_enough_to_publish(granted: None) -> None:
    ledger = Ledger()
    as_role("web", "SELECT pgnotify_publish('t', '{}'::jsonb)", "SELECT pgnotify_ring()")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE web")
    notify("t")
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
    assert len(ledger.take()) == 2


def test_the_documented_rights_are_enough_for_relay_and_web(granted: None) -> None:
    as_role(
        "web",
        "SELECT FROM django_pgnotify_ledger, django_pgnotify_tick, django_pgnotify_state",
        "DELETE FROM django_pgnotify_message WHERE id = 0",
    )
    as_role(
        "relay",
        "DELETE FROM django_pgnotify_ledger WHERE id = 0",
        "INSERT INTO django_pgnotify_tick SELECT 10, pg_current_snapshot(), 0",
        "DELETE FROM django_pgnotify_tick WHERE number = 10",
        "UPDATE django_pgnotify_state SET sent = sent",
        "UPDATE django_pgnotify_handler SET tick = tick",
        "INSERT INTO django_pgnotify_parked (handler, event, traceback, attempts)"
        " VALUES ('h', '{}', '', 1)",
    )


@pytest.mark.parametrize("role", ["web", "relay"])
def test_the_documented_rights_are_enough_for_large_messages_and_checks(
    granted: None, role: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {role}")
        values = {"body": b"{}", "expiry": timedelta(0), "pg_channel": "a", "head": "b"}
        cursor.execute(storing.STORE_AND_NOTIFY, values)
        cursor.execute(storing.CLAIM, ["plain"])
        cursor.execute(storing.SWEEP, [storing.SWEEP_ROWS])
        assert cursor.rowcount > 0
        assert "django_pgnotify.W023" not in {m.id for m in check_databases(None, ["default"])}
        cursor.execute("RESET ROLE")


def test_a_role_without_the_documented_rights_can_forge_no_event(roles: None) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
        as_role("web", "SELECT pgnotify_publish('t', '{}'::jsonb)")


def test_the_documented_sql_publishes_with_its_context() -> None:
    ledger = Ledger()
    shown = [*blocks("reference/sql.md"), *blocks("howto/publishing.md")]
    texts = [block.text for block in shown if block.language == "sql"]
    with connection.cursor() as cursor:
        for statement in ";".join(texts).split(";"):
            # The test's own transaction stands for the one of the example.
            if statement.strip() not in ("", "BEGIN", "COMMIT"):
                cursor.execute(statement)
    rows = ledger.rows()
    assert {row["topic"] for row in rows} == {"stock_low"}
    assert {row["context"] for row in rows} == {None, '{"user": 7}'}
    assert [row["changes"][0]["groups"] for row in rows] == [
        ["orders"],
        ["stock_low"],
        ["orders"],
    ]


def test_a_replica_session_publishes_once_its_triggers_are_enabled_as_documented() -> None:
    order = make(
        "Order",
        db_table="documented_order",
        item=models.CharField(max_length=80),
        constraints=[NotifyTrigger(name="documented", fields=["item"])],
    )
    (enable,) = (block.text for block in blocks("howto/replication.md"))
    enable = enable.replace("orders_order", "documented_order")
    enable = enable.replace("order_changes", "documented")
    ledger = Ledger()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        order.objects.create(item="silent")
        cursor.execute(enable)
        order.objects.create(item="published")
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert [change["data"]["item"] for change in ledger.take()] == ["published"]


def test_the_documented_looks_into_the_database_work() -> None:
    shown = blocks("howto/troubleshooting.md")
    looks = [block.text for block in shown if block.language == "sql"]
    assert len(looks) == 2
    with connection.cursor() as cursor:
        for look in looks:
            cursor.execute(look)
