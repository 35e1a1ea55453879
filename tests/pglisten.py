"""pglisten in a process of its own, for tests: started, read line by line, and ended."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, Queue
from typing import Any

import pytest
from channels.layers import BaseChannelLayer, channel_layers, get_channel_layer
from django.core.management import call_command
from django.db import connection

WAIT_SECONDS = 20.0
PGLISTEN = """
import os, sys, json
from datetime import timedelta
import django
from django.conf import settings
settings.PGNOTIFY = json.loads(os.environ["TEST_PGNOTIFY"])
if "RETENTION_SECONDS" in settings.PGNOTIFY:
    seconds = settings.PGNOTIFY.pop("RETENTION_SECONDS")
    settings.PGNOTIFY["RETENTION"] = timedelta(seconds=seconds)
settings.CHANNEL_LAYERS = json.loads(os.environ["TEST_CHANNEL_LAYERS"])
if "TEST_HANDLERS" in os.environ:
    __import__(os.environ["TEST_HANDLERS"])
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "pglisten", *sys.argv[1:]])
"""
LAYER = {"default": {"BACKEND": "django_pgnotify.layers.PostgresChannelLayer"}}
NO_REDIS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]},
    }
}
"""A channel layer that is down."""


class Process:
    """A pglisten of its own, whose log lines can be waited for."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PGLISTEN, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: Queue[str] = Queue()
        self.seen: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def wait_for(self, text: str) -> str:
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            try:
                line = self.lines.get(timeout=0.1)
            except Empty:
                if self.process.poll() is not None and self.lines.empty():
                    break
                continue
            self.seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} is not in {''.join(self.seen)}")

    def wait(self) -> int:
        try:
            code = self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
        self._reader.join()
        while not self.lines.empty():
            self.seen.append(self.lines.get())
        return code

    def output(self) -> str:
        return "".join(self.seen)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


StartPglisten = Callable[..., Process]


@pytest.fixture
def start_pglisten(database_env: dict[str, str]) -> Iterator[StartPglisten]:
    processes: list[Process] = []

    def start(
        *arguments: str,
        url: str | None = None,
        handlers: str | None = None,
        layers: dict[str, Any] = LAYER,
        **pgnotify: Any,
    ) -> Process:
        environment = database_env | {
            "TEST_PGNOTIFY": json.dumps(pgnotify),
            "TEST_CHANNEL_LAYERS": json.dumps(layers),
        }
        if url is not None:
            environment["DATABASE_URL"] = url
        if handlers is not None:
            environment["TEST_HANDLERS"] = handlers
        processes.append(Process(environment, *arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def execute(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone() if cursor.description else None


def publish(topic: str, data: Any) -> None:
    execute("SELECT pgnotify_publish(%s, %s::jsonb)", topic, json.dumps(data))


@pytest.fixture
def pg_layer(settings: Any) -> Iterator[BaseChannelLayer]:
    """Our layer, which reaches the pglisten processes."""
    settings.CHANNEL_LAYERS = LAYER
    call_command("pglisten", once=True)
    layer = get_channel_layer()
    assert layer is not None
    yield layer
    channel_layers.backends = {}


async def receive_data(layer: BaseChannelLayer, channel: str, upto: Any) -> list[Any]:
    """Data of the events that arrive, up to the given one."""
    found: list[Any] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while upto not in found:
            frame = await layer.receive(channel)
            found += [event["data"] for event in frame["events"]]
    return found
