"""The pictures of the documentation: SVG files that a run always draws alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .child import ROOT
from .harness import Plot

FOLDER = ROOT / "docs" / "images"
SIZE_INCHES = (7.2, 3.8)
COLORS = ("#0b6e4f", "#c0582b", "#4a5d9a", "#8a6d1d", "#7a7a7a")
"""Ours first."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "django_pgnotify",  # else every run gives its elements other names
}
OURS = ("django_pgnotify", "PostgresChannelLayer")


def draw(plots: Iterable[Plot], folder: Path = FOLDER) -> list[Path]:
    """Draw each into ``bench-<name>.svg``."""
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        return [_draw(plot, folder) for plot in plots]


def _draw(plot: Plot, folder: Path) -> Path:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    names = sorted(plot.lines, key=lambda name: name not in OURS)
    for name, color in zip(names, COLORS, strict=False):
        xs, ys = zip(*plot.lines[name], strict=True)
        width = 2.4 if name in OURS else 1.6
        axes.plot(xs, ys, marker="o", markersize=4, color=color, label=name, linewidth=width)
    axes.set_title(plot.title, loc="left", fontsize=11)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.set_axisbelow(True)
    _scale(axes, plot)
    axes.legend()
    path = folder / f"bench-{plot.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


def _scale(axes: mpl.axes.Axes, plot: Plot) -> None:
    if plot.log_x:
        axes.set_xscale("log")
        ticks = sorted({x for line in plot.lines.values() for x, _ in line})
        axes.set_xticks(ticks)
        axes.minorticks_off()
    if plot.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    readable = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_major_formatter(readable)
    axes.yaxis.set_major_formatter(readable)
