"""Declare: ``NotifyTrigger``, a constraint by form, says what a model publishes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db.backends.ddl_references import Statement
from django.db.models import BaseConstraint, Model, Q

from ..exceptions import InvalidDeclaration

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

OPERATIONS = ("insert", "update", "delete", "truncate")
DEFAULT_OPERATIONS = ("insert", "update", "delete")


class NotifyTrigger(BaseConstraint):
    """Publish each committed change of the model's rows as events of one topic.

    A constraint, so that stock ``makemigrations`` and ``migrate`` create, alter, rename and
    reverse it. It constrains nothing: ``validate()`` accepts all.

    ``name``       topic and trigger name, unique in the project, at most 50 bytes; in an abstract
                   model with ``%(app_label)s`` and ``%(class)s``.
    ``fields``     field names or attnames that subscribers may see; default: the primary key.
    ``groups``     group names, ``{attname}`` and ``{schema}`` filled from the row, which does not
                   disclose them; default: ``[name]``.
    ``on``         of insert, update, delete, truncate; default: the first three.
    ``changed``    report an update only if one of these fields really changed; default: any column.
    ``condition``  ``Q`` over fields and constants; rows that move in or out count as insert or delete.
    ``context``    keys of ``event_context`` that subscribers may see; default: none.

    Raises InvalidDeclaration if an argument is not of its form. What depends on the model is
    refused by system checks.
    """

    def __init__(
        self,
        *,
        name: str,
        fields: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        on: Sequence[str] | None = None,
        changed: Sequence[str] | None = None,
        condition: Q | None = None,
        context: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name=name)
        self.fields = _strings(name, "fields", fields)
        self.groups = _strings(name, "groups", groups)
        operations = (
            _strings(name, "on", list(on) if isinstance(on, set | frozenset) else on)
            or DEFAULT_OPERATIONS
        )
        self.changed = _strings(name, "changed", changed)
        self.context = _strings(name, "context", context or None) or ()
        if condition is not None and not isinstance(condition, Q):
            raise InvalidDeclaration(
                f"NotifyTrigger {name!r}: condition={condition!r} must be a Q object."
            )
        if not set(operations) <= set(OPERATIONS):
            raise InvalidDeclaration(
                f"NotifyTrigger {name!r}: on={list(operations)!r} may hold"
                f" {', '.join(OPERATIONS)}."
            )
        self.on = tuple(operation for operation in OPERATIONS if operation in operations)
        self.condition = condition

    @property
    def topic(self) -> str:
        """The stream that the trigger's events belong to: its name."""
        return str(self.name)

    @property
    def group_templates(self) -> tuple[str, ...]:
        """The groups as declared, or the topic."""
        return self.groups or (self.topic,)

    def _check(self, model: type[Model], connection: Any) -> list[Any]:
        """Django's hook; the checks of ``checks.py`` see every model, so nothing is left here."""
        return []

    check = _check

    def constraint_sql(  # type: ignore[override]
        self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None
    ) -> str | None:
        """Put off the trigger until the table that CREATE TABLE makes is there."""
        statement = self.create_sql(model, schema_editor)
        if statement is not None and schema_editor is not None:
            schema_editor.deferred_sql.append(statement)
        return None

    def create_sql(  # type: ignore[override]
        self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None
    ) -> Statement | None:
        """The complete function, triggers and registry entry; None on other databases."""
        if model is None or schema_editor is None or not _supported(schema_editor):
            return None
        from .compiler import create_statement

        return create_statement(self, model, schema_editor)

    def remove_sql(  # type: ignore[override]
        self, model: type[Model] | None, schema_editor: BaseDatabaseSchemaEditor | None
    ) -> Statement | None:
        """Drop triggers, function and registry entry; None on other databases."""
        if model is None or schema_editor is None or not _supported(schema_editor):
            return None
        from .compiler import cancel_creation, remove_statement

        cancel_creation(self, model, schema_editor)
        return remove_statement(self, model, schema_editor)

    def validate(
        self,
        model: type[Model],
        instance: Model,
        exclude: Iterable[str] | None = None,
        using: str = "default",
    ) -> None:
        """Accept every instance."""

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The declaration alone: an upgrade of this library makes no migrations."""
        kwargs: dict[str, Any] = {"name": self.name}
        for key in ("fields", "groups", "changed", "context"):
            if getattr(self, key):
                kwargs[key] = list(getattr(self, key))
        if self.on != DEFAULT_OPERATIONS:
            kwargs["on"] = list(self.on)
        if self.condition is not None:
            kwargs["condition"] = self.condition
        return "django_pgnotify.NotifyTrigger", (), kwargs

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NotifyTrigger):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        _, _, kwargs = self.deconstruct()
        return (
            f"<NotifyTrigger: {' '.join(f'{key}={value!r}' for key, value in kwargs.items())}>"
        )


def _supported(schema_editor: BaseDatabaseSchemaEditor) -> bool:
    return schema_editor.connection.vendor == "postgresql"


def _strings(name: str, argument: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    # A set has another order in each process, and so would the migrations.
    if isinstance(value, str | set | frozenset) or not isinstance(value, Iterable):
        raise InvalidDeclaration(
            f"NotifyTrigger {name!r}: {argument}={value!r} must be a list of strings."
        )
    strings = list(value)
    if not strings or not all(isinstance(item, str) for item in strings):
        raise InvalidDeclaration(
            f"NotifyTrigger {name!r}: {argument}={value!r} must be a list of one string or more;"
            " leave it out for the default."
        )
    return tuple(dict.fromkeys(strings))
