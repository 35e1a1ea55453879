"""Settings: the one ``PGNOTIFY`` dict, read late, so that tests and ``override_settings`` work.

``from django_pgnotify.conf import settings`` and then ``settings.RETENTION``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings as django_settings

from .exceptions import UnknownSetting

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Defaults:
    """Every key of ``PGNOTIFY`` with its default; a string under each says what it is for."""

    RETENTION: timedelta = timedelta(hours=1)
    """How long the ledger keeps events, hence how long a browser may be away and resume."""
    LEDGER_MAX_BYTES: int = 4 * GIB
    """Bytes of the ledger above which triggers stop inserting, so that a forgotten ``pglisten``
    can't fill the disk. From half of it on nothing is kept for handlers that are late, from three
    quarters on nothing for replays."""
    LISTENER: str | dict[str, Any] | None = None
    """For the listener's direct connection when Django's goes through a transaction pooler: an
    alias that stands in for ``default``, or connection options laid over any alias's own."""
    CHANNEL_LAYER: str = "default"
    """Alias in ``CHANNEL_LAYERS`` that frames travel through."""
    QUEUE_SIZE: int = 1000
    """Ticks, frames or live events that may wait between reading and relaying; 0 is unbounded."""
    MAX_FRAME_BYTES: int = 512 * KIB
    """Bytes of JSON in one frame. Daphne kills a socket for a message over 1 MiB, and channel
    layers are meant for messages up to 1 MB."""
    SOCKET_QUEUE_SIZE: int = 1000
    """Frames that may wait for one slow socket; then it gets a reset."""
    MAX_GROUPS_PER_SOCKET: int = 100
    """Groups that one socket may subscribe to."""
    ALLOWED_ORIGINS: Sequence[str] | None = None
    """Origins that may open sockets; None leaves it to ``AllowedHostsOriginValidator``."""
    HANDLER_CONCURRENCY: int = 10
    """Calls of one handler that run at once."""
    HANDLER_ATTEMPTS: int = 5
    """Tries of one event by one handler before the event is parked."""
    HANDLER_BACKOFF_SECONDS: float = 1.0
    """Seconds before the first retry of a handler; doubled for each further one, up to an hour."""
    HEARTBEAT_SECONDS: float = 5.0
    """Seconds between the relay's heartbeats to the hubs and its probes of its own connection."""
    POLL_SECONDS: float = 1.0
    """Seconds between looks into the ledger when no bell rang."""
    RECONNECT_MIN_SECONDS: float = 0.1
    """Seconds before the first reconnect; doubled, with jitter, for each further one."""
    RECONNECT_MAX_SECONDS: float = 15.0
    """The most seconds between two reconnects."""
    CONNECT_TIMEOUT_SECONDS: int = 5
    """Seconds that one attempt to connect may take."""
    LEADER_TIMEOUT_SECONDS: float = 10.0
    """Seconds after which a frozen leader loses its lock, and so its place."""
    SHUTDOWN_SECONDS: float = 10.0
    """Seconds that ``pglisten`` may take to drain after SIGTERM."""


class Settings:
    """``settings.KEY`` gives ``PGNOTIFY["KEY"]`` or the default; nothing is cached."""

    def __getattr__(self, key: str) -> Any:
        if key not in KEYS:
            raise UnknownSetting(unknown_key_message(key))
        return getattr(django_settings, "PGNOTIFY", {}).get(key, getattr(Defaults, key))


KEYS: tuple[str, ...] = tuple(Defaults.__annotations__)
settings = Settings()


def unknown_key_message(key: object) -> str:
    """Say which key is not known, and the nearest one that is."""
    nearest = difflib.get_close_matches(str(key).upper(), KEYS, n=1, cutoff=0.0)
    return f"PGNOTIFY has no key {key!r}. Did you mean {nearest[0]!r}?"


MAY_BE_ZERO = {"QUEUE_SIZE", "HANDLER_BACKOFF_SECONDS", "SHUTDOWN_SECONDS"}
"""Unbounded, at once, and without draining; of all others zero would be no bound or no pause."""
OTHER_TYPES: dict[str, tuple[type, ...]] = {
    "LISTENER": (str, dict),
    "ALLOWED_ORIGINS": (list, tuple, set, frozenset),
}
"""Of the keys whose default None says nothing of their type."""


def wrong_value_message(key: str, value: object) -> str | None:
    """Say what the value of a known key should be; None if it may be that."""
    default = getattr(Defaults, key)
    if default is None:
        types = OTHER_TYPES[key]
        fits = value is None or isinstance(value, types)
        return (
            None if fits else f"{_shown(key, value)} should be a {types[0].__name__} or None."
        )
    if isinstance(default, float):
        wanted, fits = "a number", isinstance(value, int | float) and math.isfinite(value)
    else:
        names = {int: "an integer", str: "a string", timedelta: "a timedelta"}
        wanted, fits = names[type(default)], isinstance(value, type(default))
    if not fits or isinstance(value, bool):
        return f"{_shown(key, value)} should be {wanted}, for instance {default!r}."
    if key == "MAX_FRAME_BYTES" and isinstance(value, int) and value < KIB:
        return f"{_shown(key, value)} should be {KIB} or more, for instance {default!r}."
    zero: Any = timedelta(0) if isinstance(default, timedelta) else 0
    if isinstance(value, str) or value > zero or (key in MAY_BE_ZERO and value == zero):
        return None
    return f"{_shown(key, value)} should be more than zero, for instance {default!r}."


def _shown(key: str, value: object) -> str:
    return f"PGNOTIFY[{key!r}] = {value!r:.100}"
