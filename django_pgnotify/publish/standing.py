"""Install: what stands on a table and in the registry beside the functions, as statements of SQL.

``%(table)s`` and ``%(table_literal)s`` stand for the table, as a name and as a literal of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger.install import literal

FUNCTION_PREFIX = "pgnotify_"


def refuse_others_sql(triggers: Sequence[str]) -> str:
    """Raise if triggers with these names stand on the table that are somebody else's."""
    return f"""DO $pgnotify$
DECLARE
    theirs text;
BEGIN
    SELECT pg_catalog.string_agg(t.tgname, ', ') INTO theirs {_standing(triggers)} AND NOT {_OURS};
    IF theirs IS NOT NULL THEN
        RAISE 'django_pgnotify: the table % has triggers of its own with these names: %', {_TABLE}, theirs
            USING HINT = 'Give the NotifyTrigger another name.';
    END IF;
END $pgnotify$;
"""


def drop_triggers_sql(triggers: Sequence[str]) -> str:
    """Drop those of these triggers that are ours."""
    return f"""DO $pgnotify$
DECLARE
    ours record;
BEGIN
    FOR ours IN SELECT t.tgname {_standing(triggers)} AND {_OURS} LOOP
        EXECUTE 'DROP TRIGGER ' || pg_catalog.quote_ident(ours.tgname) || ' ON ' || {_TABLE};
    END LOOP;
END $pgnotify$;
"""


def drop_functions_sql(functions: Sequence[str]) -> str:
    """Drop those of these functions that no trigger uses: ``x_ins`` is of topic ``x``, and was all
    of topic ``x_ins`` when a topic had one function."""
    names = ", ".join(literal(f"{function}()") for function in functions)
    return f"""DO $pgnotify$
DECLARE
    unused regprocedure;
BEGIN
    FOR unused IN SELECT p.oid FROM pg_catalog.pg_proc AS p
        WHERE p.oid IN (SELECT to_regprocedure(name) FROM pg_catalog.unnest(ARRAY[{names}]) AS name)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgfoid = p.oid)
    LOOP
        EXECUTE 'DROP FUNCTION ' || unused;
    END LOOP;
END $pgnotify$;
"""


def register_sql(
    ledger: str, *, topic: str, trigger: str, declaration: str, version: str
) -> str:
    """Enter the topic, whose first trigger is `trigger`, into the registry of the schema `ledger`,
    which is quoted."""
    registry = f"{ledger}.django_pgnotify_trigger"
    return f"""DO $pgnotify$
BEGIN
    IF to_regclass({literal(registry)}) IS NOT NULL THEN
        INSERT INTO {registry} AS r
            (schema, "table", name, relation, function, declaration, version)
        SELECT s.nspname, c.relname, {literal(topic)}, c.oid,
            pg_catalog.quote_ident(f.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()',
            {literal(declaration)}, '{version}'
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
        JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.oid
        JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
        JOIN pg_catalog.pg_namespace AS f ON f.oid = p.pronamespace
        WHERE c.oid = {_TABLE}
            AND t.tgname = {literal(trigger)}
        ON CONFLICT (schema, name) DO UPDATE SET "table" = excluded."table", relation = excluded.relation,
            function = excluded.function, declaration = excluded.declaration, version = excluded.version;
    END IF;
END $pgnotify$;
"""


def unregister_sql(ledger: str, *, topic: str) -> str:
    """Take the table's entry out of the registry."""
    return f"""DO $pgnotify$
BEGIN
    IF to_regclass({literal(ledger + ".django_pgnotify_trigger")}) IS NOT NULL THEN
        DELETE FROM {ledger}.django_pgnotify_trigger AS r
        WHERE r.name = {literal(topic)} AND r.relation = {_TABLE}::oid;
    END IF;
END $pgnotify$;
"""


_TABLE = "to_regclass(%(table_literal)s)"
# By name, not by comment: a dump may leave comments out.
_OURS = f"pg_catalog.starts_with(p.proname, '{FUNCTION_PREFIX}')"


def _standing(triggers: Sequence[str]) -> str:
    names = ", ".join(map(literal, triggers))
    return f"""FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
        WHERE t.tgrelid = {_TABLE} AND t.tgname IN ({names})"""
