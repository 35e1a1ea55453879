"""Imports between the stations run one way, so that the journey can be read from end to end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "django_pgnotify"
ROOT = Path(__file__).parents[2] / PACKAGE

LEAVES = {
    "conf",
    "exceptions",
    "hearing",
    "events",
    "groups",
    "connecting",
    "backoff",
    "ending",
    "interruptible",
    "jsontext",
    "values",
    "python_values",
    "metrics",
    "handlers",
}
STATIONS: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "ledger": LEAVES,
    "publish": LEAVES | {"ledger"},
    "handling": LEAVES | {"ledger"},
    "relay": LEAVES | {"ledger", "publish", "handling"},
    "consumers": LEAVES | {"ledger", "publish"},
    "layers": LEAVES,
}
"""What each station may import at the top of its modules or inside functions."""
ENTRY_POINTS = {
    *("", "admin", "apps", "checks", "database_checks", "management", "migrations"),
    *("models", "operations", "testing"),
}
"""Modules that Django or the user enters by; they may import everything, and no station
imports them."""


def station(module: str) -> str:
    """Give the part right below the package: ``relay`` for ``django_pgnotify.relay.bell``."""
    return module.split(".")[1] if "." in module else ""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(module: str, path: Path) -> Iterator[str]:
    """Give the full names of what a module imports, submodules and names alike."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("module", "path"), [pytest.param(*found, id=found[0]) for found in modules()]
)
def test_imports_run_one_way(module: str, path: Path) -> None:
    here = station(module)
    if here in ENTRY_POINTS:
        return
    assert here in STATIONS, f"{here} is no station: give it a place in this table"
    inside = {station(name) for name in imported(module, path) if name.split(".")[0] == PACKAGE}
    assert inside <= STATIONS[here] | {here}


def test_the_table_itself_has_no_circle() -> None:
    done = set(LEAVES)
    while ready := {name for name in STATIONS if name not in done and STATIONS[name] <= done}:
        done |= ready
    assert done == set(STATIONS)
