"""One run: everything starts, chaos comes and goes, clients catch up, the account is drawn."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from tests.servers.postgres import ThrowAwayPostgres
from tests.servers.redis import Redis

from .accounting import Account, settle
from .chaos import Chaos, Fault, schedule
from .clients import Client, tick_of
from .streams import StreamClient
from .truth import ALL_GROUPS, Snapshot, Truth, snapshot_in
from .world import ROOMY, TIGHT, World, wait_for_web

CLIENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("plain/", ("all",)),
    ("snapshot/", ("all",)),
    ("plain/", ("room-0", "room-1", "room-2")),
    ("snapshot/", ("room-0", "room-1", "room-3")),
    ("plain/", ALL_GROUPS),
    ("snapshot/", ALL_GROUPS),
    ("stream/", ("all",)),
    ("stream/", ALL_GROUPS),
)
DRAIN_SECONDS = 120.0
"""What everybody has, once all runs again, to be where the marker is."""
LOG_LINES = 15


@dataclass
class Outcome:
    """What a run did and what came of it."""

    seed: str
    layer: str
    postgres: str
    seconds: float
    profile: str
    account: Account
    transactions: int = 0
    events: int = 0
    written: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    fault_log: list[str] = field(default_factory=list)
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    tracebacks: dict[str, int] = field(default_factory=dict)
    ticks: int = 0
    connects: int = 0
    frames: int = 0
    longest_pause: float = 0.0
    """Seconds between two ticks."""
    clients_seconds: float = 0.0
    """From the end of all faults until every client was past the marker."""
    drain_seconds: float = 0.0
    """... and the handlers too."""
    folder: str = ""

    @property
    def is_good(self) -> bool:
        """True if every promise held. Resets are right where something may overflow or expire."""
        return self.account.is_clean

    def __str__(self) -> str:
        account = self.account
        lines = [
            f"ORACLE_SEED={self.seed} layer={self.layer} PostgreSQL {self.postgres}"
            f" profile={self.profile} {self.seconds:.0f} s: {'good' if self.is_good else 'WRONG'}",
            f"  {self.transactions} transactions, {self.events} changes, {self.ticks} ticks,"
            f" written {self.written}",
            f"  {sum(self.faults.values())} faults; clients: {self.connects} connects,"
            f" {account.resumes} resumes, {self.frames} frames, resets {dict(account.resets)},"
            f" {account.duplicates_dropped} duplicates dropped by id",
            f"  expected {account.expected} events, accepted {account.accepted},"
            f" handled {account.handled} ({account.handled_again} again),"
            f" longest pause {self.longest_pause:.1f} s, clients there in"
            f" {self.clients_seconds:.1f} s, handlers in {self.drain_seconds:.1f} s",
            f"  ends {self.ends}, tracebacks {self.tracebacks}, logs in {self.folder}",
        ]
        if not self.is_good:
            lines += [f"  wrong: {dict(account.wrong)}", *account.examples, *self.fault_log]
        return "\n".join(lines)


def run(
    stack: ExitStack,
    postgres: ThrowAwayPostgres,
    redis: Redis | None,
    *,
    seed: str,
    seconds: float,
    faults: bool = True,
) -> Outcome:
    """Run, and settle the account. The servers are the caller's; `stack` ends all else."""
    tight = faults and Random(f"{seed}/profile").random() < 0.4
    world = World(stack, postgres, redis, TIGHT if tight else ROOMY, seed).start()
    wait_for_web(world)
    plan = schedule(seed, seconds, with_redis=redis is not None) if faults else []
    outcome = Outcome(
        seed=seed,
        layer="redis" if redis else "postgres",
        postgres=_version(world.database),
        seconds=seconds,
        profile="tight" if tight else "roomy",
        account=Account(),
        folder=str(world.folder),
    )
    asyncio.run(_live(world, outcome, plan, seconds))
    return outcome


