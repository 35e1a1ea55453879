"""Whatever is killed, cut, frozen or restarted: every client ends with the table, and no event is
lost, invented, doubled, torn or out of order without the client being told.

``ORACLE_SEED`` repeats a run's writers and faults, ``ORACLE_SECONDS`` sets how long chaos lasts.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from django_pgnotify.conf import Defaults
from tests.servers.fixtures import StartPostgres
from tests.servers.redis import Redis

from .chaos import schedule
from .run import CLIENTS, DRAIN_SECONDS, run
from .world import POSTGRES_OPTIONS, QUICK, START_SECONDS

SEED = os.environ.get("ORACLE_SEED") or secrets.token_hex(4)
SECONDS = float(os.environ.get("ORACLE_SECONDS", "60"))
CALM_SECONDS = 6.0
LAYERS = ["postgres", pytest.param("redis", marks=pytest.mark.redis)]

pytestmark = pytest.mark.timeout(SECONDS + START_SECONDS + DRAIN_SECONDS + 90)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends the processes of the run before their servers."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def servers(
    request: pytest.FixtureRequest, start_postgres: StartPostgres
) -> Callable[[str], tuple[object, Redis | None]]:
    """Start what the layer needs."""

    def start(layer: str) -> tuple[object, Redis | None]:
        redis = request.getfixturevalue("start_redis")() if layer == "redis" else None
        return start_postgres(**POSTGRES_OPTIONS), redis

    return start


@pytest.mark.parametrize("layer", LAYERS)
def test_every_client_ends_with_the_table_when_nothing_fails(
    servers: Callable[..., tuple[object, Redis | None]], stack: ExitStack, layer: str
) -> None:
    outcome = run(stack, *servers(layer), seed=SEED, seconds=CALM_SECONDS, faults=False)
    assert outcome.is_good, f"\n{outcome}"
    assert outcome.account.accepted > 0
    assert outcome.connects == len(CLIENTS)


@pytest.mark.chaos
@pytest.mark.parametrize("layer", LAYERS)
def test_every_client_ends_with_the_table_whatever_is_killed_cut_or_frozen(
    servers: Callable[..., tuple[object, Redis | None]], stack: ExitStack, layer: str
) -> None:
    outcome = run(stack, *servers(layer), seed=SEED, seconds=SECONDS)
    print(outcome)
    assert outcome.is_good, f"\n{outcome}"


def test_a_seed_repeats_its_faults() -> None:
    one = schedule(SEED, 600, with_redis=True)
    assert one == schedule(SEED, 600, with_redis=True)
    assert one != schedule(SEED + "x", 600, with_redis=True)
    assert one[:5] != schedule(SEED, 600, with_redis=False)[:5]


def test_shipped_delays_are_what_the_documentation_says_before_this_test_shrinks_them() -> None:
    shipped = {name: getattr(Defaults, name) for name in QUICK}
    assert shipped == {
        "HEARTBEAT_SECONDS": 5.0,
        "POLL_SECONDS": 1.0,
        "RECONNECT_MAX_SECONDS": 15.0,
        "CONNECT_TIMEOUT_SECONDS": 5,
        "LEADER_TIMEOUT_SECONDS": 10.0,
        "SHUTDOWN_SECONDS": 10.0,
        "HANDLER_BACKOFF_SECONDS": 1.0,
        "HANDLER_ATTEMPTS": 5,
        "MAX_FRAME_BYTES": 512 * 1024,
    }
