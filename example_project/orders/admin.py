"""The admin: a writer like any other, whose changes the page follows."""

from __future__ import annotations

from django.contrib import admin

from .models import Customer, Order


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Customers by name."""

    list_display = ["name", "city"]
    search_fields = ["name", "city"]


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Orders, with the status to be changed right in the list."""

    list_display = ["id", "customer", "status", "total", "note", "updated_at"]
    list_editable = ["status"]
    list_filter = ["status", "customer"]
    list_select_related = ["customer"]
    list_per_page = 25
