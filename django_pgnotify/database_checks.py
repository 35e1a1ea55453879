"""System checks of what stands in a database, which ``migrate`` and ``check --database`` run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import ProgrammingError, connections, router
from django.db.migrations.executor import MigrationExecutor

from .ledger.install import schema_of_ledger
from .publish import declaration as declared
from .publish.added import added_by_operations
from .publish.registry import Drift, drift, shared_names
from .publish.registry import declared as declared_in_meta
from .publish.trigger import NotifyTrigger

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

INSUFFICIENT_PRIVILEGE = "42501"
"""SQLSTATE, see PostgreSQL's appendix of error codes."""


def check_databases(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Triggers that are not as declared, and tenants that could see each other."""
    return [
        message
        for alias in databases or ()
        if connections[alias].vendor == "postgresql"
        for message in _readable_messages(connections[alias])
    ]


def _readable_messages(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    try:
        return list(_database_messages(connection))
    except ProgrammingError as error:
        if getattr(error.__cause__, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        return [registry_forbidden(connection.alias)]


def registry_forbidden(alias: str) -> CheckMessage:
    """W023: the role of a web process may have no rights beyond what it needs."""
    return CheckWarning(
        f"In database {alias!r} this role may not read which triggers are installed.",
        hint="GRANT SELECT ON django_pgnotify_trigger, django_migrations to it, or check with the "
        "role that migrates.",
        id="django_pgnotify.W023",
    )


def _database_messages(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    problems = drift(connection, apps)
    if problems and _awaits_migrations(connection):
        # The `migrate` that asks is about to cure these, and else Django says what is to be done.
        problems = [one for one in problems if one.problem not in ("missing", "outdated")]
    if problems and schema_of_ledger(connection) is None:
        yield ledger_missing(
            connection.alias,
            kept_out=not router.allow_migrate(connection.alias, "django_pgnotify"),
        )
        return
    yield from (drifted(item, connection.alias) for item in problems)
    if problems:  # one of two is missing; all migrations are read for it
        yield from (of_two_models(*item) for item in _doubled(connection))
    told_apart = _told_apart()
    for name, schemas in shared_names(connection):
        # Else this would keep migrate from installing its own cure.
        if name not in told_apart:
            yield schemas_blur(name, schemas)


def _awaits_migrations(connection: BaseDatabaseWrapper) -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _told_apart() -> set[str]:
    """Topics whose groups all hold ``{schema}`` as the models declare them now."""
    return {
        trigger.topic
        for model in apps.get_models(include_auto_created=True)
        for trigger in model._meta.constraints
        if isinstance(trigger, NotifyTrigger)
        and all(declared.SCHEMA_PLACEHOLDER in group for group in trigger.group_templates)
    }


def _doubled(connection: BaseDatabaseWrapper) -> Iterator[tuple[str, str, str]]:
    """Topics of a ``Meta`` that a migration has given to another model too, with both labels."""
    labels = {t.topic: m._meta.label_lower for m, t in declared_in_meta(connection, apps)}
    for label, trigger in added_by_operations(connection):
        mine = labels.get(trigger.topic, label.lower())
        if mine != label.lower():
            yield trigger.topic, mine, label


def of_two_models(name: str, model: str, added_to: str) -> CheckMessage:
    """W024: who comes second is silent. Django's own checks know of constraints only."""
    return CheckWarning(
        f"NotifyTrigger {name!r} stands on {model}, and AddNotifyTrigger has added one to"
        f" {added_to}: only one of them tells anything.",
        hint="Give one of them another name, or end the added one by RemoveNotifyTrigger.",
        id="django_pgnotify.W024",
    )


def ledger_missing(alias: str, *, kept_out: bool = False) -> CheckMessage:
    """W020: events would be written nowhere."""
    router_first = (
        "Let DATABASE_ROUTERS allow django_pgnotify there; then it" if kept_out else "It"
    )
    return CheckWarning(
        f"Database {alias!r} has no ledger: triggers there do nothing.",
        hint=f"{router_first} comes with: manage.py migrate --database {alias}",
        id="django_pgnotify.W020",
    )


def drifted(item: Drift, alias: str) -> CheckMessage:
    """W021: the database does not have what the model declares."""
    if item.problem == "invalid":
        return CheckWarning(
            f"NotifyTrigger {item.trigger.topic!r}, which a migration has added, no longer fits its"
            f" model in database {alias!r}: {item.reason}",
            hint="Write a migration with RemoveNotifyTrigger and AddNotifyTrigger for the model as"
            " it is now.",
            obj=item.model,
            id="django_pgnotify.W021",
        )
    hint = f"That is done by: manage.py migrate --database {alias}"
    if item.problem == "disabled" and item.model is not None:
        table = item.model._meta.db_table
        hint = f"Run: ALTER TABLE {table} ENABLE TRIGGER {item.trigger.topic}_<operation>"
    return CheckWarning(
        f"NotifyTrigger {item.trigger.topic!r} is {item.problem} in database {alias!r}.",
        hint=hint,
        obj=item.model,
        id="django_pgnotify.W021",
    )


def schemas_blur(name: str, schemas: Sequence[str]) -> CheckMessage:
    """E022: subscribers of one tenant would see the rows of another."""
    return Error(
        f"NotifyTrigger {name!r} stands in the schemas {', '.join(schemas)}, and not all of its "
        "groups hold {schema}: tenants would see each other.",
        hint='Use {schema} in each group, for instance groups=["{schema}-orders"], and migrate '
        "each schema (with --skip-checks where AddNotifyTrigger declares it).",
        id="django_pgnotify.E022",
    )
