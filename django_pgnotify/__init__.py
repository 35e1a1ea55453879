"""django_pgnotify."""

from __future__ import annotations

from .events import Event
from .groups import group_name
from .publish.trigger import NotifyTrigger

__all__ = ["Event", "NotifyTrigger", "group_name"]
