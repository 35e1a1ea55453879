"""Gives the servers' fixtures to the tests of the package and of the example project alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgiref.sync import SyncToAsync
from django.db import connections

pytest_plugins = [
    "tests.servers.left_out",
    "tests.servers.fixtures",
    "tests.pglisten",
    "tests.handler_kit",
    "tests.own_server",
]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Before the databases are dropped, end the session of the thread that ``sync_to_async``
    works in: a consumer that is cancelled does not come to end it."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()
