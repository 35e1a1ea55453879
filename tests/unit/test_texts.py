"""Events that are cut out of a ledger row's text are those that parsing it gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_pgnotify import jsontext
from django_pgnotify.ledger.exact import MAX_DEPTH
from django_pgnotify.ledger.rows import LedgerRow, changes_of
from django_pgnotify.ledger.texts import ready_texts

MAX_BYTES = 10_000
INSERT = '{"kind":"insert","pk":7,"data":{"id":7,"name":"a"},"groups":["things"]}'
UPDATE = (
    '{"kind":"update","pk":8,"data":{"id":8,"name":"b"},"changed":["name"],'
    '"groups":["things","room-8"]}'
)
MESSAGE = '{"kind":"message","pk":null,"data":[1,"x"],"groups":["g"]}'


@pytest.fixture(params=["as installed", "json"], autouse=True)
def read_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it with orjson and without."""
    if request.param == "json":
        monkeypatch.setattr(jsontext, "orjson", None)


def row(*changes: str, **more: Any) -> LedgerRow:
    values: dict[str, Any] = {
        "topic": "t",
        "model": "shop.order",
        "context": None,
        "context_keys": None,
    }
    values |= {"id": 5, "xid": "9", "at": "2026-01-02T03:04:05.000678Z"}
    return LedgerRow(changes=f"[{','.join(changes)}]", **{**values, **more})


def insert(data: str, groups: str = '["things"]') -> str:
    return f'{{"kind":"insert","pk":7,"data":{data},"groups":{groups}}}'


@pytest.mark.parametrize(
    "held",
    [
        row(INSERT),
        row(INSERT, UPDATE, INSERT.replace("insert", "delete"), UPDATE),
        row(MESSAGE, model=None),
        row(MESSAGE, topic='an "odd" töpic'),
        row(INSERT, context='{"user":1}'),
        row(insert('{"name":"ä € 😀 \\" \\\\ \\u0000 \\u2028"}')),
        row(insert('{"name":"},{\\"kind\\":\\""}'), INSERT),
        row(insert('{"doc":[{"kind":"x"},{"a":{"groups":["mine"]}}]}')),
        row(insert('{"doc": {"a" : 1.50}}')),
        row(insert('{"a":0.1,"b":1e5,"c":-7,"d":null,"e":true}')),
        row(insert("{}", "[]"), INSERT),
        row(insert("{}", '["a","b","a"]')),
        row(insert("{}", '[ "things" ]')),
    ],
)
def test_what_is_cut_says_what_is_parsed(held: LedgerRow) -> None:
    ready = ready_texts([held], MAX_BYTES)
    assert ready is not None
    assert all(text.isascii() for text, _ in ready)
    changes = changes_of(held)
    assert [json.loads(text) for text, _ in ready] == [change.event for change in changes]
    assert [groups for _, groups in ready] == [change.groups for change in changes]


