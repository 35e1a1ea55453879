"""What the page's buttons do: one function per way to write, each telling what it did.

Not one of them knows that somebody listens.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection, transaction
from django.utils import timezone

from .models import NEXT, OPEN, Customer, Order, Status

BULK = 1_000
BULK_NOTE = "trade fair"
NOTES = ["", "", "", "gift wrap", "call before delivery", "express", "leave at the door"]
PRICES = [Decimal(price) for price in ("4.50", "7.20", "12.90", "18.00", "36.40")]
MAX_PIECES = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """One button."""

    name: str
    """In the button's address."""
    label: str
    """On the button."""
    how: str
    """The code in short, under the label."""
    run: Callable[[], str]
    """Writes, and says what it did."""


def draft(note: str | None = None) -> Order:
    """An order that somebody might have placed; not saved."""
    customers = list(Customer.objects.values_list("pk", flat=True))
    return _draft(customers, random.choice(NOTES) if note is None else note)


def _draft(customers: list[int], note: str) -> Order:
    total = random.choice(PRICES) * random.randint(1, MAX_PIECES)
    return Order(customer_id=random.choice(customers), total=total, note=note)


def new_order() -> str:
    """Save one order."""
    order = draft()
    order.save()
    return f"Saved order #{order.pk} for {order.customer}."


def advance() -> str:
    """Move the order that waits longest one step on; shipping takes it off the desk."""
    with transaction.atomic():
        waiting = Order.objects.select_for_update().filter(status__in=OPEN)
        order = waiting.exclude(note=BULK_NOTE).order_by("updated_at").first()
        if order is None:
            return "No order is waiting: make one first."
        before, order.status = order.status, NEXT[Status(order.status)]
        order.save()
    return f"Moved order #{order.pk} from {before} to {order.status}."


def delete() -> str:
    """Delete the oldest order on the desk."""
    order = Order.objects.filter(status__in=OPEN).exclude(note=BULK_NOTE).last()
    if order is None:
        return "No order to delete: make one first."
    number = order.pk
    order.delete()
    return f"Deleted order #{number}."


def bulk_create() -> str:
    """Insert many orders by one statement."""
    customers = list(Customer.objects.values_list("pk", flat=True))
    Order.objects.bulk_create([_draft(customers, BULK_NOTE) for _ in range(BULK)])
    return f"Inserted {BULK:,} orders by one bulk_create()."


def bulk_update() -> str:
    """Ship all of the bulk by one UPDATE: no save(), no signal, and the rows leave."""
    bulk = Order.objects.filter(note=BULK_NOTE, status__in=OPEN)
    return f"Shipped {bulk.update(status=Status.SHIPPED):,} orders by one QuerySet.update()."


DISCOUNT = """
    UPDATE orders_order SET total = round(total * 0.9, 2), updated_at = now()
    WHERE id = (SELECT id FROM orders_order
                WHERE status = ANY(%s) AND note <> %s ORDER BY random() LIMIT 1)
    RETURNING id, total
"""


def raw_sql() -> str:
    """Take 10 % off one order, behind the ORM's back."""
    with connection.cursor() as cursor:
        cursor.execute(DISCOUNT, [OPEN, BULK_NOTE])
        row = cursor.fetchone()
    if row is None:
        return "No order to discount: make one first."
    return f"Took 10 % off order #{row[0]} by a bare UPDATE: now {row[1]}."


COPY_ROWS = 5
COPY = """
    COPY orders_order (customer_id, status, total, note, created_at, updated_at) FROM STDIN
"""


def copy() -> str:
    """Stream orders in by COPY, of which no ORM signal knows.

    Nor does ``event_context``, of a COPY that is the first write of its transaction: the feed
    calls it plain SQL.
    """
    orders = [draft() for _ in range(COPY_ROWS)]
    now = timezone.now()
    with connection.cursor() as cursor, cursor.copy(COPY) as stream:
        for order in orders:
            values = order.customer_id, order.status, order.total, order.note, now, now
            stream.write_row(values)
    return f"Streamed {COPY_ROWS} orders in by one COPY."


def roll_back() -> str:
    """Write a good deal, and take it all back: nobody may see any of it."""
    with transaction.atomic():
        order = draft("never happened")
        order.save()
        touched = Order.objects.filter(status__in=OPEN).update(note="never happened")
        transaction.set_rollback(True)
    return f"Wrote {touched:,} rows, order #{order.pk} among them, and rolled back: all stays."


WRITES = {
    write.name: write
    for write in [
        Write(name="new", label="New order", how="save()", run=new_order),
        Write(name="advance", label="Advance one", how="save()", run=advance),
        Write(name="delete", label="Delete one", how="delete()", run=delete),
        Write(name="bulk", label="1,000 at once", how="bulk_create()", run=bulk_create),
        Write(name="ship", label="Ship the 1,000", how="update()", run=bulk_update),
        Write(name="sql", label="10 % off one", how="raw SQL", run=raw_sql),
        Write(name="copy", label=f"{COPY_ROWS} by COPY", how="COPY FROM STDIN", run=copy),
        Write(name="rollback", label="Roll back", how="nothing may show", run=roll_back),
    ]
}
"""The buttons by name, in the order of the page."""
