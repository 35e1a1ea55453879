"""The ways to learn of a write that are compared: each a table, and who listens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from .child import Child
from .environments import PEERS, python
from .place import Place, Project

NONE = "no trigger"
OURS = "django_pgnotify"
BY_HAND = "pg_notify in a row trigger"
PGPUBSUB = "django-pgpubsub"
PGPUBSUB_STORED = "django-pgpubsub, stored"


EMPTY_TRIGGER = "a trigger that does nothing"
BARE_INSERT = "a row trigger that only inserts into the ledger"
TRIGGER_ALONE = "ours, pglisten on another machine"
ROWS_ALONE = "a trigger that only counts its rows"
TEXT_ALONE = "a statement trigger that only inserts into the ledger"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A table with the same columns as the others'."""

    name: str
    url: str
    table: str
    listening: Callable[[], AbstractContextManager[object]]
    """Whoever hears of the writes, alive and listening inside of the ``with``."""
    options: str = ""
    """Of the writers' sessions, as in PGOPTIONS."""


def variants(place: Place, project: Project, database: str) -> list[Variant]:
    """Set them all up; `database` begins the names of those of the peers."""
    return [
        Variant(name=NONE, url=project.url, table="plain", listening=nullcontext),
        Variant(name=OURS, url=project.url, table="thing", listening=lambda: ours(project)),
        Variant(
            name=BY_HAND,
            url=project.url,
            table="noted",
            listening=lambda: by_hand(project),
        ),
        *_pgpubsub(place, f"{database}_pgpubsub"),
    ]


def bounds(project: Project) -> list[Variant]:
    """What a trigger does not go below, each sketch on a table of its own, and ours without a relay
    that takes time from the writers (whose bell is off, as it is while a relay looks by itself)."""
    writes = ("INSERT", "UPDATE")
    _sketch(project, "empty", "STATEMENT", {write: (SEEN[write], "") for write in writes})
    return [
        Variant(name=EMPTY_TRIGGER, url=project.url, table="empty", listening=nullcontext),
        *_inserting(project, writes),
        Variant(
            name=TRIGGER_ALONE,
            url=project.url,
            table="thing",
            listening=nullcontext,
            options="-c django_pgnotify.bell=off",
        ),
    ]


def bulk_bounds(project: Project) -> list[Variant]:
    """The same for many rows; it begins with what it costs that a trigger sees them at all."""
    counted = {write: (seen, "PERFORM count(*) FROM changed;") for write, seen in SEEN.items()}
    _sketch(project, "counted", "STATEMENT", counted)
    return [
        Variant(name=ROWS_ALONE, url=project.url, table="counted", listening=nullcontext),
        *_inserting(project, tuple(SEEN)),
    ]


def _inserting(project: Project, writes: tuple[str, ...]) -> list[Variant]:
    """Triggers of both shapes that only insert text put together by hand: without groups of a row,
    ``changed``, limits, fallback and bell."""
    by_row = {write: ("", BARE.format(row=_row(write))) for write in writes}
    _sketch(project, "bare", "ROW", by_row)
    _sketch(project, "handwritten", "STATEMENT", {w: (SEEN[w], HAND_WRITTEN) for w in writes})
    return [
        Variant(name=BARE_INSERT, url=project.url, table="bare", listening=nullcontext),
        Variant(name=TEXT_ALONE, url=project.url, table="handwritten", listening=nullcontext),
    ]


def _row(write: str) -> str:
    return "OLD" if write == "DELETE" else "NEW"


def _sketch(
    project: Project, table: str, level: str, triggers: dict[str, tuple[str, str]]
) -> None:
    """Make a table with a trigger for each event: its transition tables, and what it does."""
    with project.connect() as connection:
        connection.execute(f"CREATE TABLE {table} (LIKE plain INCLUDING ALL)")
        for event, (tables, body) in triggers.items():
            name = f"{table}_{event}"
            connection.execute(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp"
                f" AS $$ BEGIN {body} RETURN NULL; END $$"
            )
            connection.execute(
                f"CREATE TRIGGER {name} AFTER {event} ON {table} {tables}"
                f" FOR EACH {level} EXECUTE FUNCTION {name}()"
            )


SEEN = {
    "INSERT": "REFERENCING NEW TABLE AS changed",
    "UPDATE": "REFERENCING OLD TABLE AS before NEW TABLE AS changed",
    "DELETE": "REFERENCING OLD TABLE AS changed",
}
"""What ours asks PostgreSQL to show to a statement's trigger."""
HAND_WRITTEN = """
    INSERT INTO public.django_pgnotify_ledger (topic, model, changes)
    SELECT 'thing_changes', 'things.thing', '[' || string_agg('{"kind":"' || lower(TG_OP)
        || '","pk":' || c.id || ',"data":{"id":' || c.id || ',"name":' || to_json(c.name)::text
        || ',"value":' || c.value || '},"groups":["things"]}', ',') || ']' FROM changed AS c;
"""
BARE = """
    INSERT INTO public.django_pgnotify_ledger (topic, model, changes)
    VALUES ('thing_changes', 'things.thing', '[{{"kind":"' || lower(TG_OP) || '","pk":' || {row}.id
        || ',"data":{{"id":' || {row}.id || ',"name":' || to_json({row}.name)::text || ',"value":'
        || {row}.value || '}},"groups":["things"]}}]');
"""


@contextmanager
def ours(project: Project) -> Iterator[Child]:
    """A real pglisten, which also relays what is written. What it leaves the next one catches up
    with before it is live, which is outside of the time that is measured."""
    with project.pglisten() as child:
        yield child


@contextmanager
def by_hand(project: Project) -> Iterator[Child]:
    """A bare psycopg listener."""
    with project.child("workers.hear", "data_change") as child:
        child.wait_for("listening")
        yield child


def _pgpubsub(place: Place, database: str) -> list[Variant]:
    url = place.create_database(database)
    env = {"BENCH_DATABASE": url, "DJANGO_SETTINGS_MODULE": "pgpubsub_peer.settings"}

    def run(*arguments: str) -> Child:
        command = ["-m", "django", *arguments]
        return Child(command, env, python=python("pgpubsub"), path=PEERS / "pgpubsub")

    with run("migrate", "--run-syncdb") as migrate:
        migrate.finish()

    @contextmanager
    def listening(channel: str) -> Iterator[Child]:
        name = f"pgpubsub_peer.listeners.{channel}"
        with run("listen", "--worker", "--channels", name) as child:
            child.wait_for("Listening for notifications")
            yield child

    return [
        Variant(
            name=PGPUBSUB,
            url=url,
            table="sent",
            listening=lambda: listening("SentChannel"),
        ),
        Variant(
            name=PGPUBSUB_STORED,
            url=url,
            table="stored",
            listening=lambda: listening("StoredChannel"),
        ),
    ]
