"""Every way to write a row is seen, and no way to write it fails because of us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.db.models import F, Q

from django_pgnotify import NotifyTrigger
from tests.shop.models import Customer, Order
from tests.tables import Ledger, drop, make, run

pytestmark = pytest.mark.django_db

ALL = ["insert", "update", "delete", "truncate"]


def thing(**kwargs: Any) -> Any:
    return make(
        constraints=[NotifyTrigger(**{"name": "things", "fields": ["id", "text"], **kwargs})],
        text=models.TextField(null=True),
        number=models.IntegerField(default=0),
    )


@pytest.fixture
def Thing() -> Any:
    return thing()


@pytest.fixture
def ledger(Thing: Any) -> Ledger:
    return Ledger()


def kinds(changes: list[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    return [(c["kind"], c["pk"], (c.get("data") or {}).get("text")) for c in changes]


def test_save_is_an_insert_and_then_an_update(Thing: Any, ledger: Ledger) -> None:
    row = Thing.objects.create(text="a")
    assert ledger.take() == [
        {
            "kind": "insert",
            "pk": row.pk,
            "data": {"id": row.pk, "text": "a"},
            "groups": ["things"],
        }
    ]
    row.text = "b"
    row.save()
    assert ledger.take() == [
        {
            "kind": "update",
            "pk": row.pk,
            "data": {"id": row.pk, "text": "b"},
            "changed": ["text"],
            "groups": ["things"],
        }
    ]


def test_delete_of_an_instance_tells_the_last_values(Thing: Any, ledger: Ledger) -> None:
    row = Thing.objects.create(text="a")
    pk = row.pk
    ledger.take()
    assert row.delete()[0] == 1
    assert ledger.take() == [
        {"kind": "delete", "pk": pk, "data": {"id": pk, "text": "a"}, "groups": ["things"]}
    ]


def test_bulk_create_is_seen_row_by_row(Thing: Any, ledger: Ledger) -> None:
    rows = Thing.objects.bulk_create([Thing(text=str(n)) for n in range(3)])
    assert kinds(ledger.take()) == [("insert", row.pk, row.text) for row in rows]


def test_bulk_create_that_ignores_conflicts_tells_only_what_came(
    Thing: Any, ledger: Ledger
) -> None:
    Thing.objects.create(id=1, text="old")
    ledger.take()
    Thing.objects.bulk_create(
        [Thing(id=1, text="x"), Thing(id=2, text="y")], ignore_conflicts=True
    )
    assert kinds(ledger.take()) == [("insert", 2, "y")]


def test_bulk_create_that_updates_conflicts_tells_inserts_and_updates(
    Thing: Any, ledger: Ledger
) -> None:
    Thing.objects.create(id=1, text="old")
    ledger.take()
    Thing.objects.bulk_create(
        [Thing(id=1, text="x"), Thing(id=2, text="y")],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["text"],
    )
    assert sorted(kinds(ledger.take())) == [("insert", 2, "y"), ("update", 1, "x")]


def test_bulk_update_is_seen(Thing: Any, ledger: Ledger) -> None:
    rows = Thing.objects.bulk_create([Thing(text="a"), Thing(text="b")])
    ledger.take()
    for row in rows:
        row.text += "!"
    Thing.objects.bulk_update(rows, ["text"])
    assert kinds(ledger.take()) == [("update", rows[0].pk, "a!"), ("update", rows[1].pk, "b!")]


def test_queryset_update_and_delete_are_seen(Thing: Any, ledger: Ledger) -> None:
    rows = Thing.objects.bulk_create([Thing(text="a"), Thing(text="b")])
    ledger.take()
    Thing.objects.update(text="c", number=F("number") + 1)
    assert kinds(ledger.take()) == [("update", row.pk, "c") for row in rows]
    Thing.objects.all().delete()
    assert kinds(ledger.take()) == [("delete", row.pk, "c") for row in rows]


def test_cascades_by_django_are_seen() -> None:
    with connection.schema_editor() as editor:
        editor.add_constraint(Customer, NotifyTrigger(name="customers"))
        editor.add_constraint(Order, NotifyTrigger(name="orders"))
    customer = Customer.objects.create(id=1)
    Order.objects.create(id=7, customer=customer)
    ledger = Ledger()
    customer.delete()
    assert [(row["topic"], row["changes"][0]["pk"]) for row in ledger.rows()] == [
        ("orders", 7),
        ("customers", 1),
    ]


def test_cascades_by_the_database_are_seen() -> None:
    Parent = make("Parent", constraints=[NotifyTrigger(name="parents")])
    make(
        "Child",
        constraints=[NotifyTrigger(name="children")],
        parent=models.ForeignKey(Parent, on_delete=models.CASCADE, db_constraint=False),
        apps=Parent._meta.apps,
    )
    references(on_delete="CASCADE")
    run("INSERT INTO made_parent (id) VALUES (1); INSERT INTO made_child VALUES (7, 1)")
    ledger = Ledger()
    run("DELETE FROM made_parent")
    assert {(row["topic"], row["changes"][0]["pk"]) for row in ledger.rows()} == {
        ("parents", 1),
        ("children", 7),
    }


def references(*, on_delete: str) -> None:
    run(
        "ALTER TABLE made_child ADD FOREIGN KEY (parent_id) REFERENCES made_parent"
        f" ON DELETE {on_delete}"
    )


def test_set_null_of_the_database_is_an_update() -> None:
    Parent = make("Parent", constraints=[])
    make(
        "Child",
        constraints=[NotifyTrigger(name="children", fields=["parent"])],
        parent=models.ForeignKey(
            Parent, null=True, on_delete=models.SET_NULL, db_constraint=False
        ),
        apps=Parent._meta.apps,
    )
    references(on_delete="SET NULL")
    run("INSERT INTO made_parent VALUES (1)")
    run("INSERT INTO made_child (parent_id) VALUES (1)")
    ledger = Ledger()
    run("DELETE FROM made_parent")
    assert [(c["kind"], c["data"]) for c in ledger.take()] == [("update", {"parent": None})]


def test_raw_sql_is_seen(Thing: Any, ledger: Ledger) -> None:
    run("INSERT INTO made_thing (id, text, number) VALUES (5, 'a', 0), (6, 'b', 0)")
    run("UPDATE made_thing SET text = 'c' WHERE id = 5")
    run("DELETE FROM made_thing WHERE id = 6")
    assert kinds(ledger.take()) == [
        ("insert", 5, "a"),
        ("insert", 6, "b"),
        ("update", 5, "c"),
        ("delete", 6, "b"),
    ]


def test_on_conflict_do_update_is_seen(Thing: Any, ledger: Ledger) -> None:
    statement = (
        "INSERT INTO made_thing (id, text, number) VALUES (1, %s, 0)"
        " ON CONFLICT (id) DO UPDATE SET text = excluded.text"
    )
    run(statement, "a")
    run(statement, "b")
    assert kinds(ledger.take()) == [("insert", 1, "a"), ("update", 1, "b")]


def test_merge_is_seen(Thing: Any, ledger: Ledger) -> None:
    Thing.objects.bulk_create([Thing(id=1, text="a"), Thing(id=2, text="b")])
    ledger.take()
    run(
        "MERGE INTO made_thing AS t USING (VALUES (1, 'x'), (3, 'z')) AS s (id, text)"
        " ON t.id = s.id"
        " WHEN MATCHED THEN UPDATE SET text = s.text"
        " WHEN NOT MATCHED THEN INSERT (id, text, number) VALUES (s.id, s.text, 0)"
    )
    assert sorted(kinds(ledger.take())) == [("insert", 3, "z"), ("update", 1, "x")]


def test_writes_in_with_queries_are_seen_in_their_order(Thing: Any, ledger: Ledger) -> None:
    Thing.objects.create(id=1, text="a")
    ledger.take()
    run(
        "WITH gone AS (DELETE FROM made_thing RETURNING *)"
        " INSERT INTO made_thing SELECT id, text || '!', number FROM gone"
    )
    assert kinds(ledger.take()) == [("delete", 1, "a"), ("insert", 1, "a!")]


def test_copy_is_seen(Thing: Any, ledger: Ledger) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY made_thing (id, text, number) FROM STDIN") as copy,
    ):
        copy.write_row((1, "a", 0))
        copy.write_row((2, "b", 0))
    assert kinds(ledger.take()) == [("insert", 1, "a"), ("insert", 2, "b")]


def test_ten_thousand_rows_are_a_handful_of_ledger_rows(Thing: Any, ledger: Ledger) -> None:
    run(
        "INSERT INTO made_thing (text, number) SELECT n::text, 0 FROM generate_series(1, 10000) n"
    )
    rows = ledger.rows()
    assert len(rows) <= 12
    assert [c["data"]["text"] for row in rows for c in row["changes"]] == [
        str(n) for n in range(1, 10001)
    ]


def test_a_bulk_write_is_kept_compressed_where_the_server_has_lz4(
    Thing: Any, ledger: Ledger
) -> None:
    methods = run("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    Thing.objects.bulk_create(Thing(text="a thing of which one speaks") for _ in range(1000))
    [(kept, whole)] = run(
        "SELECT sum(pg_column_size(changes)), sum(octet_length(changes))"
        " FROM django_pgnotify_ledger"
    )
    assert whole > 50_000
    assert kept < whole / 3 if "lz4" in methods[0][0] else kept >= whole


def test_ledger_rows_of_a_bulk_write_are_bounded_by_bytes(Thing: Any, ledger: Ledger) -> None:
    run(
        "INSERT INTO made_thing (text, number)"
        " SELECT repeat('x', 1000000), 0 FROM generate_series(1, 20) n"
    )
    rows = ledger.rows()
    assert sum(len(row["changes"]) for row in rows) == 20
    assert max(len(row["changes"]) for row in rows) <= 5


def test_truncate_is_told_when_asked() -> None:
    Thing = thing(on=ALL, groups=["things", "number-{number}"])
    Thing.objects.create(text="a")
    ledger = Ledger()
    run("TRUNCATE made_thing")
    assert ledger.take() == [
        {
            "kind": "truncate",
            "pk": None,
            "groups": ["things"],
            "templates": ["number-{number}"],
        }
    ]


def test_truncate_is_not_told_when_not_asked(Thing: Any, ledger: Ledger) -> None:
    Thing.objects.create(text="a")
    ledger.take()
    run("TRUNCATE made_thing")
    assert ledger.rows() == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO made_thing (text, number) SELECT 'a', 1 WHERE false",
        "UPDATE made_thing SET text = 'z' WHERE false",
        "DELETE FROM made_thing WHERE false",
        "INSERT INTO made_thing (id, number) VALUES (1, 0) ON CONFLICT DO NOTHING",
        "UPDATE made_thing SET text = text, number = number",
        "UPDATE made_thing SET number = 0 + 0",
    ],
)
def test_a_statement_that_changes_no_row_leaves_nothing(
    Thing: Any, ledger: Ledger, statement: str
) -> None:
    Thing.objects.create(id=1, text="a")
    ledger.take()
    run(statement)
    assert ledger.rows() == []


def test_the_same_large_value_stored_in_another_way_is_no_change(
    Thing: Any, ledger: Ledger
) -> None:
    run("INSERT INTO made_thing (id, text, number) VALUES (1, repeat('x', 100000), 0)")
    run("ALTER TABLE made_thing ALTER COLUMN text SET STORAGE EXTERNAL")
    before = run("SELECT pg_column_size(text) FROM made_thing")
    ledger.take()
    run("UPDATE made_thing SET text = repeat('x', 100000)")
    assert run("SELECT pg_column_size(text) FROM made_thing") != before
    assert ledger.rows() == []


def test_an_update_of_an_undisclosed_column_says_that_nothing_disclosed_changed(
    Thing: Any, ledger: Ledger
) -> None:
    Thing.objects.create(id=1, text="a")
    ledger.take()
    Thing.objects.update(number=5)
    [change] = ledger.take()
    assert change["changed"] == []
    assert change["data"] == {"id": 1, "text": "a"}


def test_of_many_updated_rows_those_are_told_that_have_changed_anywhere(
    Thing: Any, ledger: Ledger
) -> None:
    Thing.objects.bulk_create([Thing(id=id, text="a", number=0) for id in (1, 2, 3)])
    ledger.take()
    # The first in a published column, the second in another one, the third not at all.
    run(
        "UPDATE made_thing SET text = CASE id WHEN 1 THEN 'b' ELSE text END,"
        " number = CASE id WHEN 2 THEN 1 ELSE number END"
    )
    told = sorted((change["pk"], change["changed"]) for change in ledger.take())
    assert told == [(1, ["text"]), (2, [])]


def test_a_change_of_the_primary_key_is_a_delete_and_an_insert(
    Thing: Any, ledger: Ledger
) -> None:
    Thing.objects.create(id=1, text="a")
    ledger.take()
    run("UPDATE made_thing SET id = 2")
    assert sorted(kinds(ledger.take())) == [("delete", 1, "a"), ("insert", 2, "a")]


def test_a_rolled_back_savepoint_leaves_nothing(Thing: Any, ledger: Ledger) -> None:
    with transaction.atomic():
        Thing.objects.create(id=1, text="kept")
        with transaction.atomic():
            Thing.objects.create(id=2, text="dropped")
            transaction.set_rollback(True)
    assert kinds(ledger.take()) == [("insert", 1, "kept")]


def test_a_users_before_trigger_decides_what_is_told(Thing: Any, ledger: Ledger) -> None:
    run(
        "CREATE FUNCTION made_shout() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.text := upper(NEW.text); RETURN NEW; END $$;"
        "CREATE TRIGGER made_shout BEFORE INSERT OR UPDATE ON made_thing"
        " FOR EACH ROW EXECUTE FUNCTION made_shout()"
    )
    Thing.objects.create(id=1, text="a")
    assert kinds(ledger.take()) == [("insert", 1, "A")]
    Thing.objects.update(text="a")
    assert ledger.rows() == []


def test_a_users_before_trigger_that_skips_rows_leaves_nothing(
    Thing: Any, ledger: Ledger
) -> None:
    run(
        "CREATE FUNCTION made_skip() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER made_skip BEFORE INSERT ON made_thing"
        " FOR EACH ROW EXECUTE FUNCTION made_skip()"
    )
    run("INSERT INTO made_thing (text, number) VALUES ('a', 0)")
    assert ledger.rows() == []


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
@pytest.mark.parametrize("rows", [1, 200])
def test_a_users_after_trigger_that_writes_the_same_row_does_not_leave_old_values_last(
    partitioned: bool, rows: int
) -> None:
    declared = NotifyTrigger(name="things", fields=["id", "text"], groups=["all", "t-{text}"])
    Thing = make(
        constraints=[] if partitioned else [declared], text=models.TextField(null=True)
    )
    if partitioned:
        run(
            "ALTER TABLE made_thing RENAME TO made_plain;"
            "CREATE TABLE made_thing (LIKE made_plain INCLUDING IDENTITY) PARTITION BY LIST (id);"
            "CREATE TABLE made_thing_1 PARTITION OF made_thing DEFAULT"
        )
        with connection.schema_editor() as editor:
            editor.add_constraint(Thing, declared)
    run(
        "CREATE FUNCTION made_again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.text = 'first' THEN UPDATE made_thing SET text = 'last' WHERE id = NEW.id; END IF;"
        " IF NEW.text = 'gone' THEN DELETE FROM made_thing WHERE id = NEW.id; END IF;"
        " RETURN NULL; END $$;"
        "CREATE TRIGGER a AFTER INSERT OR UPDATE ON made_thing"
        " FOR EACH ROW EXECUTE FUNCTION made_again()"
    )
    ledger = Ledger()
    run(f"INSERT INTO made_thing (text) SELECT 'first' FROM generate_series(1, {rows})")
    assert last(ledger) == dict.fromkeys(range(1, rows + 1), "last")
    run("UPDATE made_thing SET text = 'first'")
    assert last(ledger) == dict.fromkeys(range(1, rows + 1), "last")
    run("UPDATE made_thing SET text = 'gone' WHERE id = 1")
    assert last(ledger) == {}
    run("INSERT INTO made_thing (text) VALUES ('plain')")
    assert len(ledger.rows()) == 1


def last(ledger: Ledger) -> dict[int, str]:
    """What the group ``all`` shows after the new events."""
    shown: dict[int, str] = {}
    for change in ledger.take():
        if "all" in change["groups"]:
            shown[change["pk"]] = change["data"]["text"]
            if change["kind"] == "delete":
                del shown[change["pk"]]
    return shown


def test_a_deferred_trigger_that_writes_at_commit_is_seen(Thing: Any, ledger: Ledger) -> None:
    run(
        "CREATE TABLE made_late (id int);"
        "CREATE FUNCTION made_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO made_thing (id, text, number) VALUES (NEW.id, 'late', 0);"
        " RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER made_late AFTER INSERT ON made_late"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION made_late()"
    )
    run("INSERT INTO made_late VALUES (9)")
    assert ledger.rows() == []
    run("SET CONSTRAINTS ALL IMMEDIATE")
    assert kinds(ledger.take()) == [("insert", 9, "late")]


SETTINGS = {
    "search_path": "pg_catalog",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "plpgsql.variable_conflict": "use_variable",
    "plpgsql.extra_errors": "all",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "transform_null_equals": "on",
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "work_mem": "64kB",
    "lc_monetary": "C",
    "xmloption": "document",
}


@pytest.fixture
def at() -> Any:
    return make(
        "At",
        constraints=[
            NotifyTrigger(
                name="ats",
                fields=["id", "time", "day", "span", "raw", "real"],
                groups=["day-{day}"],
                condition=Q(day__gt="2020-01-02") & ~Q(text__startswith="it's 100%\\"),
            )
        ],
        time=models.DateTimeField(),
        day=models.DateField(),
        span=models.DurationField(),
        raw=models.BinaryField(),
        real=models.FloatField(),
        text=models.TextField(default=""),
    )


@pytest.mark.parametrize("name", [*SETTINGS, "all at once"])
def test_no_setting_of_the_session_changes_what_is_told(at: Any, name: str) -> None:
    for setting, value in SETTINGS.items():
        if name in {setting, "all at once"}:
            run("SELECT set_config(%s, %s, true)", setting, value)
    ledger = Ledger("public")
    run(
        "INSERT INTO public.made_at (time, day, span, raw, real, text)"
        " VALUES (timestamptz '2024-03-04T05:06:07Z', make_date(2024, 3, 4),"
        " make_interval(days => 1, hours => 2),"
        " decode('00ff', 'hex'), 0.1::float8 + 0.2::float8, '')"
    )
    run("UPDATE public.made_at SET real = 1.5")
    first, second = ledger.take()
    data = first["data"]
    del data["id"]
    assert data == {
        "time": "2024-03-04T05:06:07Z",
        "day": "2024-03-04",
        "span": "P1DT02H00M00S",
        "raw": "AP8=",
        "real": 0.30000000000000004,
    }
    assert first["groups"] == ["day-2024-03-04"]
    assert second["changed"] == ["real"]


def test_a_role_without_any_right_on_the_ledger_may_write(Thing: Any, ledger: Ledger) -> None:
    run(
        "CREATE ROLE made_writer;"
        "GRANT ALL ON made_thing, made_thing_id_seq TO made_writer;"
        "SET LOCAL ROLE made_writer"
    )
    Thing.objects.create(id=1, text="a")
    Thing.objects.update(text="b")
    Thing.objects.all().delete()
    run("RESET ROLE")
    assert [c["kind"] for c in ledger.take()] == ["insert", "update", "delete"]


def test_a_role_whose_schema_hides_ours_may_write(Thing: Any, ledger: Ledger) -> None:
    run(
        "CREATE SCHEMA evil; CREATE TABLE evil.django_pgnotify_ledger (a int);"
        "CREATE FUNCTION evil.pgnotify_ring() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;"
        "CREATE TEMP TABLE django_pgnotify_ledger (a int);"
        "SET LOCAL search_path = evil, pg_temp, public"
    )
    run("INSERT INTO made_thing (id, text, number) VALUES (1, 'a', 0)")
    run("SET LOCAL search_path = public; DROP TABLE pg_temp.django_pgnotify_ledger")
    assert kinds(ledger.take()) == [("insert", 1, "a")]


def test_no_other_role_can_forge_events_with_the_function(Thing: Any, ledger: Ledger) -> None:
    run(
        "CREATE ROLE made_forger; GRANT CREATE ON SCHEMA public TO made_forger;"
        "SET LOCAL ROLE made_forger; CREATE TABLE made_own (id bigint, text text)"
    )
    attach = (
        "CREATE TRIGGER t AFTER INSERT ON made_own REFERENCING NEW TABLE AS pgnotify_new"
        " FOR EACH STATEMENT EXECUTE FUNCTION pgnotify_things_ins()"
    )
    with pytest.raises(Exception, match="permission denied for function"), transaction.atomic():
        run(attach)
    with pytest.raises(Exception, match="permission denied"), transaction.atomic():
        run("SELECT pgnotify_append('things', NULL, '[]')")
    run("RESET ROLE")
    run(attach)
    run("INSERT INTO made_own VALUES (1, 'forged')")
    assert ledger.rows() == []


@pytest.mark.parametrize(
    "tables", ["django_pgnotify_ledger, django_pgnotify_trigger", "django_pgnotify_ledger"]
)
def test_without_the_ledger_a_write_goes_on(Thing: Any, tables: str) -> None:
    run(f"DROP TABLE {tables}")
    Thing.objects.create(text="a")
    Thing.objects.bulk_create([Thing(text="b")] * 100)
    Thing.objects.update(text="c")
    Thing.objects.all().delete()


@pytest.mark.parametrize(
    "table", ["django_pgnotify_ledger", "django_pgnotify_trigger", "django_pgnotify_full"]
)
def test_a_warm_session_survives_the_loss_of_our_tables(
    Thing: Any, ledger: Ledger, table: str
) -> None:
    Thing.objects.create(text="a")
    Thing.objects.update(text="b")
    run(f"ALTER TABLE {table} RENAME TO made_away")
    Thing.objects.create(text="c")
    Thing.objects.update(text="d")
    Thing.objects.all().delete()
    run(f"ALTER TABLE made_away RENAME TO {table}")
    assert [c["kind"] for c in ledger.take()] == ["insert", "update"]
    Thing.objects.create(text="e")
    assert [c["kind"] for c in ledger.take()] == ["insert"]


def test_without_the_registry_a_write_goes_on(Thing: Any, ledger: Ledger) -> None:
    run("DROP TABLE django_pgnotify_trigger")
    Thing.objects.create(text="a")
    assert ledger.rows() == []


def test_a_function_whose_owner_may_not_read_the_registry_warns_and_lets_the_write_go_on(
    Thing: Any, ledger: Ledger
) -> None:
    run("CREATE ROLE made_owner; ALTER FUNCTION pgnotify_things_ins() OWNER TO made_owner")
    notices = []
    connection.connection.add_notice_handler(
        lambda notice: notices.append(notice.message_primary)
    )
    Thing.objects.create(text="a")
    assert ledger.rows() == []
    assert "permission denied" in notices[0]


# The quick look at a statement of one row, and what it must leave to the long way


def test_a_function_whose_owner_may_only_insert_tells_all_the_same(
    Thing: Any, ledger: Ledger
) -> None:
    run(
        "CREATE ROLE made_owner; ALTER FUNCTION pgnotify_things_ins() OWNER TO made_owner;"
        "GRANT USAGE ON SCHEMA public TO made_owner;"
        "GRANT INSERT ON django_pgnotify_ledger TO made_owner;"
        "GRANT SELECT ON django_pgnotify_full TO made_owner"
    )
    Thing.objects.create(text="a")
    assert kinds(ledger.take()) == [("insert", 1, "a")]


def test_a_cast_that_says_that_there_is_no_data_does_not_silence_the_event(
    Thing: Any, ledger: Ledger
) -> None:
    run(
        "CREATE TYPE made_mood AS ENUM ('good');"
        "CREATE FUNCTION made_json(made_mood) RETURNS json LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE no_data_found; END $$;"
        "CREATE CAST (made_mood AS json) WITH FUNCTION made_json(made_mood);"
        "ALTER TABLE made_thing ALTER text TYPE made_mood USING NULL"
    )
    for statement in (
        "INSERT INTO made_thing (text, number) VALUES ('good', 0)",
        "UPDATE made_thing SET number = 1",
        "DELETE FROM made_thing",
    ):
        run(statement)
    told = ledger.take()
    assert [(c["kind"], c["truncated"]) for c in told] == [
        ("insert", True),
        ("update", True),
        ("delete", True),
    ]


def test_a_session_that_is_warned_of_second_rows_is_not_warned_of_ours(
    Thing: Any, ledger: Ledger
) -> None:
    notices: list[Any] = []
    connection.connection.add_notice_handler(notices.append)
    run("SET LOCAL plpgsql.extra_warnings = 'all'; SET LOCAL plpgsql.extra_errors = 'all'")
    Thing.objects.bulk_create([Thing(text="a"), Thing(text="b")])
    Thing.objects.update(text="c")
    Thing.objects.all().delete()
    assert [c["kind"] for c in ledger.take()] == ["insert"] * 2 + ["update"] * 2 + [
        "delete"
    ] * 2
    assert notices == []


def test_a_column_of_the_name_of_a_variable_hides_nothing(ledger: Ledger) -> None:
    columns = {
        name: models.IntegerField(null=True)
        for name in ("tg_relid", "tg_op", "_pgn_slow", "_pgn_changes")
    }
    trigger = NotifyTrigger(name="things", fields=["id", "tg_op"])
    Odd = make("Odd", constraints=[trigger], **columns)
    Odd.objects.create(tg_relid=1, tg_op=2)
    Odd.objects.update(tg_op=3)
    run(
        "CREATE TABLE made_own (LIKE made_odd);"
        "CREATE TRIGGER t AFTER INSERT ON made_own REFERENCING NEW TABLE AS pgnotify_new"
        " FOR EACH STATEMENT EXECUTE FUNCTION pgnotify_things_ins();"
        "INSERT INTO made_own (id, tg_op) VALUES (1, 4)"
    )
    assert [(c["kind"], c["data"]["tg_op"]) for c in ledger.take()] == [
        ("insert", 2),
        ("update", 3),
    ]


@pytest.mark.parametrize("rows", [1, 2])
def test_a_key_that_is_null_in_part_is_no_pair(ledger: Ledger, rows: int) -> None:
    """A constraint that somebody dropped; NULL is not equal to itself."""
    trigger = NotifyTrigger(name="things", fields=["number"])
    make(
        "Pair",
        constraints=[trigger],
        pk=models.CompositePrimaryKey("a", "b"),
        a=models.IntegerField(),
        b=models.IntegerField(),
        number=models.IntegerField(default=0),
    )
    run(
        "ALTER TABLE made_pair DROP CONSTRAINT made_pair_pkey;"
        "ALTER TABLE made_pair ALTER b DROP NOT NULL"
    )
    for a in range(rows):
        run(f"INSERT INTO made_pair (a, b, number) VALUES ({a}, NULL, 0)")
    ledger.take()
    run("UPDATE made_pair SET number = 1")
    assert sorted(c["kind"] for c in ledger.take()) == ["delete"] * rows + ["insert"] * rows


@pytest.mark.parametrize("value", ["text || 'c'", "text"])
def test_a_bulk_update_with_a_plan_for_one_row_is_not_quadratic(
    Thing: Any, ledger: Ledger, value: str
) -> None:
    """Each row with each would be 400 million pairs: minutes."""
    rows = 20_000
    run(f"INSERT INTO made_thing (text, number) SELECT 'a', 0 FROM generate_series(1, {rows})")
    run("SET LOCAL plan_cache_mode = force_generic_plan")
    for _ in range(6):
        run("UPDATE made_thing SET text = text || 'b' WHERE id = 1")
    ledger.take()
    run("SET LOCAL statement_timeout = '20s'")
    run(f"UPDATE made_thing SET text = {value}")
    assert len(ledger.take()) == (0 if value == "text" else rows)


# Partitioned tables


@pytest.fixture
def parts() -> str:
    run(
        "CREATE TABLE made_part (id bigint NOT NULL, text text, day int NOT NULL, gone int,"
        " PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "ALTER TABLE made_part DROP COLUMN gone;"
        "CREATE TABLE made_part_1 PARTITION OF made_part FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE made_part_2 (day int NOT NULL, id bigint NOT NULL, text text)"
        " PARTITION BY RANGE (day);"
        "CREATE TABLE made_part_3 PARTITION OF made_part_2 FOR VALUES FROM (10) TO (20);"
        "ALTER TABLE made_part ATTACH PARTITION made_part_2 FOR VALUES FROM (10) TO (20)"
    )
    trigger = NotifyTrigger(
        name="parts", fields=["id", "text"], groups=["parts", "day-{day}"], on=ALL
    )
    model = make(
        "Part",
        constraints=[],
        create=False,
        id=models.BigIntegerField(primary_key=True),
        text=models.TextField(),
        day=models.IntegerField(),
    )
    with connection.schema_editor() as editor:
        editor.add_constraint(model, trigger)
    return "made_part"


@pytest.mark.parametrize("table", ["made_part", "made_part_2", "made_part_3"])
def test_writes_through_any_level_of_partitions_are_seen(parts: str, table: str) -> None:
    ledger = Ledger()
    run(f"INSERT INTO {table} (id, text, day) VALUES (1, 'a', 15)")
    run(f"UPDATE {table} SET text = 'b'")
    run(f"DELETE FROM {table}")
    changes = ledger.take()
    assert kinds(changes) == [("insert", 1, "a"), ("update", 1, "b"), ("delete", 1, "b")]
    assert all(change["groups"] == ["day-15", "parts"] for change in map(_sorted, changes))


def _sorted(change: dict[str, Any]) -> dict[str, Any]:
    return {**change, "groups": sorted(change["groups"])}


def test_an_update_across_partitions_ends_with_the_right_data(parts: str) -> None:
    run("INSERT INTO made_part (id, text, day) VALUES (1, 'a', 5)")
    ledger = Ledger()
    run("UPDATE made_part SET day = 15, text = 'b'")
    changes = [c for c in ledger.take() if "parts" in c["groups"]]
    assert kinds(changes)[-1] in {("update", 1, "b"), ("insert", 1, "b")}
    assert {c["kind"] for c in changes} in ({"update"}, {"delete", "insert"})


def test_a_bulk_write_into_partitions_is_seen(parts: str) -> None:
    ledger = Ledger()
    run("INSERT INTO made_part SELECT n, 'x', n % 20 FROM generate_series(1, 500) n")
    assert len(ledger.take()) == 500


def test_a_partition_attached_later_is_seen(parts: str) -> None:
    run("CREATE TABLE made_part_4 PARTITION OF made_part FOR VALUES FROM (20) TO (30)")
    ledger = Ledger()
    run("INSERT INTO made_part_4 (id, text, day) VALUES (1, 'a', 25)")
    assert kinds(ledger.take()) == [("insert", 1, "a")]


def test_truncate_of_a_partitioned_table_is_told(parts: str) -> None:
    ledger = Ledger()
    run("TRUNCATE made_part")
    assert [c["kind"] for c in ledger.take()] == ["truncate"]


def test_a_partition_in_another_schema_is_in_the_groups_of_the_declared_one() -> None:
    run("CREATE TABLE made_part (id bigint PRIMARY KEY) PARTITION BY RANGE (id)")
    run("CREATE SCHEMA attic; CREATE TABLE attic.p PARTITION OF made_part DEFAULT")
    model = make(
        "Part", constraints=[], create=False, id=models.BigIntegerField(primary_key=True)
    )
    with connection.schema_editor() as editor:
        editor.add_constraint(model, NotifyTrigger(name="parts", groups=["{schema}-parts"]))
    ledger = Ledger()
    run("INSERT INTO attic.p VALUES (1)")
    assert [c["groups"] for c in ledger.take()] == [["public-parts"]]


DECLARATIONS: dict[str, dict[str, Any]] = {
    "plain": {"fields": ["id", "text", "number"]},
    "key_alone": {},
    "one_group": {"fields": ["text"], "groups": ["number-{number}"]},
    "many_groups": {
        "fields": ["text"],
        "groups": ["all", "{schema}-{number}", "text-{text}", "{id}-{number}"],
    },
    "condition": {"fields": ["text"], "condition": Q(number__gte=2)},
    "condition_and_group": {
        "fields": ["number"],
        "groups": ["text-{text}"],
        "condition": Q(number__lt=3) | Q(text__isnull=True),
    },
    "changed": {"fields": ["id", "text"], "changed": ["number"]},
    "inserts": {"fields": ["text"], "groups": ["number-{number}"], "on": ["insert"]},
    "updates": {"fields": ["text"], "groups": ["number-{number}"], "on": ["update"]},
    "deletes": {"fields": ["text"], "condition": Q(number=1), "on": ["delete"]},
}
WRITES = [
    "INSERT INTO {} (id, text, number) VALUES (1, 'a', 1)",
    "INSERT INTO {} (id, text, number) VALUES (2, NULL, 2)",
    "INSERT INTO {} (id, text, number) VALUES (3, 'quo\"ted \\\\ & ünï', NULL)",
    "UPDATE {} SET text = text",
    "UPDATE {} SET text = 'b' WHERE id = 1",
    "UPDATE {} SET number = 2 WHERE id = 1",
    "UPDATE {} SET number = NULL, text = NULL WHERE id = 1",
    "UPDATE {} SET number = coalesce(number, 0) + 1",
    "UPDATE {} SET id = id + 3 WHERE id = 1",
    "UPDATE {} SET id = 5, text = 'c', number = 5 WHERE id = 4",
    "INSERT INTO {} SELECT n, 'many', n % 4 FROM generate_series(20, 40) AS n",
    "UPDATE {} SET number = number + 1, text = 'more' WHERE id > 30",
    "DELETE FROM {} WHERE id = 5",
    "DELETE FROM {}",
]


@pytest.mark.parametrize("declaration", DECLARATIONS.values(), ids=DECLARATIONS)
def test_a_partitioned_table_tells_what_a_plain_one_does(declaration: dict[str, Any]) -> None:
    """The first row of a transaction goes another way than those that follow it."""
    run(
        "CREATE TABLE made_plain (id bigint PRIMARY KEY, text text, number int);"
        "CREATE TABLE made_part (LIKE made_plain INCLUDING ALL) PARTITION BY RANGE (id);"
        "CREATE TABLE made_low (number int, text text, id bigint NOT NULL);"
        "ALTER TABLE made_part ATTACH PARTITION made_low FOR VALUES FROM (-9) TO (10);"
        "CREATE TABLE made_high PARTITION OF made_part FOR VALUES FROM (10) TO (99)"
    )
    for table in ("plain", "part"):
        model = make(
            table.title(),
            constraints=[],
            create=False,
            id=models.BigIntegerField(primary_key=True),
            text=models.TextField(null=True),
            number=models.IntegerField(null=True),
        )
        groups = declaration.get("groups", ["all"])
        with connection.schema_editor() as editor:
            trigger = NotifyTrigger(**{**declaration, "name": table, "groups": groups})
            editor.add_constraint(model, trigger)
    ledger = Ledger()
    for write in WRITES:
        run(write.format("made_plain"))
        plain = ledger.take()
        run(write.format("made_part"))
        assert in_order(ledger.take()) == in_order(plain), write


def in_order(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of a row in their order; of several rows PostgreSQL promises none."""
    return sorted(map(_sorted, changes), key=lambda change: int(change["pk"]))


