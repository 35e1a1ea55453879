"""What the peer's web process serves."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rest_peer.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

pages = get_asgi_application()

from .consumers import Things  # noqa: E402

application = ProtocolTypeRouter(
    {"http": pages, "websocket": URLRouter([path("things/", Things.as_asgi())])}
)
