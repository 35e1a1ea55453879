"""Admin: what handlers gave up on, to retry or to discard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import Field, QuerySet
from django.http import HttpRequest

from .models import ParkedEvent

if TYPE_CHECKING:
    ParkedEventModelAdmin = admin.ModelAdmin[ParkedEvent]
else:
    ParkedEventModelAdmin = admin.ModelAdmin

RETRY_HELP = "The running pglisten calls the handler again, within seconds."


@admin.register(ParkedEvent)
class ParkedEventAdmin(ParkedEventModelAdmin):
    """Look, retry, discard; nothing else can be done to a parked event."""

    list_display = ("id", "handler", "parked_at", "attempts", "retry")
    list_filter = ("handler", "retry")
    readonly_fields = ("handler", "event", "traceback", "attempts", "parked_at")
    actions = ("retry_events",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ParkedEvent]:
        """None where the database is not PostgreSQL, and has no such table."""
        return ParkedEvent.objects.using(ParkedEvent.objects.db)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only handlers park events."""
        return False

    def formfield_for_dbfield(
        self, db_field: Field[Any, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Say what ticking the only box does."""
        if db_field.name == "retry":
            kwargs["help_text"] = RETRY_HELP
        return super().formfield_for_dbfield(db_field, *args, **kwargs)

    def save_model(
        self, request: HttpRequest, obj: ParkedEvent, form: Any, change: bool
    ) -> None:
        """Store the box alone. pglisten may have handled and deleted the event meanwhile."""
        ParkedEvent.objects.filter(pk=obj.pk).update(retry=obj.retry)

    @admin.action(description="Retry selected parked events", permissions=["change"])
    def retry_events(self, request: HttpRequest, queryset: QuerySet[ParkedEvent]) -> None:
        """Ask the running ``pglisten`` to call the handlers again; later events of the same row
        have been handled meanwhile, so a retried one comes out of order."""
        count = queryset.update(retry=True)
        self.message_user(
            request, f"pglisten will retry {count} events within seconds.", messages.SUCCESS
        )
