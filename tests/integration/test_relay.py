"""The relay brings the ledger's events to the groups of the channel layer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.core.management import CommandError, call_command
from django.db import connection, transaction

pytestmark = pytest.mark.django_db(transaction=True)


def execute(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone() if cursor.description else None


def publish(topic: str, data: Any, groups: list[str] | None = None) -> None:
    execute("SELECT pgnotify_publish(%s, %s::jsonb, %s)", topic, json.dumps(data), groups)


@pytest.fixture(autouse=True)
def caught_up() -> Iterator[None]:
    """Begin after what earlier tests left in the ledger, which no flush empties."""
    call_command("pglisten", once=True)
    yield
    get_channel_layer().channels.clear()
    get_channel_layer().groups.clear()


class Subscriber:
    """A plain member of groups."""

    def __init__(self, *groups: str) -> None:
        self.layer = get_channel_layer()
        self.channel = async_to_sync(self.layer.new_channel)()
        for group in groups:
            async_to_sync(self.layer.group_add)(group, self.channel)

    def frames(self) -> list[dict[str, Any]]:
        """All that has arrived."""
        queue = self.layer.channels.get(self.channel)
        found = []
        while queue is not None and not queue.empty():
            found.append(queue.get_nowait()[1])
        return found

    def data(self) -> list[Any]:
        """The data of all events that have arrived."""
        return [event["data"] for frame in self.frames() for event in frame["events"]]


def test_committed_event_arrives_in_its_group_as_one_frame() -> None:
    subscriber = Subscriber("orders")
    publish("recount", {"total": 12}, ["orders"])
    call_command("pglisten", once=True)
    (frame,) = subscriber.frames()
    (event,) = frame["events"]
    assert frame["type"] == "pgnotify.frame"
    assert frame["group"] == "orders"
    assert frame["part"] == [1, 1]
    assert event["topic"] == "recount"
    assert event["kind"] == "message"
    assert event["data"] == {"total": 12}
    assert event["changed"] == []
