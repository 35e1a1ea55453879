"""Signal events: what a declaration of ``publish_signals()`` makes of an instance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from django.core.exceptions import ObjectDoesNotExist
from django.db import connections, models, transaction

from ..events import Event, Json, Kind
from ..exceptions import InvalidDeclaration
from ..groups import GroupTemplate
from ..values import field_json, pk_json, prepared, to_json_value
from .declaration import GROUP_FIELDS
from .durable import in_transaction
from .message import draft

if TYPE_CHECKING:
    from django.db.models import Model

Addressed: TypeAlias = tuple[Event, list[str]]
"""An event and the groups that get it."""


@dataclass(kw_only=True)
class SignalEvents:
    """One declaration: which values of an instance go where."""

    topic: str
    fields: Sequence[str] | None
    """Names in ``data``; None for the primary key."""
    templates: Sequence[GroupTemplate]
    serialize: Callable[[Any], Any] | None
    m2m: Sequence[str]
    durable: bool
    model: type[Model] = field(init=False)
    columns: dict[str, Any] = field(init=False)
    """Model fields by their declared name."""
    placeholders: dict[str, Any] = field(init=False)
    """Model fields by the attname that stands in a template."""

    def bind(self, model: type[Model]) -> None:
        """Resolve the names; raises InvalidDeclaration or InvalidGroup."""
        if not (isinstance(model, type) and issubclass(model, models.Model)):
            raise InvalidDeclaration(f"{model!r:.200} is not a model.")
        if model._meta.abstract:
            raise InvalidDeclaration(f"{model.__name__} is abstract and sends no signals.")
        self.model = model
        names = [item.name for item in model._meta.pk_fields]
        fields = _by_name(model._meta.concrete_fields)
        self.columns = {
            name: _pick(model, "field", name, fields) for name in self.fields or names
        }
        for name in self.m2m:
            _pick(model, "many-to-many field", name, _by_name(model._meta.many_to_many))
        fitting = {item.attname: item for item in _fit_for_groups(model)}
        for template in self.templates:
            template.check()
        self.placeholders = {
            name: _pick(model, "field for a group name", name, fitting)
            for template in self.templates
            for name in template.placeholders
        }

    def insert(self, instance: Model, using: str) -> Addressed:
        """The instance was created."""
        return self._event(instance, "insert", using, None)

    def update(
        self, instance: Model, using: str, update_fields: Collection[str] | None
    ) -> Addressed:
        """The instance was saved; ``changed`` is what the caller named."""
        event, groups = self._event(instance, "update", using, update_fields)
        named = set(update_fields or ())
        changed = [
            name for name, item in self.columns.items() if named & {item.name, item.attname}
        ]
        return replace(event, changed=changed), groups

    def delete(self, instance: Model, using: str) -> Addressed | None:
        """The instance will be deleted; None if somebody else has done so already."""
        try:
            return self._event(instance, "delete", using, ())
        except ObjectDoesNotExist:
            return None

    def related(self, instance: Model, using: str, name: str, keys: list[Json]) -> Addressed:
        """A many-to-many field of the instance has these keys now."""
        event, groups = self._event(instance, "update", using, ())
        data = event.data if self.serialize else {**event.data, name: keys}
        return replace(event, changed=[name], data=data), groups

    def _event(
        self, instance: Model, kind: Kind, using: str, written: Collection[str] | None
    ) -> Addressed:
        values = self._values(instance, kind, using, written)
        event = draft(
            topic=self.topic,
            kind=kind,
            model=self.model._meta.label_lower,
            pk=pk_json(instance),
            data=self._data(instance, values, using),
            durable=self.durable,
            using=using,
        )
        row = {
            name: None if values[name] is None else prepared(item, values[name])
            for name, item in self.placeholders.items()
        }
        names = [template.render(row) for template in self.templates]
        return event, [name for name in names if name is not None]

    def _data(self, instance: Model, values: dict[str, Any], using: str) -> Json:
        if self.serialize is None:
            return {
                name: field_json(item, values[item.attname])
                for name, item in self.columns.items()
            }
        # A query of the serializer's that fails must not fail the caller's transaction.
        guarded = in_transaction(connections[using])
        with transaction.atomic(using=using) if guarded else nullcontext():
            return to_json_value(self.serialize(instance))

    def _values(
        self, instance: Model, kind: Kind, using: str, written: Collection[str] | None
    ) -> dict[str, Any]:
        """Values by attname; read anew where the instance may not hold what is stored: of the
        fields only those `written` just now are sure, with None all."""
        needed = [*self.columns.values(), *self.placeholders.values()]
        stored = [
            item.attname
            for item in needed
            if _is_elsewhere(instance, item, kind)
            or (
                written is not None
                and item not in self.model._meta.pk_fields
                and not {item.name, item.attname} & set(written)
            )
        ]
        values = {
            item.attname: getattr(instance, item.attname)
            for item in needed
            if item.attname not in stored
        }
        if stored:
            rows = self.model._base_manager.using(using).filter(pk=instance.pk)
            values.update(rows.values(*stored).get())
        return values


def names_of(option: str, names: object) -> list[str]:
    """The names as a list, or InvalidDeclaration."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InvalidDeclaration(f"{option} is {names!r:.200}: give a list of names.")
    return list(names)


def _pick(model: type[Model], what: str, name: str, allowed: dict[str, Any]) -> Any:
    if name not in allowed:
        raise InvalidDeclaration(
            f"{model.__name__} has no {what} {name!r}. "
            f"Allowed are: {', '.join(sorted(allowed)) or 'none'}."
        )
    return allowed[name]


def _by_name(fields: Iterable[Any]) -> dict[str, Any]:
    return {name: item for item in fields for name in (item.name, item.attname)}


def _fit_for_groups(model: type[Model]) -> Iterator[Any]:
    for item in model._meta.concrete_fields:
        target: Any = item
        while isinstance(target, models.ForeignKey):
            target = target.target_field
        if isinstance(target, GROUP_FIELDS) and not isinstance(target, models.DateTimeField):
            yield item


def _is_elsewhere(instance: Model, item: Any, kind: Kind) -> bool:
    """Deferred, an expression (``F("n") + 1``), or computed by the database."""
    if item.attname not in vars(instance):
        return True
    computed = item.generated and kind == "update"
    return computed or hasattr(vars(instance)[item.attname], "resolve_expression")
