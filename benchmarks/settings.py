"""Django settings of the measured processes; what differs between them is in the environment."""

from __future__ import annotations

import json
import os

from tests.settings import database

DATABASES = {
    "default": database(os.environ.get("BENCH_DATABASE") or "postgresql://postgres@127.0.0.1/b")
}
INSTALLED_APPS = ["channels", "django_pgnotify", "benchmarks.things"]
CHANNEL_LAYERS = {
    "default": json.loads(
        os.environ.get("BENCH_LAYER", '{"BACKEND": "channels.layers.InMemoryChannelLayer"}')
    )
}
SECRET_KEY = "for the benchmarks only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
