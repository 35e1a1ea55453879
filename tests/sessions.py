"""A session of somebody else's: plain psycopg, beside Django's connection."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db import connections


def open_session(using: str = "default", **options: Any) -> psycopg.Connection[Any]:
    """Connect to the alias's database as Django would, with ``options`` laid over."""
    parameters = connections[using].get_connection_params()
    for key in ("cursor_factory", "context"):
        parameters.pop(key, None)
    return psycopg.connect(**{**parameters, **options})
