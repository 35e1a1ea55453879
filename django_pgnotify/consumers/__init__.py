"""Consumers: the last station, where group frames meet the browsers' connections."""

from __future__ import annotations

from .revoking import revoke
from .sse import EventStreamConsumer
from .websocket import EventConsumer

__all__ = ["EventConsumer", "EventStreamConsumer", "revoke"]