def test_a_partition_tells_of_values_that_are_too_large(parts: str) -> None:
    ledger = Ledger()
    for day, size in enumerate([1, 17 * 2**20, 2**20, 17 * 2**20]):
        run("INSERT INTO made_part (id, text, day) VALUES (%s, repeat('x', %s), 0)", day, size)
    assert [change.get("truncated", False) for change in ledger.take()] == [
        False,
        True,
        False,
        True,
    ]


def test_a_full_ledger_gets_no_events_of_partitions(parts: str) -> None:
    ledger = Ledger()
    run("INSERT INTO made_part (id, text, day) VALUES (1, 'a', 5)")
    run("INSERT INTO django_pgnotify_full DEFAULT VALUES")
    run("INSERT INTO made_part (id, text, day) VALUES (2, 'b', 5), (3, 'c', 5)")
    assert kinds(ledger.take()) == [("insert", 1, "a")]


@pytest.mark.parametrize("table", ["ledger", "full", "trigger"])
def test_a_partition_is_written_without_the_tables(parts: str, table: str) -> None:
    run("INSERT INTO made_part (id, text, day) VALUES (1, 'a', 5)")
    run(f"DROP TABLE django_pgnotify_{table} CASCADE")
    run("INSERT INTO made_part (id, text, day) VALUES (2, 'b', 5)")
    assert run("SELECT count(*) FROM made_part") == [(2,)]


