"""Membership: what a channel layer that is frozen can hold up."""

from __future__ import annotations

import asyncio

import pytest

from django_pgnotify.consumers import membership
from django_pgnotify.consumers.membership import Membership

PATIENCE_SECONDS = 5.0


async def test_leaving_waits_no_longer_for_who_waits_for_the_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "LEAVE_SECONDS", 0.01)
    member = Membership("default", received=lambda message: None, joined=lambda: None)
    await member.join("orders")
    async with member._lock, asyncio.timeout(PATIENCE_SECONDS):
        await member.leave("orders")
    assert "orders" not in member._members