async def _live(world: World, outcome: Outcome, plan: Sequence[Fault], seconds: float) -> None:
    clients = [
        (StreamClient if path == "stream/" else Client)(
            f"{path[:-1]}-{number}",
            urls=world.urls,
            path=path,
            groups=groups,
            database=world.database,
            random=Random(f"{world.seed}/client/{number}"),
        )
        for number, (path, groups) in enumerate(CLIENTS)
    ]
    following = [asyncio.create_task(client.run()) for client in clients]
    chaos = Chaos(world, clients)
    begin = time.monotonic()
    await asyncio.to_thread(world.start_writers)
    await chaos.run(plan)
    await asyncio.sleep(max(0, seconds - (time.monotonic() - begin)))
    await asyncio.to_thread(world.heal)
    for client in clients:
        client.resume()
    await asyncio.to_thread(world.stop_writers)
    stuck = await _drain(world, outcome, clients, following)
    for task in following:
        task.cancel()
    await asyncio.wait(following)
    truth = await asyncio.to_thread(Truth, world.database)
    outcome.account = await asyncio.to_thread(settle, truth, clients, world.database)
    for what in stuck:
        outcome.account.note("not drained", what)
    _count(outcome, world, truth, clients, chaos)


async def _drain(
    world: World,
    outcome: Outcome,
    clients: Sequence[Client],
    following: Sequence[asyncio.Task[None]],
) -> list[str]:
    """Commit a marker and wait until everybody is past it; gives who is not."""
    xid = await asyncio.to_thread(_mark, world.database)
    begin = time.monotonic()
    while True:
        for task in following:
            if task.done():
                task.result()
        ticks = await asyncio.to_thread(_ticks_that_see, world.database, xid)
        late = [
            f"{client.name}/{group.name} at {group.position},"
            f" live={group.live}, whole={group.whole}"
            for client in clients
            for group in client.groups.values()
            if not (group.is_settled and _is_past(group.position, xid, ticks))
        ]
        outcome.drain_seconds = time.monotonic() - begin
        if late:
            outcome.clients_seconds = outcome.drain_seconds
        unhandled = await asyncio.to_thread(
            _handlers_behind, world.database, min(ticks, default=0)
        )
        late += ["handlers"] * unhandled
        if not late or outcome.drain_seconds > DRAIN_SECONDS:
            return late
        await asyncio.sleep(0.3)


MARK = "INSERT INTO oracle_truth (op, new) VALUES ('message', %s) RETURNING xid"
BEHIND = "SELECT count(*) FROM django_pgnotify_handler WHERE tick < %s"


def _mark(url: str) -> int:
    import json

    groups = list(ALL_GROUPS)
    data = json.dumps({"tag": "marker", "groups": groups})
    with psycopg.connect(url) as connection:
        row = connection.execute(MARK, [data]).fetchone()
        connection.execute("SELECT pgnotify_publish('told', %s::jsonb, %s)", [data, groups])
    assert row is not None
    return int(row[0])


def _ticks_that_see(url: str, xid: int) -> set[int]:
    with psycopg.connect(url) as connection:
        ticks = connection.execute(
            "SELECT number, snapshot FROM oracle_tick ORDER BY number DESC LIMIT 1000"
        )
        return {number for number, snapshot in ticks if Snapshot.of(snapshot).sees(xid)}


def _handlers_behind(url: str, tick: int) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(BEHIND, [tick]).fetchone()
    return 0 if row is None else int(row[0])


def _is_past(position: str | None, xid: int, ticks: set[int]) -> bool:
    if position is None:
        return False
    snapshot = snapshot_in(position)
    return tick_of(position) in ticks or (snapshot is not None and snapshot.sees(xid))


def _count(
    outcome: Outcome, world: World, truth: Truth, clients: Sequence[Client], chaos: Chaos
) -> None:
    outcome.transactions = truth.transactions
    outcome.events = len(truth.writes)
    outcome.ticks = len(truth.ticks)
    outcome.longest_pause = truth.longest_pause
    outcome.written = world.written()
    outcome.faults = chaos.done
    outcome.fault_log = chaos.log
    outcome.connects = sum(client.connects for client in clients)
    outcome.frames = sum(client.frames for client in clients)
    children = (*world.relays, *world.webs, *world.writers)
    outcome.ends = {child.name: child.ends for child in children if child.ends}
    outcome.tracebacks = world.tracebacks()
    if truth.parked:
        outcome.account.note("parked", f"{truth.parked} events")
    if outcome.profile == "roomy":
        for reason in outcome.account.resets:
            outcome.account.note("reset without need", reason)


def _version(url: str) -> str:
    with psycopg.connect(url) as connection:
        version: Any = connection.execute("SHOW server_version").fetchone()
    return str(version[0]).split(" ")[0]
