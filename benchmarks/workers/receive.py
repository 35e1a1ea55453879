"""A plain consumer: receives a group's messages from the channel layer, and counts events.

A line ``{"expect": n}`` on its input makes it count n events; it then prints when the last one
came, by the machine's monotonic clock. With a number as argument it joins so many rooms' groups.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import django
from channels.layers import BaseChannelLayer, get_channel_layer

GROUP = "things"
ROOM = "room-{}"


async def main(groups: list[str]) -> None:
    """Count until the input ends."""
    layer = get_channel_layer()
    assert layer is not None
    name = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, name)
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        last, messages = await count(layer, name, json.loads(line)["expect"])
        print(json.dumps({"last": last, "messages": messages}), flush=True)


async def count(layer: BaseChannelLayer, name: str, expected: int) -> tuple[float, int]:
    """Receive so many events; gives the time of the last one, and in how many messages."""
    events = messages = 0
    while events < expected:
        events += events_in(await layer.receive(name))
        messages += 1
    return time.monotonic(), messages


def events_in(message: dict[str, Any]) -> int:
    """A frame of ours has a list of them; what the naive loop sends is one."""
    return len(message["events"]) if "events" in message else 1


if __name__ == "__main__":
    django.setup()
    rooms = [ROOM.format(number) for number in range(int(sys.argv[1]))] if sys.argv[1:] else []
    asyncio.run(main(rooms or [GROUP]))
