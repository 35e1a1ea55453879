"""One process of the demo: started with a log, ended with its launcher."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

STOP_SECONDS = 12.0
"""Seconds to end by itself: pglisten drains for up to 10."""
PR_SET_PDEATHSIG = 1  # from Linux's <sys/prctl.h>


class Child:
    """``python <arguments>`` as a child whose output goes to ``log``; a context manager."""

    def __init__(self, name: str, arguments: list[str], *, log: Path, folder: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal must reach the launcher alone, which ends all in order.
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, by force if it must be."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
            return
        self._process.kill()
        self._process.wait()

    def obituary(self) -> str | None:
        """Say in one line how it ended; None while it lives."""
        code = self._process.poll()
        if code is None:
            return None
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"{self.name} ended ({how}): {lines[-1].strip()} (log: {self.log})"


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent is gone, a killed one too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # it was gone before we asked
        os.kill(os.getpid(), signal.SIGTERM)
