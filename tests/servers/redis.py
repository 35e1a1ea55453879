"""A throw-away Redis, for the channel layer of many machines."""

from __future__ import annotations

from pathlib import Path

from .process import ServerProcess
from .programs import redis_server


class Redis(ServerProcess):
    """A Redis that keeps nothing."""

    @property
    def url(self) -> str:
        """Its ``redis://`` URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str | Path]:
        """See ServerProcess.command()."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
        }
        arguments = [part for name in options for part in (f"--{name}", options[name])]
        return [redis_server(), *arguments]
