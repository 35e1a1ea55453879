"""Endings of the channel layer that are interrupted themselves: once more, and all is well."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from django_pgnotify.layers import PostgresChannelLayer
from django_pgnotify.layers.storing import CLAIM
from tests.layer_kit import (
    all_received,
    numbered,
    own_connection,
    received,
    run_to_its_end,
    wait_for_connections,
)
from tests.servers.fixtures import StartProxy
from tests.servers.postgres import Postgres
from tests.servers.proxy import TcpProxy

pytestmark = pytest.mark.django_db(transaction=True)

MESSAGES = 60
DELAY_SECONDS = 0.006


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def layer(prefix: str) -> PostgresChannelLayer:
    return PostgresChannelLayer(prefix=prefix, capacity=1000)


@pytest.fixture
def proxy(
    start_proxy: StartProxy, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], TcpProxy]:
    """Lay a proxy between the layer and the server."""

    def lay() -> TcpProxy:
        proxy = start_proxy(postgres.url())
        for key, value in {"HOST": "127.0.0.1", "PORT": str(proxy.port)}.items():
            monkeypatch.setitem(connection.settings_dict, key, value)
        return proxy

    return lay


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_warm", [True, False])
def test_who_says_goodbye_does_not_wait_for_a_task_that_never_began(
    layer: PostgresChannelLayer, is_warm: bool
) -> None:
    async def spin() -> None:
        try:
            await turns(1_000_000)
        finally:
            await layer.group_send("room", numbered(1))

    async def main() -> list[asyncio.Task[None]]:
        if is_warm:
            await layer.group_send("room", numbered(0))
            await asyncio.sleep(0.01)
        tasks = [asyncio.create_task(spin())]
        await turns(2)
        tasks.append(asyncio.create_task(layer.group_send("room", numbered(2))))
        return tasks

    run_to_its_end(main)


def test_a_close_that_is_cancelled_is_finished_when_the_loop_ends(
    layer: PostgresChannelLayer,
) -> None:
    receiving = []

    async def main(n: int) -> asyncio.Task[None]:
        await layer.send("plain", numbered(n))
        receiving.append(asyncio.create_task(layer.receive("plain")))
        await turns(n % 12)
        closing = asyncio.create_task(layer.close())
        await turns(n // 12)
        return closing

    gc.disable()
    try:
        for n in range(2 * MESSAGES):
            asyncio.run(main(n))
        assert wait_for_connections(0) == 0
    finally:
        gc.enable()
    assert all_received(layer, receiving) == list(range(2 * MESSAGES))


def test_a_close_that_has_run_out_of_time_is_finished_by_the_next_one(
    layer: PostgresChannelLayer,
) -> None:
    receiving: list[asyncio.Task[Any]] = []

    async def main() -> int:
        for n in range(MESSAGES):
            await layer.send("plain", numbered(n))
            receiving.append(asyncio.create_task(layer.receive("plain")))
            await turns(n % 12)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(layer.close(), 0.0005)
            receiving[-1].cancel()
            await asyncio.wait({receiving[-1]})
            await layer.close()
        return await asyncio.to_thread(count_in_thread)

    assert asyncio.run(main()) == 0
    assert all_received(layer, receiving) == list(range(MESSAGES))


def count_in_thread() -> int:
    try:
        return wait_for_connections(0)
    finally:
        connection.close()  # this thread's


async def test_a_reader_who_gives_up_now_and_then_gets_all_in_order(
    layer: PostgresChannelLayer,
) -> None:
    for count in range(30):
        await layer.send("plain", numbered(1))
        await layer.send("plain", numbered(2))
        first = asyncio.create_task(layer.receive("plain"))
        await turns(count)
        first.cancel()
        [result] = await asyncio.gather(first, return_exceptions=True)
        messages = [] if isinstance(result, BaseException) else [result]
        while len(messages) < 2:
            messages.append(await received(layer, "plain"))
        assert messages == [numbered(1), numbered(2)], count


def test_what_is_given_back_again_while_its_layer_is_closed_comes_once(
    layer: PostgresChannelLayer, prefix: str, proxy: Callable[[], TcpProxy]
) -> None:
    """Over a network that takes a while, and another process that is quick."""
    receiving: list[asyncio.Task[Any]] = []
    bodies: Counter[bytes] = Counter()
    held, stop = threading.Event(), threading.Event()
    held.set()

    async def keep() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await layer.close()

    async def main(n: int) -> asyncio.Task[None]:
        await layer.send("plain", numbered(n))
        receiving.append(asyncio.create_task(layer.receive("plain")))
        keeping = asyncio.create_task(keep())
        await asyncio.sleep(0.001 * (n % 20))
        receiving[-1].cancel()
        held.clear()
        await asyncio.sleep(0.001 * (n // 3))
        return keeping

    other = own_connection()  # past the proxy

    def take_all() -> None:
        while not stop.is_set():
            if not held.is_set():
                rows = other.execute(CLAIM, [f"{prefix}:plain"]).fetchall()
                bodies.update(bytes(row[2]) for row in rows)

    taking = threading.Thread(target=take_all)
    taking.start()
    try:
        proxy().delay_seconds = DELAY_SECONDS
        for n in range(MESSAGES):
            held.set()
            asyncio.run(main(n))
    finally:
        stop.set()
        taking.join()
        other.close()
    own = sum(task.done() and not task.cancelled() for task in receiving)
    left = len(all_received(layer, []))
    assert (set(bodies.values()), sum(bodies.values()) + own + left) == ({1}, MESSAGES)


def test_a_loop_that_was_stopped_before_it_is_closed_says_goodbye(
    layer: PostgresChannelLayer,
) -> None:
    async def main() -> asyncio.Task[Any]:
        await layer.send("plain", numbered(1))
        receiving = asyncio.create_task(layer.receive("plain"))
        await turns(8)
        return receiving

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # a task that was pending
    receiving = loop.run_until_complete(main())
    loop.stop()
    loop.close()
    assert wait_for_connections(0) == 0
    assert all_received(layer, [receiving]) == [1]


@pytest.mark.parametrize("milliseconds", range(5))
def test_a_name_that_is_made_while_the_loop_ends_is_made(
    layer: PostgresChannelLayer, milliseconds: int
) -> None:
    names = []

    async def make() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            names.append(await layer.new_channel())

    async def main() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(make()), asyncio.create_task(layer.new_channel())]
        await asyncio.sleep(milliseconds / 1000)
        return tasks

    run_to_its_end(main)
    assert len(names) == 1


@pytest.mark.parametrize("words", [b"LISTEN", b"set_config"])
def test_a_server_that_falls_silent_before_it_is_heard_holds_up_no_end(
    layer: PostgresChannelLayer, proxy: Callable[[], TcpProxy], words: bytes
) -> None:
    async def main() -> asyncio.Task[str]:
        making = asyncio.create_task(layer.new_channel())
        await asyncio.sleep(0.3)
        return making

    proxy().silence_at(words)
    run_to_its_end(main)
