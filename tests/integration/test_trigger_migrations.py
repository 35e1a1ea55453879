"""Stock migrations install, alter, rename and reverse triggers, and no write fails meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
import pytest
from django.apps import apps as global_apps
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connection, connections, migrations, models, transaction
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import Q
from django.db.utils import DatabaseError

from django_pgnotify import NotifyTrigger
from django_pgnotify.operations import AddNotifyTrigger, RemoveNotifyTrigger
from django_pgnotify.publish.registry import drift, refresh
from tests.tables import Ledger, drop, make, run

pytestmark = pytest.mark.django_db


class History:
    """The migrations of the app ``made``, found by Django's autodetector and run one by one."""

    def __init__(self) -> None:
        self.state = ProjectState()
        self.done: list[tuple[migrations.Migration, ProjectState]] = []

    def become(self, *model_states: ModelState) -> list[str]:
        """Migrate to these models; give the names of the operations."""
        wanted = ProjectState()
        for model_state in model_states:
            wanted.add_model(model_state.clone())
        detector = MigrationAutodetector(
            self.state,
            wanted,
            MigrationQuestioner({"ask_rename": True, "ask_rename_model": True}),
        )
        found = detector._detect_changes()
        names = []
        for migration in found.get("made", []):
            self.run(*migration.operations)
            names += [type(operation).__name__ for operation in migration.operations]
        return names

    def run(self, *operations: migrations.operations.base.Operation) -> None:
        """Apply one migration, with writes before, between and after its operations."""
        migration = migrations.Migration("made_migration", "made")
        migration.operations = list(operations)
        self.done.append((migration, self.state.clone()))
        with connection.schema_editor() as editor:
            for operation in operations:
                before, self.state = self.state, self.state.clone()
                operation.state_forwards("made", self.state)
                operation.database_forwards("made", editor, before, self.state)
                self.write()
        self.write()
        refresh(connection, self.state.apps)
        self.write()

    def back(self) -> None:
        """Reverse the last migration."""
        migration, self.state = self.done.pop()
        with connection.schema_editor() as editor:
            migration.unapply(self.state.clone(), editor)
        self.write()
        refresh(connection, self.state.apps)
        self.write()

    def write(self) -> None:
        """All kinds of writes, on the tables as they are at this moment."""
        for model in self.state.apps.get_models():
            with connection.cursor() as cursor:
                there = model._meta.db_table in connection.introspection.table_names(cursor)
            if there:
                row = model.objects.create()
                model.objects.bulk_create([model() for _ in range(60)])
                model.objects.filter(pk=row.pk).update(**dict.fromkeys(nullable(model)))
                model.objects.all().delete()

    @property
    def model(self) -> Any:
        return next(iter(self.state.apps.get_models()))

    def told(self) -> list[dict[str, Any]]:
        """What one insert tells now."""
        ledger = Ledger()
        self.model.objects.create()
        return ledger.take()


def apps_of(model: Any) -> Any:
    """The app registry of a migration's state that holds just this model."""
    state = ProjectState()
    state.add_model(ModelState.from_model(model))
    return state.apps


def nullable(model: Any) -> list[str]:
    return [field.name for field in model._meta.concrete_fields if field.null]


def thing(
    *triggers: NotifyTrigger, name: str = "Thing", table: str | None = None, **fields: Any
) -> ModelState:
    fields = {"id": models.BigAutoField(primary_key=True), **fields}
    options: dict[str, Any] = {"constraints": list(triggers)}
    if table:
        options["db_table"] = table
    return ModelState("made", name, [(k, copy.deepcopy(v)) for k, v in fields.items()], options)


TEXT = models.CharField(max_length=20, null=True, default="a")
NUMBER = models.IntegerField(null=True, default=1)


def trigger(**kwargs: Any) -> NotifyTrigger:
    return NotifyTrigger(**{"name": "things", "fields": ["id", "text"], **kwargs})


