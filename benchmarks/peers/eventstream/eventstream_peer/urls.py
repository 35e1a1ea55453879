"""The stream of the things."""

from __future__ import annotations

import django_eventstream
from django.urls import include, path

urlpatterns = [path("stream/", include(django_eventstream.urls), {"channels": ["things"]})]
