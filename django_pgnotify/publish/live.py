"""Live: one event as one signed NOTIFY payload, and back again in the relay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from ..events import Event, Json, loads
from ..jsontext import dumps_canonical as dumps

LIVE_PG_CHANNEL = "django_pgnotify_live"
MAX_PAYLOAD_BYTES = 7999
"""PostgreSQL refuses a payload of 8,000 bytes. The JSON is ASCII: bytes are characters."""
SALT = "django_pgnotify.live"


def pack_live(event: Event, groups: Sequence[str]) -> str:
    """The payload of a live event, of whatever size: ASCII JSON, signed, because any role may
    send a NOTIFY on any pg channel."""
    event_text, groups_text = dumps(event.to_json()), dumps(list(groups))
    signature = _sign(event_text, groups_text, settings.SECRET_KEY)
    return f'{{"s":"{signature}","e":{event_text},"g":{groups_text}}}'


def unpack_live(payload: str) -> tuple[dict[str, Json], list[str]] | None:
    """The event object and the groups of ``pack_live``; None if it is not signed by us.

    The object holds the whole context, which is for handlers and not for browsers.
    """
    try:
        parsed = loads(payload)
        signature, event, groups = (parsed[key] for key in "seg")
        texts = dumps(event), dumps(groups)
        keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
        valid = any(constant_time_compare(signature, _sign(*texts, key)) for key in keys)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # anybody's NOTIFY
    return (event, groups) if valid else None


def fit_live(event: Event, groups: Sequence[str]) -> list[str]:
    """Payloads of at most MAX_PAYLOAD_BYTES. What is too large goes without data and with
    ``truncated``, then without context and key; many groups are spread over several."""
    payload = pack_live(event, groups)
    if len(payload) <= MAX_PAYLOAD_BYTES:
        return [payload]
    longest = max(groups, key=len, default="")
    for small in _smaller(event):
        if len(pack_live(small, [longest])) <= MAX_PAYLOAD_BYTES:
            break
    return list(_spread(small, groups))


def _smaller(event: Event) -> Iterator[Event]:
    yield (event := replace(event, data=None, truncated=True))
    yield (event := replace(event, context={}))
    yield replace(event, changed=(), pk=None)


def _spread(event: Event, groups: Sequence[str]) -> Iterator[str]:
    overhead = len(pack_live(event, []))
    batch: list[str] = []
    size = overhead
    for group in groups:
        cost = len(group) + len('"",')
        if batch and size + cost > MAX_PAYLOAD_BYTES:
            yield pack_live(event, batch)
            batch, size = [], overhead
        batch.append(group)
        size += cost
    yield pack_live(event, batch)


def _sign(event_text: str, groups_text: str, secret: str | bytes) -> str:
    signed = f"[{event_text},{groups_text}]"
    return salted_hmac(SALT, signed, secret=secret, algorithm="sha256").hexdigest()
