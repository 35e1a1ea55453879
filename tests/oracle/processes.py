"""The processes of a run, each of which can be killed, frozen, and comes back by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.settings import BASE_DIR

RESTART_SECONDS = 0.5
"""What a supervisor waits before it starts a process again."""
STOP_SECONDS = 15.0


class Child:
    """A Python program under supervision: however it ends, it is started again.

    ``log`` holds what all of its lives wrote; ``ends`` counts how often it ended unasked, by
    exit code.
    """

    def __init__(
        self, name: str, arguments: list[str], env: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.ends: dict[int, int] = {}
        self.log = folder / f"{name}.log"
        self._arguments = arguments
        self._env = {**os.environ, **env, "PYTHONPATH": str(BASE_DIR.parent)}
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._wanted = False
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> Self:
        """Start it, and its supervision."""
        self._wanted = True
        self._spawn()
        self._watcher.start()
        return self

    def kill(self) -> None:
        """Without a word."""
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end; it is started again when it has."""
        self._send(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop its clock."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def stop(self) -> int:
        """End it for good; gives its exit code."""
        with self._lock:
            self._wanted = False
            process = self._process
        assert process is not None
        self.thaw()
        self.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._watcher.join()
        return code

    def _send(self, what: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(what)

    def _spawn(self) -> None:
        self._starts += 1
        arguments = [one.replace("{start}", str(self._starts)) for one in self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _watch(self) -> None:
        while True:
            assert self._process is not None
            code = self._process.wait()
            time.sleep(RESTART_SECONDS if self._wanted else 0)
            with self._lock:
                if not self._wanted:
                    return
                if code != -signal.SIGKILL:
                    self.ends[code] = self.ends.get(code, 0) + 1
                self._spawn()


def manage(env: Mapping[str, str], *arguments: str) -> None:
    """Run a management command to its end."""
    subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        env={**os.environ, **env, "PYTHONPATH": str(BASE_DIR.parent)},
        check=True,
        capture_output=True,
    )


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return when it holds; AssertionError if it does not within these seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