def test_a_partition_that_was_detached_is_not_seen(parts: str) -> None:
    run("INSERT INTO made_part (id, text, day) VALUES (1, 'a', 15), (2, 'b', 15)")
    run("ALTER TABLE made_part DETACH PARTITION made_part_2")
    ledger = Ledger()
    run("INSERT INTO made_part_3 (id, text, day) VALUES (3, 'c', 15)")
    assert ledger.take() == []


# Transactions of their own


@pytest.fixture
def committed() -> Iterator[Any]:
    with_table = thing()
    yield with_table
    drop(with_table)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_every_isolation_level_is_seen(committed: Any, isolation: str) -> None:
    ledger = Ledger()
    with transaction.atomic():
        run(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        committed.objects.create(id=1, text="a")
        committed.objects.update(text="b")
    assert kinds(ledger.take()) == [("insert", 1, "a"), ("update", 1, "b")]


@pytest.mark.django_db(transaction=True)
def test_two_phase_commit_works_with_the_bell_off(committed: Any) -> None:
    ledger = Ledger()
    run(
        "BEGIN; SET LOCAL django_pgnotify.bell = off;"
        "INSERT INTO made_thing (id, text, number) VALUES (1, 'a', 0);"
        "PREPARE TRANSACTION 'made_one'"
    )
    assert ledger.rows() == []
    run("COMMIT PREPARED 'made_one'")
    assert kinds(ledger.take()) == [("insert", 1, "a")]


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_rolls_back_leaves_nothing(committed: Any) -> None:
    ledger = Ledger()
    with transaction.atomic():
        committed.objects.create(text="a")
        transaction.set_rollback(True)
    assert ledger.rows() == []


@pytest.mark.django_db(transaction=True)
def test_small_writes_take_no_subtransaction_id(committed: Any) -> None:
    with transaction.atomic():
        committed.objects.create(id=1, text="a")
        committed.objects.update(text="b")
        [(top, newest)] = run(
            "SELECT pg_current_xact_id()::text,"
            " (SELECT max(xmin::text::bigint)::text FROM made_thing)"
        )
        [(ledger_row,)] = run(
            "SELECT xmin::text FROM django_pgnotify_ledger ORDER BY id DESC LIMIT 1"
        )
    assert int(top) % 2**32 == int(newest) == int(ledger_row)
