"""What a figure is: taken in turns with what it is compared with, and the median of several."""

from __future__ import annotations

import operator
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

GIB = 1024**3
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a figure should reach."""

    sign: str
    """``>=``, ``<=`` or ``<``."""
    value: float
    of: str = "ratio"
    """``ratio``, or ``ours`` for a figure that stands by itself."""

    def reached(self, row: Row) -> bool:
        """True if the row reaches it."""
        figure = row.ratio if self.of == "ratio" else row.ours
        assert figure is not None, row.what
        return COMPARE[self.sign](figure, self.value)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: ours beside a floor or a peer, measured in the same run."""

    what: str
    unit: str
    ours: float
    base: float | None = None
    """The figure that ours is compared with, in the same unit."""
    base_name: str = ""
    """What it is: ``no trigger``, a package's name."""
    target: Target | None = None
    runs: int = 1
    """Runs whose medians these are."""

    @property
    def ratio(self) -> float | None:
        """Ours / base; None where there is nothing to compare with."""
        return self.ours / self.base if self.base else None

    @property
    def verdict(self) -> str:
        """``yes``, ``no``, or nothing where no target is set."""
        if self.target is None:
            return ""
        return "yes" if self.target.reached(self) else "no"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One picture: lines by name, each a list of (x, y)."""

    name: str
    """Of the file: ``bench-<name>.svg``."""
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


@dataclass(kw_only=True)
class Findings:
    """What a section gives."""

    rows: list[Row] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know to read the rows rightly."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Everything else that was measured, for the JSON."""
    effort: str = ""
    """Of the run."""
    seconds: int = 0
    """What the section took."""


def in_turns(variants: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Run each variant once, then each a second time, ...: what disturbs the machine for a while
    disturbs all. The order turns from round to round, so that none always follows another."""
    figures: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for _ in range(runs):
        for name in order:
            figures[name].append(variants[name]())
        order = order[1:] + order[:1]
    return figures


def medians(figures: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in figures.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def machine() -> dict[str, str]:
    """Where the figures come from."""
    memory = psutil.virtual_memory().total / GIB
    return {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        output = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor()
    names = [line for line in output.splitlines() if line.startswith("Model name:")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def as_json(row: Row) -> dict[str, Any]:
    """A row with what follows from it."""
    return {**asdict(row), "ratio": row.ratio, "reached": row.verdict}
