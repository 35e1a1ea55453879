"""Django settings of the oracle's processes; what differs between runs is in the environment."""

from __future__ import annotations

import json
import os
from datetime import timedelta

from tests.settings import database

DATABASES = {
    "default": database(
        os.environ.get("DATABASE_URL") or "postgresql://postgres@127.0.0.1/oracle"
    )
}
DATABASES["default"]["OPTIONS"] = {"connect_timeout": 3}
INSTALLED_APPS = ["channels", "django_pgnotify", "tests.oracle.things"]
CHANNEL_LAYERS = {
    "default": json.loads(
        os.environ.get("ORACLE_LAYER", '{"BACKEND": "channels.layers.InMemoryChannelLayer"}')
    )
}
PGNOTIFY = json.loads(os.environ.get("ORACLE_PGNOTIFY", "{}"))
if "RETENTION" in PGNOTIFY:
    PGNOTIFY["RETENTION"] = timedelta(seconds=PGNOTIFY["RETENTION"])
SECRET_KEY = "for the oracle only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
