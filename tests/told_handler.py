"""Handlers for pglisten processes: they do as their events tell them, and write them down."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connection

from django_pgnotify import Event, on_event

KEEP = "INSERT INTO handled (pk, what, word) VALUES (%s, %s, %s)"


def write_down(event: Event, word: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(KEEP, [event.pk, str(event.data), word])


@on_event("told")
def obey(event: Event) -> None:
    """Begin, do as told, end."""
    write_down(event, "begun")
    match str(event.data):
        case "raise":
            raise ValueError("as told")
        case "exit":
            raise SystemExit(7)
        case "hang":
            threading.Event().wait()
        case "slow":
            time.sleep(1)
        case path if path.startswith("/"):
            connection.close()
            while not Path(path).exists():
                time.sleep(0.01)
        case _:
            time.sleep(0.01)
    write_down(event, "done")


@on_event("told_async")
async def obey_in_the_loop(event: Event) -> None:
    """The same in the event loop."""
    await sync_to_async(write_down)(event, "begun")
    match str(event.data):
        case "block its thread":
            await sync_to_async(threading.Event().wait)()
        case "exit in gather":
            await asyncio.gather(sync_to_async(sys.exit)(7), asyncio.sleep(0))
        case "exit in wait_for":
            await asyncio.wait_for(sync_to_async(sys.exit)(7), 60)
        case "exit in a group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(sync_to_async(sys.exit)(7))
        case "exit and nobody waits":
            asyncio.create_task(sync_to_async(sys.exit)(7))  # noqa: RUF006 - that is the case
        case "take no cancellation":
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
    await sync_to_async(write_down)(event, "done")
