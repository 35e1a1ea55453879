"""Where the WebSocket is."""

from __future__ import annotations

from django.urls import path

from .consumers import OrderConsumer

# Django's type stubs know of views only.
websocket_urlpatterns = [path("ws/orders/", OrderConsumer.as_asgi())]  # type: ignore[arg-type]
