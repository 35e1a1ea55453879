"""The channels, their triggers, and callbacks that do nothing with what comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pgtrigger
from pgpubsub.channel import TriggerChannel
from pgpubsub.listeners import trigger_listener
from pgpubsub.triggers import LockableNotify, Notify

from .models import Sent, Stored

EVERY = {
    "when": pgtrigger.After,
    "operation": pgtrigger.Insert | pgtrigger.Update | pgtrigger.Delete,
}


@dataclass
class SentChannel(TriggerChannel):
    """A NOTIFY with the row."""

    model = Sent


@dataclass
class StoredChannel(TriggerChannel):
    """The same, and a stored row."""

    model = Stored
    lock_notifications = True


@trigger_listener(SentChannel, trigger=Notify(name=SentChannel.listen_safe_name(), **EVERY))
def on_sent(old: Any, new: Any, **context: Any) -> None:
    """Nothing."""


@trigger_listener(
    StoredChannel, trigger=LockableNotify(name=StoredChannel.listen_safe_name(), **EVERY)
)
def on_stored(old: Any, new: Any, **context: Any) -> None:
    """Nothing."""
