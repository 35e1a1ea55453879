"""What other packages do to their users, seen when they were run: none of it may happen here."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models, transaction

from django_pgnotify import NotifyTrigger
from tests.tables import Ledger, make, run

pytestmark = pytest.mark.django_db


def thing(**kwargs: Any) -> Any:
    declared = NotifyTrigger(**{"name": "things", "fields": ["id", "text"], **kwargs})
    return make(constraints=[declared], text=models.TextField())


@pytest.mark.parametrize("length", [4_500, 7_999, 8_000, 9_000, 1_000_000])
def test_a_row_over_eight_kilobytes_fails_no_save(length: int) -> None:
    Thing = thing()
    ledger = Ledger()
    row = Thing.objects.create(text="€" * length)
    row.text = "x" * length
    row.save()
    row.delete()
    assert [len(c["data"]["text"]) for c in ledger.take()] == [length] * 3


def test_deletes_are_not_cancelled() -> None:
    Thing = thing(on=["delete"])
    row = Thing.objects.create(text="a")
    assert row.delete() == (1, {"made.Thing": 1})
    assert Thing.objects.count() == 0


@pytest.mark.parametrize(
    "text",
    ["it's", "x'); CREATE TABLE pwned (); --", '"', "\\", "$pgnotify$", "%s %(a)s", "{0}"],
)
def test_quotes_in_values_are_data(text: str) -> None:
    Thing = thing(groups=["t-{text}"])
    ledger = Ledger()
    Thing.objects.create(text=text)
    assert ledger.take()[0]["data"]["text"] == text
    assert run("SELECT to_regclass('pwned')") == [(None,)]


def test_writes_work_on_a_normal_schema_and_under_a_tenants_search_path() -> None:
    Thing = thing()
    ledger = Ledger()
    run("CREATE SCHEMA tenant; SET LOCAL search_path = tenant, public")
    Thing.objects.create(text="a")
    run("SET LOCAL search_path = tenant")
    run("INSERT INTO public.made_thing (text) VALUES ('b')")
    assert [c["data"]["text"] for c in ledger.take()] == ["a", "b"]


def test_update_and_bulk_create_are_seen() -> None:
    Thing = thing()
    ledger = Ledger()
    Thing.objects.bulk_create([Thing(text="a"), Thing(text="b")])
    Thing.objects.update(text="c")
    assert [c["kind"] for c in ledger.take()] == ["insert", "insert", "update", "update"]


def test_what_a_savepoint_rolled_back_is_not_told() -> None:
    Thing = thing()
    ledger = Ledger()
    with transaction.atomic():
        Thing.objects.create(text="outer")
        with transaction.atomic():
            Thing.objects.update(text="SAVEPOINT-ROLLED-BACK")
            transaction.set_rollback(True)
    assert [c["data"]["text"] for c in ledger.take()] == ["outer"]


def test_the_id_of_an_event_that_was_rolled_back_is_not_used_again() -> None:
    Thing = thing()
    with transaction.atomic():
        Thing.objects.create(text="rolled back")
        [(dropped,)] = run("SELECT max(id) FROM django_pgnotify_ledger")
        transaction.set_rollback(True)
    Thing.objects.create(text="next")
    [(following,)] = run("SELECT max(id) FROM django_pgnotify_ledger")
    assert following > dropped


def test_two_equal_events_of_one_transaction_are_two() -> None:
    Thing = thing(fields=["text"], on=["insert"])
    ledger = Ledger()
    Thing.objects.create(text="same")
    Thing.objects.create(text="same")
    assert [c["data"] for c in ledger.take()] == [{"text": "same"}] * 2


def test_states_that_alternate_end_on_the_last_one() -> None:
    Thing = thing()
    row = Thing.objects.create(text="on")
    ledger = Ledger()
    for text in ("off", "on", "off", "on"):
        row.text = text
        row.save()
    assert [c["data"]["text"] for c in ledger.take()] == ["off", "on", "off", "on"]


def test_a_primary_key_need_not_be_called_id() -> None:
    make(
        constraints=[NotifyTrigger(name="things")],
        code=models.CharField(max_length=9, primary_key=True),
    )
    ledger = Ledger()
    run("INSERT INTO made_thing (code) VALUES ('x')")
    assert ledger.take()[0]["pk"] == "x"


def test_times_do_not_follow_the_writers_time_zone() -> None:
    make(constraints=[NotifyTrigger(name="things", fields=["at"])], at=models.DateTimeField())
    ledger = Ledger()
    run("SET LOCAL TimeZone = 'America/New_York'")
    run("INSERT INTO made_thing (at) VALUES ('2024-01-01 00:00:00+00')")
    assert ledger.take()[0]["data"] == {"at": "2024-01-01T00:00:00Z"}
