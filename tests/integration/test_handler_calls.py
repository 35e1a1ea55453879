"""Each call of an ``@on_event`` function is by itself: its event, its thread, its connection, its
end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction

from django_pgnotify import Event, on_event
from django_pgnotify.conf import MIB
from django_pgnotify.exceptions import InvalidDeclaration
from django_pgnotify.handling import order
from django_pgnotify.models import ParkedEvent
from tests.handler_kit import handle_now, parked, publish_rows
from tests.pglisten import execute, publish
from tests.shop.models import Customer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_handlers"),
]

PATIENCE_SECONDS = 10.0


def backend() -> int:
    """Which session of PostgreSQL serves this thread."""
    return int(execute("SELECT pg_backend_pid()")[0])


def wait_until_gone(pids: list[int]) -> None:
    """A backend ends a moment after its client has gone."""
    end = time.monotonic() + PATIENCE_SECONDS
    while execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)", pids) != (0,):
        assert time.monotonic() < end


def test_each_attempt_gets_the_event_as_it_was_and_so_does_the_admin(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 3}
    seen: list[Any] = []

    @on_event("t")
    def change(event: Event) -> None:
        seen.append(dict(event.data))
        event.data["total"] = Decimal(event.data.pop("text"))
        raise ValueError("after the change")

    publish("t", {"text": "1.50"})
    handle_now()
    assert seen == [{"text": "1.50"}] * 3
    assert json.loads(ParkedEvent.objects.get().event)["data"] == {"text": "1.50"}


def test_any_number_of_attempts_is_one(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 5000}
    seen: list[Any] = []

    @on_event("t")
    def fail_once(event: Event) -> None:
        seen.append(event.data)
        if len(seen) == 1:
            raise ValueError

    publish("t", 1)
    handle_now()
    assert seen == [1, 1]


async def turned_into_an_error() -> None:
    try:
        await asyncio.sleep(PATIENCE_SECONDS)
    except asyncio.CancelledError:
        raise TimeoutError("the remote is slow") from None


@pytest.mark.parametrize(
    "wait", [turned_into_an_error, partial(asyncio.sleep, PATIENCE_SECONDS)]
)
def test_async_handler_that_cancels_itself_is_parked_and_others_go_on(
    settings: Any, wait: Callable[[], Any]
) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    seen: list[Any] = []

    @on_event("t")
    async def time_out(event: Event) -> None:
        task = asyncio.current_task()
        if event.data == "bad" and task is not None:
            asyncio.get_running_loop().call_soon(task.cancel)
            await wait()
        seen.append(event.data)

    publish("t", "bad")
    publish("t", "good")
    handle_now()
    handle_now()
    assert seen == ["good"]
    assert len(parked()) == 1


def test_each_async_call_has_a_connection_of_its_own_which_is_closed_behind_it() -> None:
    together = asyncio.Barrier(3)
    pids: list[tuple[int, int]] = []

    @on_event("t")
    async def ask(event: Event) -> None:
        first = await sync_to_async(backend)()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await together.wait()
        pids.append((first, await sync_to_async(backend)()))

    publish_rows("t", (1, 1), (2, 2), (3, 3))
    handle_now()
    assert parked() == []
    assert all(first == second for first, second in pids)
    assert len(dict(pids)) == 3
    wait_until_gone(list(dict(pids)))


def test_branch_that_outlives_its_call_goes_on_and_its_connections_are_closed(
    settings: Any,
) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    may_fail, may_go_on, has_ended = (asyncio.Event() for _ in range(3))
    pids: list[int] = []

    async def go_on() -> None:
        pids.append(await sync_to_async(backend)())
        may_fail.set()
        await may_go_on.wait()
        pids.append(await sync_to_async(backend)())
        has_ended.set()

    async def fail() -> None:
        await may_fail.wait()
        raise ValueError("one of many")

    @on_event("t")
    async def gather(event: Event) -> None:
        if event.pk == 1:
            await asyncio.gather(go_on(), fail())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await may_fail.wait()
            await sync_to_async(wait_until_gone)(pids)
            may_go_on.set()
            await has_ended.wait()
            await sync_to_async(wait_until_gone)(pids)

    publish_rows("t", (1, 1), (2, 2))
    handle_now()
    assert len(parked()) == 1
    assert len(set(pids)) == 2


def test_branch_whose_query_runs_on_behind_its_call_blocks_no_other(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    has_begun, other_came = threading.Event(), threading.Event()
    kept: list[bool] = []

    def query() -> None:
        has_begun.set()
        kept.append(other_came.wait(PATIENCE_SECONDS))

    async def ask_twice() -> None:
        await sync_to_async(time.sleep)(0.2)  # meanwhile the call fails
        await sync_to_async(query)()

    async def fail() -> None:
        raise ValueError("one of many")

    @on_event("t")
    async def gather(event: Event) -> None:
        if event.pk == 1:
            await asyncio.gather(ask_twice(), fail())
        assert await sync_to_async(has_begun.wait)(PATIENCE_SECONDS)
        await asyncio.sleep(0)
        other_came.set()

    publish_rows("t", (1, 1), (2, 2))
    handle_now()
    assert len(parked()) == 1
    assert kept == [True]


def test_connection_of_an_async_function_behind_a_decorator_is_closed_too() -> None:
    pids: list[int] = []

    async def ask(event: Event) -> None:
        pids.append(await sync_to_async(backend)())

    on_event("t")(lambda event: ask(event))
    publish_rows("t", (1, 1), (2, 2))
    handle_now()
    assert len(set(pids)) == 2
    wait_until_gone(pids)


def test_async_handler_that_leaves_a_transaction_open_harms_no_other(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    open_left = asyncio.Event()

    @on_event("t")
    async def write(event: Event) -> None:
        if event.data == "open":
            await sync_to_async(transaction.atomic().__enter__)()
            open_left.set()
            raise ValueError("before __exit__")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await open_left.wait()
        await Customer.objects.acreate(name="kept")

    publish_rows("t", (1, "open"), (2, "write"))
    handle_now()
    assert len(parked()) == 1
    assert Customer.objects.filter(name="kept").count() == 1


def test_async_handler_that_blocks_its_thread_delays_no_other(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    other_came = threading.Event()

    @on_event("t")
    async def meet(event: Event) -> None:
        if event.pk == 1:
            assert await sync_to_async(other_came.wait)(PATIENCE_SECONDS)
        else:
            await sync_to_async(other_came.set)()

    publish_rows("t", (1, 1), (2, 2))
    handle_now()
    assert parked() == []


def test_generator_functions_are_refused() -> None:
    def generate(event: Event) -> Any:
        yield

    async def generate_async(event: Event) -> Any:
        yield

    for function in (generate, generate_async):
        with pytest.raises(InvalidDeclaration, match="generator"):
            on_event("t")(function)


def test_retry_of_what_is_no_event_is_parked_again_and_the_others_go_on(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    works = False
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        if not works:
            raise ValueError("not yet")
        seen.append(event.data)

    publish("t", 1)
    publish("t", 2)
    handle_now()
    first = ParkedEvent.objects.earliest("id")
    ParkedEvent.objects.filter(pk=first.pk).update(event="{}")
    ParkedEvent.objects.update(retry=True)
    works = True
    handle_now()
    assert len(seen) == 1
    left = ParkedEvent.objects.get()
    assert (left.pk, left.retry) == (first.pk, False)
    assert "KeyError" in left.traceback


def test_slow_retry_holds_up_no_other_handler_and_no_other_row(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    works = False
    all_came = threading.Barrier(3)

    def meet(event: Event) -> None:
        if not works:
            raise ValueError("not yet")
        all_came.wait(PATIENCE_SECONDS)

    @on_event("t")
    def one(event: Event) -> None:
        meet(event)

    @on_event("u")
    def two(event: Event) -> None:
        meet(event)

    publish_rows("t", (1, 1), (2, 2))
    publish_rows("u", (1, 1))
    handle_now()
    assert ParkedEvent.objects.update(retry=True) == 3
    works = True
    handle_now()
    assert parked() == []


def test_retry_never_runs_beside_another_event_of_its_row(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    works = False
    running: list[int] = []
    most = 0

    @on_event("t")
    def keep(event: Event) -> None:
        nonlocal most
        if not works:
            raise ValueError("not yet")
        running.append(event.data)
        most = max(most, len(running))
        time.sleep(0.2)
        running.pop()

    publish_rows("t", (1, 1))
    handle_now()
    ParkedEvent.objects.update(retry=True)
    publish_rows("t", (1, 2), (1, 3))
    works = True
    handle_now()
    assert parked() == []
    assert most == 1


def test_retries_of_large_events_come_as_far_as_there_is_room(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert order.WAITING_BYTES == 64 * MIB
    monkeypatch.setattr(order, "WAITING_BYTES", 1000)
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    works = False
    running: set[int] = set()
    together: set[frozenset[int]] = set()

    @on_event("t")
    def keep(event: Event) -> None:
        if not works:
            raise ValueError("not yet")
        running.add(event.pk)
        time.sleep(0.2)
        together.add(frozenset(running))
        running.remove(event.pk)

    publish_rows("t", *((n, "x" * 900) for n in range(3)))
    handle_now()
    ParkedEvent.objects.update(retry=True)
    works = True
    handle_now()
    assert parked() == []
    assert together == {frozenset({n}) for n in range(3)}
