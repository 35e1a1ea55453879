"""Gives the servers' fixtures to the tests of the package and of the example project alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgiref.sync import SyncToAsync
from channels.layers import InMemoryChannelLayer, channel_layers
from django.db import connections

from tests.servers import emptying

emptying.install()

pytest_plugins = [
    "tests.servers.left_out",
    "tests.servers.fixtures",
    "tests.pglisten",
    "tests.handler_kit",
    "tests.own_server",
]


@pytest.fixture(autouse=True)
def _no_session_left_in_the_thread_of_sync_to_async() -> Iterator[None]:
    """A consumer that is cancelled does not come to end it; the next test may not touch a
    database at all, and the databases are dropped in the end."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@pytest.fixture(autouse=True)
def _nobody_left_in_the_layers_of_this_process() -> Iterator[None]:
    """They outlive the test that joined a group, and the next one counts the members."""
    yield
    for layer in channel_layers.backends.values():
        if isinstance(layer, InMemoryChannelLayer):
            layer.channels.clear()
            layer.groups.clear()
