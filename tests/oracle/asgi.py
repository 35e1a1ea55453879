"""What the oracle's web processes serve: one consumer with a snapshot, and one without."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.oracle.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

pages = get_asgi_application()

from .things.consumers import Plain, WithSnapshot  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": URLRouter(
            [
                path("plain/", Plain.as_asgi()),  # type: ignore[arg-type]
                path("snapshot/", WithSnapshot.as_asgi()),  # type: ignore[arg-type]
            ]
        ),
    }
)
