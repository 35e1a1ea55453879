"""Relation keys: who changes, and to what, when a many-to-many field does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..events import Json
from ..values import field_json

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet


class RelationKeys:
    """A many-to-many field. Its owner is the row of the model that declares it."""

    def __init__(self, field: Any, model: type[Model]) -> None:
        self.model = model
        """Whose rows are published: the one that has the field, or a child of it."""
        self.through: Any = field.remote_field.through
        self.symmetrical: bool = field.remote_field.symmetrical
        self.source: Any = self.through._meta.get_field(field.m2m_field_name())
        self.target: Any = self.through._meta.get_field(field.m2m_reverse_field_name())

    def owners_losing(
        self, instance: Model, reverse: bool, pks: set[Any] | None, using: str
    ) -> set[Any]:
        """Owners that lose a related row when ``pks`` (None = all) are taken from instance."""
        here, there = (self.target, self.source) if reverse else (self.source, self.target)
        rows = self._rows(using).filter(**{here.attname: _key(instance, here)})
        if pks is not None:
            rows = rows.filter(**{f"{there.attname}__in": pks})
        losing = set(rows.values_list(there.attname, flat=True))
        return losing if reverse else self._with_mirrored(instance, losing)

    def owners_gaining(self, instance: Model, reverse: bool, pks: set[Any]) -> set[Any]:
        """Owners that get a related row when ``pks`` are added to instance."""
        return set(pks) if reverse else self._with_mirrored(instance, set(pks))

    def _with_mirrored(self, instance: Model, others: set[Any]) -> set[Any]:
        if not others:
            return set()
        return {_key(instance, self.source), *(others if self.symmetrical else ())}

    def load(self, owners: set[Any], instance: Model, reverse: bool, using: str) -> list[Model]:
        """The owners' instances, in the order of their keys."""
        is_ours = isinstance(instance, self.model) and not reverse
        if is_ours and owners == {_key(instance, self.source)}:
            return [instance]
        if not owners:
            return []
        rows = self.model._base_manager.using(using).order_by("pk")
        return list(rows.filter(**{f"{self.source.target_field.attname}__in": owners}))

    def keys(self, owner: Model, using: str) -> list[Json]:
        """The related keys that the owner has now, sorted."""
        rows = self._rows(using).filter(**{self.source.attname: _key(owner, self.source)})
        # An intermediary model of two fields has rows of the one without a key of the other.
        found = rows.values_list(self.target.attname, flat=True).distinct()
        keys = sorted(key for key in found if key is not None)
        return [field_json(self.target, key) for key in keys]

    def _rows(self, using: str) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.through._base_manager.using(using).order_by()
        return rows


def _key(instance: Model, foreign_key: Any) -> Any:
    return getattr(instance, foreign_key.target_field.attname)
