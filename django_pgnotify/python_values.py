"""Python values: from the JSON in an event to what a model's fields hold."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from .events import Json
from .values import AnyField, column, find_field

if TYPE_CHECKING:
    from django.db.models import Model


def to_python(model: type[Model] | None, name: str, value: Json) -> Any:
    """The Python value of a JSON value by the model's field (name or attname); a value of no
    field, or one that the field no longer understands, is given back as it is."""
    field = find_field(model, name)
    return value if field is None else _from_json(field, value)


def pk_to_python(model: type[Model], pk: Json) -> Any:
    """The Python value of a JSON key; a composite key's list becomes a tuple."""
    return _from_json(model._meta.pk, pk)


def _from_json(field: AnyField, value: Json) -> Any:
    field = column(field)
    if value is None or isinstance(field, models.JSONField | models.FileField):
        return value
    try:
        if isinstance(field, models.CompositePrimaryKey):
            return tuple(
                _from_json(part, v) for part, v in zip(field.fields, value, strict=True)
            )
        if isinstance(field, models.ManyToManyField):
            return [_from_json(field.related_model._meta.pk, item) for item in value]
        if hasattr(field, "range_type"):
            return _range_from_json(field, value)
        if hasattr(field, "base_field"):
            return [_from_json(field.base_field, item) for item in value]
        return _scalar_from_json(field, value)
    except (ValidationError, ValueError, TypeError, KeyError):
        return value


def _scalar_from_json(field: AnyField, value: Json) -> Any:
    value = field.to_python(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, datetime) and timezone.is_aware(value):
        return value if settings.USE_TZ else timezone.make_naive(value)
    return value


def _range_from_json(field: AnyField, value: Json) -> Any:
    if value == "empty":
        return field.range_type(empty=True)
    lower, upper = (_from_json(field.base_field, value[key]) for key in ("lower", "upper"))
    return field.range_type(lower, upper, value["bounds"])
