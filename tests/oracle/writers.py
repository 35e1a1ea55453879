"""A writer process: random transactions, by SQL and by the ORM, until it is told to stop.

``python -m tests.oracle.writers SEED``; rollbacks and failures are counted on standard output.
What it committed stands in ``oracle_truth``, written by the same transactions.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType
from typing import Any, Protocol

IDS = 80
"""Rows that all writers fight for."""
ROOMS = 5
PAUSE_SECONDS = 0.08
"""The mean between two transactions."""
LONG_SECONDS = 2.0
"""The longest pause within a transaction."""
BODY_CHARS = 4000
"""Large enough for a payload that does not fit into a NOTIFY."""
RESTS = "äß💡\"\\<&\u2028 '%"


class Cursor(Protocol):
    """What Django's and psycopg's cursors share."""

    def execute(self, query: Any, params: Any = None) -> Any: ...


class Rollback(Exception):
    """The transaction is to be taken back."""


class Source:
    """Random values of one writer, and the tags of its statements."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed)
        self._prefix = f"{os.getpid()}-{time.time_ns() % 10**9}"
        self._count = 0

    def tag(self) -> str:
        """One that no other statement has."""
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def id(self) -> int:
        return self.random.randint(1, IDS)

    def ids(self) -> list[int]:
        first = self.id()
        return list(range(first, min(first + self.random.randint(2, 30), IDS + 1)))

    def room(self) -> int | None:
        return self.random.choice([None, *range(ROOMS)])

    def values(self) -> dict[str, Any]:
        """Everything of a row but its id and tag."""
        size = int(self.random.random() ** 4 * BODY_CHARS)
        body = (RESTS + "x" * 7) * (size // 20) + RESTS[: size % 5]
        return {
            "room": self.room(),
            "value": self.random.randint(0, 1000),
            "body": body,
            "hidden": self.random.random() < 0.1,
        }

    def row(self, id: int, tag: str) -> dict[str, Any]:
        return {"id": id, "tag": tag, **self.values()}


COLUMNS = "id, tag, room, value, body, hidden"
ROW = "(%(id)s, %(tag)s, %(room)s, %(value)s, %(body)s, %(hidden)s)"


class BySql:
    """Statements as psql, COPY or a program in another language would send them."""

    def __init__(self, cursor: Cursor, source: Source) -> None:
        self.cursor = cursor
        self.source = source

    def statement(self) -> None:
        """One statement of any kind, under a tag of its own."""
        tag = self.source.tag()
        self.cursor.execute(
            "SELECT set_config('django_pgnotify.context', %s, true)",
            [json.dumps({"tag": tag, "secret": 1})],
        )
        names, weights = zip(*KINDS_BY_SQL.items(), strict=True)
        kind = self.source.random.choices(names, weights)[0]
        getattr(self, kind)(tag)

    def insert(self, tag: str) -> None:
        self.cursor.execute(
            f"INSERT INTO things_thing ({COLUMNS}) VALUES {ROW} ON CONFLICT DO NOTHING",
            self.source.row(self.source.id(), tag),
        )

    def upsert(self, tag: str) -> None:
        self.cursor.execute(
            f"INSERT INTO things_thing ({COLUMNS}) VALUES {ROW} ON CONFLICT (id) DO UPDATE"
            " SET value = excluded.value, tag = excluded.tag",
            self.source.row(self.source.id(), tag),
        )

    def insert_many(self, tag: str) -> None:
        self.cursor.execute(
            "INSERT INTO things_thing (id, tag, room, value, body, hidden)"
            " SELECT id, %s, id %% 7, id, 'many', id %% 13 = 0 FROM unnest(%s::bigint[]) AS id"
            " ON CONFLICT (id) DO UPDATE SET tag = excluded.tag, value = things_thing.value + 1",
            [tag, self.source.ids()],
        )

    def update(self, tag: str) -> None:
        values = {**self.source.values(), "tag": tag, "id": self.source.id()}
        self.cursor.execute(
            "UPDATE things_thing SET value = %(value)s, body = %(body)s, tag = %(tag)s"
            " WHERE id = %(id)s",
            values,
        )

    def update_many(self, tag: str) -> None:
        self.cursor.execute(
            "UPDATE things_thing SET value = value + 1, tag = %s WHERE id = ANY (%s)",
            [tag, self.source.ids()],
        )

    def update_nothing(self, tag: str) -> None:
        self.cursor.execute("UPDATE things_thing SET value = value")

    def move(self, tag: str) -> None:
        self.cursor.execute(
            "UPDATE things_thing SET room = %s, tag = %s WHERE id = ANY (%s)",
            [self.source.room(), tag, self.source.ids()],
        )

    def hide(self, tag: str) -> None:
        self.cursor.execute(
            "UPDATE things_thing SET hidden = NOT hidden, tag = %s WHERE id = %s",
            [tag, self.source.id()],
        )

    def hide_only(self, tag: str) -> None:
        self.cursor.execute(
            "UPDATE things_thing SET hidden = NOT hidden WHERE id = %s", [self.source.id()]
        )

    def change_key(self, tag: str) -> None:
        self.cursor.execute(
            "UPDATE things_thing SET id = %(new)s, tag = %(tag)s WHERE id = %(old)s"
            " AND NOT EXISTS (SELECT FROM things_thing WHERE id = %(new)s)",
            {"new": self.source.id(), "old": self.source.id(), "tag": tag},
        )

    def delete(self, tag: str) -> None:
        self.cursor.execute("DELETE FROM things_thing WHERE id = %s", [self.source.id()])

    def delete_many(self, tag: str) -> None:
        self.cursor.execute("DELETE FROM things_thing WHERE id = ANY (%s)", [self.source.ids()])

    def replace(self, tag: str) -> None:
        id = self.source.id()
        self.cursor.execute(
            f"WITH gone AS (DELETE FROM things_thing WHERE id = %(other)s)"
            f" INSERT INTO things_thing ({COLUMNS}) VALUES {ROW} ON CONFLICT DO NOTHING",
            {**self.source.row(id, tag), "other": id % IDS + 1},
        )

    def truncate(self, tag: str) -> None:
        self.cursor.execute("TRUNCATE things_thing")

    def message(self, tag: str) -> None:
        groups = ["all", f"room-{self.source.random.randrange(ROOMS)}"]
        tell(self.cursor, tag, groups)


KINDS_BY_SQL = {
    "insert": 10,
    "upsert": 10,
    "insert_many": 4,
    "update": 12,
    "update_many": 4,
    "update_nothing": 1,
    "move": 4,
    "hide": 4,
    "hide_only": 2,
    "change_key": 6,
    "delete": 6,
    "delete_many": 1,
    "replace": 3,
    "truncate": 0.2,
    "message": 6,
}


def tell(cursor: Cursor, tag: str, groups: list[str]) -> None:
    """Publish a message, and write down that we did: first, see the tables' triggers."""
    data = json.dumps({"tag": tag, "groups": groups})
    cursor.execute("INSERT INTO oracle_truth (op, new) VALUES ('message', %s)", [data])
    cursor.execute("SELECT pgnotify_publish('told', %s::jsonb, %s)", [data, groups])


class ByOrm:
    """What a Django project does."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def statement(self) -> None:
        """One call of any kind, under a tag of its own."""
        from django_pgnotify import event_context

        tag = self.source.tag()
        kinds = [self.save, self.bulk_create, self.bulk_update, self.update, self.delete]
        revoke = self.revoke if os.environ.get("ORACLE_REVOKES") else self.save
        kinds += [self.change_key, self.message, revoke, self.save, self.update]
        with event_context(tag=tag, secret=1):
            self.source.random.choice(kinds)(tag)

    def save(self, tag: str) -> None:
        self._thing(self.source.id(), tag).save()

    def bulk_create(self, tag: str) -> None:
        from .things.models import Thing

        Thing.objects.bulk_create(
            [self._thing(id, tag) for id in self.source.ids()],
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=["value", "tag", "room"],
        )

    def bulk_update(self, tag: str) -> None:
        from .things.models import Thing

        things = list(Thing.objects.filter(id__in=self.source.ids()))
        for thing in things:
            thing.tag, thing.value = tag, thing.value + 1
        Thing.objects.bulk_update(things, ["tag", "value"], batch_size=10)

    def update(self, tag: str) -> None:
        from .things.models import Thing

        things = Thing.objects.filter(room=self.source.room())
        things.update(room=self.source.room(), tag=tag)

    def delete(self, tag: str) -> None:
        from .things.models import Thing

        Thing.objects.filter(id=self.source.id()).delete()

    def change_key(self, tag: str) -> None:
        from django.db import IntegrityError, transaction

        from .things.models import Thing

        try:
            with transaction.atomic():
                Thing.objects.filter(id=self.source.id()).update(id=self.source.id(), tag=tag)
        except IntegrityError:
            pass  # a row of that key is there: the savepoint is gone, the transaction goes on

    def message(self, tag: str) -> None:
        from django.db import connection

        from django_pgnotify import notify

        groups = ["all", f"room-{self.source.random.randrange(ROOMS)}"]
        data = {"tag": tag, "groups": groups}
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO oracle_truth (op, new) VALUES ('message', %s)", [json.dumps(data)]
            )
        notify("told", data, groups=groups)

    def revoke(self, tag: str) -> None:
        from asgiref.sync import async_to_sync

        from django_pgnotify.consumers import revoke

        async_to_sync(revoke)(self.source.random.choice(["all", "room-0", "room-1"]))

    def _thing(self, id: int, tag: str) -> Any:
        from .things.models import Thing

        return Thing(**self.source.row(id, tag))


def transaction(
    source: Source, statement: Callable[[], None], savepoint: Callable[[], Any]
) -> None:
    """Statements, pauses and savepoints in an open transaction; Rollback if it is to fail."""
    random = source.random
    for _ in range(random.choice([1, 1, 1, 2, 3, 5])):
        if random.random() < 0.2:
            try:
                with savepoint():
                    statement()
                    if random.random() < 0.6:
                        raise Rollback
            except Rollback:
                pass
        else:
            statement()
        if random.random() < 0.1:
            time.sleep(random.random() ** 3 * LONG_SECONDS)
    if random.random() < 0.12:
        raise Rollback


class Writer:
    """One process' loop."""

    def __init__(self, seed: str, url: str) -> None:
        self.source = Source(seed)
        self.url = url
        self.counts = {"committed": 0, "rolled back": 0, "failed": 0}
        self._connection: Any = None

    def run_one(self) -> None:
        """One transaction, by one of the two ways."""
        by = self._by_sql if self.source.random.random() < 0.6 else self._by_orm
        try:
            with by() as (statement, savepoint):
                transaction(self.source, statement, savepoint)
            self.counts["committed"] += 1
        except Rollback:
            self.counts["rolled back"] += 1

    @contextmanager
    def _by_sql(self) -> Iterator[tuple[Callable[[], None], Callable[[], Any]]]:
        import psycopg

        if self._connection is None:
            self._connection = psycopg.connect(self.url, connect_timeout=3)
        connection = self._connection
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            yield BySql(cursor, self.source).statement, connection.transaction

    @contextmanager
    def _by_orm(self) -> Iterator[tuple[Callable[[], None], Callable[[], Any]]]:
        from django.db import connection
        from django.db import transaction as django_transaction

        with django_transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
            yield ByOrm(self.source).statement, django_transaction.atomic

    def recover(self) -> None:
        """Begin with new connections."""
        from django.db import connection

        self.counts["failed"] += 1
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        connection.close()
        time.sleep(0.1)


def main(seed: str) -> None:
    """Write until SIGTERM; the transaction that runs is finished."""
    import django
    import psycopg
    from django.db import Error

    django.setup()
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    writer = Writer(seed, os.environ["DATABASE_URL"])
    while not stopping:
        try:
            writer.run_one()
        except (Error, psycopg.Error) as error:
            print(f"{type(error).__name__}: {error}".split("\n")[0], flush=True)
            writer.recover()
        print(json.dumps(writer.counts), flush=True)
        time.sleep(writer.source.random.expovariate(1 / PAUSE_SECONDS))


if __name__ == "__main__":
    main(sys.argv[1])
