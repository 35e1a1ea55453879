"""Outbox and pump: order, bounds and isolation, whether a server takes frames at once or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest
from django.test import override_settings

from django_pgnotify.consumers import pump
from django_pgnotify.consumers.batches import Batch, EncodedEvent, make_batch
from django_pgnotify.consumers.browser import Answer, error, reset
from django_pgnotify.consumers.outbox import ROOM, Item, Outbox
from django_pgnotify.ending import end
from django_pgnotify.ledger.positions import Position

PATIENCE_SECONDS = 5.0


class Gone(Exception):
    """The client of the test's socket has left."""


def position(tick: int) -> Position:
    return Position(epoch="e", tick=tick, bits=0)


def batch(number: int, *, group: str = "g", live: bool = False, more: bool = False) -> Batch:
    events = (EncodedEvent(id=f"{number}-0", text=f'{{"id":"{number}-0"}}'),)
    tick = None if live else number
    return make_batch(group, events, tick=tick, position=position(number), more=more)


def answer(text: str, *, keep: bool = False) -> Answer:
    return Answer(type="pong", text=text, keep=keep)


class Socket:
    """Takes frames at once, or, while its gate is shut, not before it opens."""

    def __init__(self, send: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.taken: list[str] = []
        self.items: list[Item] = []
        self.stamps: list[str | None] = []
        self.took_one = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self._also = send
        self.outbox = Outbox(
            send=self.send,
            stamp=lambda item: item.text,
            overflowed=lambda: [reset("g", position(99), "overflow")],
        )

    async def send(self, item: Item, stamp: str | None) -> None:
        await self.gate.wait()
        if self._also is not None:
            await self._also(item.text)
        self.taken.append(item.text)
        self.items.append(item)
        self.stamps.append(stamp)
        self.took_one.set()

    async def guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self.error = error

    async def took(self, count: int) -> None:
        """Return when it has taken so many frames."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.taken) < count:
                self.took_one.clear()
                await self.took_one.wait()


@asynccontextmanager
async def started(*sockets: Socket) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [socket.outbox.start(socket.guard) for socket in sockets]
    try:
        yield tasks
    finally:
        await end(tasks)


def put(socket: Socket, *texts: str) -> None:
    for text in texts:
        socket.outbox.put(answer(text))


# Order ------------------------------------------------------------------------------------


async def test_what_is_put_before_the_start_and_after_is_sent_in_order() -> None:
    socket = Socket()
    put(socket, "1", "2")
    async with started(socket):
        put(socket, "3")
        await socket.took(3)
        put(socket, "4")
        await socket.took(4)
    assert socket.taken == ["1", "2", "3", "4"]


async def test_order_stands_when_a_socket_becomes_slow_in_the_middle() -> None:
    socket = Socket()

    async def shut_at_two(text: str) -> None:
        if text == "2":
            socket.gate.clear()
        await socket.gate.wait()

    socket._also = shut_at_two
    async with started(socket):
        put(socket, "1", "2", "3")
        await socket.took(1)
        put(socket, "4")
        await asyncio.sleep(0)
        put(socket, "5")
        assert socket.taken == ["1"]
        socket.gate.set()
        put(socket, "6")
        await socket.took(6)
    assert socket.taken == ["1", "2", "3", "4", "5", "6"]


async def test_socket_that_waits_in_every_frame_loses_and_doubles_none() -> None:
    async def wait(text: str) -> None:
        for _ in range(int(text) % 4):
            await asyncio.sleep(0)

    sockets = [Socket(wait) for _ in range(5)]
    async with started(*sockets):
        for number in range(50):
            for socket in sockets:
                put(socket, str(number))
            await asyncio.sleep(0)
        for socket in sockets:
            await socket.took(50)
    assert [socket.taken for socket in sockets] == [[str(n) for n in range(50)]] * 5


async def test_frame_that_a_send_puts_follows() -> None:
    socket = Socket()

    async def echo(text: str) -> None:
        if text == "1":
            put(socket, "echo")

    socket._also = echo
    async with started(socket):
        put(socket, "1", "2")
        await socket.took(3)
    assert socket.taken == ["1", "2", "echo"]


async def test_stamp_is_the_one_of_when_the_frame_was_put() -> None:
    socket = Socket()
    async with started(socket):
        put(socket, "1", "2")
        await socket.took(2)
    assert socket.stamps == ["1", "2"]


# One for each -----------------------------------------------------------------------------


async def test_socket_that_does_not_take_a_frame_delays_nobody() -> None:
    slow, fast = Socket(), Socket()
    slow.gate.clear()
    async with started(slow, fast):
        for number in range(20):
            put(slow, str(number))
            put(fast, str(number))
            await fast.took(number + 1)
        assert slow.taken == []
        slow.gate.set()
        await slow.took(20)
    assert slow.taken == fast.taken


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
async def test_client_that_goes_in_the_middle_of_a_pass_ends_alone(waits: bool) -> None:
    async def leave(text: str) -> None:
        if waits:
            await asyncio.sleep(0)
        raise Gone

    sockets = [Socket(), Socket(leave), Socket()]
    gone = sockets[1]
    async with started(*sockets) as tasks:
        for socket in sockets:
            put(socket, "1", "2")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await tasks[1]
        for socket in (sockets[0], sockets[2]):
            put(socket, "3")
            await socket.took(3)
        assert isinstance(gone.error, Gone)
        put(gone, "never")
        assert not gone.outbox.send_next()
    assert gone.taken == []


async def test_nobody_waits_for_room_of_a_client_that_has_gone() -> None:
    async def leave(text: str) -> None:
        raise Gone

    socket = Socket(leave)
    socket.gate.clear()
    async with started(socket):
        put(socket, *map(str, range(ROOM + 2)))
        waiting = asyncio.create_task(socket.outbox.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        socket.gate.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting


async def test_other_work_gets_its_turn_while_many_sockets_get_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pump.TURN_SECONDS <= 0.005
    monkeypatch.setattr(pump, "TURN_SECONDS", 0.0)
    sockets = [Socket() for _ in range(100)]
    async with started(*sockets):
        await asyncio.sleep(0)
        for socket in sockets:
            put(socket, "1")
        seen = []
        while (count := sum(len(socket.taken) for socket in sockets)) < 100:
            seen.append(count)
            await asyncio.sleep(0)
    assert len(set(seen)) == 100


# Bounds -----------------------------------------------------------------------------------


@override_settings(PGNOTIFY={"SOCKET_QUEUE_SIZE": 3})
async def test_overflow_while_a_send_waits_gives_what_must_arrive_and_a_reset() -> None:
    socket = Socket()
    async with started(socket):
        await asyncio.sleep(0)
        socket.gate.clear()
        put(socket, "waits")
        await asyncio.sleep(0)
        put(socket, "1", "2")
        socket.outbox.put(answer("kept", keep=True))
        put(socket, "lost")
        socket.gate.set()
        await socket.took(3)
        put(socket, "next")
        await socket.took(4)
    told = reset("g", position(99), "overflow").text
    assert socket.taken == ["waits", "kept", told, "next"]


@override_settings(PGNOTIFY={"SOCKET_QUEUE_SIZE": 4})
async def test_refusal_of_a_group_survives_an_overflow_and_other_errors_do_not() -> None:
    refused = error("forbidden", "You may not see it.", "h")
    socket = Socket()
    async with started(socket):
        await asyncio.sleep(0)
        socket.gate.clear()
        put(socket, "waits")
        await asyncio.sleep(0)
        socket.outbox.put(refused)
        socket.outbox.put(error("bad_request", "That is no JSON."))
        put(socket, "1", "2", "lost")
        socket.gate.set()
        await socket.took(3)
    told = reset("g", position(99), "overflow").text
    assert socket.taken == ["waits", refused.text, told]


async def test_room_is_told_when_a_slow_socket_has_taken_enough() -> None:
    socket = Socket()
    socket.gate.clear()
    async with started(socket):
        await socket.outbox.wait_for_room()
        put(socket, *map(str, range(ROOM + 1)))
        waiting = [asyncio.create_task(socket.outbox.wait_for_room()) for _ in range(2)]
        # The first one is with the server: as many as there is room for are left.
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        socket.gate.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*waiting)


# As the client's own task -----------------------------------------------------------------

where: ContextVar[str] = ContextVar("where", default="outside")


async def test_send_runs_in_one_context_and_as_one_task_before_and_after_it_waits() -> None:
    tasks = []

    async def span(text: str) -> None:
        assert where.get() == "socket"
        tasks.append(asyncio.current_task())
        token = where.set(text)
        await asyncio.sleep(0)
        assert where.get() == text
        where.reset(token)
        tasks.append(asyncio.current_task())

    where.set("socket")
    socket = Socket(span)
    async with started(socket) as (own,):
        where.set("elsewhere")
        await asyncio.sleep(0)
        put(socket, "1", "2")
        await socket.took(2)
    assert tasks == [own] * 4


async def test_time_out_within_a_send_ends_that_send_only() -> None:
    async def hurry(text: str) -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return
        raise AssertionError("no time-out")

    socket = Socket(hurry)
    async with started(socket):
        put(socket, "1", "2")
        await socket.took(2)
    assert socket.error is None


async def test_cancellation_reaches_a_send_that_waits() -> None:
    left = []

    async def wait(text: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.append(text)

    socket = Socket(wait)
    async with started(socket) as (task,):
        await asyncio.sleep(0)
        put(socket, "1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left == ["1"]


async def test_cancellation_just_before_the_task_takes_over_leaves_nothing_behind() -> None:
    left = []

    async def wait(text: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.append(text)

    socket = Socket(wait)
    async with started(socket) as (task,):
        await asyncio.sleep(0)
        put(socket, "1")
        # After the pump, which the put has called, and before the task that it wakes.
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left == ["1"]


async def test_server_that_cancels_a_send_ends_this_client_only() -> None:
    async def cancelled(text: str) -> None:
        raise asyncio.CancelledError

    socket, other = Socket(cancelled), Socket()
    async with started(socket, other) as (task, _):
        put(socket, "1")
        put(other, "1")
        with pytest.raises(asyncio.CancelledError):
            await task
        await other.took(1)


# What has piled up ------------------------------------------------------------------------


async def piled_up(*items: Item, sockets: int = 1) -> list[Socket]:
    """What sockets take that had all these waiting."""
    slow = [Socket() for _ in range(sockets)]
    for socket in slow:
        for item in (*items, answer("end")):
            socket.outbox.put(item)
    async with started(*slow):
        async with asyncio.timeout(PATIENCE_SECONDS):
            for socket in slow:
                while socket.taken[-1:] != ["end"]:
                    await socket.took(len(socket.taken) + 1)
                socket.items.pop()
    return slow


def ids(item: Item) -> list[str]:
    assert isinstance(item, Batch)
    return [event.id for event in item.events]


async def test_batches_that_piled_up_become_one_frame_that_all_sockets_share() -> None:
    first, second = await piled_up(batch(1), batch(2), batch(3), sockets=2)
    (joined,) = first.items
    assert ids(joined) == ["1-0", "2-0", "3-0"]
    assert joined.position == position(3)
    assert first.stamps[0] == batch(3).text
    assert second.items[0] is joined


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (batch(1), batch(2, group="other")),
        (batch(1), batch(2, live=True)),
        (batch(1, more=True), batch(2)),
        (batch(1), batch(2, more=True)),
        (batch(1), answer("between")),
        (batch(1), make_batch("g", (), tick=None, position=position(2))),
    ],
    ids=["group", "live", "more", "before more", "answer", "position"],
)
async def test_what_does_not_belong_together_is_not_joined(one: Item, two: Item) -> None:
    (socket,) = await piled_up(one, two)
    assert socket.items == [one, two]


async def test_joined_batches_stay_below_the_largest_frame() -> None:
    size = len(batch(1).text)
    with override_settings(PGNOTIFY={"MAX_FRAME_BYTES": 2 * size + 10}):
        (socket,) = await piled_up(*(batch(number) for number in range(1, 6)))
    assert [ids(item) for item in socket.items] == [["1-0", "2-0"], ["3-0", "4-0"], ["5-0"]]
    assert all(len(item.text) <= 2 * size + 10 for item in socket.items)


async def test_socket_that_keeps_up_gets_each_batch_as_it_is() -> None:
    batches = [batch(1), batch(2)]
    socket = Socket()
    async with started(socket):
        for number, one in enumerate(batches):
            socket.outbox.put(one)
            await socket.took(number + 1)
    assert all(taken is put for taken, put in zip(socket.items, batches, strict=True))
