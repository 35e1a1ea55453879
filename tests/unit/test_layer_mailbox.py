"""Local queues and memberships, with the clock in the test's hand."""

from __future__ import annotations

from collections.abc import Callable

from django_pgnotify.layers.mailbox import Mailbox


def mailbox(
    capacity: Callable[[str], int] = lambda name: 2,
    expiry: float = 60,
    forget_after: float = 1000,
) -> Mailbox:
    return Mailbox(capacity=capacity, expiry=expiry, forget_after=forget_after)


def test_messages_are_taken_in_the_order_in_which_they_were_put() -> None:
    box = mailbox()
    assert box.put("a", "1", now=0)
    assert box.put("a", "2", now=0)
    assert [box.take("a", now=1) for _ in range(3)] == ["1", "2", None]


def test_a_full_name_refuses_the_newest_message() -> None:
    box = mailbox()
    assert [box.put("a", text, now=0) for text in "123"] == [True, True, False]
    assert box.is_full("a", now=0)
    assert box.take("a", now=1) == "1"
    assert not box.is_full("a", now=1)


def test_an_expired_message_is_neither_delivered_nor_counted_as_waiting() -> None:
    box = mailbox(expiry=10)
    box.put("a", "old", now=0)
    box.put("a", "old", now=0)
    assert not box.is_full("a", now=10)
    assert box.put("a", "new", now=10)
    assert [box.take("a", now=11) for _ in range(2)] == ["new", None]


def test_a_group_counts_its_full_members() -> None:
    box = mailbox(capacity=lambda name: 1 if name == "small" else 5)
    box.join("room", "small")
    box.join("room", "large")
    assert [box.put_group("room", text, now=0) for text in "12"] == [0, 1]


def test_a_group_without_members_is_gone() -> None:
    box = mailbox()
    box.join("room", "a")
    box.leave("room", "b")
    assert box.has_group("room")
    box.leave("room", "a")
    assert not box.has_group("room")
    box.leave("room", "a")


def test_a_name_that_nobody_reads_is_forgotten_with_its_memberships() -> None:
    box = mailbox(expiry=10, forget_after=100)
    box.join("room", "dead")
    box.join("room", "alive")
    reader = box.reading("alive", now=0)
    for now in range(0, 130, 10):
        box.put_group("room", "text", now)
        while box.take("alive", now):
            pass
    box.leave("room", "alive")
    box.done_reading("alive", reader, now=130)
    assert not box.has_group("room")


def test_a_busy_reader_is_not_forgotten() -> None:
    box = mailbox(expiry=10, forget_after=100)
    box.join("room", "busy")
    for now in range(0, 300, 50):
        box.done_reading("busy", box.reading("busy", now), now)
        box.put_group("room", "text", now)
    assert box.has_group("room")


def test_a_flush_keeps_those_who_wait() -> None:
    box = mailbox()
    waiting = box.reading("a", now=0)
    box.join("room", "a")
    box.put("a", "1", now=0)
    box.clear()
    assert box.take("a", now=0) is None
    assert not box.has_group("room")
    waiting.stirred.clear()
    box.put("a", "2", now=0)
    assert waiting.stirred.is_set()
