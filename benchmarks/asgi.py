"""What the web processes serve."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

pages = get_asgi_application()

from .things.consumers import BareLoop, Ours, OursAsStream, PlainConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("stream/", OursAsStream.as_asgi()), re_path("", pages)]),  # type: ignore[arg-type, list-item]
        "websocket": URLRouter(
            [
                path("ours/", Ours.as_asgi()),  # type: ignore[arg-type, list-item]
                path("plain/", PlainConsumer.as_asgi()),  # type: ignore[arg-type, list-item]
                path("bare/", BareLoop.as_asgi()),  # type: ignore[arg-type, list-item]
            ]
        ),
    }
)
