"""pgbench: many writers from one process that is written in C, so that the client is no limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.programs import Missing

DEBIAN = Path("/usr/lib/postgresql")
THREADS = 2
"""Of pgbench: more clients than threads share them without waiting for each other."""
CONNECTS_PER_SECOND = 50
"""On a busy machine. pgbench's clock runs while it connects, although its rate leaves that out."""
TPS = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)


def program() -> Path:
    """Find pgbench: Debian's newest, else the one in PATH. Its version need not be the server's."""
    for folder in sorted(DEBIAN.glob("*/bin"), key=lambda path: path.parent.name, reverse=True):
        if (folder / "pgbench").exists():
            return folder / "pgbench"
    if path := shutil.which("pgbench"):
        return Path(path)
    raise Missing("pgbench is missing (apt-get install postgresql-15, or postgresql-contrib)")


def commits_per_second(
    url: str, scripts: Sequence[str], *, clients: int, seconds: int, options: str = ""
) -> float:
    """Run transactions, each one of the scripts by chance, and give how many committed a second.
    `options` are those of the sessions, as in PGOPTIONS."""
    parts = urlsplit(url)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, script in enumerate(scripts):
            path = Path(folder) / f"{number}.sql"
            path.write_text(script)
            files += ["-f", str(path)]
        command = [
            *(str(program()), "--no-vacuum", "--protocol=prepared"),
            *("--client", str(clients), "--jobs", str(min(clients, THREADS))),
            *("--time", str(seconds + clients // CONNECTS_PER_SECOND + 1), *files),
            *("--host", str(parts.hostname), "--port", str(parts.port)),
            *("--username", str(parts.username), parts.path.lstrip("/")),
        ]
        env = {**os.environ, "PGPASSWORD": parts.password or "", "PGOPTIONS": options}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    found = TPS.search(done.stdout)
    if "actually processed: 0\n" in done.stdout:  # it has only connected
        return commits_per_second(
            url, scripts, clients=clients, seconds=seconds * 2, options=options
        )
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr}")
    return float(found[1])
