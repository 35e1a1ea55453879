"""What the oracle's web processes serve: a consumer with a snapshot, one without, and a stream."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.oracle.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

pages = get_asgi_application()

from .things.consumers import Plain, Stream, WithSnapshot  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                path("stream/", Stream.as_asgi()),  # type: ignore[arg-type]
                re_path("", pages),
            ]
        ),
        "websocket": URLRouter(
            [
                path("plain/", Plain.as_asgi()),  # type: ignore[arg-type]
                path("snapshot/", WithSnapshot.as_asgi()),  # type: ignore[arg-type]
            ]
        ),
    }
)
