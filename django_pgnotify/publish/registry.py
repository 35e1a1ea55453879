"""Install: which triggers ought to stand in a database, which do, and what sets them right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from django.db import router

from ..exceptions import PgnotifyError
from ..ledger.install import literal, schema_of_ledger
from .added import added_by_operations
from .compiler import SUFFIX_LENGTH, Compiler
from .relation import relation_of
from .trigger import NotifyTrigger

if TYPE_CHECKING:
    from django.apps.registry import Apps
    from django.db import models
    from django.db.backends.base.base import BaseDatabaseWrapper

    Declared = tuple[type[models.Model], NotifyTrigger]

Problem = Literal["missing", "outdated", "disabled", "invalid"]
ENABLED = {
    "A": "ENABLE ALWAYS",
    "R": "ENABLE REPLICA",
    "D": "DISABLE",
}
"""What somebody may have done to a trigger, by ``pg_trigger.tgenabled``."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A declared trigger that does not stand in the database as it should."""

    trigger: NotifyTrigger
    problem: Problem
    model: type[models.Model] | None
    """None where an operation names one that is gone."""
    reason: str = ""
    """Of an "invalid" one, which an operation has added to another model than there is now."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A declaration's triggers as the database has them."""

    version: str
    triggers: frozenset[str]
    """Names in pg_trigger: one for each operation."""
    enabled: bool
    """False if one of them is silent in ordinary sessions."""


def declared(connection: BaseDatabaseWrapper, apps: Apps) -> Iterator[Declared]:
    """The triggers in the models' ``Meta`` that migrate into this database."""
    for model in apps.get_models(include_auto_created=True):
        if router.allow_migrate_model(connection.alias, model):
            for constraint in model._meta.constraints:
                if isinstance(constraint, NotifyTrigger):
                    yield model, constraint


def installed(connection: BaseDatabaseWrapper) -> dict[tuple[str, str, str], Installed]:
    """What stands in the database by (schema, table, name); empty without a ledger. An entry
    that names another table than its oid (after a rename or a restore) is outdated."""
    schema = schema_of_ledger(connection)
    if schema is None:
        return {}
    registry = f"{connection.ops.quote_name(schema)}.django_pgnotify_trigger"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.nspname, c.relname, r.name,"
            ' CASE WHEN (s.nspname, c.relname) = (r.schema, r."table") AND c.oid = r.relation'
            " THEN r.version ELSE '' END, array_agg(t.tgname::text), bool_and(t.tgenabled IN ('O', 'A'))"
            f" FROM {registry} AS r"
            ' JOIN pg_class c ON c.oid = r.relation OR c.relname = r."table"'
            " JOIN pg_namespace s ON s.oid = c.relnamespace"
            " JOIN pg_proc f ON f.oid = to_regprocedure(r.function)"  # of the first operation
            " JOIN pg_trigger t ON t.tgrelid = c.oid"
            " JOIN pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = f.pronamespace"
            f" AND left(p.proname, -{SUFFIX_LENGTH}) = left(f.proname, -{SUFFIX_LENGTH})"
            " GROUP BY 1, 2, 3, 4"
        )
        return {
            (schema, table, name): Installed(
                version=version, triggers=frozenset(triggers), enabled=enabled
            )
            for schema, table, name, version, triggers, enabled in cursor.fetchall()
        }


def drift(connection: BaseDatabaseWrapper, apps: Apps) -> list[Drift]:
    """Declared triggers on tables that exist, but that are missing, outdated, disabled, or no
    longer fit their model."""
    there = installed(connection)
    with connection.schema_editor(collect_sql=True, atomic=False) as editor:
        found = [
            # One that is invalid is the business of the checks of declarations.
            item
            for model, trigger in declared(connection, apps)
            if (item := _drift(Compiler(trigger, model, editor), there)) is not None
            and item.problem != "invalid"
        ]
        for label, trigger in added_by_operations(connection):
            try:
                model = apps.get_model(label)
            except LookupError as error:
                if any(name == trigger.topic for _, _, name in there):
                    found.append(
                        Drift(trigger=trigger, model=None, problem="invalid", reason=str(error))
                    )
                continue
            if router.allow_migrate_model(connection.alias, model):
                item = _drift(Compiler(trigger, model, editor), there)
                found += [] if item is None else [item]
    return found


def shared_names(connection: BaseDatabaseWrapper) -> list[tuple[str, list[str]]]:
    """Names that stand in several schemas without ``{schema}`` in each group, with the schemas."""
    schema = schema_of_ledger(connection)
    if schema is None:
        return []
    registry = f"{connection.ops.quote_name(schema)}.django_pgnotify_trigger"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, array_agg(DISTINCT schema)"
            f" FROM {registry} WHERE to_regprocedure(function) IS NOT NULL"
            " GROUP BY name HAVING count(DISTINCT schema) > 1 AND bool_or(EXISTS ("
            " SELECT FROM jsonb_array_elements_text(declaration -> 'groups') AS g"
            " WHERE strpos(g, '{schema}') = 0))"
        )
        return list(cursor.fetchall())


