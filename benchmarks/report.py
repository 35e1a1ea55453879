"""What came out: a table for the terminal and for the documentation, and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from .child import ROOT
from .harness import Findings, Plot, Row, as_json, machine

JSON_FILE = ROOT / "docs" / "benchmarks.json"
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


def save(found: Mapping[str, Findings], seconds: Mapping[str, float], path: Path) -> None:
    """Put the sections that ran into the file; those that did not run stay as they were."""
    kept = json.loads(path.read_text())["sections"] if path.exists() else {}
    taken = {name: _section(findings, seconds[name]) for name, findings in found.items()}
    path.write_text(
        json.dumps({"machine": machine(), "sections": {**kept, **taken}}, indent=1) + "\n"
    )


def load(path: Path = JSON_FILE) -> dict[str, Any]:
    """Read the file."""
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def plots(read: Mapping[str, Any]) -> list[Plot]:
    """The pictures of what was read."""
    return [Plot(**one) for section in read["sections"].values() for one in section["plots"]]


def _section(findings: Findings, seconds: float) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "seconds": round(seconds),
        "rows": [as_json(row) for row in findings.rows],
        "plots": [asdict(plot) for plot in findings.plots],
        "notes": findings.notes,
        "figures": findings.figures,
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
