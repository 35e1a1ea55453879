"""Positions: what a token says, and that no other text says anything."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_pgnotify.ledger.positions import TOKEN_LENGTH, Look, Position
from django_pgnotify.ledger.reader import Snapshot
from django_pgnotify.ledger.ticks import Tick

EPOCH = "0123456789abcdef"
BIGINTS = st.integers(-(2**63), 2**63 - 1)


@given(tick=st.integers(0, 2**63 - 1), bits=BIGINTS)
def test_token_gives_its_position_back(tick: int, bits: int) -> None:
    position = Position(epoch=EPOCH, tick=tick, bits=bits)
    assert Position.parse(position.token) == position
    assert len(position.token) <= TOKEN_LENGTH
    assert re.fullmatch(r"[A-Za-z0-9._-]+", position.token)


@given(end=st.integers(1, 2**64 - 1), before=st.sets(st.integers(1, 2**20), max_size=20))
def test_token_of_a_place_within_a_snapshot_gives_the_snapshot_back(
    end: int, before: set[int]
) -> None:
    running = sorted(end - number for number in before if number < end)
    snapshot = f"{min(running, default=end)}:{end}:{','.join(map(str, running))}"
    position = Position(epoch=EPOCH, tick=7, bits=-1, snapshot=snapshot)
    assert Position.parse(position.token) == position
    assert position.token.startswith(Position(epoch=EPOCH, tick=7, bits=-1).token)
    assert len(position.token) <= TOKEN_LENGTH
    assert re.fullmatch(r"[A-Za-z0-9._-]+", position.token)


@given(st.text())
def test_any_text_is_the_token_of_its_own_position_or_none(text: str) -> None:
    position = Position.parse(text)
    assert position is None or position.token == text


GOOD = Position(epoch=EPOCH, tick=12, bits=-1).token
WITHIN = Position(epoch=EPOCH, tick=12, bits=-1, snapshot="20:30:20,25").token


@given(st.integers(len(GOOD), len(WITHIN) - 1), st.sampled_from("0123456789abcdef-."))
def test_a_place_within_a_snapshot_that_was_garbled_is_none(place: int, character: str) -> None:
    text = WITHIN[:place] + character + WITHIN[place + 1 :]
    assert text == WITHIN or Position.parse(text) is None


@pytest.mark.parametrize(
    "packed", ["", "0", "1e-0", "1e-5-a", "1e-5-5", "1e-1e", "1e-1f", "01e"]
)
def test_what_is_no_snapshot_is_none(packed: str) -> None:
    base = f"{GOOD}.{packed}"
    assert Position.parse(f"{base}-{zlib.crc32(base.encode()):08x}") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD.replace("1.", "2.", 1),
        GOOD.replace(".12.", ".012."),
        GOOD.replace(".12.", ".-12."),
        GOOD.replace(".12.", ".1_2."),
        GOOD.replace(".12.", ".\u0661\u0662."),
        GOOD.replace(".12.", f".{2**63}."),
        GOOD + "0",
        "x" * 10_000_000,
    ],
)
def test_almost_a_token_is_none(text: str) -> None:
    assert Position.parse(GOOD) is not None
    assert Position.parse(text) is None


def tick(number: int) -> Tick:
    return Tick(number=number, snapshot=f"{number + 1}:{number + 1}:", bits=number * 7)


def look(*, trimmed: int = -1) -> Look:
    return Look(epoch=EPOCH, latest=tick(9), trimmed=trimmed, ticks={5: tick(5)})


def at(number: int, *, bits: int | None = None, epoch: str = EPOCH) -> Position:
    return Position(epoch=epoch, tick=number, bits=number * 7 if bits is None else bits)


def test_position_resolves_to_the_tick_that_it_was_given_for() -> None:
    assert look().resolve(at(5)) == tick(5)
    assert look().resolve(look().position) == tick(9)


@pytest.mark.parametrize(
    ("position", "trimmed", "reason"),
    [
        (None, -1, "unknown"),
        (at(5, epoch="f" * 16), -1, "epoch"),
        (at(5, bits=1), -1, "unknown"),
        (at(9, bits=1), -1, "unknown"),
        (at(10), -1, "unknown"),
        (at(4), -1, "unknown"),
        (at(5), 5, "expired"),
        (at(4), 4, "expired"),
    ],
)
def test_other_positions_are_told_apart(
    position: Position | None, trimmed: int, reason: str
) -> None:
    assert look(trimmed=trimmed).resolve(position) == reason


def test_position_right_after_the_trim_mark_is_good() -> None:
    assert look(trimmed=4).resolve(at(5)) == tick(5)


@pytest.mark.parametrize(
    ("snapshot", "seen", "unseen"),
    [("1:1:", [], [1, 2]), ("3:6:3,5", [1, 2, 4], [3, 5, 6, 7]), ("4:4:", [3], [4, 5])],
)
def test_snapshot_sees_what_postgresql_would(
    snapshot: str, seen: list[int], unseen: list[int]
) -> None:
    parsed = Snapshot.parse(snapshot)
    assert all(parsed.sees(xid) for xid in seen)
    assert not any(parsed.sees(xid) for xid in unseen)
