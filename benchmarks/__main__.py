"""The command: run the sections, print one table, keep the figures, draw the pictures."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

from tests.servers.postgres import remove_abandoned

from . import report
from .harness import Findings
from .place import Effort, Place

SECTIONS = (
    "writers",
    "bulk",
    "relay",
    "drain",
    "latency",
    "fanout",
    "idle",
    "sockets",
)
"""In the order of a run and of the table; each is a module of ``sections``."""


def main() -> None:
    """See ``--help``."""
    arguments = _arguments()
    remove_abandoned()
    found: dict[str, Findings] = {}
    seconds: dict[str, float] = {}
    with Place(arguments.effort) as place:
        for name in arguments.only or SECTIONS:
            print(f"{name} ...", flush=True)
            begin = time.monotonic()
            found[name] = _section(name).run(place)
            seconds[name] = time.monotonic() - begin
            print(report.text(found[name].rows), flush=True)
            for note in found[name].notes:
                print(f"  {note}")
            print(f"  {seconds[name]:.0f} s\n", flush=True)
    if len(found) > 1:
        print(report.text([row for one in found.values() for row in one.rows]))
    report.save(found, seconds, arguments.out)
    print(f"{arguments.out}, after {sum(seconds.values()) / 60:.1f} minutes")


def _section(name: str) -> Any:
    return importlib.import_module(f".sections.{name}", __package__)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *SECTIONS], help="all when left out")
    parser.add_argument("--effort", type=Effort, choices=Effort, default=Effort.USUAL)
    parser.add_argument("--out", type=Path, default=report.JSON_FILE)
    return parser.parse_args()


if __name__ == "__main__":
    main()
