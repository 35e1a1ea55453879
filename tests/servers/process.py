"""A server that is one process on one TCP port of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from example_project.embedded_account import Account

START_SECONDS = 20.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.02


class ServerProcess:
    """Starts ``command()`` in a folder of its own, and waits until its port answers.

    Root's server runs as an unprivileged user where ``refuses_root`` is set.
    """

    refuses_root = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"pgnotify-{type(self).__name__.lower()}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str | Path]:
        """Give the command that serves ``self.port`` from ``self.folder``."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start it and return when its port answers."""
        account = self._own_folder()
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **(account.popen_arguments() if account else {}),
            )
        self._wait_for_port(self._process)
        return self

    def freeze(self) -> None:
        """Stop its clock: connections stand, and nothing answers."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where ``freeze()`` stopped it."""
        self._send(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it, frozen or not; nothing if it is not running."""
        if self._process is None:
            return
        self._send(signal.SIGTERM)
        self.thaw()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop it and start it on the same port."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _own_folder(self) -> Account | None:
        account = Account.for_server(self.folder) if self.refuses_root else None
        if account is not None:
            account.own(self.folder)
        return account

    def _send(self, what: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, what)

    def _wait_for_port(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(POLL_SECONDS)
        log = (self.folder / "log").read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"{type(self).__name__} did not start:\n{log}")


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