def other_table(
    connection: BaseDatabaseWrapper, topic: str, model: type[models.Model]
) -> str | None:
    """The table of another model that has the topic in the schema of this one's table."""
    schema, relation = (
        schema_of_ledger(connection),
        relation_of(connection, model._meta.db_table),
    )
    if schema is None:
        return None
    registry = f"{connection.ops.quote_name(schema)}.django_pgnotify_trigger"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT c.relname FROM {registry} AS r JOIN pg_class AS c ON c.oid = r.relation"
            " WHERE (r.schema, r.name) = (%s, %s) AND c.relname <> %s"
            " AND r.declaration ->> 'model' <> %s",
            [relation.schema, topic, relation.name, model._meta.label_lower],
        )
        found = cursor.fetchone()
    return None if found is None else str(found[0])


def _drift(compiler: Compiler, there: dict[tuple[str, str, str], Installed]) -> Drift | None:
    relation = compiler.relation
    if not relation.exists:
        return None
    item = partial(Drift, model=compiler.model, trigger=compiler.trigger)
    entry = there.get((relation.schema, relation.name, compiler.trigger.topic))
    try:
        version, names = compiler.version, set(compiler.trigger_names)
    except PgnotifyError as error:
        return item(problem="invalid", reason=str(error))
    if entry is None or not entry.triggers >= names:
        return item(problem="missing")
    if entry.version != version:
        return item(problem="outdated")
    return None if entry.enabled else item(problem="disabled")


def refresh(connection: BaseDatabaseWrapper, apps: Apps) -> None:
    """Install what is missing or outdated, then collect functions that no trigger uses any more.
    Two queries a trigger when nothing changed. A topic that another table has stays there."""
    # The longest first: the functions of x are named as the one of x_ins once was.
    for item in sorted(drift(connection, apps), key=lambda item: -len(item.trigger.topic)):
        model = item.model
        if model is None or item.problem not in ("missing", "outdated"):
            continue
        if other_table(connection, item.trigger.topic, model) is None:
            with connection.schema_editor(atomic=True) as editor:
                _install(Compiler(item.trigger, model, editor))
    collect_orphans(connection)


def _install(compiler: Compiler) -> None:
    """Create the triggers, and leave silent or always awake which somebody has made so."""
    table, names = compiler.relation.qualified, compiler.trigger_names
    with compiler.editor.connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname, tgenabled::text FROM pg_trigger"
            " WHERE tgrelid = to_regclass(%s) AND tgname = ANY(%s) AND tgenabled <> 'O'",
            [table, names],
        )
        changed = cursor.fetchall()
    compiler.editor.execute(compiler.create(), None)
    for name, enabled in changed:
        compiler.editor.execute(
            f"ALTER TABLE {table} {ENABLED[enabled]} TRIGGER {compiler.quote(name)}", None
        )


def collect_orphans(connection: BaseDatabaseWrapper) -> None:
    """Drop our functions that no trigger uses (dropping a table orphans them), and their entries."""
    schema = schema_of_ledger(connection)
    if schema is not None:
        with connection.cursor() as cursor:
            cursor.execute(_drop_functions_sql(connection, schema, orphans_only=True))


def drop_all_sql(connection: BaseDatabaseWrapper, schema: str) -> str:
    """Drop every trigger that writes this ledger, wherever it stands, and its function."""
    return _drop_functions_sql(connection, schema, orphans_only=False)


def _drop_functions_sql(
    connection: BaseDatabaseWrapper, schema: str, *, orphans_only: bool
) -> str:
    quoted = connection.ops.quote_name(schema)
    in_use = "EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgfoid = p.oid)"
    which = f"AND NOT {in_use}" if orphans_only else ""
    return f"""
DO $pgnotify$
DECLARE
    func regprocedure;
    target record;
BEGIN
    FOR func IN SELECT p.oid FROM pg_catalog.pg_proc AS p
        WHERE p.prorettype = 'trigger'::regtype {which}
            AND pg_catalog.obj_description(p.oid, 'pg_proc') = 'django_pgnotify'
            AND pg_catalog.strpos(p.prosrc, {literal(quoted + ".django_pgnotify_ledger")}) > 0
    LOOP
        FOR target IN SELECT tgname, tgrelid::regclass AS relation FROM pg_catalog.pg_trigger
            WHERE tgfoid = func AND tgparentid = 0
        LOOP
            EXECUTE 'DROP TRIGGER ' || pg_catalog.quote_ident(target.tgname) || ' ON ' || target.relation;
        END LOOP;
        EXECUTE 'DROP FUNCTION ' || func;
    END LOOP;
    IF to_regclass({literal(quoted + ".django_pgnotify_trigger")}) IS NOT NULL THEN
        DELETE FROM {quoted}.django_pgnotify_trigger WHERE to_regprocedure(function) IS NULL;
    END IF;
END $pgnotify$;
"""
