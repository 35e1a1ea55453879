"""Gives the servers' fixtures to the tests of the package and of the example project alike."""

from __future__ import annotations

pytest_plugins = [
    "tests.servers.left_out",
    "tests.servers.fixtures",
    "tests.pglisten",
    "tests.handler_kit",
    "tests.own_server",
]
