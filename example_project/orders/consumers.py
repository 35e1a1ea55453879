"""The desk's WebSocket: who may follow which group, and the rows to begin with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django_pgnotify.consumers import EventConsumer

from .models import OPEN, Customer, Order


class OrderConsumer(EventConsumer):
    """Open orders and customers, for everybody who can open the page."""

    async def authorize(self, group: str) -> bool:
        """The desk is public here; one customer's orders are for the staff."""
        if group.startswith("customer-"):
            user = self.scope.get("user")
            return user is not None and user.is_staff
        return group in {"orders", "customers"}

    def snapshot(self, group: str) -> Iterable[Mapping[str, object]]:
        """The rows as the triggers tell them: same fields, same condition."""
        if group == "customers":
            return Customer.objects.values("id", "name", "city")
        orders = Order.objects.filter(status__in=OPEN)
        if group != "orders":
            orders = orders.filter(customer=int(group.removeprefix("customer-")))
        return orders.values("id", "customer_id", "status", "total", "note", "updated_at")
