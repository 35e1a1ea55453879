"""pglisten: the process that brings the ledger's events to the groups of the channel layer."""

from __future__ import annotations

import asyncio
import logging
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from asgiref.sync import async_to_sync
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from ...exceptions import PgnotifyError
from ...handlers import find_handlers
from ...metrics import Metrics, serving
from ...relay.process import frozen, leave

HELP = """\
Relay committed events to the groups of the channel layer, until SIGTERM.

Logs "listening" when it is live, and "standing by" while another pglisten leads.

Exit codes:
  0  stopped by a signal, and drained as far as SHUTDOWN_SECONDS allowed; or --once has relayed
     everything; or --check found no fault
  1  refused with the reason and its cure (a replica, a pooler, no ledger, ...); or --check
     found a fault
  2  an option that does not exist, or an alias that DATABASES does not have
  3  --once beside a running pglisten, which relays everything already
"""
ANOTHER_LEADS = 3
MAX_PORT = 65_535
LEVELS = {0: logging.WARNING, 1: logging.INFO}
"""Log level by --verbosity; beyond 1 it is DEBUG."""


class Command(BaseCommand):
    """``manage.py pglisten``."""

    help = HELP
    _owns_process = False

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a process of its own, which ends when it has stopped."""
        self._owns_process = True
        super().run_from_argv(argv)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the line breaks of the help."""
        kwargs.setdefault("formatter_class", RawDescriptionHelpFormatter)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See the help of each."""
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            metavar="ALIAS",
            choices=tuple(connections),
            help='Whose events to relay; default: "default". Run one pglisten per database.',
        )
        parser.add_argument(
            "--once",
            action="store_true",
            help="Relay and handle what the ledger holds now, then exit.",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="Prove the path and print a line per probe; it may run beside a running relay.",
        )
        parser.add_argument(
            "--metrics-port",
            type=port_number,
            metavar="N",
            help="Serve Prometheus metrics on this port, on all interfaces.",
        )
        parser.add_argument(
            "--no-handlers",
            action="store_true",
            help="Relay only; what @on_event functions wait for stays in the ledger.",
        )

    def handle(self, **options: Any) -> None:
        """Run one of the three forms."""
        try:
            with self._visible_logs(options["verbosity"]):
                self._run(**options)
        except CommandError:
            raise
        except Exception as error:
            raise_known(error)
            raise

    def _run(self, *, database: str, once: bool, check: bool, **options: Any) -> None:
        if database not in connections:
            known = ", ".join(map(repr, connections))
            raise CommandError(f"DATABASES has no {database!r}. Choose one of {known}.")
        if connections[database].vendor != "postgresql":
            raise CommandError(
                f"The database {database!r} is {connections[database].vendor};"
                " django_pgnotify needs PostgreSQL. Choose another with --database."
            )
        if check:
            self._check(database)
        elif once:
            self._once(database, running=not options["no_handlers"])
        else:
            self._serve(database, options["metrics_port"], running=not options["no_handlers"])

    def _check(self, database: str) -> None:
        from ...relay.probes import probe_all

        failed = 0
        for line in async_to_sync(probe_all)(database):
            self.stdout.write(str(line))
            failed += line.ok is False
        if failed:
            raise CommandError(f"{failed} probe{'s' if failed > 1 else ''} failed.")

    def _once(self, database: str, *, running: bool) -> None:
        from ...handling.handlers import HandlersToRun
        from ...relay.session import relay_once

        handlers = HandlersToRun(find_handlers(), running)
        with frozen():
            # In the loop that called us from its thread, if any: an in-memory layer is its.
            relayed = async_to_sync(relay_once)(database, Metrics(), handlers)
        if not relayed:
            raise CommandError(
                "Another pglisten is running and relays everything already.",
                returncode=ANOTHER_LEADS,
            )

    def _serve(self, database: str, metrics_port: int | None, *, running: bool) -> None:
        from ...handling.handlers import HandlersToRun
        from ...relay.service import Service

        handlers = HandlersToRun(find_handlers(), running)

        async def serve() -> None:
            metrics = Metrics()
            async with AsyncExitStack() as stack:
                if metrics_port is not None:
                    with port_expected(metrics_port):
                        await stack.enter_async_context(serving(metrics, metrics_port))
                await Service(database, metrics, handlers).run()
            if self._owns_process:
                leave(at_once=handlers.are_called)

        # Not async_to_sync: its loop runs in another thread, which no signal reaches.
        with frozen():
            asyncio.run(serve())

    @contextmanager
    def _visible_logs(self, verbosity: int) -> Iterator[None]:
        """Show our log on stderr while the command runs, if the project shows it nowhere."""
        logger = logging.getLogger("django_pgnotify")
        if logger.hasHandlers():
            yield
            return
        handler = LinesTo(self.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s pglisten: %(message)s"))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(LEVELS.get(verbosity, logging.DEBUG))
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def port_number(text: str) -> int:
    """The number of a port in an argument."""
    number = int(text)
    if not 0 <= number <= MAX_PORT:
        raise ArgumentTypeError(f"{number} is no port: choose one of 1 to {MAX_PORT}.")
    return number


@contextmanager
def port_expected(port: int) -> Iterator[None]:
    """CommandError if the port can't be had."""
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"--metrics-port {port} can't be opened ({error}). Choose another one, or stop what"
            " listens there."
        ) from error


class LinesTo(logging.Handler):
    """Writes to a command's stream, without the colour that it has for errors."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write and flush one line."""
        try:
            self._stream.write(self.format(record), str)
            self._stream.flush()
        except Exception:
            self.handleError(record)


def raise_known(error: Exception) -> None:
    """Raise CommandError, which is printed in a line, for what is no mistake of ours."""
    from psycopg import Error

    from ...relay.connections import first_cause

    cause = first_cause(error)
    if isinstance(cause, (PgnotifyError, Error, OSError)):
        raise CommandError(" ".join(str(cause).split())) from error
