"""Live payloads: signed, ASCII, and of a size that PostgreSQL takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from django_pgnotify import Event
from django_pgnotify.publish.live import MAX_PAYLOAD_BYTES, fit_live, pack_live, unpack_live


def event(data: Any = None, **parts: Any) -> Event:
    at = datetime(2024, 1, 2, tzinfo=UTC)
    return Event(
        id="x" * 36, topic="t", kind="message", at=at, data=data, durable=False, **parts
    )


def filled_to(size: int) -> Event:
    """An event whose payload for the group g has just this many bytes."""
    return event("x" * (size - len(pack_live(event(""), ["g"]))))


@pytest.mark.parametrize(
    "data", [None, "é😀\0'\ud800", {"a": [1, 1.5, -0.0, 1e300, "x"]}, 2**60]
)
def test_a_payload_is_ascii_and_reads_as_it_was_written(data: Any) -> None:
    payload = pack_live(event(data), ["a", "b"])
    assert payload.isascii()
    assert unpack_live(payload) == (event(data).to_json(), ["a", "b"])


@pytest.mark.parametrize(
    "payload",
    ["", "x", "1", "[]", "{}", "null", '{"s":1,"e":2,"g":3}', '{"s":"\\ud800","e":{},"g":[]}',
     '{"s":"é","e":{"x":1e999},"g":[]}', "[" * 5000],
)  # fmt: skip
def test_anybodys_notify_is_ignored(payload: str) -> None:
    assert unpack_live(payload) is None


def test_a_changed_payload_is_ignored() -> None:
    parsed = json.loads(pack_live(event({"user": 1}), ["a"]))
    assert unpack_live(json.dumps({**parsed, "g": ["a", "b"]})) is None
    assert unpack_live(json.dumps({**parsed, "e": {**parsed["e"], "data": 2}})) is None
    assert unpack_live(json.dumps(parsed)) is not None


def test_another_secret_is_ignored_and_a_fallback_is_known(settings: Any) -> None:
    payload = pack_live(event(), ["a"])
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "new"
    assert unpack_live(payload) is not None
    settings.SECRET_KEY_FALLBACKS = []
    assert unpack_live(payload) is None


def test_7999_bytes_keep_their_data() -> None:
    assert [len(payload) for payload in fit_live(filled_to(7999), ["g"])] == [7999]
    assert MAX_PAYLOAD_BYTES == 7999


@pytest.mark.parametrize("size", [8000, 8001, 100_000])
def test_more_bytes_go_without_data(size: int) -> None:
    (payload,) = fit_live(filled_to(size), ["g"])
    sent, groups = unpack_live(payload) or ({}, [])
    assert groups == ["g"]
    assert sent["truncated"] is True
    assert "data" not in sent


def test_bytes_are_counted_and_not_characters() -> None:
    (payload,) = fit_live(event("€" * 2000), ["g"])
    assert len(payload) <= MAX_PAYLOAD_BYTES
    assert (unpack_live(payload) or ({},))[0]["truncated"]


def test_many_groups_are_spread_and_none_is_lost() -> None:
    groups = [f"{'x' * 90}{i}" for i in range(1000)]
    payloads = fit_live(event("x"), groups)
    assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in payloads)
    assert [g for payload in payloads for g in (unpack_live(payload) or ({}, []))[1]] == groups
    assert len(payloads) < 20


def test_a_large_context_and_key_give_way_last() -> None:
    large = event("x", context={"a": "x" * 8000}, pk="y" * 8000, model="shop.order")
    (payload,) = fit_live(large, ["g"])
    sent, _ = unpack_live(payload) or ({}, [])
    assert sent["pk"] is None
    assert sent["truncated"] is True
