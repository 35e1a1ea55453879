"""What the peer's web process serves."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "eventstream_peer.settings")

from django.core.asgi import get_asgi_application

application = get_asgi_application()
