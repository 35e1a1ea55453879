"""Customers and their orders, with what the desk's page may see of them."""

from __future__ import annotations

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from django_pgnotify import NotifyTrigger


class Customer(models.Model):
    """Who orders."""

    name = models.CharField(max_length=80, unique=True)
    city = models.CharField(max_length=80)

    class Meta:
        ordering = ["name"]
        constraints = [
            NotifyTrigger(
                name="customer_changes",
                fields=["id", "name", "city"],
                groups=["customers"],
                context=["user"],
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Status(models.TextChoices):
    """The way of an order through the house."""

    NEW = "new"
    PAID = "paid"
    PACKED = "packed"
    SHIPPED = "shipped"
    CANCELLED = "cancelled"


OPEN = [Status.NEW.value, Status.PAID.value, Status.PACKED.value]
"""The statuses in which an order lies on the desk."""

NEXT = {Status.NEW: Status.PAID, Status.PAID: Status.PACKED, Status.PACKED: Status.SHIPPED}
"""The step that follows each status."""


class Order(models.Model):
    """What a customer wants, and how far it is."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    status = models.CharField(max_length=20, choices=Status, default=Status.NEW)
    total = models.DecimalField(
        max_digits=10, decimal_places=2, validators=[MinValueValidator(Decimal(0))]
    )
    note = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            NotifyTrigger(
                name="order_changes",
                fields=["id", "customer_id", "status", "total", "note", "updated_at"],
                groups=["orders", "customer-{customer_id}"],
                # A save() that only touches updated_at is no news.
                changed=["customer_id", "status", "total", "note"],
                # Shipping an order takes it off the desk, as a delete with "moved".
                condition=Q(status__in=OPEN),
                context=["user"],
            ),
        ]

    def __str__(self) -> str:
        return f"#{self.pk}"
