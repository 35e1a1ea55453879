"""The command: run the sections, print one table, keep the figures, draw the pictures."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.servers.postgres import remove_abandoned

from . import environments, report
from .harness import Findings
from .place import Effort, Place
from .sections import SECTIONS


def main() -> None:
    """See ``--help``."""
    arguments = _arguments()
    # As Ctrl-C does, so that no server and no process of a measurement stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    remove_abandoned()
    names = arguments.only or list(SECTIONS)
    found: dict[str, Findings] = {}
    begin = time.monotonic()
    environments.prepare(names)
    with Place(arguments.effort) as place:
        for name in names:
            if (findings := _run(name, place)) is not None:
                found[name] = findings
                report.save(name, findings, arguments.out)
    print(report.text([row for one in found.values() for row in one.rows]))
    print(f"{arguments.out}, after {(time.monotonic() - begin) / 60:.1f} minutes")
    if arguments.out == report.JSON_FILE:
        from . import plots  # matplotlib, which the tests of this module do without

        read = report.load()
        report.write_page(read)
        plots.draw(report.plots(read))
    if failed := set(names) - set(found):
        sys.exit(f"failed: {', '.join(sorted(failed))}")


def _run(name: str, place: Place) -> Findings | None:
    """Run a section; a failure is shown, and the others still run."""
    print(f"{name} ...", flush=True)
    begin = time.monotonic()
    try:
        findings: Findings = importlib.import_module(f".sections.{name}", __package__).run(
            place
        )
    except Exception:
        traceback.print_exc()
        return None
    findings.effort = place.effort
    findings.seconds = round(time.monotonic() - begin)
    print("\n".join(f"  {note}" for note in findings.notes))
    print(f"  {findings.seconds} s\n", flush=True)
    return findings


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *SECTIONS], help="all when left out")
    parser.add_argument("--effort", type=Effort, choices=Effort, default=Effort.USUAL)
    parser.add_argument(
        "--out",
        type=Path,
        help="where the figures go; docs/benchmarks.json, which also writes the page and the"
        " pictures of the documentation, if everything is measured, else .bench/benchmarks.json",
    )
    arguments = parser.parse_args()
    if arguments.out is None:
        whole = not arguments.only and arguments.effort is not Effort.QUICK
        arguments.out = report.JSON_FILE if whole else report.SCRATCH_FILE
    arguments.out = arguments.out.resolve()
    return arguments


if __name__ == "__main__":
    main()
