"""Sends events to a group by the channel layer: ``{"count": n}`` on its input sends n of them, one
after the other, and prints when the first one began.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import django
from channels.layers import get_channel_layer

EVENT = {
    "id": "1.0.0",
    "topic": "thing_changes",
    "kind": "insert",
    "model": "things.thing",
    "pk": 1,
    "data": {"id": 1, "name": "a thing of which one speaks", "value": 1},
    "changed": [],
    "at": "2026-01-01T00:00:00.000000Z",
}
"""As large as ours."""


async def main(group: str) -> None:
    """Until the input ends."""
    layer = get_channel_layer()
    assert layer is not None
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        begin = time.monotonic()
        for _ in range(json.loads(line)["count"]):
            await layer.group_send(group, {"type": "thing.changed", "event": EVENT})
        print(json.dumps({"begin": begin}), flush=True)


if __name__ == "__main__":
    django.setup()
    asyncio.run(main(sys.argv[1]))
