"""Revokes that come while the client's last authorization is still in use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_pgnotify.consumers import EventConsumer, revoke
from django_pgnotify.consumers.hub import Hub
from django_pgnotify.consumers.returning import Returning
from django_pgnotify.consumers.subscription import Subscription
from tests.hub_kit import PATIENCE_SECONDS, Browser, publish, relay, tell

pytestmark = pytest.mark.django_db(transaction=True)


class Member(EventConsumer):
    """Lets its client in for as long as it is a member; an answer may be long on its way."""

    is_member = True
    asked = asyncio.Event()
    gate: asyncio.Semaphore | None = None

    async def authorize(self, group: str) -> bool:
        Member.asked.set()
        answer = Member.is_member
        if Member.gate is not None:
            await Member.gate.acquire()
        return answer


class MemberWithState(Member):
    """Has a snapshot whose transaction begins when the test says so."""

    state = ""
    may_read = threading.Event()

    def snapshot(self, group: str) -> Any:
        assert MemberWithState.may_read.wait(PATIENCE_SECONDS)
        return [MemberWithState.state]


@pytest.fixture(autouse=True)
async def caught_up() -> None:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    await relay()


@pytest.fixture(autouse=True)
def everybody_is_a_member() -> Iterator[None]:
    Member.is_member, Member.asked, Member.gate = True, asyncio.Event(), None
    MemberWithState.may_read.clear()
    yield
    MemberWithState.may_read.set()


def held_back(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Whether returning clients are about to be read for, and the gate that this waits for."""
    begun, gate = asyncio.Event(), asyncio.Event()
    gate.set()
    work = Returning._work

    async def worked_late(self: Returning, lane: int) -> None:
        begun.set()
        await gate.wait()
        await work(self, lane)

    monkeypatch.setattr(Returning, "_work", worked_late)
    return begun, gate


async def test_answer_to_an_older_revoke_lets_nothing_behind_a_newer_one_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def note(name: str) -> None:
        original = getattr(Subscription, name)

        def noted(subscription: Subscription, *args: Any) -> None:
            original(subscription, *args)
            heard.put_nowait(name)

        monkeypatch.setattr(Subscription, name, noted)

    note("revoke")
    note("deliver")
    async with Browser(Member) as browser:
        await browser.subscribe("orders")
        Member.asked.clear()
        Member.gate = gate = asyncio.Semaphore(0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await revoke("orders")
            await relay()
            await Member.asked.wait()
            assert await heard.get() == "revoke"
            Member.is_member = False
            await revoke("orders")
            await tell("secret", "orders")
            assert {await heard.get(), await heard.get()} == {"revoke", "deliver"}
        gate.release()
        assert await browser.waiting() == []
        gate.release()
        assert (await browser.receive())["reason"] == "revoked"
        assert await browser.waiting() == []


async def test_client_whose_answer_is_older_than_a_revoke_is_asked_again() -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()

    class Witness(EventConsumer):
        async def authorize(self, group: str) -> bool:
            asked.put_nowait(group)
            return True

    async with Browser(Witness) as witness, Browser(Member) as browser:
        await witness.subscribe("orders")
        Member.gate = asyncio.Semaphore(0)
        await browser.send(type="subscribe", group="orders")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await Member.asked.wait()
            while not asked.empty():
                asked.get_nowait()
            Member.is_member = False
            await revoke("orders")
            await relay()
            assert await asked.get() == "orders"  # the hub has dealt with it
        Member.gate.release()
        Member.gate.release()
        assert (await browser.receive())["code"] == "forbidden"
        assert await browser.waiting() == []


async def test_client_of_a_hub_that_heard_of_no_revoke_is_asked_once() -> None:
    class Counting(EventConsumer):
        asked = 0

        async def authorize(self, group: str) -> bool:
            Counting.asked += 1
            return True

    async with Browser(Member) as other, Browser(Counting) as browser:
        await other.subscribe("customers")
        await browser.subscribe("orders")
        await browser.subscribe("customers")
        assert Counting.asked == 2
        await revoke("orders")
        await tell("news", "orders")
        assert await browser.data() == ["news"]
        assert Counting.asked == 3


@pytest.mark.parametrize("stays", [True, False])
async def test_replay_gives_nothing_behind_a_revoke_before_the_answer(
    monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    begun, gate = held_back(monkeypatch)
    async with Browser(Member) as other, Browser(Member) as browser:
        await other.subscribe("customers")  # keeps the hub
        position = (await browser.subscribe("orders"))["position"]
        await browser.send(type="unsubscribe", group="orders")
        await browser.waiting()
        gate.clear()
        begun.clear()
        await browser.send(type="subscribe", group="orders", since=position)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
        answer = asyncio.Semaphore(0)
        Member.is_member, Member.gate = stays, answer
        await revoke("orders")
        await publish("secret", "orders")
        await relay()
        gate.set()
        assert (await browser.receive())["type"] == "subscribed"
        assert (await browser.receive())["reason"] == "overflow"
        Member.gate = None
        answer.release()
        if stays:
            await tell("news", "orders")
            assert await browser.data() == ["news"]
        else:
            assert (await browser.receive())["reason"] == "revoked"
            assert await browser.waiting() == []


async def test_snapshot_read_behind_a_revoke_is_not_sent() -> None:
    async with Browser(MemberWithState) as browser:
        assert (await browser.subscribe("orders"))["type"] == "subscribed"
        Member.is_member = False
        await revoke("orders")
        await relay()
        MemberWithState.state = "secret"
        MemberWithState.may_read.set()
        assert (await browser.receive())["reason"] == "revoked"
        assert await browser.waiting() == []


async def test_replay_gives_nothing_behind_a_revoke_that_the_hub_has_not_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, gate = held_back(monkeypatch)
    async with Browser(Member) as other, Browser(Member) as browser:
        await other.subscribe("customers")  # keeps the hub
        position = (await browser.subscribe("orders"))["position"]
        await browser.send(type="unsubscribe", group="orders")
        await browser.waiting()
        monkeypatch.setattr(Hub, "_take", lambda self, frame: None)  # the layer is behind
        gate.clear()
        begun.clear()
        await browser.send(type="subscribe", group="orders", since=position)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
        Member.is_member = False
        await revoke("orders")
        await publish("secret", "orders")
        await relay()
        gate.set()
        frames = [await browser.receive()]
        while frames[-1].get("reason") != "revoked":
            frames.append(await browser.receive())
        assert "secret" not in str([*frames, *await browser.waiting()])
