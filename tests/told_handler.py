"""A handler for pglisten processes: it does as its events tell it, and writes them down."""

from __future__ import annotations

import threading
import time

from django.db import connection

from django_pgnotify import Event, on_event

TABLE = "CREATE TABLE handled (id bigserial, pk integer, what text, word text)"
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
        case _:
            time.sleep(0.01)
    write_down(event, "done")