def test_a_new_model_with_a_trigger_is_created_and_reversed() -> None:
    history = History()
    assert history.become(thing(trigger(), text=TEXT)) in (
        ["CreateModel"],
        ["CreateModel", "AddConstraint"],
    )
    [change] = history.told()
    assert change["data"]["text"] == "a"
    history.back()
    assert run("SELECT FROM pg_proc WHERE proname ~ '^pgnotify_things'") == []
    assert run("SELECT FROM django_pgnotify_trigger WHERE name = 'things'") == []


def test_a_trigger_is_added_to_a_model_and_taken_away() -> None:
    history = History()
    history.become(thing(text=TEXT))
    assert history.become(thing(trigger(), text=TEXT)) == ["AddConstraint"]
    assert len(history.told()) == 1
    assert history.become(thing(text=TEXT)) == ["RemoveConstraint"]
    assert history.told() == []
    history.back()
    assert len(history.told()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"fields": ["number"]},
        {"groups": ["n-{number}"]},
        {"on": ["insert", "truncate"]},
        {"changed": ["number"]},
        {"condition": Q(number=1)},
        {"context": ["user"]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_each_argument_is_altered_and_reversed(arguments: dict[str, Any]) -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT, number=NUMBER))
    first = definition()
    assert history.become(thing(trigger(**arguments), text=TEXT, number=NUMBER)) == [
        "RemoveConstraint",
        "AddConstraint",
    ]
    assert definition() != first
    assert drift(connection, history.state.apps) == []
    history.back()
    assert definition() == first


def definition() -> list[tuple[Any, ...]]:
    return run(
        "SELECT proname, prosrc, tgname FROM pg_proc JOIN pg_trigger ON tgfoid = pg_proc.oid"
        " WHERE proname ~ '^pgnotify_things' ORDER BY tgname"
    )


def test_no_change_makes_no_migration() -> None:
    history = History()
    declared = trigger(groups=["n-{number}"], condition=Q(number__gt=0), context=["user"])
    history.become(thing(declared, text=TEXT, number=NUMBER))
    assert history.become(thing(declared.clone(), text=TEXT, number=NUMBER)) == []


def test_a_declared_field_is_renamed() -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT))
    history.become(thing(trigger(fields=["id", "words"]), words=TEXT))
    [change] = history.told()
    assert change["data"] == {"id": change["pk"], "words": "a"}
    history.back()
    [change] = history.told()
    assert change["data"] == {"id": change["pk"], "text": "a"}


def test_a_field_that_only_a_group_names_is_renamed() -> None:
    history = History()
    history.become(thing(trigger(groups=["n-{number}"]), text=TEXT, number=NUMBER))
    history.become(thing(trigger(groups=["n-{count}"]), text=TEXT, count=NUMBER))
    assert history.told()[0]["groups"] == ["n-1"]


def test_the_undeclared_key_is_renamed() -> None:
    history = History()
    declared = NotifyTrigger(name="things")
    history.become(thing(declared, text=TEXT))
    history.run(migrations.RenameField("Thing", "id", "code"))
    [change] = history.told()
    assert change["data"] == {"code": change["pk"]}


def test_a_changed_column_name_is_followed() -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT))
    column = models.CharField(max_length=20, null=True, default="a", db_column="All 'of' It")
    assert history.become(thing(trigger(), text=column)) == ["AlterField"]
    assert history.told()[0]["data"]["text"] == "a"
    history.back()
    assert history.told()[0]["data"]["text"] == "a"


@pytest.mark.parametrize(
    "field",
    [
        models.TextField(null=True, default="a"),
        models.CharField(max_length=5, null=True, default="a"),
        models.CharField(max_length=20, null=True, default="a", db_index=True),
    ],
)
def test_a_field_is_retyped(field: Any) -> None:
    history = History()
    history.become(thing(trigger(groups=["t-{text}"], changed=["text"]), text=TEXT))
    history.become(thing(trigger(groups=["t-{text}"], changed=["text"]), text=field))
    [change] = history.told()
    assert (change["data"]["text"], change["groups"]) == ("a", ["t-a"])


