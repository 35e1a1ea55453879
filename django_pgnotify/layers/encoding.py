"""Encoding: a channel-layer message as ASCII JSON and back, bytes included.

ASCII, since a NOTIFY payload must fit the database's encoding (LATIN1 too) and can't hold a
NUL: JSON writes both as escapes. JSON has no bytes, so they travel as an object with one key
that starts with a NUL; a message's own keys that start so get one NUL more.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from ..jsontext import loads

TAG = "\x00"
BYTES_KEY = TAG + "bytes"
TAG_AS_JSON = '"\\u0000'
"""What only a text with a tagged key, or a string that starts with NUL, contains."""

PLAIN = frozenset({str, int, float, bool, type(None)})


def encode(message: object) -> str:
    """Return `message` as ASCII JSON; TypeError if it is no dict or holds another type."""
    if not isinstance(message, dict):
        raise TypeError(f"A message must be a dict, not {type(message).__name__}: {message!r}")
    return json.dumps(_tagged(message), separators=(",", ":"))


def decode(body: str) -> dict[str, Any]:
    """Return a new copy of the message that encode() was given; tuples come back as lists."""
    if TAG_AS_JSON in body:
        return dict(json.loads(body, object_hook=_untagged))
    return dict(loads(body))


def _tagged(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if isinstance(value, dict):
        return {_tagged_key(key): _tagged(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tagged(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BYTES_KEY: base64.b64encode(value).decode("ascii")}
    if isinstance(value, (str, int, float)):  # subclasses: SafeString, enumerations
        return value
    raise TypeError(
        f"A message can't hold a {type(value).__name__}: {value!r}."
        " Allowed are str, int, float, bytes, list, dict, bool and None."
    )


def _tagged_key(key: object) -> str:
    # json.dumps would turn 1 into "1" in silence; the receiver would look for 1 in vain.
    if not isinstance(key, str):
        raise TypeError(f"A key in a message must be a str, not {type(key).__name__}: {key!r}")
    return TAG + key if key.startswith(TAG) else key


def _untagged(value: dict[str, Any]) -> Any:
    if BYTES_KEY in value:
        return base64.b64decode(value[BYTES_KEY])
    return {key.removeprefix(TAG): item for key, item in value.items()}
