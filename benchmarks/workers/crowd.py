"""A crowd of browsers: opens sockets, and says when all of them have got what is expected.

``{"expect": n}`` on its input: n events at each socket; it prints when the last had them, and how
many sockets did not get them in time. With ``--times`` also when each came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from ..crowd import Crowd
from ..sse import Stream
from ..websocket import Socket

PATIENCE_SECONDS = 90.0


async def main(arguments: argparse.Namespace) -> None:
    """Until the input ends."""
    crowd = Crowd(Stream if arguments.sse else Socket, keep_times=arguments.times)
    await crowd.connect(arguments.count, arguments.port, arguments.path)
    print(json.dumps({"ready": arguments.count}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        crowd.expect(json.loads(line)["expect"])
        print(json.dumps({"expecting": True}), flush=True)
        behind = await crowd.wait(PATIENCE_SECONDS)
        answer = {"last": crowd.last, "behind": behind, "times": crowd.times}
        print(json.dumps(answer), flush=True)
        crowd.times = {}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("count", type=int)
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--sse", action="store_true", help="Server-Sent Events")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(_arguments()))