def test_a_key_is_retyped() -> None:
    history = History()
    declared = NotifyTrigger(name="things")
    history.become(thing(declared, id=models.AutoField(primary_key=True), text=TEXT))
    history.become(thing(declared, id=models.BigAutoField(primary_key=True), text=TEXT))
    assert history.told()[0]["kind"] == "insert"


def test_a_declared_field_is_removed() -> None:
    history = History()
    history.become(thing(trigger(fields=["id", "text", "number"]), text=TEXT, number=NUMBER))
    history.become(thing(trigger(), text=TEXT))
    assert history.told()[0]["data"]["text"] == "a"
    history.back()
    assert history.told()[0]["data"]["number"] == 1


def test_an_undeclared_field_is_removed() -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT, number=NUMBER))
    history.become(thing(trigger(), text=TEXT))
    assert history.told()[0]["data"]["text"] == "a"


def test_a_model_is_renamed() -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT))
    assert history.become(thing(trigger(), name="Item", text=TEXT)) == ["RenameModel"]
    ledger = Ledger()
    history.model.objects.create()
    [row] = ledger.rows()
    assert row["model"] == "made.item"
    assert run("SELECT \"table\" FROM django_pgnotify_trigger WHERE name = 'things'") == [
        ("made_item",)
    ]
    history.back()
    assert len(history.told()) == 1


def test_a_table_is_renamed() -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT))
    assert history.become(thing(trigger(), table="Odd Ta'ble", text=TEXT)) == [
        "AlterModelTable"
    ]
    assert len(history.told()) == 1
    assert history.become(thing(trigger(fields=["id"]), table="Odd Ta'ble", text=TEXT))
    assert len(history.told()) == 1


def test_a_trigger_is_renamed() -> None:
    history = History()
    history.become(thing(trigger(), text=TEXT))
    history.become(thing(trigger(name="items"), text=TEXT))
    ledger = Ledger()
    history.model.objects.create()
    assert [row["topic"] for row in ledger.rows()] == ["items"]
    assert run("SELECT FROM pg_proc WHERE proname ~ '^pgnotify_things'") == []


def test_the_longest_name_fits_and_two_that_differ_at_its_end_do_not_meet() -> None:
    history = History()
    names = ["n" * 49 + end for end in "ab"]
    declared = [trigger(name=name, on=["insert", "truncate"]) for name in names]
    history.become(thing(*declared, text=TEXT))
    ledger = Ledger()
    history.model.objects.create()
    run("TRUNCATE made_thing")
    assert [row["topic"] for row in ledger.rows()] == names * 2


def test_everything_in_one_migration_works() -> None:
    history = History()
    history.run(
        migrations.CreateModel(
            "Thing",
            [("id", models.BigAutoField(primary_key=True)), ("text", copy.deepcopy(TEXT))],
            options={"constraints": [trigger()]},
        ),
        migrations.RenameField("Thing", "text", "words"),
        migrations.RenameModel("Thing", "Item"),
        migrations.AlterModelTable("Item", "made_other"),
        migrations.AddField("Item", "number", copy.deepcopy(NUMBER)),
        migrations.RemoveConstraint("Item", "things"),
        migrations.AddConstraint("Item", trigger(fields=["words", "number"])),
    )
    assert history.told()[0]["data"] == {"words": "a", "number": 1}


def test_a_trigger_that_its_own_migration_takes_away_never_stands() -> None:
    """As squashing makes them, where a RunPython stands between the two."""
    history = History()
    history.run(
        migrations.CreateModel(
            "Thing",
            [("id", models.BigAutoField(primary_key=True)), ("text", copy.deepcopy(TEXT))],
            options={"constraints": [trigger(), trigger(name="others")]},
        ),
        migrations.RemoveConstraint("Thing", "things"),
    )
    standing = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'made_thing'::regclass ORDER BY 1"
    assert [name for (name,) in run(standing)] == [
        f"others_{operation}" for operation in ("delete", "insert", "update")
    ]


