"""Ledger rows become changes and events, whatever stands in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_pgnotify import jsontext
from django_pgnotify.ledger.exact import MAX_DEPTH, may_be_odd
from django_pgnotify.ledger.rows import LedgerRow, changes_of, events_of


@pytest.fixture(params=["as installed", "json"], autouse=True)
def read_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it with orjson and without."""
    if request.param == "json":
        monkeypatch.setattr(jsontext, "orjson", None)


def row(
    changes: str, *, topic: str = "t", context: str | None = None, **more: Any
) -> LedgerRow:
    return LedgerRow(
        id=5,
        topic=topic,
        model="shop.order",
        changes=changes,
        at="2026-01-02T03:04:05Z",
        xid="9",
        context=context,
        context_keys=more.get("context_keys"),
    )


def message(data: str) -> str:
    return f'{{"kind":"message","pk":null,"data":{data},"groups":["g"]}}'


def test_event_object_is_the_one_of_event_to_json() -> None:
    update = (
        '[{"kind":"update","pk":7,"data":{"status":"paid"},"changed":["status"],"groups":["g"]},'
        '{"kind":"delete","pk":8,"data":{"status":"new"},"moved":true,"groups":[]}]'
    )
    changes, events = changes_of(row(update)), events_of(row(update), using="default")
    assert [change.event for change in changes] == [event.to_json() for event in events]
    assert changes[0].event == {
        "id": "5-0",
        "topic": "t",
        "kind": "update",
        "model": "shop.order",
        "pk": 7,
        "data": {"status": "paid"},
        "changed": ["status"],
        "at": "2026-01-02T03:04:05Z",
    }
    assert changes[1].event["moved"] is True
    assert changes[0].groups == ("g",)


def test_context_is_reduced_for_browsers_and_whole_for_handlers() -> None:
    held = row(
        f"[{message('1')}]", context='{"user": 3, "secret": 4}', context_keys=["user", "none"]
    )
    assert changes_of(held)[0].event["context"] == {"user": 3}
    assert events_of(held, using="default")[0].context == {"user": 3, "secret": 4}


@pytest.mark.parametrize("context", ["no json", "[1]", "", "null", "[" * 3000])
def test_context_that_is_no_object_is_empty(context: str) -> None:
    held = row(f"[{message('1')}]", context=context, context_keys=["user"])
    assert "context" not in changes_of(held)[0].event
    assert events_of(held, using="default")[0].context == {}


@pytest.mark.parametrize(
    ("data", "approximation"),
    [
        ("12345678901234567890123", "12345678901234567890123"),
        ("1e400", "1e400"),
        ("0.12345678901234567890", "0.12345678901234567890"),
        ('"\\ud800"', "\ufffd"),
        ('{"\\udc00":[-9223372036854775809]}', {"\ufffd": ["-9223372036854775809"]}),
    ],
)
def test_odd_values_travel_exactly_beside_an_approximation(
    data: str, approximation: Any
) -> None:
    event = changes_of(row(f"[{message(data)}]"))[0].event
    assert event["data"] == approximation
    assert f'"data":{data},' in event["exact"]


@pytest.mark.parametrize(
    "data", ["9223372036854775807", "0.1234567890123456", '"\\ud83d\\ude00"']
)
def test_values_that_python_holds_need_no_exact_text(data: str) -> None:
    event = changes_of(row(f"[{message(data)}]"))[0].event
    assert event["data"] == json.loads(data)
    assert "exact" not in event


def test_handlers_get_integers_of_any_length() -> None:
    (event,) = events_of(row(f"[{message('12345678901234567890123')}]"), using="default")
    assert event.data == 12345678901234567890123


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5000])
def test_data_too_deep_for_encoders_is_truncated_and_the_rest_kept(depth: int) -> None:
    deep = "[" * depth + '"]}"' + "]" * depth
    first, second = changes_of(row(f"[{message(deep)},{message('2')}]"))
    assert first.event["truncated"] is True
    assert "data" not in first.event
    assert first.groups == second.groups == ("g",)


@pytest.mark.parametrize(
    "changes", ["", "no json", "{}", "[1, null]", '[{"kind":"odd"}]', "]["]
)
def test_what_is_no_change_is_left_out_and_logged(
    changes: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert changes_of(row(changes)) == []
    assert events_of(row(changes), using="default") == []
    assert "left out" in caplog.text or changes == "{}"


def test_group_that_no_layer_takes_is_left_out() -> None:
    held = row(
        '[{"kind":"message","pk":null,"data":1,"groups":["a b","ok","pgnotify.hubs",{}]}]'
    )
    assert changes_of(held)[0].groups == ("ok",)


def test_templates_stand_in_truncates() -> None:
    held = row('[{"kind":"truncate","pk":null,"groups":["g"],"templates":["c-{id}"]}]')
    (change,) = changes_of(held)
    assert change.templates == ("c-{id}",)
    assert change.event["kind"] == "truncate"


@pytest.mark.parametrize(
    "value",
    [
        "1234567890123456",
        "-1234567890123456",
        "0.123456789012345",
        "1e400",
        "1E-400",
        "-1.5e+0400",
        '"\\ud800"',
        '"\\uDEAD"',
    ],
)
@pytest.mark.parametrize("frame", ["{}", "[1,{}]", '[{{"a":{}}}]', '{{"a" :\t{} }}', "[ {}]"])
def test_text_that_needs_care_is_found(value: str, frame: str) -> None:
    assert may_be_odd(frame.format(value))


@pytest.mark.parametrize(
    "value",
    [
        "123456789012345",
        "1.5e99",
        '"1234567890123456789"',
        '"00000000-0000-0000-0000-00000000e123"',
        '"2026-01-02T03:04:05.123456Z"',
        '"\\u00e9"',
        "true",
    ],
)
def test_text_that_needs_none_is_not_taken_for_it(value: str) -> None:
    assert not may_be_odd(f'[{{"kind":"insert","pk":7,"data":{{"a":{value}}}}}]')


def test_group_names_are_given_once_and_in_order() -> None:
    held = row('[{"kind":"message","pk":null,"data":1,"groups":["b","a","b","c d"]}]')
    assert changes_of(held)[0].groups == ("b", "a")


def test_a_text_of_a_million_digits_is_looked_through_once() -> None:
    """A search that begins anew for each digit would take hours."""
    digits = "7" * 1_000_000
    assert not may_be_odd(f'[{{"data":"{digits}"}}]')
    assert may_be_odd(f'[{{"data":"{digits}","number":{digits}}}]')


@pytest.mark.parametrize("number", ["1e99999999999999999999", "-1e-99999999999999999999"])
def test_a_number_beyond_every_bound_travels_as_text_and_stops_nobody(number: str) -> None:
    [change] = changes_of(row(f"[{message(number)}]"))
    assert json.loads(change.event["exact"].replace(number, '"as it was"'))["data"] == (
        "as it was"
    )
    [told] = changes_of(
        row(f"[{message('1')}]", context=f'{{"user":{number}}}', context_keys=["user"])
    )
    assert told.event["data"] == 1
