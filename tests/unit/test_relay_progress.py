"""What heartbeats tell of frames that are under way."""

from __future__ import annotations

from typing import Any

from django_pgnotify.ledger.ticks import Tick
from django_pgnotify.relay.progress import MAX_LISTED_GROUPS, Progress


def tick(number: int) -> Tick:
    return Tick(number=number, snapshot="1:1:", bits=number)


async def test_a_group_that_was_not_listed_for_their_number_is_not_said_to_have_had_nothing() -> (
    None
):
    """Frames of a later tick may have gone before; a hub that lacks one must not be told that
    there was none."""
    beats: list[dict[str, Any]] = []

    async def send(beat: dict[str, Any]) -> None:
        beats.append(beat)

    progress = Progress(epoch="e", tick=tick(4))
    for number in range(MAX_LISTED_GROUPS + 1):
        progress.frame_sent(f"room-{number}", 5)
    progress.frame_sent("early", 6)
    progress.tick_sent(tick(5))
    await progress.tell_now(send)
    progress.tick_sent(tick(6))
    await progress.tell_now(send)
    progress.frame_sent("later", 7)
    progress.tick_sent(tick(7))
    await progress.tell_now(send)
    assert [(beat["tick"], beat["groups"]) for beat in beats] == [
        (5, None),
        (6, None),
        (7, {"later": 7}),
    ]


async def test_frames_of_a_tick_under_way_are_told_with_it() -> None:
    beats: list[dict[str, Any]] = []

    async def send(beat: dict[str, Any]) -> None:
        beats.append(beat)

    progress = Progress(epoch="e", tick=tick(4))
    progress.frame_sent("a", 5)
    progress.frame_sent("b", 6)
    progress.tick_sent(tick(5))
    await progress.tell_now(send)
    progress.tick_sent(tick(6))
    await progress.tell_now(send)
    assert beats[0]["groups"]["a"] == 5
    assert beats[1]["groups"]["b"] == 6
