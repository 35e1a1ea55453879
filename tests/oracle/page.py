"""The page of the guarantees tells measured figures; they are put there from the files of the runs.

``python -m tests.oracle.page`` does it anew; a test holds the page to the files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tests.settings import BASE_DIR

DOCS = BASE_DIR.parent / "docs"
PAGE = DOCS / "explanation" / "guarantees.md"
BLOCK = "<!-- {name} -->\n{text}<!-- /{name} -->"
COLUMNS = {
    "runs": "runs",
    "faults": "faults",
    "transactions": "transactions",
    "events expected": "events expected",
    "reconnects": "reconnects",
    "resets": "resets",
}


def soak(figures: dict[str, Any]) -> str:
    """A line for each layer and version, and their sum."""
    totals = figures["totals"]
    wrong = sum((Counter(total["wrong"]) for total in totals), Counter[str]())
    found = "Found wrong: nothing." if not wrong else f"Found wrong: {dict(wrong)}."
    lines = [
        f"{figures['minutes']} minutes on {figures['date']}, {figures['machine']}. {found}",
        "",
        "| layer | PostgreSQL | " + " | ".join(COLUMNS) + " |",
        "| --- | --- |" + " --- |" * len(COLUMNS),
    ]
    for total in totals:
        cells = [f"{total.get(name, 0):,}" for name in COLUMNS.values()]
        lines.append(f"| {total['layer']} | {total['postgres']} | " + " | ".join(cells) + " |")
    sums = [f"{sum(total.get(name, 0) for total in totals):,}" for name in COLUMNS.values()]
    return "\n".join([*lines, "| all | | " + " | ".join(sums) + " |"])


def retention(figures: dict[str, Any]) -> str:
    """What the ledger, and the writers, had of it."""
    told, plain = figures["told transaction, ms"], figures["plain transaction, ms"]
    waits = figures["waits for a lock over 10 ms"].items()
    rows = {
        "transactions": f"{figures['transactions']:,} in {figures['minutes']:.0f} minutes",
        "ledger, most in the first half": f"{figures['ledger MiB, most in the first half']} MiB",
        "ledger, most in the second half": f"{figures['ledger MiB, most in the second half']} MiB",
        "rows in the ledger, most": f"{figures['rows, most']:,}",
        "dead rows, most": f"{figures['dead rows, most']:,}",
        "a transaction with events, p50 / p99 / p99.9 / max": _milliseconds(told),
        "the same without a trigger": _milliseconds(plain),
        "waits of more than 10 ms for a lock": ", ".join(
            f"{wait['times']:,} ({what}, {wait['longest ms']:.0f} ms at most)"
            for what, wait in waits
        )
        or "none",
        "replays of the whole ledger": f"{figures['replays']}, the longest of"
        f" {figures['rows in the longest replay']:,} rows;"
        f" {figures['replays expired']} expired",
    }
    lines = [
        f"{figures['transactions a second']} transactions a second at a retention of"
        f" {figures['retention seconds']:.0f} seconds, on {figures['date']},"
        f" {figures['machine']}.",
        "",
        "| measured | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join(lines)


def _milliseconds(figures: dict[str, float]) -> str:
    values = (figures[name] for name in ("p50", "p99", "p999", "max"))
    return " / ".join(f"{value:.1f}" for value in values) + " ms"


FIGURES = {"soak": soak, "retention": retention}


def filled(text: str) -> str:
    """The page with the figures of the files that are there."""
    for name, render in FIGURES.items():
        path = DOCS / f"{name}.json"
        if path.exists():
            figures = render(json.loads(path.read_text()))
            block = BLOCK.format(name=name, text=f"\n{figures}\n\n")
            place = re.compile(BLOCK.format(name=name, text=".*?"), re.DOTALL)
            text = place.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


def write() -> None:
    """Fill the page."""
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    write()
