"""What only a real web server does: Daphne between our consumers and a client."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from django_pgnotify.consumers.websocket import INTERNAL_ERROR
from tests.servers.process import START_SECONDS, free_port

pytestmark = pytest.mark.django_db(transaction=True)

LAYER = {"BACKEND": "django_pgnotify.layers.PostgresChannelLayer"}


@pytest.fixture
def daphne(database_env: dict[str, str]) -> Iterator[str]:
    """The oracle's consumers, on a database without the oracle's table."""
    port = free_port()
    command = ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0"]
    process = subprocess.Popen(
        [sys.executable, *command, "tests.oracle.asgi:application"],
        env=database_env
        | {
            "DJANGO_SETTINGS_MODULE": "tests.oracle.settings",
            "ORACLE_LAYER": json.dumps(LAYER),
        },
        stderr=subprocess.DEVNULL,
    )
    yield f"ws://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_client_that_can_not_be_served_any_more_is_disconnected(daphne: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket = connect(f"{daphne}/snapshot/", open_timeout=START_SECONDS)
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)
    with socket:
        socket.send('{"type":"subscribe","group":"all"}')
        assert json.loads(socket.recv(START_SECONDS))["type"] == "subscribed"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(START_SECONDS)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == INTERNAL_ERROR
