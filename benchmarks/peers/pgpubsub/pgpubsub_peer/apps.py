"""Imports the listeners, as its documentation says."""

from __future__ import annotations

from django.apps import AppConfig


class PeerConfig(AppConfig):
    """The app of the peer's tables."""

    name = "pgpubsub_peer"

    def ready(self) -> None:
        """Register channels and triggers."""
        from . import listeners  # noqa: F401
