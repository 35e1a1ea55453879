"""Django settings of the peer's processes."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

parts = urlsplit(os.environ["BENCH_DATABASE"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": str(parts.port),
    }
}
INSTALLED_APPS = ["pgtrigger", "pgpubsub", "pgpubsub_peer"]
SECRET_KEY = "for the benchmarks only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MIGRATION_MODULES = {"pgpubsub_peer": None}
PGTRIGGER_INSTALL_ON_MIGRATE = True
LOGGING_CONFIG = None
