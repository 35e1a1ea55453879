"""What the tests of channel layers share."""

from __future__ import annotations

import asyncio
from typing import Any

PATIENCE_SECONDS = 10.0


async def received(layer: Any, name: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        message: dict[str, Any] = await layer.receive(name)
        return message


async def drained(layer: Any, name: str) -> list[Any]:
    """Receive the numbers sent before a marker, which proves that nothing else came."""
    await layer.send(name, {"type": "marker"})
    numbers = []
    while (message := await received(layer, name))["type"] != "marker":
        numbers.append(message["n"])
    return numbers


def numbered(n: int) -> dict[str, Any]:
    return {"type": "test.message", "n": n}
