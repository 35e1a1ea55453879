"""The oracle finds what is planted: an account that finds nothing must be worth something."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from .accounting import Account, _check_handled, _GroupAccount
from .clients import Accepted, Segment
from .truth import Snapshot, Truth, Write

ROW = {"id": 1, "room": 0, "value": 1, "tag": "a", "body": "-", "hidden": False}
OTHER = {**ROW, "id": 2, "tag": "b"}
NEW = {**ROW, "value": 2, "tag": "c"}
ELSEWHERE = {**NEW, "room": 1, "tag": "d"}
WRITES = [
    Write(1, 11, Snapshot.of("11:11:"), "a", "insert", None, ROW),
    Write(2, 11, Snapshot.of("11:11:"), "b", "insert", None, OTHER),
    Write(3, 12, Snapshot.of("12:12:"), "c", "update", ROW, NEW),
    Write(4, 13, Snapshot.of("13:13:"), "d", "update", NEW, ELSEWHERE),
    Write(5, 14, Snapshot.of("14:14:"), "e", "truncate", None, None),
]
TICKS = {number: (number, Snapshot.of(f"{11 + number}:{11 + number}:")) for number in range(5)}


def token(number: int) -> str:
    return f"1.epoch.{number}.{number:016x}"


class Group:
    """What the account asks of a GroupState."""

    def __init__(self, accepted: Sequence[Accepted], *, start: int = 0) -> None:
        self.name = "room-0"
        self.client = SimpleNamespace(shares_position=False)
        self.rows: dict[int, Any] = {}
        self.segments = [Segment(token(start), reached=token(4), accepted=list(accepted))]
        self.problems: list[str] = []
        self.resumes = self.duplicates_dropped = 0


@pytest.fixture
def truth() -> Truth:
    truth = object.__new__(Truth)
    truth.writes, truth.ticks, truth.handled, truth.parked = WRITES, TICKS, [], 0
    return truth


@pytest.fixture
def accepted(truth: Truth) -> list[Accepted]:
    """All of the group, each transaction after the client stood at the tick before it."""
    return [Accepted(one.xid - 11, str(one.seq), *one.key) for one in truth.by_group["room-0"]]


@pytest.fixture
def settle(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tests.oracle.accounting.rows_of", lambda url, group: {})

    def settle(group: Group) -> dict[str, int]:
        account = Account()
        _GroupAccount(truth, account, "client", group).check("")  # type: ignore[arg-type]
        return dict(account.wrong)

    return settle


def test_truth_tells_what_each_group_gets(truth: Truth) -> None:
    kinds = {
        name: [(one.key[0], one.key[1]) for one in truth.by_group[name]]
        for name in ("all", "room-0", "room-1", "room-2")
    }
    rows = [("insert", 1), ("insert", 2), ("update", 1)]
    assert kinds == {
        "all": [*rows, ("update", 1), ("truncate", None)],
        "room-0": [*rows, ("delete", 1), ("truncate", None)],
        "room-1": [("insert", 1), ("truncate", None)],
        "room-2": [("truncate", None)],
    }


def test_all_in_order_is_clean(settle: Any, accepted: list[Accepted]) -> None:
    assert settle(Group(accepted)) == {}


def test_what_came_before_the_beginning_is_not_missed(
    settle: Any, accepted: list[Accepted]
) -> None:
    assert settle(Group(accepted[2:], start=1)) == {}


@pytest.mark.parametrize("left_out", range(5))
def test_a_lost_event_is_found(settle: Any, accepted: list[Accepted], left_out: int) -> None:
    del accepted[left_out]
    assert settle(Group(accepted)) == {"lost": 1}


def test_an_event_that_never_committed_is_found(settle: Any, accepted: list[Accepted]) -> None:
    accepted.append(dataclasses.replace(accepted[0], id="6", tag="rolled back"))
    assert settle(Group(accepted)) == {"never committed": 1}


def test_other_content_is_found(settle: Any, accepted: list[Accepted]) -> None:
    accepted[1] = dataclasses.replace(accepted[1], content=(0, 9, "b", "-"))
    assert settle(Group(accepted)) == {"never committed": 1, "lost": 1}


def test_an_event_that_comes_twice_is_found(settle: Any, accepted: list[Accepted]) -> None:
    accepted.append(dataclasses.replace(accepted[1], id="6"))
    assert settle(Group(accepted)) == {"twice": 1}


def test_events_of_a_row_in_another_order_are_found(
    settle: Any, accepted: list[Accepted]
) -> None:
    accepted[2], accepted[3] = accepted[3], accepted[2]
    found = settle(Group(accepted))
    assert found["inversion"] == 1
    assert found["effect before cause"] == 1


def test_an_effect_before_its_cause_in_another_row_is_found(
    settle: Any, accepted: list[Accepted]
) -> None:
    accepted[0:3] = [accepted[0], accepted[2], accepted[1]]
    assert settle(Group(accepted)) == {"effect before cause": 1}


def test_a_torn_transaction_is_found(settle: Any, accepted: list[Accepted]) -> None:
    accepted[1] = dataclasses.replace(accepted[1], stood=1)
    assert settle(Group(accepted)) == {"torn": 1}


def test_an_event_that_the_snapshot_held_is_found(
    settle: Any, accepted: list[Accepted]
) -> None:
    group = Group(accepted)
    group.segments[0].snapshot = "12:12:"
    assert settle(group) == {"overlap": 2}


def test_an_event_from_before_the_position_is_found(
    settle: Any, accepted: list[Accepted]
) -> None:
    group = Group(accepted, start=1)
    assert settle(group) == {"overlap": 2}
    group.client.shares_position = True
    assert settle(group) == {}


def test_a_position_within_a_snapshot_is_that_snapshot(truth: Truth) -> None:
    snapshot = truth.at(f"{token(1)}.e-2-1-00000000")
    assert snapshot == Snapshot.of("12:14:12,13")
    assert truth.at(token(1)) == TICKS[1][1]


def test_a_position_of_no_tick_is_found(settle: Any, accepted: list[Accepted]) -> None:
    group = Group(accepted)
    group.segments[0].reached = "1.epoch.4.0000000000000009"
    assert settle(group) == {"position of no tick": 1}


def test_a_row_that_is_shown_and_not_there_is_found(
    settle: Any, accepted: list[Accepted]
) -> None:
    group = Group(accepted)
    group.rows[1] = ()
    assert settle(group) == {"state": 1}


def test_an_event_that_no_handler_saw_is_found(truth: Truth) -> None:
    account = Account()
    _check_handled(truth, account)
    # The two rows, the update, and the move as update, delete and insert.
    assert account.wrong == {"not handled": 6}
