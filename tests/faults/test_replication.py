"""Logical replication: the publisher's ledger tells of a change, the subscriber's does not."""

from __future__ import annotations

from tests.own_server import NAME, Place, StartPlace, migrate, wait_until

COPY = "replica"
TABLE = "orders_customer"
TRIGGERS = [f"customer_changes_{kind}" for kind in ("insert", "update", "delete")]


def insert(place: Place, who: str, name: str = NAME) -> None:
    place.sql(f"INSERT INTO {TABLE} (name, city) VALUES (%s, 'Bonn')", who, name=name)


def arrived(place: Place, who: str) -> bool:
    query = f"SELECT EXISTS (SELECT FROM {TABLE} WHERE name = %s)"
    return bool(place.sql(query, who, name=COPY)[0])


def told(place: Place, name: str) -> list[str]:
    (found,) = place.sql(
        "SELECT array_agg(changes::jsonb #>> '{0,data,name}' ORDER BY id)"
        " FROM django_pgnotify_ledger",
        name=name,
    )
    return found or []


def test_applied_changes_are_told_by_the_publisher_only_whatever_is_enabled(
    start_place: StartPlace,
) -> None:
    place = start_place(wal_level="logical")
    place.sql(f"CREATE DATABASE {COPY}", name="postgres")
    migrate(place.server.url(COPY))
    for name in (NAME, COPY):
        migrate(place.server.url(name), "orders")
    place.sql(f"CREATE PUBLICATION customers FOR TABLE {TABLE}")
    # A subscription within one server would wait for itself to make its slot.
    place.sql("SELECT pg_create_logical_replication_slot('copy', 'pgoutput')")
    place.sql(
        f"CREATE SUBSCRIPTION copy CONNECTION '{place.server.url(NAME)}'"
        " PUBLICATION customers WITH (create_slot = false, slot_name = 'copy')",
        name=COPY,
    )
    try:
        insert(place, "Ada")
        wait_until(lambda: arrived(place, "Ada"), "the change is applied")
        for trigger in TRIGGERS:
            place.sql(f"ALTER TABLE {TABLE} ENABLE ALWAYS TRIGGER {trigger}", name=COPY)
        insert(place, "Bob")
        wait_until(lambda: arrived(place, "Bob"), "the next change is applied")
        place.sql(f"SELECT setval(pg_get_serial_sequence('{TABLE}', 'id'), 100)", name=COPY)
        insert(place, "Cyd", name=COPY)
        assert told(place, NAME) == ["Ada", "Bob"]
        assert told(place, COPY) == ["Cyd"]
    finally:
        place.sql("ALTER SUBSCRIPTION copy DISABLE", name=COPY)
        place.sql("ALTER SUBSCRIPTION copy SET (slot_name = NONE)", name=COPY)
        place.sql("DROP SUBSCRIPTION copy", name=COPY)
