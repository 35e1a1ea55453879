"""Resolve a declaration against its model: which columns, which group expressions, what condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.exceptions import (
    EmptyResultSet,
    FieldDoesNotExist,
    FullResultSet,
    ValidationError,
)
from django.db import models
from django.db.models import F, Q
from django.db.models.constants import LOOKUP_SEP
from django.db.models.sql.query import Query

from ..exceptions import InvalidDeclaration
from ..groups import GroupTemplate
from ..ledger.install import literal

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

    from .trigger import NotifyTrigger

    Field = models.Field[Any, Any]

SCHEMA = "schema"  # the placeholder for the table's schema
SCHEMA_PLACEHOLDER = f"{{{SCHEMA}}}"
LOOKUPS = ("exact", "gt", "gte", "lt", "lte", "in", "isnull", "startswith")
GROUP_FIELDS = (
    models.IntegerField,
    models.CharField,
    models.TextField,
    models.UUIDField,
    models.BooleanField,
    models.DateField,
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A declared name and the field behind it."""

    name: str
    """As declared: field name or attname; the key in ``data``."""
    field: Any
    """The concrete field of this very table."""

    @property
    def target(self) -> Any:
        """The field that decides the type: for a foreign key, what it points to in the end; for
        a generated field, its output."""
        field = self.field
        while getattr(field, "remote_field", None) is not None:
            field = field.target_field
        return field.output_field if field.generated else field


def resolve(model: type[models.Model], name: str) -> Column:
    """Find a column of the model's own table by field name or attname, or raise
    InvalidDeclaration with the reason and the names that are allowed."""
    field = _find(model, name)
    if field is None:
        raise InvalidDeclaration(
            f"{model.__name__} has no field {name!r}. Allowed are: {allowed_names(model)}."
        )
    if field.many_to_many or not getattr(field, "concrete", False) or field.column is None:
        raise InvalidDeclaration(
            f"{model.__name__}.{name} is no column of {model._meta.db_table!r}. For many-to-many "
            "fields use publish_signals(..., m2m=[...]) or a trigger on the through model."
        )
    if field not in own_fields(model):
        raise InvalidDeclaration(
            f"{model.__name__}.{name} is inherited from {field.model.__name__}, whose table holds "
            f"it: declare a NotifyTrigger on {field.model.__name__}."
        )
    if field.generated and not field.db_persist:
        raise InvalidDeclaration(
            f"{model.__name__}.{name} is a virtual generated field, which triggers can't read: "
            "use db_persist=True."
        )
    return Column(name=name, field=field)


def _find(model: type[models.Model], name: str) -> Any:
    try:
        return model._meta.get_field(name)
    except FieldDoesNotExist:
        return next((f for f in model._meta.concrete_fields if f.attname == name), None)


def own_fields(model: type[models.Model]) -> list[Any]:
    """Concrete fields whose column stands in the model's own table."""
    return [field for field in model._meta.local_concrete_fields if field.column is not None]


def allowed_names(model: type[models.Model]) -> str:
    """What may be declared of the model, for messages: field names and attnames."""
    return ", ".join(sorted({n for f in own_fields(model) for n in (f.name, f.attname)}))


def primary_key(model: type[models.Model]) -> list[Column]:
    """The columns of the primary key, in order."""
    return [Column(name=field.attname, field=field) for field in model._meta.pk_fields]


