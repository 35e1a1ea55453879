"""Settings of the order desk: a demo on one machine, not a pattern for production.

``DATABASE_URL`` names the database. ``REDIS_URL`` moves the channel layer to Redis; without
it Channels runs on the same PostgreSQL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

BASE_DIR = Path(__file__).parent


def database(url: str) -> dict[str, Any]:
    """Turn any URL that libpq takes into one entry of ``DATABASES``."""
    options = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": options.pop("dbname", ""),
        "USER": options.pop("user", ""),
        "PASSWORD": options.pop("password", ""),
        "HOST": options.pop("host", ""),
        "PORT": options.pop("port", ""),
        "OPTIONS": options,
    }


def channel_layer(redis_url: str | None) -> dict[str, Any]:
    """The layer that carries frames from pglisten to the web processes."""
    if redis_url is None:
        return {"BACKEND": "django_pgnotify.layers.PostgresChannelLayer"}
    return {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [redis_url]},
    }


DATABASES = {"default": database(os.environ.get("DATABASE_URL") or "dbname=order_desk")}
CHANNEL_LAYERS = {"default": channel_layer(os.environ.get("REDIS_URL") or None)}

INSTALLED_APPS = [
    "daphne",  # before staticfiles, so that runserver speaks WebSocket
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "django_pgnotify",
    "example_project.orders",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "example_project.orders.middleware.who_did_it",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ROOT_URLCONF = "example_project.urls"
ASGI_APPLICATION = "example_project.asgi.application"
SECRET_KEY = "of a demo that listens on 127.0.0.1 only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