def test_mixed_case_and_quoted_names_work_through_all_operations() -> None:
    history = History()
    odd = models.CharField(max_length=20, null=True, default="a", db_column="Te xt 'a'")
    table = "MixedCase 'a'"
    declared = trigger(
        name="Things-1.x",
        groups=["t-{text}"],
        changed=["text"],
        condition=Q(text__startswith="a"),
    )
    history.become(thing(declared, table=table, text=odd))
    [change] = history.told()
    assert (change["data"]["text"], change["groups"]) == ("a", ["t-a"])
    history.become(thing(table=table, text=odd))
    assert history.told() == []


# The library's own side


def test_an_older_version_is_brought_up_to_date_without_migrations() -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    current = definition()
    apps = apps_of(Thing)
    run(
        "UPDATE django_pgnotify_trigger SET version = 'old' WHERE name = 'things';"
        "CREATE OR REPLACE FUNCTION pgnotify_things_ins() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$"
    )
    assert [item.problem for item in drift(connection, apps)] == ["outdated"]
    refresh(connection, apps)
    assert definition() == current
    assert drift(connection, apps) == []


def test_one_function_for_all_operations_gives_way_to_one_for_each() -> None:
    """As the first version installed them."""
    Thing = make(constraints=[trigger()], text=TEXT)
    current = definition()
    attach = (
        "CREATE OR REPLACE TRIGGER things_{0} AFTER {0} ON made_thing"
        " EXECUTE FUNCTION pgnotify_things();"
    )
    run(
        "ALTER FUNCTION pgnotify_things_ins() RENAME TO pgnotify_things;"
        + "".join(map(attach.format, ("insert", "update", "delete")))
        + "DROP FUNCTION pgnotify_things_upd(), pgnotify_things_del();"
        "UPDATE django_pgnotify_trigger SET version = 'old', function = 'public.pgnotify_things()'"
    )
    assert [item.problem for item in drift(connection, apps_of(Thing))] == ["outdated"]
    refresh(connection, apps_of(Thing))
    assert definition() == current
    assert drift(connection, apps_of(Thing)) == []
    assert run("SELECT FROM pg_proc WHERE proname = 'pgnotify_things'") == []


def test_a_trigger_that_somebody_dropped_or_disabled_is_noticed() -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    apps = apps_of(Thing)
    run("ALTER TABLE made_thing DISABLE TRIGGER things_update")
    assert [item.problem for item in drift(connection, apps)] == ["disabled"]
    run("DROP TRIGGER things_update ON made_thing")
    assert [item.problem for item in drift(connection, apps)] == ["missing"]
    refresh(connection, apps)
    assert drift(connection, apps) == []


def test_a_trigger_that_speaks_in_replication_only_counts_as_disabled() -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    run("ALTER TABLE made_thing ENABLE REPLICA TRIGGER things_insert")
    assert [item.problem for item in drift(connection, apps_of(Thing))] == ["disabled"]


def test_an_upgrade_leaves_triggers_as_they_were_enabled() -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    run("ALTER TABLE made_thing ENABLE ALWAYS TRIGGER things_insert")
    run("ALTER TABLE made_thing DISABLE TRIGGER things_update")
    run("UPDATE django_pgnotify_trigger SET version = 'old' WHERE name = 'things'")
    refresh(connection, apps_of(Thing))
    assert run(
        "SELECT tgname, tgenabled::text FROM pg_trigger"
        " WHERE tgrelid = 'made_thing'::regclass ORDER BY 1"
    ) == [("things_delete", "O"), ("things_insert", "A"), ("things_update", "D")]


