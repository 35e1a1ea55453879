"""A process of a measurement: it says JSON lines, is waited for, and is looked at from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parent.parent
WAIT_SECONDS = 120.0
"""For a line of a child: longer than anything measured here takes."""
STOP_SECONDS = 15.0
IDLE_SECONDS = 0.1
"""Ten of the ticks in which Linux counts CPU time."""
LOOK_SECONDS = 0.01
"""Between two looks at a process's memory."""


class ChildFailed(Exception):
    """A process of a measurement ended or stayed silent. The message holds what it wrote."""


class Child:
    """``python -m module arguments`` in the bench's own environment, or in another one.

    Whatever it prints is kept line by line until it is waited for.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        python: str = sys.executable,
        path: Path = ROOT,
        python_path: str = "",
    ) -> None:
        self.lines: Queue[str | None] = Queue()
        self._seen: list[str] = []
        self._command = " ".join([python, *arguments])
        self._process = subprocess.Popen(
            [python, *arguments],
            cwd=path,
            env={
                **os.environ,
                **env,
                "PYTHONPATH": python_path or str(path),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def process(self) -> psutil.Process:
        """To look at its memory and CPU time."""
        return psutil.Process(self._process.pid)

    def wait_for(self, text: str, seconds: float = WAIT_SECONDS) -> str:
        """Give the next line with this text in it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=left)
            except Empty:
                break
            if line is None:
                break
            self._seen.append(line)
            if text in line:
                return line
        raise ChildFailed(f"{text!r} did not come from {self._command}: {self._said()}")

    def answer(self, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Give the next JSON object that it prints."""
        found: dict[str, Any] = json.loads(self.wait_for('{"', seconds))
        return found

    def tell(self, **message: Any) -> None:
        """Write a JSON line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def wait_idle(self, seconds: float) -> None:
        """Return when it uses no CPU time for a moment, or after so many seconds."""
        end = time.monotonic() + seconds
        used = -1.0
        while used != (used := sum(self.process.cpu_times()[:2])) and time.monotonic() < end:
            time.sleep(IDLE_SECONDS)

    def finish(self, seconds: float = WAIT_SECONDS) -> float:
        """Wait until it ends by itself, with success; gives its peak memory in bytes."""
        end, peak = time.monotonic() + seconds, 0
        # Not ru_maxrss of wait4(): Linux counts in it what the parent had at the fork.
        while self._process.poll() is None:
            if time.monotonic() > end:
                raise ChildFailed(f"{self._command} did not end within {seconds} s")
            with suppress(psutil.Error):
                peak = max(peak, self.process.memory_info().rss)
            time.sleep(LOOK_SECONDS)
        self._reader.join()
        if self._process.returncode != 0:
            raise ChildFailed(f"{self._command} failed: {self._said()}")
        return float(peak)

    def stop(self) -> None:
        """Ask it to end, and make it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self.lines.put(line)
        except ValueError:  # closed by stop()
            pass
        self.lines.put(None)

    def _said(self) -> str:
        while not self.lines.empty():
            self._seen.append(self.lines.get() or "")
        return "".join(self._seen[-40:])
