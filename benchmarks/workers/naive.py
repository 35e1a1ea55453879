"""The naive relay: psycopg's ``notifies()``, and a ``group_send`` for each.

With ``--here`` it receives too, in the same process: all that an in-memory layer can do.
"""

from __future__ import annotations

import asyncio
import os
import sys

import django
import psycopg
from channels.layers import get_channel_layer

from . import receive


async def main() -> None:
    """Relay until killed."""
    layer = get_channel_layer()
    assert layer is not None
    async with await psycopg.AsyncConnection.connect(
        os.environ["BENCH_NOTED"], autocommit=True
    ) as connection:
        await connection.execute("LISTEN data_change")
        print("listening", flush=True)
        async for notification in connection.notifies():
            message = {"type": "thing.changed", "payload": notification.payload}
            await layer.group_send(receive.GROUP, message)


async def both() -> None:
    """Relay, and receive beside it."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(main())
        tasks.create_task(receive.main([receive.GROUP]))


if __name__ == "__main__":
    django.setup()
    asyncio.run(both() if "--here" in sys.argv else main())
