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
DATABASES = {"default": DATABASE}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_eventstream"]
redis = urlsplit(os.environ["BENCH_REDIS"])
EVENTSTREAM_REDIS = {"host": redis.hostname, "port": redis.port, "db": 0}
ROOT_URLCONF = "eventstream_peer.urls"
SECRET_KEY = "for the benchmarks only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
