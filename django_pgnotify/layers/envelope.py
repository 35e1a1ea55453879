"""Envelope: what stands in one NOTIFY of the channel layer, and who really wrote it.

Any role that can connect may NOTIFY on any pg channel, so that each payload carries an HMAC
under ``SECRET_KEY``. That proves the origin; it neither hides the message from other roles of
the database nor stops them from repeating one.

    1 <signature> <origin> <number> <kind> <target as JSON> <body, or #<row> where it is stored>
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from django.conf import settings
from django.utils.crypto import constant_time_compare
from django.utils.encoding import force_bytes

PAYLOAD_MAX_BYTES = 7_999
"""PostgreSQL refuses 8,000: NOTIFY_PAYLOAD_MAX_LENGTH = BLCKSZ - NAMEDATALEN - 128."""
VERSION = "1"
SALT = "django_pgnotify.layers"
SIGNATURE_LENGTH = 32
"""Hex digits, hence 128 bits: nobody finds one by trying, and it stays short."""
PREFIX_LENGTH = 12
"""Hex digits of the prefix's hash in a pg channel: 15 + 12 + 1 + 32 = 60 of 63 bytes."""
REFERENCE = "#"
"""No JSON starts so."""


class Kind(StrEnum):
    """What the receiver shall do with the target."""

    GROUP = "group"
    """Deliver to the members of the group."""
    CHANNEL = "channel"
    """Deliver to the specific name."""
    WAKE = "wake"
    """Look into the table: a message for this plain name waits there."""
    JOIN = "join"
    """Add the specific name to the group in the body."""
    LEAVE = "leave"
    """Take the specific name out of the group in the body."""
    FLUSH = "flush"
    """Forget all messages and groups."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One notification of the layer."""

    origin: str
    """The branch that sent it: its process has served its own members already."""
    number: int
    """Place among what the branch sends, ascending."""
    kind: Kind
    target: str
    """A group, a specific name or a plain name."""
    body: str
    """The encoded message; empty in an opened envelope whose body is stored."""
    row: int | None = None
    """The id of the stored body, None if the body is here."""
    signature: str = ""

    def sealed(self, pg_channel: str) -> str:
        """Return the payload for `pg_channel`; with a row, a reference stands for the body."""
        body = self.body if self.row is None else f"{REFERENCE}{self.row}"
        return self.sealed_head(pg_channel) + body

    def sealed_head(self, pg_channel: str) -> str:
        """Return what stands in the payload before the body, or before the reference to it."""
        signature = self._sign(pg_channel, self.body, settings.SECRET_KEY)
        target = json.dumps(self.target)
        return f"{VERSION} {signature} {self.origin} {self.number} {self.kind} {target} "

    def is_genuine(self, pg_channel: str, body: str) -> bool:
        """Say whether someone who knows the secret sent `body` in this envelope here."""
        return any(
            constant_time_compare(self.signature, self._sign(pg_channel, body, secret))
            for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        )

    def _sign(self, pg_channel: str, body: str, secret: str | bytes) -> str:
        # JSON in front, so that no two envelopes have the same text.
        head = json.dumps([pg_channel, self.origin, self.number, self.kind, self.target])
        mac = hmac.digest(_key(secret), force_bytes(head + body), "sha256")
        return mac.hex()[:SIGNATURE_LENGTH]


@lru_cache
def _key(secret: str | bytes) -> bytes:
    """The key that Django's salted_hmac() derives at each call."""
    return hashlib.sha256(SALT.encode() + force_bytes(secret)).digest()


def opened(payload: str) -> Envelope | None:
    """Return the envelope in `payload`, None if it has not our shape."""
    try:
        version, signature, origin, number, kind, target, body = payload.split(" ", 6)
        is_stored = body.startswith(REFERENCE)
        envelope = Envelope(
            origin=origin,
            number=int(number),
            kind=Kind(kind),
            target=str(json.loads(target)),
            body="" if is_stored else body,
            row=int(body.removeprefix(REFERENCE)) if is_stored else None,
            signature=signature,
        )
    except (ValueError, RecursionError):
        return None
    return envelope if version == VERSION else None


def groups_pg_channel(prefix: str) -> str:
    """Return the pg channel that every listening process of `prefix` hears."""
    digest = hashlib.sha256(prefix.encode()).hexdigest()
    return f"pgnotify_layer_{digest[:PREFIX_LENGTH]}"


def process_pg_channel(prefix: str, process: str) -> str:
    """Return the pg channel that only the process of this id hears."""
    return f"{groups_pg_channel(prefix)}_{process}"
