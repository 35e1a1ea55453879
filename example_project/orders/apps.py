"""The app's entry in Django's registry."""

from __future__ import annotations

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    """The order desk."""

    name = "example_project.orders"
    verbose_name = "Order desk"
