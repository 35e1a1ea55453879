"""Event: the one value that travels, and the JSON in which it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS

from .jsontext import Json as Json
from .jsontext import dumps as dumps
from .jsontext import loads as loads

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

Kind = Literal["insert", "update", "delete", "truncate", "message"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened: a row changed, a table was truncated, code sent a message."""

    id: str
    """Unique, and the same in every replay."""
    topic: str
    """The name of the ``NotifyTrigger``, or the topic given to ``notify()``."""
    kind: Kind
    """insert, update, delete, truncate or message."""
    model: str | None = None
    """Django's ``label_lower``, for instance ``"shop.order"``; None for messages."""
    pk: Json = None
    """The row's primary key as JSON; a composite key is a list."""
    data: Any = None
    """The declared fields, or the data of a message; None if ``truncated``."""
    changed: Sequence[str] = ()
    """For updates, the declared fields whose stored values differ."""
    at: datetime
    """When it was written, in UTC, by the database's clock."""
    context: Mapping[str, Json] = field(default_factory=dict)
    """What ``event_context`` held. Whole in handlers; browsers see declared keys only."""
    moved: bool = False
    """True for the delete and insert of a row that moved between groups or over a condition."""
    truncated: bool = False
    """True if the event was too large to carry its data: read the row."""
    durable: bool = True
    """False for a live event, which no replay repeats."""
    using: str = DEFAULT_DB_ALIAS
    """Alias of the database in which it happened."""

    @classmethod
    def from_json(cls, obj: Mapping[str, Json], **extra: Any) -> Event:
        """Build an event from the object that travels (see ``to_json``)."""
        known = {key: obj[key] for key in WIRE_KEYS if key in obj}
        known["at"] = parse_time(known["at"])
        return cls(**{**known, **extra})

    def to_json(self) -> dict[str, Json]:
        """The object that a browser gets; data is absent if truncated, and context, moved and
        truncated are where they say nothing."""
        obj: dict[str, Json] = {
            "id": self.id,
            "topic": self.topic,
            "kind": self.kind,
            "model": self.model,
            "pk": self.pk,
            "data": self.data,
            "changed": list(self.changed),
            "at": format_time(self.at),
        }
        if self.truncated:
            del obj["data"]
            obj["truncated"] = True
        if self.moved:
            obj["moved"] = True
        if self.context:
            obj["context"] = dict(self.context)
        return obj

    def get_model(self) -> type[Model] | None:
        """The model class, or None for messages and models that are gone."""
        try:
            return apps.get_model(self.model) if self.model else None
        except LookupError:
            return None

    def python_data(self) -> Any:
        """``data`` with each field converted by the model's field: Decimal, datetime, UUID.

        What no field explains, the data of messages above all, is given as it is; {} if there
        is no data.
        """
        from .python_values import to_python

        if not isinstance(self.data, dict):
            return {} if self.data is None else self.data
        model = self.get_model()
        return {name: to_python(model, name, value) for name, value in self.data.items()}

    def get_object(self) -> Model | None:
        """Read the row as it is now; None if it is gone, there is no model, or its primary key has
        another type by now."""
        rows = self._rows()
        return None if rows is None else rows.first()

    async def aget_object(self) -> Model | None:
        """See get_object()."""
        rows = self._rows()
        return None if rows is None else await rows.afirst()

    def _rows(self) -> QuerySet[Model] | None:
        from .python_values import pk_to_python

        model = self.get_model()
        if model is None or self.pk is None:
            return None
        try:
            pk = pk_to_python(model, self.pk)
            return model._base_manager.using(self.using).filter(pk=pk)
        except (TypeError, ValueError, ValidationError):
            return None


WIRE_KEYS = (
    "id",
    "topic",
    "kind",
    "model",
    "pk",
    "data",
    "changed",
    "at",
    "context",
    "moved",
    "truncated",
)


UTC_SUFFIX = "+00:00"


def format_time(at: datetime) -> str:
    """ISO 8601 in UTC, ending in ``Z``."""
    text = at.isoformat()
    if not text.endswith(UTC_SUFFIX):
        text = at.astimezone(UTC).isoformat()
    return text.removesuffix(UTC_SUFFIX) + "Z"


def parse_time(text: str) -> datetime:
    """The aware datetime of ``format_time``'s text."""
    return datetime.fromisoformat(text)
