"""Django settings of the peer's processes."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

parts = urlsplit(os.environ["BENCH_DATABASE"])
DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": parts.path.lstrip("/"),
    "USER": unquote(parts.username or ""),
    "PASSWORD": unquote(parts.password or ""),
    "HOST": parts.hostname,
    "PORT": str(parts.port),
}
DATABASES = {"default": DATABASE, "channels_postgres": DATABASE}
INSTALLED_APPS = ["channels", "channels_postgres"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_postgres.core.PostgresChannelLayer",
        "CONFIG": {**DATABASE, "TIME_ZONE": None, "OPTIONS": {}},
    }
}
SECRET_KEY = "for the benchmarks only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
