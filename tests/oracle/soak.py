"""The soak: one run after another, each of its own seed, over both layers and all versions.

``python -m tests.oracle.soak --minutes 30 --out docs/soak.json``; or one run again:
``--seed 1a2b --layer redis --postgres 15 --seconds 60``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from itertools import cycle, product
from pathlib import Path
from typing import Any

import psutil

from tests.servers import programs
from tests.servers.postgres import ThrowAwayPostgres
from tests.servers.redis import Redis

from . import page
from .run import Outcome, run
from .world import POSTGRES_OPTIONS

VERSIONS = ("18", "15", "17", "16")
LAYERS = ("postgres", "redis")
GIB = 1024**3


@dataclass
class Total:
    """The runs over one layer and version."""

    layer: str
    postgres: str
    seeds: list[str] = field(default_factory=list)
    bad_seeds: list[str] = field(default_factory=list)
    chaos_seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        account = outcome.account
        self.postgres = outcome.postgres
        (self.seeds if outcome.is_good else self.bad_seeds).append(outcome.seed)
        self.chaos_seconds += outcome.seconds
        self.wrong.update(account.wrong)
        self.counts.update(
            {
                "transactions": outcome.transactions,
                "rolled back": outcome.written.get("rolled back", 0),
                "faults": sum(outcome.faults.values()),
                "events expected": account.expected,
                "events accepted": account.accepted,
                "reconnects": outcome.connects,
                "resumes": account.resumes,
                "resets": sum(account.resets.values()),
                "duplicates dropped by id": account.duplicates_dropped,
                "events handled": account.handled,
            }
        )

    def as_json(self) -> dict[str, Any]:
        """For the documentation."""
        return {
            "layer": self.layer,
            "postgres": self.postgres,
            "runs": len(self.seeds) + len(self.bad_seeds),
            "bad seeds": self.bad_seeds,
            "chaos seconds": round(self.chaos_seconds),
            **self.counts,
            "wrong": dict(self.wrong),
        }


def main() -> None:
    """Run, tell, and exit 1 if a promise was broken."""
    arguments = _arguments()
    # As Ctrl-C does, so that what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    totals: dict[tuple[str, str], Total] = {}
    for layer, version in _combinations(arguments):
        total = totals.setdefault((layer, version), Total(layer, version))
        _run(total, arguments.seed or secrets.token_hex(4), arguments.seconds, version)
        minutes = (time.monotonic() - begin) / 60
        if arguments.out is not None:
            # After each run: a soak that is ended early has its figures too.
            _keep(arguments.out, list(totals.values()), minutes)
        if arguments.seed or minutes > arguments.minutes:
            break
    _tell(list(totals.values()))
    sys.exit(any(total.bad_seeds for total in totals.values()))


def _run(total: Total, seed: str, seconds: float, version: str) -> None:
    """One run more; one that can't be carried to its end is a bad one, and no end of the soak."""
    try:
        outcome = one(seed=seed, seconds=seconds, layer=total.layer, version=version)
    except Exception:
        print(f"ORACLE_SEED={seed} layer={total.layer} PostgreSQL {version}: BROKEN")
        traceback.print_exc()
        total.bad_seeds.append(seed)
        total.wrong["broken run"] += 1
    else:
        print(outcome, flush=True)
        total.add(outcome)
        if outcome.is_good:
            shutil.rmtree(outcome.folder, ignore_errors=True)


def one(*, seed: str, seconds: float, layer: str, version: str) -> Outcome:
    """One run on servers of its own."""
    with ExitStack() as stack:
        postgres = ThrowAwayPostgres(version, options=POSTGRES_OPTIONS)
        stack.callback(postgres.remove)
        postgres.start()
        redis = None
        if layer == "redis":
            redis = Redis()
            stack.callback(redis.remove)
            redis.start()
        return run(stack, postgres, redis, seed=seed, seconds=seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos in one run")
    parser.add_argument("--layer", choices=LAYERS)
    parser.add_argument("--postgres", default=os.environ.get("PGNOTIFY_TEST_POSTGRES"))
    parser.add_argument("--seed", help="of one run, instead of many")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    return parser.parse_args()


def _combinations(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Layers and versions in turn, without end; what is not installed is left out."""
    layers = [arguments.layer] if arguments.layer else [name for name in LAYERS if _has(name)]
    versions = [arguments.postgres] if arguments.postgres else list(filter(_has, VERSIONS))
    print(f"layers {layers}, PostgreSQL {versions}", flush=True)
    return cycle((layer, version) for version, layer in product(versions, layers))


def _has(what: str) -> bool:
    try:
        if what == "redis":
            programs.redis_server()
        elif what in VERSIONS:
            programs.postgres_binaries(what)
    except programs.Missing:
        return False
    return True


COLUMNS = ("layer", "postgres", "runs", "transactions", "faults", "events expected", "resets")


def _tell(totals: Sequence[Total]) -> None:
    rows = [[str(total.as_json()[name]) for name in COLUMNS] for total in totals]
    for row in [list(COLUMNS), *rows]:
        print("  ".join(cell.rjust(15) for cell in row))
    for total in totals:
        if total.bad_seeds:
            print(
                f"WRONG: {total.layer} {total.postgres} {total.bad_seeds} {dict(total.wrong)}"
            )


def _keep(path: Path, totals: Sequence[Total], minutes: float) -> None:
    memory = psutil.virtual_memory().total / GIB
    figures = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()}",
        "minutes": round(minutes),
        "totals": [total.as_json() for total in totals],
    }
    path.write_text(json.dumps(figures, indent=2) + "\n")
    page.write()


if __name__ == "__main__":
    main()