def test_somebody_elses_trigger_of_the_same_name_is_neither_replaced_nor_dropped() -> None:
    Thing = make(constraints=[], text=TEXT)
    run(
        "CREATE FUNCTION made_audit() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$"
    )
    theirs = "CREATE TRIGGER things_{0} AFTER {0} ON made_thing EXECUTE FUNCTION made_audit()"
    run(theirs.format("insert"))
    with (
        pytest.raises(DatabaseError, match=r"triggers of its own.*things_insert"),
        transaction.atomic(),
        connection.schema_editor() as editor,
    ):
        editor.add_constraint(Thing, trigger())
    run("DROP TRIGGER things_insert ON made_thing")
    run(theirs.format("truncate"))
    with connection.schema_editor() as editor:
        editor.add_constraint(Thing, trigger())
        editor.remove_constraint(Thing, trigger())
    assert run("SELECT tgname FROM pg_trigger WHERE tgrelid = 'made_thing'::regclass") == [
        ("things_truncate",)
    ]


def test_topics_that_look_like_functions_of_each_other_stay_apart() -> None:
    first, second = (
        NotifyTrigger(name=name, fields=["id"], on=["insert"])
        for name in ("things", "things_ins")
    )
    Thing = make(constraints=[first, second], text=TEXT)
    # As the second one was installed when a topic had one function.
    run(
        "CREATE OR REPLACE TRIGGER things_ins_insert AFTER INSERT ON made_thing"
        " REFERENCING NEW TABLE AS pgnotify_new EXECUTE FUNCTION pgnotify_things_ins();"
        "DROP FUNCTION pgnotify_things_ins_ins();"
        "UPDATE django_pgnotify_trigger SET version = 'old'"
    )
    with connection.schema_editor() as editor:
        editor.remove_constraint(Thing, first)
    refresh(connection, apps_of(Thing))
    ledger = Ledger()
    Thing.objects.create()
    assert sorted(row["topic"] for row in ledger.rows()) == ["things", "things_ins"]
    assert drift(connection, apps_of(Thing)) == []


def test_refreshing_twice_writes_nothing(django_assert_max_num_queries: Any) -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    refresh(connection, apps_of(Thing))
    before = run("SELECT xmin::text FROM django_pgnotify_trigger WHERE name = 'things'")
    with django_assert_max_num_queries(12):
        refresh(connection, apps_of(Thing))
    assert run("SELECT xmin::text FROM django_pgnotify_trigger WHERE name = 'things'") == before


def test_dropping_the_table_orphans_the_function_until_the_next_migrate() -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    run("DROP TABLE made_thing")
    refresh(connection, apps_of(Thing))
    assert run("SELECT FROM pg_proc WHERE proname ~ '^pgnotify_things'") == []
    assert run("SELECT FROM django_pgnotify_trigger WHERE name = 'things'") == []


def test_a_table_of_another_oid_publishes_as_after_a_restore() -> None:
    Thing = make(constraints=[trigger()], text=TEXT)
    run("UPDATE django_pgnotify_trigger SET relation = 1 WHERE name = 'things'")
    ledger = Ledger()
    Thing.objects.create()
    assert len(ledger.rows()) == 1
    refresh(connection, apps_of(Thing))
    assert run(
        "SELECT relation = 'made_thing'::regclass FROM django_pgnotify_trigger"
        " WHERE name = 'things'"
    ) == [(True,)]


def test_a_table_moved_to_another_schema_goes_on_and_leaves_no_second_entry() -> None:
    Thing = make(constraints=[trigger(groups=["all"])], text=TEXT)
    run(
        "CREATE SCHEMA attic; ALTER TABLE made_thing SET SCHEMA attic;"
        "SET LOCAL search_path = public, attic"
    )
    ledger = Ledger()
    Thing.objects.create()
    assert len(ledger.rows()) == 1
    refresh(connection, apps_of(Thing))
    assert run("SELECT schema FROM django_pgnotify_trigger WHERE name = 'things'") == [
        ("attic",)
    ]
    Thing.objects.create()
    assert len(ledger.rows()) == 1


