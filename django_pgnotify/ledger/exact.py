"""Exact: JSON of the database that Python or msgpack would break or rewrite, kept as text.

A JSONField may hold numbers beyond 64 bits, numbers that no double holds (``1e400``, twenty
digits after the point), lone surrogates, and nesting that recursive encoders refuse.
"""

from __future__ import annotations

import json
import re
import secrets
from contextlib import suppress
from decimal import Decimal
from typing import Any

from ..events import Json, dumps
from ..jsontext import refuse

MAX_DEPTH = 200
"""Nested arrays and objects in one event. msgpack packs 511 levels, and the deep copy of the
in-memory channel layer takes two Python frames a level of about a thousand."""

# Digits and points become 0, what may stand before a number becomes a colon. A bytes.translate
# and some searches take a tenth of the time of a regular expression that says the same.
SHAPES = bytes.maketrans(b"123456789.,[{ \t\r\nE-", b"0000000000:::::::e+")
ODD_NUMBERS = ("0" * 16, "0e000", "0e+000")
"""Digits that a double may not hold, and exponents of three digits."""
SURROGATE_ESCAPES = ("\\ud", "\\uD")

SURROGATE = re.compile("[\ud800-\udfff]")

# Marks a number that stays text. It is random, and never leaves the process, so that no
# string in the data can be taken for one.
NUMBER = f"number-{secrets.token_hex(16)}:"
QUOTED_NUMBER = re.compile(rf'"{NUMBER}([^"]*)"')

INTEGER = re.compile(r"-?\d{1,4300}")  # Python refuses to read longer ones

CONTAINERS = frozenset({dict, list})

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)


def may_be_odd(text: str) -> bool:
    """True if JSON text may need care: for all that does, and for little that doesn't."""
    for escape in SURROGATE_ESCAPES:
        if escape in text:
            return True
    # Text again, in which Python searches several times as fast as in bytes.
    shape = text.encode("utf-8", "surrogatepass").translate(SHAPES).decode("latin-1")
    return any(odd in shape and _has_number(shape, odd) for odd in ODD_NUMBERS)


def _has_number(shape: str, odd: str) -> bool:
    """True if a number, and not a string such as a UUID, begins with what ends in `odd`."""
    at = shape.find(odd)
    while at >= 0:
        start = shape.rfind(":", 0, at) + 1
        if not shape[start:at].strip("+0"):
            return True
        # On behind this value: anybody may store a text of a million digits.
        at = shape.find(":", at)
        at = shape.find(odd, at) if at >= 0 else at
    return False


def loads_exact(text: str) -> Json:
    """Parse; numbers that Python would rewrite become marked strings (see ``NUMBER``)."""
    return json.loads(
        text, parse_int=_int_or_mark, parse_float=_float_or_mark, parse_constant=refuse
    )


def exact_text(value: Json) -> str:
    """ASCII JSON of what ``loads_exact`` gave, with every number as the database wrote it."""
    return QUOTED_NUMBER.sub(r"\1", dumps(value))


def approximate(value: Json, *, long_integers: bool = False) -> Json:
    """A copy that every encoder takes: marked numbers as strings, lone surrogates as U+FFFD.

    With `long_integers`, integers of any length become Python's.
    """
    match value:
        case str():
            return _approximate_text(value, long_integers)
        case dict():
            return {
                approximate(key): approximate(item, long_integers=long_integers)
                for key, item in value.items()
            }
        case list():
            return [approximate(item, long_integers=long_integers) for item in value]
    return value


def may_be_deep(text: str) -> bool:
    """True if the text has brackets enough to pass MAX_DEPTH."""
    return len(text) > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH


def is_deep(value: Json) -> bool:
    """True if the value nests deeper than MAX_DEPTH. Goes by level, so it can't recurse."""
    if isinstance(value, dict) and CONTAINERS.isdisjoint(map(type, value.values())):
        return False  # nearly every event
    level = _children(value)
    for _ in range(MAX_DEPTH - 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def without_data(text: str) -> str:
    """The changes' text with every ``data`` replaced by ``null``, by counting brackets.

    For text that nests deeper than a parser goes; whatever it is, this ends and does not raise.
    """
    kept: list[str] = []
    depth = 0
    skipping = False
    for token in TOKEN.findall(text):
        depth += (token in "[{") - (token in "]}")
        # Depth 2 is within a change: the next key or its end ends the value of "data".
        if skipping and (depth < 2 or (depth == 2 and token == ",")):
            skipping = False
        if not skipping:
            kept.append(token)
            if depth == 2 and token == ":" and kept[-2] == '"data"':
                kept.append("null")
                skipping = True
    return "".join(kept)


def _approximate_text(text: str, long_integers: bool) -> int | str:
    digits = text.removeprefix(NUMBER)
    if long_integers and text.startswith(NUMBER) and INTEGER.fullmatch(digits):
        return int(digits)
    return SURROGATE.sub("\ufffd", digits)


def _children(value: Json) -> list[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return []
    return [item for item in value if item.__class__ in CONTAINERS]


def _int_or_mark(digits: str) -> int | str:
    max_digits = 19  # of a 64-bit integer
    if len(digits.lstrip("-")) <= max_digits and -(2**63) <= int(digits) < 2**63:
        return int(digits)
    return NUMBER + digits


def _float_or_mark(digits: str) -> float | str:
    value = float(digits)
    # The repr of a double is the shortest text that reads back as it: equal means unharmed.
    with suppress(ArithmeticError):  # Decimal has bounds too
        if Decimal(repr(value)) == Decimal(digits):
            return value
    return NUMBER + digits