@pytest.mark.parametrize(
    "held",
    [
        row(INSERT, topic="pgnotify.revoke"),
        row(INSERT, context='{"user":1}', context_keys=["user"]),
        row(insert('{"n":12345678901234567890123}')),
        row(insert('{"n":1e400}')),
        row(insert('{"s":"\\ud800"}')),
        row(insert(f'{{"doc":{"[" * MAX_DEPTH}{"]" * MAX_DEPTH}}}')),
        row(insert('{"doc":[{"a":1},{"kind":"x"}]}')),  # looks like two changes
        row('{"kind":"insert","pk":7,"truncated":true,"groups":["g"]}'),
        row('{"kind":"truncate","pk":null,"groups":[],"templates":["a-{id}"]}'),
        row(INSERT[:-1] + ',"moved":true}'),
        row(INSERT, INSERT.replace('"pk":7,', "")),
        row(INSERT.replace("insert", "no such kind")),
        row(INSERT.replace('"insert"', "[1]")),
        row(insert("{}", '["no name!"]')),
        row(insert("{}", '["pgnotify.hubs"]')),
        row(insert("{}", "[1]")),
        row(insert("{}", '[{"a":1}]')),
        row(insert("{}", '"things"')),
        row(insert("{}", "null")),
        row(
            insert('[{"a":1,"groups":[]},{"kind":"y"}]', "[]"),
            '{ "kind":"insert","pk":2,"data":{},"groups":[]}',
        ),
        row(insert('[{"a":1,"groups":[]},{"kind":"y"}]', "[]"), "5", INSERT),
        row(
            '{"kind":"insert","pk":1,"data":1,"groups":["secret"],"groups":["things"]}',
        ),
        row('{"kind":"insert","pk":1,"data":1,"\\u0067roups":["secret"],"groups":["things"]}'),
        row('{"kind":"insert","pk":1,"data":1,"changed":false,"groups":["things"]}'),
        row('{"kind":"insert","pk":1,"data":1,"changed":NaN,"groups":["things"]}'),
        row('{"kind":"insert","pk":NaN,"pk":1,"data":1,"groups":["things"]}'),
        row(insert("Infinity")),
        row(insert('{"a":"\\é"}')),  # no JSON, and \\u00e9 would be
        row(insert('{"a":"\\😀"}')),
        row("1"),
        row('{"kind":"insert"'),
        row('{"kind":"insert}'),
        row("[" * 3000),
    ],
)
def test_what_is_not_as_our_sql_writes_it_is_left_to_the_parser(held: LedgerRow) -> None:
    assert ready_texts([held], MAX_BYTES) is None


def test_rows_that_are_parsed_together_are_told_apart() -> None:
    rows = [row(INSERT, id=1), row(UPDATE, INSERT, id=2, topic="u"), row(MESSAGE, id=3)]
    ready = ready_texts(rows, MAX_BYTES)
    assert ready == [text for each in rows for text in ready_texts([each], MAX_BYTES) or ()]
    assert [json.loads(text)["id"] for text, _ in ready] == ["1-0", "2-0", "2-1", "3-0"]


@pytest.mark.parametrize(
    "rows",
    [
        # Each begins and ends as a row does; together they make as many objects as rows.
        [
            row('{"kind":"insert","pk":1,"data":1},{"kind":"insert","pk":2,"data":[{}'),
            row('{"kind":"insert","pk":3,"data":1}]}'),
        ],
        [
            row('{"kind":"insert","pk":1,"data":[{"a":1,"groups":[]}'),
            row('{"kind":"insert","pk":2,"data":{"a":1}],"groups":[]}'),
        ],
        [row(INSERT), row('{"kind":"insert","pk":1,"data":{},"moved":true,"groups":["g"]}')],
        [row(INSERT), row(insert('{"n":1e400}'))],
    ],
)
def test_what_is_right_only_together_is_not_cut(rows: list[LedgerRow]) -> None:
    assert ready_texts(rows, MAX_BYTES) is None


def test_an_event_that_is_too_large_leaves_its_row_to_the_parser() -> None:
    held = row(INSERT, insert(f'{{"name":"{"x" * MAX_BYTES}"}}'))
    assert ready_texts([held], MAX_BYTES) is None
    assert ready_texts([held], 2 * MAX_BYTES) is not None


def test_groups_are_told_apart_however_long_their_list_is() -> None:
    groups = [f"room-{number}" for number in range(200)]
    ready = ready_texts(
        [row(insert("{}", json.dumps(groups, separators=(",", ":"))))], MAX_BYTES
    )
    assert ready is not None
    assert ready[0][1] == tuple(groups)


@pytest.mark.parametrize("odd", ["", ',"n":12345678901234567890123'])
@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_goes_without_data_and_stops_nobody(constant: str, odd: str) -> None:
    (change,) = changes_of(row(insert(f'{{"a":{constant}{odd}}}')))
    assert change.event["truncated"] is True
    assert changes_of(row(INSERT.replace('"pk":7', f'"pk":{constant}'))) == []
    assert changes_of(row(INSERT)) != []
