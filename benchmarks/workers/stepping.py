"""pglisten that says when it gets where: a JSON line each time that it hears a bell, has stored a
tick, and hands a frame to the channel layer, by the machine's monotonic clock."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from django.core.management import execute_from_command_line

from django_pgnotify.groups import HUB_GROUP
from django_pgnotify.ledger.bell import BELL_PG_CHANNEL
from django_pgnotify.relay.frames import Outgoing
from django_pgnotify.relay.listener import Listener
from django_pgnotify.relay.sender import Layer
from django_pgnotify.relay.ticker import Ticker

HEARD, STORED, HANDED = "heard", "stored", "handed over"


def say(step: str) -> None:
    """Print it with the time of now."""
    print(json.dumps({"step": step, "at": time.monotonic()}), flush=True)


def watch() -> None:
    """Put the lines around what pglisten calls."""
    hear, read, send = Listener._hear, Ticker._read, Layer.send

    def heard(self: Listener, pg_channel: str, payload: str) -> None:
        if pg_channel == BELL_PG_CHANNEL and not payload:
            say(HEARD)
        hear(self, pg_channel, payload)

    async def stored(*arguments: Any, **keywords: Any) -> None:
        say(STORED)
        await read(*arguments, **keywords)

    async def sent(self: Layer, frame: Outgoing) -> None:
        if frame.group != HUB_GROUP:
            say(HANDED)
        await send(self, frame)

    Listener._hear = heard  # type: ignore[method-assign]
    Ticker._read = stored  # type: ignore[method-assign]
    Layer.send = sent  # type: ignore[method-assign]


if __name__ == "__main__":
    watch()
    execute_from_command_line([sys.argv[0], "pglisten"])
