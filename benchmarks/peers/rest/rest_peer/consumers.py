"""A consumer that observes the model, as the documentation shows."""

from __future__ import annotations

from typing import Any

from djangochannelsrestframework.consumers import AsyncAPIConsumer
from djangochannelsrestframework.observer import model_observer
from rest_framework import serializers

from .models import Thing


class ThingSerializer(serializers.ModelSerializer):
    """The fields that ours publishes."""

    class Meta:
        model = Thing
        fields = ("id", "name", "value")


class Things(AsyncAPIConsumer):
    """All changes of all things."""

    async def websocket_connect(self, message: Any) -> None:
        """Say that the group is joined, as ours does."""
        await super().websocket_connect(message)
        await self.thing_changed.subscribe()
        await self.send_json({"type": "subscribed"})

    @model_observer(Thing, serializer_class=ThingSerializer)
    async def thing_changed(
        self, message: Any, action: Any = None, subscribing_request_ids: Any = (), **kwargs: Any
    ) -> None:
        """Send it on."""
        await self.send_json({"kind": str(action), "data": message})
