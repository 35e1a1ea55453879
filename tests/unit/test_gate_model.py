"""The gate, as a model: every interleaving of writers and a relay that goes to sleep.

A state is a value; ``steps`` gives all states that can follow. The model knows of PostgreSQL what
the gate relies on: xids are given in order, a snapshot's ``xmax`` is the latest ended xid plus one
(so that its list of running xids leaves out younger ones), an advisory lock that is awaited keeps
newcomers out, and a NOTIFY or a lock ends with its savepoint or transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pytest

Barrier = Literal["xmin", "xip", "none"]
Statement = Literal["write", "write and take back"]


@dataclass(frozen=True)
class Writer:
    """One transaction: each of its statements writes a row, then tries the gate."""

    left: tuple[Statement, ...]
    at: Literal["begin", "written", "ended"] = "begin"
    xid: int = 0
    rows: int = 0
    shared: bool = False
    rings: bool = False
    tried: bool | None = None
    """What the gate said before the row, where the model is told to ask first."""


@dataclass(frozen=True)
class World:
    """Everything that one step can see or change."""

    writers: tuple[Writer, ...]
    relay: Literal["awake", "opened", "dozing", "last look", "asleep"] = "awake"
    gate: Literal["open", "awaited", "held"] = "held"
    next_xid: int = 1
    latest_ended: int = 0
    committed: int = 0
    seen: int = 0
    bell: bool = False
    naps: int = 0
    """How often the relay has fallen asleep; it wakes up by itself after the first time only."""
    barrier: tuple[int, ...] = ()

    @property
    def running(self) -> tuple[int, ...]:
        """Xids that a snapshot taken now could list."""
        xids = [w.xid for w in self.writers if w.xid and w.at != "ended"]
        return tuple(x for x in xids if x <= self.latest_ended)

    @property
    def xmin(self) -> int:
        return min((*self.running, self.latest_ended + 1))


def misses(barrier: Barrier, *, asks_first: bool = False) -> World | None:
    """A reachable state in which something was committed and nobody will look."""
    begin = World(
        writers=(
            Writer(left=("write",)),
            Writer(left=("write and take back", "write")),
            Writer(left=("write",)),
        )
    )
    seen, todo = {begin}, [begin]
    while todo:
        world = todo.pop()
        if is_missed(world):
            return world
        for following in steps(world, barrier, asks_first):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    assert len(seen) > 1000, "the model does nothing"
    return None


def is_missed(world: World) -> bool:
    return (
        world.relay == "asleep"
        and not world.bell
        and world.committed > world.seen
        and all(writer.at == "ended" for writer in world.writers)
    )


def steps(world: World, barrier: Barrier, asks_first: bool) -> Iterator[World]:
    yield from relay_steps(world, barrier)
    if world.gate == "awaited" and not any(w.shared for w in world.writers):
        yield replace(world, gate="held")
    for index, writer in enumerate(world.writers):
        for after, changes in writer_steps(writer, world, asks_first):
            writers = (*world.writers[:index], after, *world.writers[index + 1 :])
            yield replace(world, writers=writers, **changes)


def relay_steps(world: World, barrier: Barrier) -> Iterator[World]:
    looked = replace(world, seen=world.committed, bell=False)
    match world.relay:
        case "awake":
            yield looked
            yield replace(world, relay="opened", gate="open")
        case "opened":
            if barrier == "xmin":
                # An xid of its own, whose transaction ends at once.
                yield replace(
                    world,
                    relay="dozing",
                    barrier=(world.next_xid,),
                    latest_ended=max(world.latest_ended, world.next_xid),
                    next_xid=world.next_xid + 1,
                )
            else:
                waits_for = world.running if barrier == "xip" else ()
                yield replace(world, relay="dozing", barrier=waits_for)
        case "dozing":
            yield looked
            running = {w.xid for w in world.writers if w.at != "ended"}
            if barrier == "xmin":
                is_over = world.xmin > world.barrier[0]
            else:
                is_over = not running & set(world.barrier)
            if is_over:
                yield replace(world, relay="last look")
        case "last look":
            yield replace(looked, relay="asleep", naps=world.naps + 1)
        case "asleep":
            if world.bell:
                yield looked
            if world.naps == 1:
                shared = any(w.shared for w in world.writers)
                yield replace(world, relay="awake", gate="awaited" if shared else "held")


def writer_steps(
    writer: Writer, world: World, asks_first: bool
) -> Iterator[tuple[Writer, dict[str, object]]]:
    if writer.at == "begin" and asks_first and writer.tried is None and writer.left:
        yield replace(writer, tried=world.gate == "open" or writer.shared), {}
    elif writer.at == "begin" and writer.left:
        xid = writer.xid or world.next_xid
        given = {} if writer.xid else {"next_xid": xid + 1}
        yield replace(writer, at="written", xid=xid), given
    elif writer.at == "written":
        free = world.gate == "open" or writer.shared
        rings = free if writer.tried is None else writer.tried
        keeps = writer.left[0] == "write"
        yield (
            replace(
                writer,
                at="begin",
                left=writer.left[1:],
                tried=None,
                rows=writer.rows + keeps,
                shared=writer.shared or (rings and keeps),
                rings=writer.rings or (rings and keeps),
            ),
            {},
        )
    elif writer.at == "begin":
        ended = replace(writer, at="ended", shared=False)
        latest = {"latest_ended": max(world.latest_ended, writer.xid)}
        yield ended, latest
        yield (
            ended,
            {
                **latest,
                "committed": world.committed + writer.rows,
                "bell": world.bell or writer.rings,
            },
        )


def test_nobody_is_missed_in_any_interleaving() -> None:
    assert misses("xmin") is None


@pytest.mark.parametrize("barrier", ["none", "xip"])
def test_a_simpler_way_to_fall_asleep_would_miss_somebody(barrier: Barrier) -> None:
    assert misses(barrier) is not None


def test_a_writer_that_asked_before_it_wrote_would_be_missed() -> None:
    assert misses("xmin", asks_first=True) is not None
