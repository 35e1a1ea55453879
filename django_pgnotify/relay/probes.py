"""Probes: ``pglisten --check`` proves the path with a real bell and a real message to a group."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer
from django.apps import apps
from django.db import connections

from ..conf import settings
from ..connecting import connect_listener
from ..handlers import find_handlers
from ..ledger.retention import ledger_bytes
from ..ledger.ticks import Connection
from ..publish.registry import drift
from . import notify_queue
from .connections import check_has_begun, check_ledger, check_privileges, check_server
from .fullness import full_since
from .leader import somebody_leads
from .listener import Listener
from .queues import LiveQueue
from .sender import configured_layer

APPLICATION_NAME = "django_pgnotify check"
ROUND_TRIP_SECONDS = 5.0
"""For one bell, and for one message through the channel layer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One line of the answer."""

    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'FAIL'} {self.name}: {' '.join(self.text.split())}"


class Failed(Exception):
    """A probe has failed; the message says why and the cure."""


async def probe_all(alias: str) -> list[Probe]:
    """Probe everything that can still be probed after what has failed."""
    async with AsyncExitStack() as stack:
        found = await _probe_database(alias, stack)
    found.append(await _probe("channel layer", _layer()))
    found.append(await _probe("handlers", sync_to_async(_handlers)()))
    if all(probe.ok for probe in found if probe.name in ("server", "ledger")):
        found.append(await _probe("triggers", sync_to_async(_triggers)(alias)))
    return found


async def _probe_database(alias: str, stack: AsyncExitStack) -> list[Probe]:
    try:
        connecting = connect_listener(alias, application_name=APPLICATION_NAME)
        connection = await stack.enter_async_context(await connecting)
    except Exception as error:
        return [Probe("server", False, f"no connection to database {alias!r}: {error}")]
    found = [
        await _probe("server", check_server(connection)),
        await _probe("ledger", _ledger(connection)),
    ]
    if all(probe.ok for probe in found):
        schema = await check_ledger(connection)
        found += [
            await _probe("privileges", _privileges(connection, schema)),
            await _probe("bell", _bell(alias, connection)),
            await _probe("notify queue", _notify_queue(connection)),
            await _probe("room", _room(connection, schema)),
            await _probe("relay", _relay(connection, schema)),
        ]
    return found


async def _probe(name: str, work: Awaitable[str]) -> Probe:
    try:
        return Probe(name, True, await work)
    except Exception as error:
        return Probe(name, False, str(error) or type(error).__name__)


async def _ledger(connection: Connection) -> str:
    return f"installed in schema {await check_ledger(connection)!r}"


async def _privileges(connection: Connection, schema: str) -> str:
    await check_privileges(connection, schema)
    await check_has_begun(connection, schema)
    return f"role {connection.info.user!r} may read and keep the ledger"


async def _bell(alias: str, sender: Connection) -> str:
    listener = await Listener.open(alias, LiveQueue(1, on_dropped=lambda payload: None))
    async with listener.connection:
        await listener.listen()
        hearing = asyncio.create_task(listener.run())
        try:
            await listener.probe(sender, ROUND_TRIP_SECONDS)
        finally:
            hearing.cancel()
            with suppress(asyncio.CancelledError):
                await hearing
    return "a bell of our own came back on the listener's connection"


async def _notify_queue(connection: Connection) -> str:
    usage = await notify_queue.look(connection)
    if usage.alarming:
        raise Failed(str(usage))
    return str(usage)


async def _room(connection: Connection, schema: str) -> str:
    since = await full_since(connection, schema)
    limit = settings.LEDGER_MAX_BYTES
    if since is not None:
        raise Failed(
            f"The ledger is full (LEDGER_MAX_BYTES = {limit}), and no event was recorded since"
            f" {since}. Start pglisten, which empties it and tells subscribers to read anew."
        )
    size = await ledger_bytes(connection, schema)
    return f"the ledger has {size} of at most {limit} bytes"


async def _relay(connection: Connection, schema: str) -> str:
    if await somebody_leads(connection, schema):
        return "a pglisten is running"
    return "no pglisten is running: until one is, events wait in the ledger"


async def _layer() -> str:
    layer = configured_layer()
    if isinstance(layer, InMemoryChannelLayer):
        raise Failed(
            "InMemoryChannelLayer reaches this process only, so no browser gets anything. Use"
            " django_pgnotify.layers.PostgresChannelLayer or channels_redis."
        )
    await _round_trip(layer)
    return f"a message to a group came back through {type(layer).__name__}"


async def _round_trip(layer: Any) -> None:
    group = f"pgnotify.check.{secrets.token_hex(8)}"
    message = {"type": "pgnotify.check"}
    name = type(layer).__name__
    try:
        async with asyncio.timeout(ROUND_TRIP_SECONDS):
            channel = await layer.new_channel()
            await layer.group_add(group, channel)
            try:
                await layer.group_send(group, message)
                received = await layer.receive(channel)
            finally:
                await layer.group_discard(group, channel)
    except TimeoutError:
        raise Failed(
            f"a message to a group did not come back through {name} within"
            f" {ROUND_TRIP_SECONDS:g} s."
        ) from None
    except Exception as error:
        raise Failed(f"{name} does not work: {type(error).__name__}: {error}") from error
    if received.get("type") != message["type"]:
        raise Failed(f"{name} gave {received!r} for {message!r}.")


def _handlers() -> str:
    try:
        names = [handler.name for handler in find_handlers()]
    except Exception as error:
        raise Failed(
            f"a handlers.py can't be imported, so pglisten would not start:"
            f" {type(error).__name__}: {error}"
        ) from error
    return f"these will be called: {', '.join(names)}" if names else "there are none"


def _triggers(alias: str) -> str:
    wrong = drift(connections[alias], apps)
    if wrong:
        names = ", ".join(f"{item.trigger.topic} is {item.problem}" for item in wrong)
        raise Failed(
            f"{names} in database {alias!r}. Run `manage.py makemigrations` and `manage.py"
            " migrate`; a disabled trigger is enabled by ALTER TABLE ... ENABLE TRIGGER."
        )
    return "every declared trigger is installed and current"
