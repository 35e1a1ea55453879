"""Django settings of the peer's processes."""

from __future__ import annotations

import json
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
DATABASES = {"default": DATABASE}
INSTALLED_APPS = ["channels", "rest_framework", "rest_peer"]
CHANNEL_LAYERS = {"default": json.loads(os.environ["BENCH_LAYER"])}
SECRET_KEY = "for the benchmarks only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
