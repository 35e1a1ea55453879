"""Queues and memberships, with the clock in the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable

from django_pgnotify.layers.heard import REMEMBERED_ORIGINS, Heard
from django_pgnotify.layers.mailbox import Mailbox


class Clock:
    """Seconds, as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def mailbox(
    clock: Clock | None = None,
    capacity: Callable[[str], int] = lambda name: 2,
    expiry: float = 60,
    forget_after: float = 1000,
) -> Mailbox:
    return Mailbox(
        capacity=capacity, expiry=expiry, forget_after=forget_after, clock=clock or Clock()
    )


async def read(box: Mailbox, name: str) -> str | None:
    with box.reading(name):
        return box.take(name)


def test_messages_are_taken_in_the_order_in_which_they_were_put() -> None:
    box = mailbox()
    assert box.put("a", "1")
    assert box.put("a", "2")
    assert [box.take("a") for _ in range(3)] == ["1", "2", None]


def test_a_full_name_refuses_the_newest_message() -> None:
    box = mailbox()
    assert [box.put("a", text) for text in "123"] == [True, True, False]
    assert box.take("a") == "1"
    assert box.put("a", "4")


def test_an_expired_message_is_neither_delivered_nor_counted_as_waiting() -> None:
    clock = Clock()
    box = mailbox(clock, expiry=10)
    box.put("a", "old")
    box.put("a", "old")
    clock.now = 10
    assert box.put("a", "new")
    assert [box.take("a") for _ in range(2)] == ["new", None]


def test_a_group_counts_its_full_members() -> None:
    box = mailbox(capacity=lambda name: 1 if name == "small" else 5)
    box.join("room", "small")
    box.join("room", "large")
    assert [box.put_group("room", text) for text in "12"] == [0, 1]


def test_a_group_without_members_is_gone() -> None:
    box = mailbox()
    box.join("room", "a")
    box.leave("room", "b")
    assert box.has_group("room")
    box.leave("room", "a")
    assert not box.has_group("room")
    box.leave("room", "a")


async def test_a_name_that_nobody_reads_is_forgotten_with_its_memberships() -> None:
    clock = Clock()
    box = mailbox(clock, expiry=10, forget_after=100)
    for name in ("dead", "alive"):
        box.join("room", name)
    box.join("silent", "dead")
    for now in range(0, 130, 10):
        clock.now = now
        box.put_group("room", "text")
        while await read(box, "alive"):
            pass
    box.leave("room", "alive")
    assert not box.has_group("room")
    assert not box.has_group("silent")


async def test_a_name_that_somebody_waits_for_is_not_forgotten() -> None:
    clock = Clock()
    box = mailbox(clock, expiry=10, forget_after=100)
    box.join("room", "busy")
    with box.reading("busy"):
        clock.now = 300
        box.put("other", "text")
        assert box.has_group("room")


def test_a_reader_of_a_loop_that_is_closed_counts_no_more() -> None:
    clock = Clock()
    box = mailbox(clock, expiry=10, forget_after=100)
    box.join("room", "dead")

    async def begin_to_read() -> None:
        reading.append(box.reading("dead"))
        reading[0].__enter__()

    reading: list[object] = []
    asyncio.run(begin_to_read())
    box.put("dead", "wakes nobody")
    clock.now = 300
    box.put("other", "text")
    assert not box.has_group("room")


async def test_one_reader_is_woken_and_hands_its_turn_on_if_it_is_cancelled() -> None:
    box = mailbox()
    with contextlib.ExitStack() as first, box.reading("a") as before:
        waiter = first.enter_context(box.reading("a"))
        with box.reading("a") as last:
            box.wake("a")
            box.wake("a")
            assert [one.done() for one in (before, waiter, last)] == [True, True, False]
            with contextlib.suppress(asyncio.CancelledError), first:
                raise asyncio.CancelledError
            assert last.done()


async def test_a_cancelled_reader_that_was_not_woken_wakes_nobody() -> None:
    box = mailbox()
    with box.reading("a") as other:
        with contextlib.suppress(asyncio.CancelledError), box.reading("a"):
            raise asyncio.CancelledError
        assert not other.done()


async def test_a_message_wakes_readers_of_other_loops_too() -> None:
    box = mailbox()

    async def wait_for_it() -> str | None:
        with box.reading("a") as stirred:
            begun.set_result(None)
            await stirred
            return box.take("a")

    begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    here = asyncio.create_task(wait_for_it())
    await begun
    assert await asyncio.to_thread(box.put, "a", "1")
    assert await here == "1"


async def test_what_is_not_needed_is_not_kept() -> None:
    box = mailbox()
    for name in map(str, range(100)):
        box.put(name, "text")
        await read(box, name)
        box.join("room", name)
        box.leave("room", name)
    assert (box._inboxes, box._groups) == ({}, {})


async def test_a_flush_keeps_those_who_wait() -> None:
    box = mailbox()
    with box.reading("a") as waiter:
        box.join("room", "a")
        box.put("b", "1")
        box.clear()
        assert box.take("b") is None
        assert not box.has_group("room")
        box.put("a", "2")
        assert waiter.done()


def test_what_was_delivered_before_or_comes_late_is_no_news() -> None:
    heard = Heard()
    told = [("a", 0), ("a", 0), ("b", 0), ("a", 2), ("a", 1), ("a", 2)]
    assert [heard.is_news(*one) for one in told] == [True, False, True, True, False, False]


def test_what_is_remembered_is_bounded() -> None:
    heard = Heard()
    for number in range(2 * REMEMBERED_ORIGINS):
        heard.is_news("busy", number)
        heard.is_news(str(number), 0)
    assert len(heard._latest) == REMEMBERED_ORIGINS
    assert not heard.is_news("busy", 2 * REMEMBERED_ORIGINS - 1)


def test_the_oldest_listener_that_is_at_work_delivers() -> None:
    heard = Heard()
    here = asyncio.new_event_loop()

    async def begin(listener: str) -> None:
        heard.begin(listener)

    async def delivering() -> list[str]:
        return [name for name in ("old", "young", "new") if heard.delivers(name)]

    here.run_until_complete(begin("old"))
    assert asyncio.run(delivering()) == [
        "old",
        "young",
        "new",
    ]  # nobody is at work but who asks

    async def while_the_old_one_runs() -> None:
        heard.begin("young")
        assert await delivering() == ["old"]
        heard.end("old")
        assert await delivering() == ["young"]

    here.run_until_complete(while_the_old_one_runs())
    here.close()
    asyncio.run(begin("last"))
    assert list(heard._listeners) == ["last"]


def test_a_reader_that_is_collected_as_garbage_stops_nobody() -> None:
    """Its end comes in the middle of whatever the thread is doing, here of a put."""

    def collecting(name: str) -> int:
        gc.collect()
        return 2

    box = mailbox(capacity=collecting)
    ended: list[str] = []

    async def begin_to_read() -> None:
        asyncio.get_running_loop().create_task(read_for_ever())
        await asyncio.sleep(0)

    async def read_for_ever() -> None:
        try:
            with box.reading("a") as waiter:
                await waiter
        finally:
            ended.append("a")

    gc.disable()  # else it may be collected before
    try:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # the task that was pending
        loop.run_until_complete(begin_to_read())
        loop.close()
        del loop
        box.put("a", "first")
        assert ended == []
        box.put("a", "second")
        assert ended == ["a"]
    finally:
        gc.enable()
    assert [box.take("a") for _ in range(3)] == ["first", "second", None]
