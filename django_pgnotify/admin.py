"""Admin: what handlers gave up on, to retry or to discard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from .models import ParkedEvent

if TYPE_CHECKING:
    ParkedEventModelAdmin = admin.ModelAdmin[ParkedEvent]
else:
    ParkedEventModelAdmin = admin.ModelAdmin


@admin.register(ParkedEvent)
class ParkedEventAdmin(ParkedEventModelAdmin):
    """Look, retry, discard; nothing else can be done to a parked event."""

    list_display = ("id", "handler", "parked_at", "attempts", "retry")
    list_filter = ("handler", "retry")
    readonly_fields = ("handler", "event", "traceback", "attempts", "retry", "parked_at")
    actions = ("retry_events",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only handlers park events."""
        return False

    @admin.action(description="Retry selected parked events", permissions=["change"])
    def retry_events(self, request: HttpRequest, queryset: QuerySet[ParkedEvent]) -> None:
        """Ask the running ``pglisten`` to call the handlers again; later events of the same row
        have been handled meanwhile, so a retried one comes out of order."""
        count = queryset.update(retry=True)
        self.message_user(
            request, f"pglisten will retry {count} events within seconds.", messages.SUCCESS
        )
