"""Frames are bounded, numbered and chained."""

from __future__ import annotations

import json
from typing import Any

from django_pgnotify.ledger.rows import Change
from django_pgnotify.ledger.ticks import Tick
from django_pgnotify.relay.frames import ENVELOPE_BYTES, Chain, Outgoing, TickFrames

MAX = 2000
EARLY = 6 * MAX
HELD = 16 * MAX


def change(number: int, *groups: str, size: int = 100) -> Change:
    return Change(event={"id": f"1-{number}", "data": "x" * size}, groups=groups)


def build(*changes: Change, tick: int = 7, chain: Chain | None = None) -> list[Outgoing]:
    built = TickFrames(
        epoch="e",
        tick=Tick(number=tick, snapshot="1:1:", bits=3),
        chain=chain or Chain(floor=5),
        max_early=EARLY,
        max_held=HELD,
        max_bytes=MAX,
        control=5,
    )
    found = [frame for one in changes for frame in built.add(one)]
    return found + list(built.finish())


def of_group(frames: list[Outgoing], group: str) -> list[dict[str, Any]]:
    return [frame.message for frame in frames if frame.group == group]


def test_no_frame_is_larger_than_allowed() -> None:
    frames = build(*(change(n, "a", size=n % 700) for n in range(500)))
    sizes = [len(json.dumps(f.message, separators=(",", ":"))) for f in frames]
    assert max(sizes) <= MAX
    assert sum(len(f.message["events"]) for f in frames) == 500


def test_parts_are_counted_when_the_tick_fits_in_memory() -> None:
    frames = build(*(change(n, "a") for n in range(50)))
    assert [f.message["part"] for f in frames] == [
        [n, len(frames)] for n in range(1, len(frames) + 1)
    ]


def test_large_tick_is_sent_as_it_fills_and_only_its_last_part_is_counted() -> None:
    tick = Tick(number=7, snapshot="1:1:", bits=3)
    built = TickFrames(
        epoch="e", tick=tick, chain=Chain(5), max_bytes=MAX, control=5, max_early=EARLY
    )
    early = [f for n in range(1000) for f in built.add(change(n, "a"))]
    late = list(built.finish())
    assert sum(frame.size for frame in early) > 8 * EARLY
    assert sum(frame.size for frame in late) <= EARLY
    parts = [f.message["part"] for f in early + late]
    assert parts == [[n, 0] for n in range(1, len(parts))] + [[len(parts), len(parts)]]


def test_many_groups_with_an_event_each_get_one_frame_each_while_it_is_held() -> None:
    groups = HELD // (ENVELOPE_BYTES + 150)
    frames = build(*(change(n, f"group-{n}") for n in range(groups)))
    assert groups * ENVELOPE_BYTES > EARLY
    assert [f.message["part"] for f in frames] == [[1, 1]] * groups


def test_frames_that_have_just_begun_do_not_go_with_full_ones() -> None:
    groups = [f"group-{n}" for n in range(HELD // MAX - 1)]
    frames = build(*(change(n, *groups) for n in range(200)))
    for group in groups:
        sizes = [len(message["events"]) for message in of_group(frames, group)]
        assert min(sizes[:-1]) >= max(sizes) - 1


def test_large_tick_of_many_groups_ends_each_of_them() -> None:
    frames = build(*(change(n, f"group-{n}") for n in range(1000)))
    for number in range(1000):
        messages = of_group(frames, f"group-{number}")
        assert messages[-1]["part"] == [len(messages), len(messages)]
        assert sum(len(m["events"]) for m in messages) == 1


def test_event_too_large_goes_without_data() -> None:
    (frame,) = build(change(0, "a", size=MAX), change(1, "a", size=10))
    large, small = frame.message["events"]
    assert large == {"id": "1-0", "truncated": True}
    assert "truncated" not in small


def test_prev_is_the_tick_of_the_group_before() -> None:
    chain = Chain(floor=5)
    assert build(change(0, "a"), tick=7, chain=chain)[0].message["prev"] == 5
    build(change(0, "b"), tick=8, chain=chain)
    assert build(change(0, "a"), tick=9, chain=chain)[0].message["prev"] == 7


def test_forgotten_group_gets_the_highest_forgotten_tick() -> None:
    chain = Chain(floor=5, remembered=2)
    for tick, group in enumerate("abc", start=6):
        chain.follow(group, tick)
    assert chain.follow("a", 9) == 6
    assert chain.follow("never seen", 10) == 7


def test_text_of_a_frame_says_the_same_as_its_message() -> None:
    for frame in build(*(change(n, "a", "b", size=n) for n in range(50))):
        assert frame.text is not None
        assert frame.text.isascii()
        assert json.loads(frame.text) == frame.message
        assert frame.size >= len(frame.events or "")


def test_bytes_are_counted_and_not_characters() -> None:
    frames = build(*(Change({"id": f"1-{n}", "data": "é" * 100}, ("a",)) for n in range(50)))
    assert max(len((frame.text or "").encode()) for frame in frames) <= MAX


def test_many_small_groups_are_held_by_the_size_of_their_frames_and_not_of_their_events() -> (
    None
):
    tick = Tick(number=7, snapshot="1:1:", bits=3)
    built = TickFrames(
        epoch="e", tick=tick, chain=Chain(5), max_bytes=MAX, control=5, max_held=HELD
    )
    groups = 3 * HELD // ENVELOPE_BYTES
    early = [f for n in range(groups) for f in built.add(change(n, f"room-{n}", size=1))]
    assert len(early) > groups // 3
    ends = [f.message for f in built.finish()]
    last = {f["group"]: f["part"] for f in [f.message for f in early] + ends}
    assert len(last) == groups
    assert all(part[0] == part[1] for part in last.values())
