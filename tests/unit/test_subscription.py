"""What one client is told when its queue overflows: a place from which nothing is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_pgnotify.consumers.batches import EncodedEvent, Packer, make_batch
from django_pgnotify.consumers.browser import Answer
from django_pgnotify.consumers.outbox import Item, Outbox
from django_pgnotify.consumers.subscription import Subscription
from django_pgnotify.ledger.positions import Position
from django_pgnotify.ledger.ticks import Tick

QUEUE = 3


def at(tick: int) -> Position:
    return Position(epoch="e", tick=tick, bits=tick)


def parts(tick: int, number: int) -> Iterator[Any]:
    """A tick's batches."""
    packer = Packer("g", tick=tick, before=at(tick - 1), after=at(tick))
    for part in range(number):
        packer.add(EncodedEvent(id=f"{tick}-{part}", text="{}"))
        yield packer.finish(more=part < number - 1)


class Client:
    """Reads nothing: what is queued stays."""

    def __init__(self) -> None:
        self.reached = at(0)
        self.outbox = Outbox(
            send=self._send, stamp=lambda item: None, overflowed=self._overflowed
        )
        self.subscription = Subscription("g", self.outbox, lambda group: None)
        self.subscription.stands = at(0)

    @property
    def queued(self) -> list[tuple[str, int]]:
        """Type, and tick of the position, of what waits."""
        frames = [json.loads(item.text) for item, _ in self.outbox._items]
        return [(one["type"], int(one["position"].split(".")[2])) for one in frames]

    async def _send(self, item: Item, stamp: str | None) -> None:
        raise NotImplementedError

    def _overflowed(self) -> Iterator[Answer]:
        answer = self.subscription.overflow(self.reached)
        if answer is not None:
            yield answer


@pytest.fixture
def client() -> Iterator[Client]:
    with override_settings(PGNOTIFY={"SOCKET_QUEUE_SIZE": QUEUE}):
        yield Client()


def test_an_overflow_tells_the_place_after_what_is_gone(client: Client) -> None:
    client.subscription.release()
    for tick in range(1, QUEUE + 2):
        # By a reading of the ledger, after which the group moves.
        for batch in parts(tick, 1):
            client.subscription.deliver(batch)
        client.reached = at(tick)
    assert client.queued == [("reset", QUEUE + 1)]


def test_an_overflow_within_a_tick_is_told_at_its_end(client: Client) -> None:
    client.subscription.release()
    *first, last = parts(1, QUEUE + 3)
    for batch in first:
        client.subscription.deliver(batch)
    assert client.queued == []
    client.subscription.deliver(last)
    assert client.queued == [("reset", 1)]
    (after,) = parts(2, 1)
    client.subscription.deliver(after)
    assert client.queued == [("reset", 1), ("events", 2)]


@pytest.mark.parametrize("held", [QUEUE + 1, QUEUE + 2, 2 * QUEUE + 2])
def test_too_much_held_within_a_tick_is_told_at_its_end(client: Client, held: int) -> None:
    *first, last = parts(1, held + 1)
    for batch in first:
        client.subscription.deliver(batch)
    client.subscription.release()
    assert client.queued == []
    client.subscription.deliver(last)
    assert client.queued == [("reset", 1)]


def test_too_much_held_tells_the_place_after_what_is_gone(client: Client) -> None:
    for tick in range(1, QUEUE + 3):
        for batch in parts(tick, 1):
            client.subscription.deliver(batch)
    client.subscription.release()
    assert client.queued == [("reset", QUEUE + 1), ("events", QUEUE + 2)]


def test_too_much_held_that_a_replay_has_told_needs_no_reset(client: Client) -> None:
    subscription = client.subscription
    subscription.come_back(at(0))
    for batch in parts(1, QUEUE + 2):
        subscription.deliver(batch)
    tick = Tick(number=1, snapshot="1:1:", bits=1)
    subscription.caught_up(at(1), tick)
    (after,) = parts(2, 1)
    subscription.deliver(after)
    assert client.queued == [("events", 1), ("events", 2)]  # the first is a position alone


def test_nothing_tells_a_place_beyond_what_is_gone_before_the_reset(client: Client) -> None:
    client.subscription.release()
    *first, last = parts(1, QUEUE + 3)
    for batch in first:
        client.subscription.deliver(batch)
    assert client.subscription.is_cut
    client.subscription.deliver(make_batch("g", (), tick=None, position=at(0)))
    assert client.queued == []
    client.subscription.deliver(last)
    assert not client.subscription.is_cut
    client.subscription.deliver(make_batch("g", (), tick=None, position=at(1)))
    assert client.queued == [("reset", 1), ("events", 1)]