def test_a_declaration_migrated_before_the_ledger_works_once_the_ledger_is_there() -> None:
    run(
        "SAVEPOINT s; ALTER TABLE django_pgnotify_ledger RENAME TO a;"
        "ALTER TABLE django_pgnotify_trigger RENAME TO b"
    )
    Thing = make(constraints=[trigger()], text=TEXT)
    Thing.objects.create()
    run(
        "ALTER TABLE a RENAME TO django_pgnotify_ledger;"
        "ALTER TABLE b RENAME TO django_pgnotify_trigger"
    )
    ledger = Ledger()
    Thing.objects.create()
    assert ledger.rows() == []
    refresh(connection, apps_of(Thing))
    Thing.objects.create()
    assert len(ledger.rows()) == 1


# Third-party models


def test_an_operation_adds_a_trigger_to_a_model_of_another_app_and_leaves_its_state_alone() -> (
    None
):
    state = ProjectState.from_apps(global_apps)
    operation = AddNotifyTrigger("auth.Group", NotifyTrigger(name="teams", fields=["name"]))
    after = state.clone()
    operation.state_forwards("made", after)
    assert after == state
    ledger = Ledger()
    with connection.schema_editor() as editor:
        operation.database_forwards("made", editor, state, after)
    Group.objects.create(name="a")
    assert [c["data"] for c in ledger.take()] == [{"name": "a"}]
    refresh(connection, global_apps)
    with connection.schema_editor() as editor:
        operation.database_backwards("made", editor, after, state)
    Group.objects.create(name="b")
    assert ledger.rows() == []


def test_an_added_trigger_can_be_removed_by_an_operation() -> None:
    state = ProjectState.from_apps(global_apps)
    declared = NotifyTrigger(name="teams")
    add, remove = (
        kind("auth.Group", declared) for kind in (AddNotifyTrigger, RemoveNotifyTrigger)
    )
    ledger = Ledger()
    with connection.schema_editor() as editor:
        add.database_forwards("made", editor, state, state)
        remove.database_forwards("made", editor, state, state)
        Group.objects.create(name="a")
        assert ledger.rows() == []
        remove.database_backwards("made", editor, state, state)
        Group.objects.create(name="b")
        assert len(ledger.rows()) == 1


# Committed: other sessions, and Django's own commands


@pytest.fixture
def other_session() -> Iterator[psycopg.Connection]:
    settings = connections["default"].get_connection_params()
    for key in ("cursor_factory", "context"):
        settings.pop(key, None)
    with psycopg.connect(**settings, autocommit=True) as session:
        yield session


@contextmanager
def committed(model: Any) -> Iterator[Any]:
    try:
        yield model
    finally:
        drop(model)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
