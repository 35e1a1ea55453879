"""What foreign keys and users' triggers do to rows of the same statement: the last word is true."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models

from django_pgnotify import NotifyTrigger
from tests.tables import Ledger, make, run

pytestmark = pytest.mark.django_db

KEYS = "ALTER TABLE made_post" + ",".join(
    f" ADD FOREIGN KEY ({column}) REFERENCES made_user ON DELETE SET NULL"
    for column in ("author", "editor")
)
WRITES_BACK = """
    CREATE FUNCTION write_back() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN {} RETURN NULL; END $$;
    CREATE TRIGGER writes_back AFTER {} ON made_thing
    FOR EACH ROW EXECUTE FUNCTION write_back()"""


def told(changes: list[dict[str, Any]], group: str, rows: dict[Any, Any]) -> dict[Any, Any]:
    """What a page that shows this group has, which began with these rows."""
    page = dict(rows)
    for change in changes:
        if group in change["groups"]:
            page.pop(change["pk"], None)
            if change["kind"] != "delete":
                page[change["pk"]] = change["data"]
    return page


def stored(table: str, *columns: str, where: str = "true") -> dict[Any, Any]:
    rows = run(f"SELECT {', '.join(columns)} FROM {table} WHERE {where}")
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def things(**options: Any) -> Any:
    trigger = NotifyTrigger(name="things", fields=["id", "text"], groups=["all"], **options)
    return make(constraints=[trigger], text=models.TextField(null=True))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("template", ["all", "author-{author}", "editor-{editor}"])
def test_two_keys_that_are_set_to_null_leave_nothing_stale(rows: int, template: str) -> None:
    run("CREATE TABLE made_user (id bigint PRIMARY KEY); INSERT INTO made_user VALUES (1), (2)")
    groups = ["all", *({template} - {"all"})]
    trigger = NotifyTrigger(name="posts", fields=["id", "author", "editor"], groups=groups)
    number = models.BigIntegerField(null=True)
    make("Post", constraints=[trigger], author=number, editor=number)
    run(KEYS)
    run(f"INSERT INTO made_post (author, editor) SELECT 1, 1 FROM generate_series(1, {rows})")
    run("INSERT INTO made_post (author, editor) VALUES (1, 2), (2, 1)")
    columns = ("id", "author", "editor")
    before = stored("made_post", *columns)
    ledger = Ledger()
    run("DELETE FROM made_user WHERE id = 1")
    changes = ledger.take()
    assert told(changes, "all", before) == stored("made_post", *columns)
    for column in ("author", "editor"):
        group = f"{column}-1"
        mine = {key: row for key, row in before.items() if row[column] == 1}
        if template.startswith(column):
            assert told(changes, group, mine) == {}


def test_a_key_that_cascades_to_its_own_row_is_told_as_what_it_is() -> None:
    make(
        "Node",
        constraints=[NotifyTrigger(name="nodes", fields=["id", "parent"], groups=["all"])],
        id=models.BigIntegerField(primary_key=True),
        parent=models.BigIntegerField(null=True),
    )
    run("ALTER TABLE made_node ADD FOREIGN KEY (parent) REFERENCES made_node ON UPDATE CASCADE")
    run("INSERT INTO made_node VALUES (1, 1), (2, 1), (3, 2)")
    before, ledger = stored("made_node", "id", "parent"), Ledger()
    run("UPDATE made_node SET id = 10 WHERE id = 1")
    changes = ledger.take()
    assert told(changes, "all", before) == stored("made_node", "id", "parent")
    assert ("insert", 10) in [(change["kind"], change["pk"]) for change in changes]


def test_a_row_that_a_trigger_puts_back_is_told_last() -> None:
    things()
    run(WRITES_BACK.format("INSERT INTO made_thing VALUES (OLD.id, 'back');", "DELETE"))
    run("INSERT INTO made_thing (text) VALUES ('x'), ('y')")
    before, ledger = stored("made_thing", "id", "text"), Ledger()
    run("DELETE FROM made_thing")
    assert told(ledger.take(), "all", before) == stored("made_thing", "id", "text")


def test_a_row_that_a_trigger_takes_away_is_gone_for_those_who_see_no_updates() -> None:
    things(on=["insert", "delete"])
    run(WRITES_BACK.format("DELETE FROM made_thing WHERE id = NEW.id;", "INSERT"))
    ledger = Ledger()
    run("INSERT INTO made_thing (text) VALUES ('x'), ('y')")
    assert told(ledger.take(), "all", {}) == {}


def test_rows_that_row_level_security_hides_from_the_function_are_told_without_data() -> None:
    """Who owns the functions may be no superuser, and subject to the policies of the table."""
    things()
    run("CREATE ROLE made_owner; CREATE ROLE made_writer")
    run("GRANT ALL ON SCHEMA public TO made_owner; GRANT USAGE ON SCHEMA public TO made_writer")
    run("GRANT ALL ON ALL TABLES IN SCHEMA public TO made_owner, made_writer")
    run("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO made_writer")
    for name in ("ins", "upd", "del"):
        run(f"ALTER FUNCTION pgnotify_things_{name}() OWNER TO made_owner")
    run("ALTER TABLE made_thing OWNER TO made_owner")
    run("ALTER TABLE made_thing ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    run("CREATE POLICY made_policy ON made_thing TO made_writer USING (true)")
    run(WRITES_BACK.format("UPDATE made_thing SET text = 'y' WHERE id = NEW.id;", "INSERT"))
    ledger = Ledger()
    run("SET ROLE made_writer")
    run("INSERT INTO made_thing (text) VALUES ('x')")
    run("RESET ROLE")
    changes = ledger.take()
    assert [(change["kind"], change.get("truncated")) for change in changes] == [
        ("update", None),
        ("insert", True),
    ]
