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
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(connection, ignore_no_migrations=True)
    added: dict[str, tuple[str, NotifyTrigger]] = {}
    plan = [
        key for leaf in loader.graph.leaf_nodes() for key in loader.graph.forwards_plan(leaf)
    ]
    for key in dict.fromkeys(plan):
        if key not in loader.applied_migrations:
            continue
        for operation in _with_inner(loader.graph.nodes[key].operations):
            # Known by a mark, not by class: operations.py stands above this module.
            match getattr(operation, "notify_trigger", None):
                case "add":
                    added[operation.trigger.topic] = (operation.model, operation.trigger)
                case "remove":
                    added.pop(operation.trigger.topic, None)
    return added.values()


def _with_inner(operations: Iterable[Any]) -> Iterator[Any]:
    """Operations, and those inside of SeparateDatabaseAndState."""
    for operation in operations:
        yield operation
        yield from _with_inner(getattr(operation, "database_operations", ()))