def disclosed(trigger: NotifyTrigger, model: type[models.Model]) -> list[Column]:
    """What ``data`` holds: the declared fields, or the primary key's."""
    if trigger.fields is None:
        return [Column(name=field.name, field=field) for field in model._meta.pk_fields]
    return [resolve(model, name) for name in trigger.fields]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group template with the columns of its placeholders (None for ``{schema}``)."""

    template: GroupTemplate
    columns: tuple[Column | None, ...]

    @property
    def of_row(self) -> bool:
        """True if rows of one table can be in different groups of the template."""
        return any(self.columns)


def groups(trigger: NotifyTrigger, model: type[models.Model]) -> list[Group]:
    """The declared groups, each once; raises InvalidGroup or InvalidDeclaration."""
    return [
        _group(GroupTemplate(text), model) for text in dict.fromkeys(trigger.group_templates)
    ]


def _group(template: GroupTemplate, model: type[models.Model]) -> Group:
    template.check()
    columns = tuple(
        None if name == SCHEMA and _find(model, name) is None else _group_column(model, name)
        for name in template.placeholders
    )
    return Group(template=template, columns=columns)


def _group_column(model: type[models.Model], name: str) -> Column:
    column = resolve(model, name)
    target = column.target
    if not isinstance(target, GROUP_FIELDS) or isinstance(target, models.DateTimeField):
        raise InvalidDeclaration(
            f"{model.__name__}.{name} can't stand in a group name: {type(target).__name__} is not "
            "an integer, text, UUID, boolean or date field."
        )
    return column


def check_condition(model: type[models.Model], condition: Q) -> None:
    """Raise InvalidDeclaration for anything but fields, constants and safe comparisons: what
    could raise in the database would fail the user's write."""
    for path, value in _leaves(condition):
        name, *lookups = path.split(LOOKUP_SEP)
        column = resolve(model, model._meta.pk.name if name == "pk" else name)
        if len(lookups) > 1 or (lookups and lookups[0] not in LOOKUPS):
            raise InvalidDeclaration(
                f"{path!r} is not allowed. Use a field of {model.__name__} itself with "
                f"one of {', '.join(LOOKUPS)}."
            )
        for item in value if isinstance(value, list | tuple | set | frozenset) else [value]:
            if isinstance(item, F):
                _check_comparable(column, resolve(model, item.name), lookups)  # type: ignore[attr-defined]
            elif hasattr(item, "resolve_expression"):
                raise InvalidDeclaration(
                    f"{path}={type(item).__name__} could raise inside the user's write. "
                    "Use constants and F()."
                )
        _check_constant(model, path, value)


def _check_comparable(left: Column, right: Column, lookups: list[str]) -> None:
    """PostgreSQL compares two columns by an operator of their types, or raises in every write."""
    kind = _kind(left.target)
    if kind != _kind(right.target) or (lookups == ["startswith"] and kind[0] != "text"):
        raise InvalidDeclaration(
            f"{left.name} ({type(left.target).__name__}) and {right.name} "
            f"({type(right.target).__name__}) can't be compared in the database."
        )


def _kind(field: Any) -> tuple[Any, ...]:
    """Equal for two fields whose values PostgreSQL compares without a cast."""
    match field:
        case models.IntegerField() | models.FloatField() | models.DecimalField():
            return ("number",)
        case models.CharField() | models.TextField():
            return ("text", field.db_collation)
        case models.DateField():
            return ("date",)
    return (field.get_internal_type(), *_kind_of_items(field))


def _kind_of_items(field: Any) -> tuple[Any, ...]:
    """Of an array's items: integer[] and bigint[] have no operator in common."""
    base = getattr(field, "base_field", None)
    return (base.get_internal_type(), *_kind_of_items(base)) if base else ()


def _check_constant(model: type[models.Model], path: str, value: Any) -> None:
    try:
        Query(model, alias_cols=False).build_where(Q((path, value)))
    except (TypeError, ValueError, ValidationError) as error:
        raise InvalidDeclaration(f"{path} can't be compared with {value!r}.") from error


def _leaves(condition: Q) -> Iterator[tuple[str, Any]]:
    for child in condition.children:
        if isinstance(child, Q):
            yield from _leaves(child)
        elif isinstance(child, tuple):
            yield child
        else:
            raise InvalidDeclaration(f"{child!r} is not a field lookup.")


def condition_sql(
    condition: Q, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> str:
    """The condition as Django's ``filter()`` would mean it, over bare column names; never NULL.
    Raises InvalidDeclaration as check_condition() does."""
    check_condition(model, condition)
    query = Query(model, alias_cols=False)
    where = query.build_where(condition)
    connection = schema_editor.connection
    try:
        sql, params = query.get_compiler(connection=connection).compile(where)
    except EmptyResultSet:
        return "false"
    except FullResultSet:
        return "true"
    quoted = (
        literal(param) if isinstance(param, str) else schema_editor.quote_value(param).strip()
        for param in params
    )
    return f"coalesce(({sql % tuple(quoted)}), false)"
