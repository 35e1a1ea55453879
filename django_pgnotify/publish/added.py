"""Install: the triggers that migrations have added to models of other apps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .trigger import NotifyTrigger

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def added_by_operations(
    connection: BaseDatabaseWrapper,
) -> Iterable[tuple[str, NotifyTrigger]]:
    """Those of applied AddNotifyTrigger operations, with the label of the model. The migrations
    are read each time, since the registry may be younger than they are."""
    added: dict[str, tuple[str, NotifyTrigger]] = {}
    for operation in _operations(connection, applied_only=True):
        if operation.notify_trigger == "add":
            added[operation.trigger.topic] = (operation.model, operation.trigger)
        else:
            added.pop(operation.trigger.topic, None)
    return added.values()


def is_superseded(connection: BaseDatabaseWrapper, operation: Any) -> bool:
    """True if a later migration ends what this AddNotifyTrigger begins: an empty database, on
    which the other app is ahead of it, need not have it at all."""
    topic = operation.trigger.topic
    told = [
        each.deconstruct()
        for each in _operations(connection, applied_only=False)
        if each.trigger.topic == topic
    ]
    return operation.deconstruct() in told and told[-1] != operation.deconstruct()


def _operations(connection: BaseDatabaseWrapper, *, applied_only: bool) -> Iterator[Any]:
    """Add- and RemoveNotifyTrigger in their order, known by a mark and not by class:
    ``operations.py`` stands above this module."""
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(connection, ignore_no_migrations=True)
    plan = [
        key for leaf in loader.graph.leaf_nodes() for key in loader.graph.forwards_plan(leaf)
    ]
    for key in dict.fromkeys(plan):
        if key in loader.applied_migrations or not applied_only:
            for operation in _with_inner(loader.graph.nodes[key].operations):
                if hasattr(operation, "notify_trigger"):
                    yield operation


def _with_inner(operations: Iterable[Any]) -> Iterator[Any]:
    """Operations, and those inside of SeparateDatabaseAndState."""
    for operation in operations:
        yield operation
        yield from _with_inner(getattr(operation, "database_operations", ()))