@pytest.mark.parametrize(
    "block", [nullcontext, psycopg.Connection.transaction], ids=["single", "block"]
)
@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE made_thing ALTER text TYPE text",
        "ALTER TABLE made_thing ALTER text TYPE int USING 5",
        "ALTER TABLE made_thing ALTER number TYPE bigint",
        "ALTER TABLE made_thing DROP number",
        "ALTER TABLE made_thing DROP text",
        "ALTER TABLE made_thing RENAME text TO words",
        "ALTER TABLE made_thing RENAME number TO n",
        "ALTER TABLE made_thing ADD more int DEFAULT 7",
        "ALTER TABLE made_thing ALTER id TYPE int",
    ],
)
def test_a_warm_session_survives_what_another_one_alters(
    other_session: psycopg.Connection, partitioned: bool, block: Any, ddl: str
) -> None:
    columns = (
        "id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, text varchar(9), number int"
    )
    if partitioned:
        run(f"CREATE TABLE made_thing ({columns}) PARTITION BY RANGE (id)")
        run("CREATE TABLE made_thing_1 PARTITION OF made_thing DEFAULT")
        if "ALTER id" in ddl:
            ddl = "ALTER TABLE made_thing ALTER text DROP DEFAULT"
    else:
        run(f"CREATE TABLE made_thing ({columns})")
    declared = trigger(groups=["n-{number}"], changed=["text"])
    model = make(constraints=[declared], create=False, text=TEXT, number=NUMBER)
    with committed(model):
        with connection.schema_editor() as editor:
            editor.add_constraint(model, declared)
        write = (
            "WITH new AS (SELECT count(*) FROM made_thing) INSERT INTO made_thing DEFAULT VALUES",
            "UPDATE made_thing SET id = id + 1000",
            "DELETE FROM made_thing",
        )
        for _ in range(7):  # from the sixth execution on a plan is generic
            with block(other_session):
                for statement in write:
                    other_session.execute(statement)
        ledger = Ledger()
        other_session.add_notice_handler(lambda n: print("NOTICE", n.message_primary))
        run(ddl)
        with block(other_session):
            for statement in write:
                other_session.execute(statement)
        told = ledger.take()
        assert [c["kind"] for c in told][0::3]
        gone = "DROP" in ddl or "RENAME" in ddl
        if "DEFAULT" not in ddl or "ADD" in ddl:
            assert [c.get("truncated", False) for c in told] == [gone] * len(told)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE made_thing RENAME number TO before; ALTER TABLE made_thing ADD number int",
        "ALTER TABLE made_thing RENAME number TO x; ALTER TABLE made_thing RENAME other TO number;"
        "ALTER TABLE made_thing RENAME x TO other",
    ],
    ids=["replaced", "swapped"],
)
def test_a_warm_session_goes_by_the_columns_that_a_condition_names_now(
    other_session: psycopg.Connection, ddl: str
) -> None:
    run(
        "CREATE TABLE made_thing (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
        " text varchar(9), number int DEFAULT 1, other int) PARTITION BY RANGE (id)"
    )
    run("CREATE TABLE made_thing_1 PARTITION OF made_thing DEFAULT")
    declared = trigger(condition=Q(number=1))
    model = make(constraints=[declared], create=False, text=TEXT, number=NUMBER)
    with committed(model):
        with connection.schema_editor() as editor:
            editor.add_constraint(model, declared)
        write = "INSERT INTO made_thing (text) VALUES ('a')"
        ledger = Ledger()
        with other_session.transaction():
            for _ in range(8):
                other_session.execute(write)
        assert len(ledger.take()) == 8
        run(ddl)
        with other_session.transaction():
            for _ in range(3):
                other_session.execute(write)
        assert ledger.take() == []


@pytest.mark.django_db(transaction=True)
def test_flush_leaves_ledger_ticks_and_triggers_alone() -> None:
    with committed(make(constraints=[trigger()], text=TEXT)) as Thing:
        before = run("SELECT count(*) FROM django_pgnotify_trigger")
        call_command("flush", interactive=False, verbosity=0)
        assert run("SELECT count(*) FROM django_pgnotify_trigger") == before
        assert run("SELECT count(*) FROM django_pgnotify_tick")[0][0] > 0
        ledger = Ledger()
        Thing.objects.create()
        assert len(ledger.rows()) == 1


@pytest.mark.django_db(transaction=True)
def test_uninstalling_takes_all_triggers_away_and_migrating_again_brings_them_back() -> None:
    with committed(make(constraints=[trigger()], text=TEXT)) as Thing:
        try:
            call_command("migrate", "django_pgnotify", "zero", verbosity=0)
            Thing.objects.create()
            Thing.objects.update(text="b")
            assert run("SELECT FROM pg_proc WHERE starts_with(proname, 'pgnotify')") == []
            assert (
                run("SELECT FROM pg_class WHERE starts_with(relname, 'django_pgnotify')") == []
            )
        finally:
            call_command("migrate", verbosity=0)
        refresh(connection, apps_of(Thing))
        ledger = Ledger()
        Thing.objects.create()
        assert len(ledger.rows()) == 1
