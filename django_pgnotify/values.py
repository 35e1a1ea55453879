"""Values: the one rule by which Python values become JSON. ``python_values.py`` is the way back.

The SQL functions ``pgnotify_json`` follow the same rule; a test runs both over all fields.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.utils import timezone
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise

from .events import Json
from .exceptions import InvalidEvent

if TYPE_CHECKING:
    from django.db.models import Model

AnyField: TypeAlias = Any
"""A model field; django-stubs knows no attributes of composite, array and range fields."""

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that JavaScript's numbers hold exactly."""


def to_json_value(value: Any, path: str = "data") -> Json:
    """A Python value as JSON that is safe for JavaScript; ``path`` names it in errors.

    Dicts and sequences follow their elements; a model instance is its key. Raises InvalidEvent
    for what has no place in JSON.
    """
    try:
        return _any_json(value, path)
    except RecursionError:
        raise InvalidEvent(f"{path} is nested too deeply, or holds itself.") from None


def _any_json(value: Any, path: str) -> Json:
    match value:
        case None | bool():
            return value
        case Enum():
            return _any_json(value.value, path)
        case str() | Promise() | UUID():
            return str(value)
        case int():
            return int(value) if abs(value) <= MAX_SAFE_INTEGER else _digits(value, path)
        case float():
            return float(value) if math.isfinite(value) else None
        case Decimal():
            return _decimal_json(value)
        case datetime() | date() | time():
            return _time_json(value, path)
        case timedelta():
            return duration_iso_string(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Mapping():
            return {
                _key(key, path): _any_json(item, f"{path}[{key!r:.50}]")
                for key, item in value.items()
            }
        case models.Model():
            return pk_json(value)
    if _is_range(value):
        return _range_json(value, partial(_any_json, path=path))
    if isinstance(value, Sequence):
        return [_any_json(item, f"{path}[{i}]") for i, item in enumerate(value)]
    raise InvalidEvent(
        f"{path} is {value!r:.200}, a {type(value).__name__}: an event carries None, booleans, "
        "numbers, text, UUIDs, dates, times, durations, bytes, ranges, dicts, lists and tuples."
    )


def _digits(value: int, path: str) -> str:
    try:
        return str(int(value))
    except ValueError as error:  # more digits than Python writes
        raise InvalidEvent(f"{path}: {error}") from None


def row_json(
    model: type[Model] | None, row: Mapping[str, Any], path: str = "data"
) -> dict[str, Json]:
    """Values by name, of which some may be a model's: inside a JSONField nothing is rewritten,
    everything else follows to_json_value(). Raises InvalidEvent."""
    return {
        _key(name, path): _named_json(find_field(model, name), value, f"{path}[{name!r:.50}]")
        for name, value in row.items()
    }


def _named_json(field: AnyField, value: Any, path: str) -> Json:
    if isinstance(field, models.JSONField):
        with suppress(InvalidEvent):  # what its decoder has made of it, another rule knows
            return _untouched(field, value)
    return to_json_value(value, path)


def field_json(field: AnyField, value: Any) -> Json:
    """The JSON of a model field's value: what PostgreSQL's ``pgnotify_json(column)`` gives once
    it is saved. Raises InvalidEvent, or the field's own error, for what could not be saved."""
    field = column(field)
    if value is None:
        return None
    if isinstance(field, models.CompositePrimaryKey):
        return [field_json(part, item) for part, item in zip(field.fields, value, strict=True)]
    if isinstance(field, models.JSONField):
        return _untouched(field, value)
    if hasattr(field, "range_type"):
        return _range_json(
            value, lambda bound: field_json(field.base_field, bound), _step(field.base_field)
        )
    if hasattr(field, "base_field"):
        return [field_json(field.base_field, item) for item in value]
    return to_json_value(prepared(field, value), path=field.name)


def prepared(field: AnyField, value: Any) -> Any:
    """The value of the type that the column stores, whatever the instance held: text for a
    number, a naive datetime, an unrounded Decimal."""
    field = column(field)
    if isinstance(field, models.DateTimeField) and isinstance(value, datetime):
        if timezone.is_naive(value):
            value = timezone.make_aware(value, timezone.get_default_timezone())
        return value
    if isinstance(field, models.DurationField | models.BinaryField):
        return field.to_python(value)
    value = field.get_prep_value(value)
    places = getattr(field, "decimal_places", None)
    if isinstance(value, Decimal) and places is not None and value.is_finite():
        value = value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)
    return value


def pk_json(instance: Model) -> Json:
    """The instance's primary key as JSON; a composite key is a list."""
    return field_json(instance._meta.pk, instance.pk)


def column(field: AnyField) -> AnyField:
    """The field that says how a value is stored: a foreign key stores its target's."""
    while True:
        if isinstance(field, models.ForeignKey):
            field = field.target_field
        elif isinstance(field, models.GeneratedField):
            field = field.output_field
        else:
            return field


def find_field(model: type[Model] | None, name: str) -> AnyField:
    """The model's own field of that name or attname; None if there is no such field."""
    try:
        field = model._meta.get_field(name) if model else None
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.Field) else None


def _untouched(field: models.JSONField[Any, Any], value: Any) -> Json:
    """Inside a JSONField nothing is rewritten; its encoder says what its content means."""
    try:
        return json.loads(json.dumps(value, cls=field.encoder, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidEvent(f"{field.name} is not JSON: {error}") from None


def _key(key: object, path: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str | Promise) or (isinstance(key, int) and not isinstance(key, bool)):
        return str(key)
    raise InvalidEvent(f"{path} has the key {key!r:.200}: JSON's keys are text.")


def _decimal_json(value: Decimal) -> str | None:
    if not value.is_finite():
        return None
    # PostgreSQL's numeric has no exponent and no negative zero.
    return format(value if value else abs(value), "f")


def _time_json(value: datetime | date | time, path: str) -> str:
    if isinstance(value, datetime) and value.utcoffset() is not None:
        try:
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except OverflowError:
            raise InvalidEvent(f"{path} is {value!r}, which UTC can't hold.") from None
    if isinstance(value, datetime | time):
        value = value.replace(tzinfo=None)
    return value.isoformat()


def _is_range(value: object) -> bool:
    # By its shape: importing psycopg's Range here would need psycopg on every database.
    return all(hasattr(value, name) for name in ("isempty", "lower_inc", "upper_inc"))


def _step(field: AnyField) -> Any:
    """What PostgreSQL adds to a bound when it brings a discrete range to its form ``[)``."""
    if isinstance(field, models.IntegerField):
        return 1
    if isinstance(field, models.DateField) and not isinstance(field, models.DateTimeField):
        return timedelta(days=1)
    return None


def _range_json(value: Any, bound_json: Any, step: Any = None) -> Json:
    if isinstance(value, list | tuple):  # what Django's range fields accept as well
        lower, upper = value
        lower_inc, upper_inc = lower is not None, False
    elif value.isempty:
        return "empty"
    else:
        lower, upper = value.lower, value.upper
        lower_inc, upper_inc = value.lower_inc, value.upper_inc
    if step is not None and lower is not None and not lower_inc:
        lower, lower_inc = lower + step, True
    if step is not None and upper is not None and upper_inc:
        upper, upper_inc = upper + step, False
    if lower is not None and lower == upper and not (lower_inc and upper_inc):
        return "empty"
    return {
        "lower": bound_json(lower),
        "upper": bound_json(upper),
        "bounds": ("[" if lower_inc else "(") + ("]" if upper_inc else ")"),
    }
