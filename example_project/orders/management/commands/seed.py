"""Fills an empty order desk, so that there is something to see."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from example_project.orders.models import Customer, Order, Status

CUSTOMERS = [
    ("Anders Bookshop", "Malmö"),
    ("Café Lindenhof", "Zürich"),
    ("Duarte & Filhos", "Porto"),
    ("Kestrel Cycles", "Bristol"),
    ("Marchetti Ceramics", "Faenza"),
    ("Nordlicht Lamps", "Kiel"),
    ("Okonkwo Textiles", "Enugu"),
    ("Tanaka Stationery", "Kyoto"),
]
# Customer by its place above, status, total, note.
ORDERS = [
    (5, Status.PACKED, "182.00", "fragile"),
    (0, Status.PACKED, "64.80", ""),
    (3, Status.SHIPPED, "12.90", ""),
    (2, Status.PAID, "326.40", "invoice to head office"),
    (7, Status.PACKED, "40.50", "gift wrap"),
    (1, Status.CANCELLED, "18.00", "ordered twice"),
    (4, Status.PAID, "145.60", ""),
    (6, Status.PAID, "90.00", "call before delivery"),
    (1, Status.NEW, "57.60", ""),
    (3, Status.PAID, "218.40", "express"),
    (0, Status.NEW, "28.80", ""),
    (7, Status.NEW, "103.20", "gift wrap"),
    (5, Status.NEW, "36.40", ""),
    (2, Status.NEW, "72.00", "leave at the door"),
    (4, Status.PAID, "54.00", ""),
    (6, Status.NEW, "162.00", "express"),
]
DEMO = "demo"


class Command(BaseCommand):
    """``seed``: customers, orders and the user demo / demo; what exists already stays."""

    help = "Fill an empty order desk, and make the user demo / demo."

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Seed what is missing."""
        users = get_user_model()._default_manager
        if not users.filter(username=DEMO).exists():
            users.create_superuser(username=DEMO, password=DEMO)
        if Customer.objects.exists():
            return
        customers = [Customer.objects.create(name=name, city=city) for name, city in CUSTOMERS]
        for place, status, total, note in ORDERS:
            Order.objects.create(
                customer=customers[place], status=status, total=Decimal(total), note=note
            )
