"""JSON text means the same with orjson and without it."""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils.safestring import mark_safe
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_pgnotify import jsontext
from django_pgnotify.jsontext import dumps, dumps_canonical, loads

needs_orjson = pytest.mark.skipif(jsontext.orjson is None, reason="orjson is not installed")
"""Where it is not, both sides of the comparison are the same one."""

text = st.text(st.characters(codec=None), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(params=[pytest.param("orjson", marks=needs_orjson), "json"])
def written_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two, whatever is installed."""
    if request.param == "json":
        monkeypatch.setattr(jsontext, "orjson", None)
    return str(request.param)


@given(value=values)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_value_survives_in_ascii(written_by: str, value: Any) -> None:
    written = dumps(value)
    assert written.isascii()
    assert loads(written) == value
    assert json.loads(written) == value
    assert loads(dumps_canonical(value)) == value
    assert loads(written.encode()) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é\u2028\U0001f600\x00", '"\\u00e9\\u2028\\ud83d\\ude00\\u0000"'),
        ("\ud800", '"\\ud800"'),
        (2**64, "18446744073709551616"),
        ({"b": 1, "a": None}, '{"b":1,"a":null}'),
        ({1: "x"}, '{"1":"x"}'),
        ((1, (2,)), "[1,[2]]"),
        (mark_safe("<b>"), '"<b>"'),
        ({mark_safe("k"): 1}, '{"k":1}'),
        (enum.IntEnum("Size", "BIG")(1), "1"),
        (enum.Enum("Name", {"A": "a"})("a"), '"a"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    ],
)
def test_text_is_the_same_whoever_writes_it(written_by: str, value: Any, expected: str) -> None:
    assert dumps(value) == dumps_canonical(value) == expected


@pytest.mark.parametrize(
    "value", [float("nan"), {"a": [1, (float("inf"),)]}, [None, -float("inf")]]
)
def test_what_is_no_number_is_refused(written_by: str, value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps(value)


@pytest.mark.parametrize("value", [b"x", datetime.now(UTC), object(), {("a",): 1}, {1, 2}])
def test_what_json_does_not_know_is_refused(written_by: str, value: Any) -> None:
    with pytest.raises(TypeError):
        dumps(value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("18446744073709551616", 2**64),
        ("-9223372036854775809", -(2**63) - 1),
        ("[1,12345678901234567890123]", [1, 12345678901234567890123]),
        ('"\\ud800"', "\ud800"),
        ('"12345678901234567890"', "12345678901234567890"),
        ("1" * 5000, "1" * 5000),
        ("1e-7", 1e-7),
    ],
)
def test_numbers_and_strings_are_read_as_they_were_written(
    written_by: str, source: str, expected: Any
) -> None:
    assert loads(source) == expected


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_no_reason_to_refuse(written_by: str) -> None:
    assert loads(dumps(nested(500))) == nested(500)


@pytest.mark.parametrize("read", [loads, jsontext.loads_regular])
def test_what_is_no_json_raises_the_error_of_json(
    written_by: str, read: Callable[[str], Any]
) -> None:
    with pytest.raises(ValueError, match="column"):
        read("[1,]")
