"""Environments of the peers: made once, below ``.bench/peers``, from PyPI by uv or pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .child import ROOT

PEERS = Path(__file__).parent / "peers"
FOLDER = ROOT / ".bench" / "peers"
COMMON = ("psycopg[binary]>=3.2.4", "channels>=4.2", "channels-redis>=4.2", "daphne>=4.1")
PACKAGES = {
    "pgpubsub": "django-pgpubsub==1.3.1",
    "channels_postgres": "channels_postgres==1.1.4",
    "rest": "djangochannelsrestframework==1.3.0",
    "eventstream": "django-eventstream==5.3.4",
}
"""By the name of the peer's folder; pinned, so that a figure says what it was measured with."""
USED_BY = {
    "writers": ("pgpubsub",),
    "bulk": ("pgpubsub",),
    "peers": ("rest", "eventstream", "channels_postgres"),
}
"""By section."""
DJANGO = "django~=5.2.0"
"""The newest that all of them run on."""


def prepare(sections: Iterable[str]) -> None:
    """Make what these sections need, all at once: most of it is waiting for the network."""
    peers = dict.fromkeys(peer for name in sections for peer in USED_BY.get(name, ()))
    with ThreadPoolExecutor() as pool:
        list(pool.map(python, peers))


def python(peer: str) -> str:
    """Give the interpreter of the peer's environment, which is made when it is missing."""
    folder = FOLDER / peer
    interpreter, stamp = folder / "bin" / "python", folder / "complete"
    wanted = "\n".join((PACKAGES[peer], DJANGO, *COMMON))
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {PACKAGES[peer]} into {folder.relative_to(ROOT)} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _install(folder, interpreter, [PACKAGES[peer], DJANGO, *COMMON])
        stamp.write_text(wanted)
    return str(interpreter)


def _install(folder: Path, interpreter: Path, packages: list[str]) -> None:
    if shutil.which("uv"):
        _run("uv", "venv", "--quiet", "--python", sys.executable, str(folder))
        _run("uv", "pip", "install", "--quiet", "--python", str(interpreter), *packages)
    else:
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(interpreter), "-m", "pip", "install", "--quiet", *packages)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
