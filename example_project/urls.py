"""The order desk's pages: the live table, its buttons, and Django's admin."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from example_project.orders import views

urlpatterns = [
    path("", views.desk, name="desk"),
    path("do/<slug:action>/", views.do, name="do"),
    path("admin/", admin.site.urls),
]
