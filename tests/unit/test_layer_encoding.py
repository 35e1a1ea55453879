"""A message as ASCII JSON and back, whatever it holds."""

from __future__ import annotations

import enum
import math
from typing import Any

import pytest
from django.utils.safestring import mark_safe
from hypothesis import example, given
from hypothesis import strategies as st

from django_pgnotify.layers.encoding import decode, encode

text = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    ["\x00", "\x00bytes", "\x00\x00bytes", "\ud800"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=20)
    | text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(text, values, max_size=5))
@example({"": math.inf})
def test_every_message_survives_in_ascii_without_nul(message: dict[str, Any]) -> None:
    body = encode(message)
    assert body.isascii()
    assert "\x00" not in body
    assert decode(body) == message


def test_subclasses_and_tuples_arrive_as_the_plain_types() -> None:
    class Colour(enum.IntEnum):
        RED = 1

    message = {"safe": mark_safe("<b>"), "enum": Colour.RED, "tuple": (1, (2,))}
    assert decode(encode(message)) == {"safe": "<b>", "enum": 1, "tuple": [1, [2]]}


def test_buffers_arrive_as_bytes() -> None:
    message = {"a": bytearray(b"\x00"), "b": memoryview(b"\xff")}
    assert decode(encode(message)) == {"a": b"\x00", "b": b"\xff"}


@pytest.mark.parametrize("value", [object(), {1}, 1j, {"deep": [{None: 1}]}])
def test_another_type_is_named_in_the_error(value: object) -> None:
    with pytest.raises(TypeError, match="message"):
        encode({"key": value})
