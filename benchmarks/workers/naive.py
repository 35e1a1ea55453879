"""The naive relay: psycopg's ``notifies()``, and a ``group_send`` for each.

With ``--here`` it receives too, in the same process: all that an in-memory layer can do. With
``--plain`` it sends to the group of the plain consumer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import django
import psycopg
from channels.layers import get_channel_layer

from . import receive

PLAIN = "plain"
"""The group of the plain consumer."""


async def main(group: str) -> None:
    """Relay until killed."""
    layer = get_channel_layer()
    assert layer is not None
    async with await psycopg.AsyncConnection.connect(
        os.environ["BENCH_NOTED"], autocommit=True
    ) as connection:
        await connection.execute("LISTEN data_change")
        print("listening", flush=True)
        async for notification in connection.notifies():
            message = {"type": "thing.changed", "event": json.loads(notification.payload)}
            await layer.group_send(group, message)


async def both() -> None:
    """Relay, and receive beside it."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(main(receive.GROUP))
        tasks.create_task(receive.main([receive.GROUP]))


if __name__ == "__main__":
    django.setup()
    group = PLAIN if "--plain" in sys.argv else receive.GROUP
    asyncio.run(both() if "--here" in sys.argv else main(group))
