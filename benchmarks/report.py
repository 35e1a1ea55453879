"""What came out: a table for the terminal and for the documentation, and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from . import growing
from .child import ROOT
from .harness import Findings, Plot, Row, as_json, machine
from .sections import SECTIONS

JSON_FILE = ROOT / "docs" / "benchmarks.json"
SCRATCH_FILE = ROOT / ".bench" / "benchmarks.json"
PAGE = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end: written by make bench -->"
QUICK_WARNING = (
    "**Some of these figures come from a quick try of the benchmarks and mean little:"
    " `make bench` takes real ones.**"
)
COLUMNS = ("what", "compared with", "theirs", "ours", "ratio", "target", "reached")


def cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row that was read from the JSON, as they are shown."""
    unit = row["unit"]
    return [
        row["what"],
        row["base_name"],
        "" if row["base"] is None else f"{_figure(row['base'])} {unit}",
        f"{_figure(row['ours'])} {unit}",
        "" if row["ratio"] is None else f"{_figure(row['ratio'])} x",
        _target(row),
        row["reached"],
    ]


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [list(COLUMNS), *(cells(as_json(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(read: Mapping[str, Any]) -> str:
    """The table with what one must know to read it."""
    sections = read["sections"].values()
    lines = [COLUMNS, ["---", "---", *["--:"] * 4, "---"]]
    lines += [cells(row) for section in sections for row in section["rows"]]
    notes = [f"- {note}" for section in sections for note in section["notes"]]
    quick = any(section["effort"] == "quick" for section in sections)
    table = [f"| {' | '.join(line)} |" for line in lines]
    parts = [_machine(read["machine"]), QUICK_WARNING if quick else "", "\n".join(table)]
    return "\n\n".join([*filter(None, parts), "\n".join(notes)])


def written_parts(read: Mapping[str, Any]) -> list[str]:
    """What stands between the marks of the page, in order."""
    return [markdown(read), growing.markdown(read)]


def write_page(read: Mapping[str, Any], page: Path = PAGE) -> None:
    """Bring the page up to date."""
    before, *rest = page.read_text().split(BEGIN)
    for part, old in zip(written_parts(read), rest, strict=True):
        before += f"{BEGIN}\n\n{part}\n\n{END}{old.partition(END)[2]}"
    page.write_text(before)


def _machine(machine: Mapping[str, str]) -> str:
    return (
        f"Taken on {machine['cores']} cores ({machine['processor']}), {machine['memory']},"
        f" {machine['system']}, Python {machine['python']}, PostgreSQL 18 with `fsync` and"
        " `synchronous_commit` on. Everything, clients included, shares these cores."
    )


def save(name: str, findings: Findings, path: Path) -> None:
    """Put a section into the file; those that did not run stay as they were."""
    held = json.loads(path.read_text())["sections"] if path.exists() else {}
    held[name] = _section(findings)
    ordered = {section: held[section] for section in SECTIONS if section in held}
    read = {"machine": machine(), "sections": ordered}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(read, indent=1) + "\n")


def load(path: Path = JSON_FILE) -> dict[str, Any]:
    """Read the file."""
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def plots(read: Mapping[str, Any]) -> list[Plot]:
    """The pictures of what was read."""
    return [Plot(**one) for section in read["sections"].values() for one in section["plots"]]


def _section(findings: Findings) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        **asdict(findings),
        "rows": [as_json(row) for row in findings.rows],
    }


def _figure(value: float) -> str:
    """Three digits are more than two runs agree in."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _target(row: Mapping[str, Any]) -> str:
    target = row["target"]
    if target is None:
        return ""
    unit = "x" if target["of"] == "ratio" else row["unit"]
    return f"{target['sign']} {target['value']:,g} {unit}"
