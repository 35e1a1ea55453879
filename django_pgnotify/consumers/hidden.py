"""Hidden: what a client has seen in a snapshot, beyond the tick that its events begin at."""

from __future__ import annotations

from dataclasses import dataclass

from .batches import Batch, EncodedEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """Ledger rows that the client has seen in a snapshot, until the group is past them."""

    rows: frozenset[str]
    """Ids of ledger rows."""
    until: int
    """The first tick that is known to begin after the snapshot's end."""

    def without(self, batch: Batch) -> tuple[EncodedEvent, ...]:
        """The batch's other events."""
        return tuple(event for event in batch.events if event.ledger_row not in self.rows)
