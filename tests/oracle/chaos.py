"""Chaos: which fault comes when is a function of the seed; what it meets is not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import psycopg

from example_project.embedded import FAST, IMMEDIATE

from .clients import Client
from .world import World

FIRST_SECONDS = 1.0
"""Before the first fault."""
MEAN_SECONDS = 1.5
"""Between two faults; some last longer than that."""

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE %s AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds after the begin."""
    kind: str
    which: int
    """Which one of several, modulo their number."""
    seconds: float
    """How long, where that matters."""

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind} #{self.which} ({self.seconds:.1f} s)"


# How often, and the longest that it lasts.
KINDS: dict[str, tuple[float, float]] = {
    "relay killed": (8, 0),
    "relays killed": (4, 0),
    "relay terminated": (3, 0),
    "relay frozen": (6, 5),
    "relay cut": (4, 0),
    "relay refused": (3, 3),
    "relay silenced": (5, 5),
    "backend terminated": (10, 0),
    "postgres restarted": (2, 0),
    "postgres immediate": (2, 0),
    "postgres crashed": (2, 0.5),
    "postgres frozen": (3, 4),
    "web killed": (4, 0),
    "web terminated": (2, 0),
    "web frozen": (4, 5),
    "web cut": (4, 0),
    "web refused": (3, 3),
    "web silenced": (4, 5),
    "client cut": (4, 0),
    "client silenced": (3, 5),
    "page aborted": (6, 0),
    "page paused": (5, 5),
    "page renewed": (6, 0),
    "pages renewed": (5, 0),
    "pages aborted": (4, 0),
    "page away": (10, 15),
    "writer killed": (4, 0),
}
KINDS_OF_REDIS: dict[str, tuple[float, float]] = {
    "redis restarted": (4, 0),
    "redis frozen": (4, 4),
    "redis flushed": (4, 0),
    "redis cut": (4, 0),
    "redis silenced": (4, 5),
}
BACKENDS = (
    "django_pgnotify leader",
    "django_pgnotify listener",
    "django_pgnotify reader",
    "django_pgnotify handlers",
    "django_pgnotify hub%",
    "django_pgnotify layer%",
    "django_pgnotify%",
    "%",
)


def schedule(seed: str, seconds: float, *, with_redis: bool) -> list[Fault]:
    """The faults of a run of these seconds."""
    random = Random(f"{seed}/chaos")
    kinds = {**KINDS, **(KINDS_OF_REDIS if with_redis else {})}
    names, weights = list(kinds), [weight for weight, _ in kinds.values()]
    faults = []
    at = FIRST_SECONDS
    while at < seconds:
        kind = random.choices(names, weights)[0]
        longest = kinds[kind][1]
        faults.append(Fault(at, kind, random.randrange(8), random.uniform(0.2, 1) * longest))
        at += random.expovariate(1 / MEAN_SECONDS)
    return faults


class Chaos:
    """Carries a schedule out."""

    def __init__(self, world: World, clients: Sequence[Client]) -> None:
        self.done: Counter[str] = Counter()
        self.log: list[str] = []
        self._world = world
        self._clients = clients
        self._locks: dict[str, asyncio.Lock] = {}
        self._begin = 0.0

    async def run(self, faults: Sequence[Fault]) -> None:
        """Return when the last one is over. Faults of one target wait for each other."""
        self._begin = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(fault.at - (time.monotonic() - self._begin))
                tasks.create_task(self._do(fault))

    async def _do(self, fault: Fault) -> None:
        target, _, what = fault.kind.partition(" ")
        lock = f"page {fault.which % len(self._clients)}" if target == "page" else target
        async with self._locks.setdefault(lock, asyncio.Lock()):
            now = time.monotonic() - self._begin
            self.log.append(
                f"{now:6.1f} s  {fault.kind} #{fault.which} ({fault.seconds:.1f} s)"
            )
            self.done[fault.kind] += 1
            if target == "page":
                await self._page(what, self._clients[fault.which % len(self._clients)], fault)
            elif target == "pages":
                for client in self._clients:
                    await self._page(what, client, fault)
            elif what in ("cut", "refused", "silenced"):
                await asyncio.to_thread(self._network, target, what, fault)
            else:
                await asyncio.to_thread(self._process, target, what, fault)

    async def _page(self, what: str, client: Client, fault: Fault) -> None:
        match what:
            case "aborted":
                client.abort()
            case "renewed":
                client.renew()
            case "away":
                client.leave()
                await asyncio.sleep(fault.seconds)
                client.come()
            case "paused":
                client.pause()
                await asyncio.sleep(fault.seconds)
                client.resume()

    def _network(self, target: str, what: str, fault: Fault) -> None:
        names = [name for name in self._world.proxies if name.startswith(target)]
        proxy = self._world.proxies[names[fault.which % len(names)]]
        match what:
            case "cut":
                proxy.cut()
            case "refused":
                _for(fault.seconds, proxy.refuse, proxy.resume)
            case "silenced":
                _for(fault.seconds, proxy.silence, proxy.resume)

    def _process(self, target: str, what: str, fault: Fault) -> None:
        match target:
            case "postgres":
                self._postgres(what, fault)
            case "redis":
                self._redis(what, fault)
            case "backend":
                self._terminate(BACKENDS[fault.which % len(BACKENDS)])
            case "relays":
                for relay in self._world.relays:
                    relay.kill()
            case _:
                self._child(target, what, fault)

    def _child(self, target: str, what: str, fault: Fault) -> None:
        world = self._world
        children = {"relay": world.relays, "web": world.webs, "writer": world.writers}[target]
        child = children[fault.which % len(children)]
        match what:
            case "killed":
                child.kill()
            case "terminated":
                child.terminate()
            case "frozen":
                _for(fault.seconds, child.freeze, child.thaw)

    def _postgres(self, what: str, fault: Fault) -> None:
        postgres = self._world.postgres
        match what:
            case "restarted":
                postgres.restart(FAST)
            case "immediate":
                postgres.restart(IMMEDIATE)
            case "crashed":
                postgres.crash()
                time.sleep(fault.seconds)
                postgres.restart()
            case "frozen":
                _for(fault.seconds, postgres.freeze, postgres.thaw)

    def _redis(self, what: str, fault: Fault) -> None:
        redis = self._world.redis
        assert redis is not None
        match what:
            case "restarted":
                redis.restart()
            case "frozen":
                _for(fault.seconds, redis.freeze, redis.thaw)
            case "flushed":
                flush(redis.port)

    def _terminate(self, application_name: str) -> None:
        url = self._world.database
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(url, connect_timeout=3, autocommit=True) as connection,
        ):
            connection.execute(TERMINATE, [application_name])


def _for(seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
    begin()
    time.sleep(seconds)
    end()


def flush(port: int) -> None:
    """Empty a Redis, as a failover to an empty replica does."""
    import redis

    with (
        contextlib.suppress(redis.RedisError),
        redis.Redis(port=port, socket_timeout=3) as connection,
    ):
        connection.flushall()
