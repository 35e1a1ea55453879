"""JSON text: written and read as fast as what is installed allows, with one meaning.

orjson (the extra ``speed``) is several times faster than ``json`` and different at the edges.
Whatever it refuses or would change goes through ``json``, so that nobody can tell by a text's
meaning which of the two made it. Small floats (1e-7, 1e-07) and DEL are spelled differently.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any, TypeAlias
from uuid import UUID

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

Json: TypeAlias = Any
"""A JSON value as Python's ``json`` gives it: None, bool, int, float, str, list or dict."""

# What json refuses must come to _default() instead of being written as orjson likes.
REFUSING = (
    0 if orjson is None else orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
)
NON_ASCII = re.compile("[^\x00-\x7f]+")
ZEROS = bytes.maketrans(b"123456789", b"000000000")
LONG_INTEGER = b"0" * 19
"""As many digits as the largest 64-bit integer: orjson makes a float of what is beyond."""


def dumps(value: Json) -> str:
    """JSON text in ASCII without spaces. ASCII, so that lone surrogates and any database
    encoding pass; raises ValueError for NaN and infinities."""
    if orjson is None:
        return dumps_canonical(value)
    try:
        raw = orjson.dumps(value, _default, REFUSING)
    except TypeError:
        # Lone surrogates, long integers, keys that are no text, deep nesting: json knows.
        return dumps_canonical(value)
    if b"null" in raw and _holds_nan(value):
        return dumps_canonical(value)
    return escape_non_ascii(raw.decode("utf-8"))


def escape_non_ascii(text: str) -> str:
    """The same JSON in ASCII."""
    return text if text.isascii() else NON_ASCII.sub(_escaped, text)


def dumps_canonical(value: Json) -> str:
    """The same, in a spelling that does not depend on what is installed: for signatures."""
    return ENCODER.encode(value)


def loads(text: str | bytes, constant: Callable[[str], Json] | None = None) -> Json:
    """Parse JSON that a database accepted: numbers of any length too, which Python refuses
    beyond 4,300 digits (they stay text). NaN and infinities go to `constant`, if it is given."""
    if orjson is not None:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        if LONG_INTEGER not in raw.translate(ZEROS):
            try:
                return orjson.loads(raw)
            except ValueError:
                pass  # json accepts more: lone surrogates, deeper nesting
    try:
        return json.loads(text, parse_constant=constant)
    except ValueError:
        return json.loads(text, parse_int=_int_or_text, parse_constant=constant)


def loads_regular(text: str) -> Json:
    """The same for text that is known to hold no integer beyond 64 bits, NaN or infinity: those
    raise ValueError."""
    if orjson is not None:
        try:
            return orjson.loads(text)
        except ValueError:
            pass
    return json.loads(text, parse_constant=refuse)


def refuse(constant: str) -> Json:
    """Raise ValueError for NaN and infinities, which Python takes for JSON and others don't."""
    raise ValueError(f"{constant} is not JSON")


def _int_or_text(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _escaped(found: re.Match[str]) -> str:
    return encode_basestring_ascii(found[0])[1:-1]


def _default(value: object) -> Json:
    # orjson writes these by itself; so does json then.
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _holds_nan(value: Json) -> bool:
    """True for NaN and infinities anywhere inside, which orjson writes as null in silence."""
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, dict):
        return any(map(_holds_nan, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_nan, value))
    return False


ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_default)
