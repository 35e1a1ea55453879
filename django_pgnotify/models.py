"""Where Django looks for models; they live in ``ledger/models.py``."""

from __future__ import annotations

from .ledger.models import InstalledTrigger, ParkedEvent

__all__ = ["InstalledTrigger", "ParkedEvent"]
