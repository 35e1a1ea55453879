"""The demo as a process of one's own: for the tests, and for the picture of its page."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from .demo import HOST, ROOT

STOP_SECONDS = 40.0
"""Seconds that pglisten, the web server and PostgreSQL may take, one after another."""


class DemoFailed(Exception):
    """The demo ended before its page answered. The message is what it wrote."""


class RunningDemo:
    """``python -m example_project.demo`` on ``port``; a context manager.

    ``env`` is laid over the environment, from which DATABASE_URL and REDIS_URL are taken out.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        inherited = {
            k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")
        }
        self._env = inherited | dict(env or {})
        self.greeting = ""
        self.process: subprocess.Popen[str] | None = None

    @property
    def host(self) -> str:
        """Host and port of the page."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self.host}/"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it, and return when the page answers."""
        arguments = ["--port", str(self.port), "--folder", str(self.folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "example_project.demo", *arguments],
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._read_greeting(self.process)
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """Stop it; give its exit code, or None if it was not running."""
        if self.process is None:
            return None
        self.process.send_signal(how)
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()
            self._close(self.process)

    def psql(self, statement: str) -> str:
        """Run a statement by the command that the greeting shows, as a reader would paste it."""
        shown = re.search(r"^ +psql +(.*)$", self.greeting, re.MULTILINE)
        assert shown is not None
        options = "--no-align --quiet --tuples-only --command"
        done = subprocess.run(
            f"{shown[1]} {options} {shlex.quote(statement)}",
            shell=True,
            env=self._env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def _read_greeting(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:  # the last line of the greeting
                self.greeting = "".join(lines)
                return
        process.wait()
        self._close(process)
        raise DemoFailed("".join(lines))

    def _close(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            process.stdout.close()
        self.process = None


def free_port() -> int:
    """Give a TCP port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port
