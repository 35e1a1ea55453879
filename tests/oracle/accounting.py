"""The account: what each client accepted against the truth, event by event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from .clients import Accepted, Client, GroupState, Segment, content_of, rows_of, tick_of
from .truth import Happened, Key, Snapshot, Truth

EXAMPLES = 5
"""Findings of a kind that are told in full."""


@dataclass
class Account:
    """What was found wrong, by kind, and how much was looked at."""

    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    expected: int = 0
    accepted: int = 0
    resets: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    duplicates_dropped: int = 0
    handled: int = 0
    handled_again: int = 0

    def note(self, kind: str, what: str) -> None:
        """Something is wrong."""
        self.wrong[kind] += 1
        if self.wrong[kind] <= EXAMPLES:
            self.examples.append(f"{kind}: {what}")

    @property
    def is_clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.wrong


def settle(truth: Truth, clients: Iterable[Client], url: str) -> Account:
    """Check everything."""
    account = Account()
    for client in clients:
        for group in client.groups.values():
            _GroupAccount(truth, account, client.name, group).check(url)
    _check_handled(truth, account)
    return account


class _GroupAccount:
    """One group of one client."""

    def __init__(self, truth: Truth, account: Account, name: str, group: GroupState) -> None:
        self.truth = truth
        self.account = account
        self.name = f"{name}/{group.name}"
        self.group = group
        self.happened = truth.by_group[group.name]
        self.by_key = {one.key: one for one in self.happened}

    def check(self, url: str) -> None:
        """All promises, one after the other."""
        account, group = self.account, self.group
        for problem in group.problems:
            account.note("protocol", f"{self.name}: {problem}")
        if len(self.by_key) != len(self.happened):
            account.note("oracle", f"{self.name}: two events share a key")
        account.resets.update(one.reason for one in group.segments if one.reason != "begin")
        account.resumes += group.resumes
        account.duplicates_dropped += group.duplicates_dropped
        self._check_state(url)
        for _, page in groupby(group.segments, key=lambda segment: segment.life):
            segments = list(page)
            found = self._check_keys(segments)
            self._check_nothing_lost(segments, {one.key for one, _ in found})
            self._check_order(found)
            self._check_whole(segments)

    def _note(self, kind: str, what: object) -> None:
        self.account.note(kind, f"{self.name}: {what}")

    def _check_state(self, url: str) -> None:
        table, shown = rows_of(url, self.group.name), self.group.rows
        for pk in sorted(table.keys() | shown.keys()):
            if table.get(pk) != shown.get(pk):
                self._note("state", f"row {pk} is {table.get(pk)}, shown {shown.get(pk)}")

    def _check_keys(self, segments: Sequence[Segment]) -> list[tuple[Happened, Accepted]]:
        """Nothing rolled back, nothing twice, nothing from before the beginning."""
        found: list[tuple[Happened, Accepted]] = []
        keys: set[Key] = set()
        for segment in segments:
            held = self._held_by(segment)
            for accepted in segment.accepted:
                self.account.accepted += 1
                key = _key(accepted)
                happened = self.by_key.get(key)
                if happened is None:
                    self._note("never committed", accepted)
                elif key in keys:
                    self._note("twice", accepted)
                elif held is not None and held.sees(happened.xid):
                    where = segment.snapshot or segment.start
                    self._note("overlap", f"{accepted} is in {where}")
                else:
                    keys.add(key)
                    found.append((happened, accepted))
        return found

    def _held_by(self, segment: Segment) -> Snapshot | None:
        """What a client had when the segment began, and so must not get."""
        if segment.snapshot is not None:
            return Snapshot.of(segment.snapshot)
        # A stream resumes all of its groups from one position, the lowest.
        if self.group.client.shares_position:
            return None
        try:
            return self.truth.at(segment.start)
        except KeyError:
            return None  # told by another check

    def _check_nothing_lost(self, segments: Sequence[Segment], keys: set[Key]) -> None:
        """All between a segment's begin and the last position reached in it."""
        for segment in segments:
            try:
                start, reached = self.truth.at(segment.start), self.truth.at(segment.reached)
            except KeyError as error:
                self._note("position of no tick", error)
                continue
            if segment.snapshot is not None:
                start = Snapshot.of(segment.snapshot)
            for one in self.happened:
                if reached.sees(one.xid) and not start.sees(one.xid):
                    self.account.expected += 1
                    if one.key not in keys:
                        self._note("lost", f"{one} of {segment.start}..{segment.reached}")

    def _check_order(self, found: Sequence[tuple[Happened, Accepted]]) -> None:
        """Per row by writing; and nobody hears of an effect before its cause."""
        of_row: dict[int | None, int] = {}
        truncated = highest = 0
        for one, accepted in found:
            if one.key[0] == "truncate":
                before, truncated = highest, one.seq
            else:
                before = max(of_row.get(accepted.pk, 0), truncated)
            if accepted.kind != "message":
                of_row[accepted.pk] = one.seq
                highest = max(highest, one.seq)
                if one.seq <= before:
                    self._note("inversion", f"{accepted} after write {before}")
        lowest = None
        for one, accepted in reversed(found):
            if lowest is not None and lowest < one.snapshot.xmin:
                self._note("effect before cause", f"{accepted} before {lowest}")
            lowest = one.xid if lowest is None else min(lowest, one.xid)

    def _check_whole(self, segments: Sequence[Segment]) -> None:
        """Who was told to stand at a position had all of the transactions up to there."""
        for segment in segments:
            start = self.truth.ticks.get(tick_of(segment.start))
            for accepted in segment.accepted:
                one = self.by_key.get(_key(accepted))
                stood = self.truth.ticks.get(accepted.stood)
                if one is None or stood is None or start is None:
                    continue  # told by other checks
                if stood[1].sees(one.xid) and not start[1].sees(one.xid):
                    self._note("torn", f"{accepted} of {one.xid}")


def _key(accepted: Accepted) -> Key:
    return (accepted.kind, accepted.pk, accepted.content, accepted.tag)


def _check_handled(truth: Truth, account: Account) -> None:
    """At least once, and for the first time in the order of each row's writes."""
    expected: dict[tuple[object, ...], int] = {}
    for write in truth.writes:
        for _, one in write.events():
            if one.key[0] != "truncate":
                expected.setdefault(_handled_key(one.key), one.seq)
    last: dict[object, int] = {}
    seen: set[tuple[object, ...]] = set()
    for kind, pk, data in truth.handled:
        account.handled += 1
        if kind == "truncate":
            continue
        is_message = kind == "message"
        key = (kind, None, data["tag"]) if is_message else (kind, int(pk), content_of(data))
        if key not in expected:
            account.note("never committed, handled", str(key))
        elif key in seen:
            account.handled_again += 1
        else:
            seen.add(key)
            # Messages have no row.
            if not is_message and expected[key] < last.get(pk, 0):
                account.note("handled out of order", f"{key} after {last[pk]}")
            last[pk] = max(expected[key], last.get(pk, 0))
    for key in expected.keys() - seen:
        account.note("not handled", str(key))


def _handled_key(key: Key) -> tuple[object, ...]:
    kind, pk, content, tag = key
    return (kind, pk, tag if kind == "message" else content)
