"""System checks: what can't work is said before anything runs. One builder a message; ids are
never reused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import connections, models, router

from .conf import KEYS, settings, unknown_key_message, wrong_value_message
from .exceptions import PgnotifyError
from .groups import RESERVED_PREFIX, check_group
from .ledger.install import schema_of_ledger
from .publish import declaration as declared
from .publish.registry import Drift, drift, shared_names
from .publish.trigger import NotifyTrigger

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

NAME_BYTES = 50  # the longest suffix, "_truncate", and "pgnotify_" fit into PostgreSQL's 63
IN_MEMORY = "channels.layers.InMemoryChannelLayer"
OUR_LAYER = '{"BACKEND": "django_pgnotify.layers.PostgresChannelLayer"}'

HINTS = {
    "E013": "The columns of the model's own table are: {names}.",
    "E014": "Write for instance customer-{{customer_id}}: A-Z, a-z, 0-9, '-', '_', '.' and, in "
    "braces, columns of integers, text, UUIDs, booleans or dates.",
    "E015": "Compare {names} with constants of their types or with each other, by "
    f"{', '.join(declared.LOOKUPS)}, joined by &, | and ~.",
}


def check_settings(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """PGNOTIFY's keys, the channel layer, and where the ledger could be."""
    given = getattr(django_settings, "PGNOTIFY", {})
    if not isinstance(given, dict):
        return [no_dict(given)]
    return [
        *(unknown_key(key) for key in given if key not in KEYS),
        *_value_messages(given),
        *_layer_messages(),
        *_queue_messages(),
        *_backend_messages(),
    ]


def unknown_key(key: str) -> CheckMessage:
    """E001: a typing error would silently be a default."""
    return Error(
        unknown_key_message(key),
        hint=f"Known keys: {', '.join(KEYS)}.",
        id="django_pgnotify.E001",
    )


def no_dict(given: object) -> CheckMessage:
    """E006: no setting could be read."""
    return Error(
        f"PGNOTIFY is {given!r}.",
        hint='Give a dict, for instance {"QUEUE_SIZE": 1000}, or leave it out.',
        id="django_pgnotify.E006",
    )


def _value_messages(given: dict[str, object]) -> Iterator[CheckMessage]:
    """E007: pglisten would fail on it at three in the morning."""
    for key in KEYS:
        if key in given and (message := wrong_value_message(key, given[key])):
            yield Error(
                message,
                hint="Delays are seconds, RETENTION is a datetime.timedelta.",
                id="django_pgnotify.E007",
            )


def _layer_messages() -> Iterator[CheckMessage]:
    alias = str(settings.CHANNEL_LAYER)
    layers = getattr(django_settings, "CHANNEL_LAYERS", {})
    if alias not in layers:
        yield Error(
            f"CHANNEL_LAYERS has no {alias!r}, so pglisten can't reach any consumer.",
            hint=f"Use {OUR_LAYER} or channels_redis.",
            id="django_pgnotify.E002",
        )
    elif layers[alias].get("BACKEND") == IN_MEMORY:
        yield CheckWarning(
            f"CHANNEL_LAYERS[{alias!r}] is the in-memory layer: pglisten runs in a process of its "
            "own, and nothing that it sends reaches the web processes.",
            hint=f"Use {OUR_LAYER} or channels_redis; in-memory is for tests.",
            id="django_pgnotify.W003",
        )


def _queue_messages() -> Iterator[CheckMessage]:
    if settings.QUEUE_SIZE == 0:
        yield CheckWarning(
            "PGNOTIFY['QUEUE_SIZE'] = 0 lets pglisten's memory grow without bound when the channel "
            "layer stalls.",
            hint="Give a bound: the ledger holds the rest.",
            id="django_pgnotify.W004",
        )


def _backend_messages() -> Iterator[CheckMessage]:
    engines = [connections[alias].vendor for alias in connections]
    if "postgresql" not in engines:
        yield CheckWarning(
            f"No database in DATABASES is PostgreSQL ({', '.join(engines)}): django_pgnotify does "
            "nothing.",
            hint="Use django.db.backends.postgresql with psycopg 3.",
            id="django_pgnotify.W005",
        )


def check_declarations(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """Every NotifyTrigger against its model; needs no database."""
    chosen = app_configs or apps.get_app_configs()
    return [
        message
        for config in chosen
        for model in config.get_models(include_auto_created=True)
        for trigger in model._meta.constraints
        if isinstance(trigger, NotifyTrigger)
        for message in declaration_messages(trigger, model)
    ]


def declaration_messages(
    trigger: NotifyTrigger, model: type[models.Model]
) -> Iterator[CheckMessage]:
    """What is wrong with one declaration."""
    yield from _model_messages(trigger, model)
    yield from _name_messages(trigger, model)

    def fields(names: Sequence[str] | None) -> Callable[[], object]:
        return lambda: [declared.resolve(model, name) for name in names or ()]

    yield from _refusal("E013", trigger, model, "fields", fields(trigger.fields))
    yield from _refusal("E013", trigger, model, "changed", fields(trigger.changed))
    yield from _refusal(
        "E014", trigger, model, "groups", lambda: declared.groups(trigger, model)
    )
    condition = trigger.condition
    if condition is not None:
        yield from _refusal(
            "E015",
            trigger,
            model,
            "condition",
            lambda: declared.check_condition(model, condition),
        )


def _model_messages(
    trigger: NotifyTrigger, model: type[models.Model]
) -> Iterator[CheckMessage]:
    kind = "a proxy" if model._meta.proxy else "" if model._meta.managed else "unmanaged"
    if kind:
        yield Error(
            f"NotifyTrigger {trigger.name!r} stands on {model.__name__}, which is {kind}: no "
            "migration would install it.",
            hint=f"Declare it on {model._meta.concrete_model.__name__}."
            if model._meta.proxy and model._meta.concrete_model
            else "Use the migration operation AddNotifyTrigger.",
            obj=model,
            id="django_pgnotify.E011",
        )


def _name_messages(trigger: NotifyTrigger, model: type[models.Model]) -> Iterator[CheckMessage]:
    name = trigger.topic
    try:
        check_group(name)
        fits = len(name.encode()) <= NAME_BYTES
    except PgnotifyError:
        fits = False
    if not fits:
        yield Error(
            f"NotifyTrigger name {name!r} is not a topic.",
            hint=f"Use 1 to {NAME_BYTES} of A-Z, a-z, 0-9, '-', '_' and '.', not starting with "
            f"{RESERVED_PREFIX!r}.",
            obj=model,
            id="django_pgnotify.E012",
        )


def _refusal(
    number: str,
    trigger: NotifyTrigger,
    model: type[models.Model],
    argument: str,
    resolve: Callable[[], object],
) -> Iterator[CheckMessage]:
    try:
        resolve()
    except PgnotifyError as error:
        yield Error(
            f"NotifyTrigger {trigger.name!r}, {argument}: {error}",
            hint=HINTS[number].format(names=declared.allowed_names(model)),
            obj=model,
            id=f"django_pgnotify.{number}",
        )


def check_databases(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """Triggers that are missing, outdated or disabled, and tenants that could see each other."""
    return [
        message
        for alias in databases or ()
        if connections[alias].vendor == "postgresql"
        for message in _database_messages(connections[alias])
    ]


def _database_messages(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    problems = drift(connection, apps)
    if problems and schema_of_ledger(connection) is None:
        if router.allow_migrate(connection.alias, "django_pgnotify"):
            yield ledger_missing(connection.alias)
        return
    yield from (drifted(item, connection.alias) for item in problems)
    yield from (schemas_blur(name, schemas) for name, schemas in shared_names(connection))


def ledger_missing(alias: str) -> CheckMessage:
    """W020: events would be written nowhere."""
    return CheckWarning(
        f"Database {alias!r} has no ledger: triggers there do nothing.",
        hint=f"Run: manage.py migrate --database {alias}",
        id="django_pgnotify.W020",
    )


def drifted(item: Drift, alias: str) -> CheckMessage:
    """W021: the database does not have what the model declares."""
    hint = f"Run: manage.py migrate --database {alias}"
    if item.problem == "disabled":
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
        hint='Use {schema} in each group, for instance groups=["{schema}-orders"].',
        id="django_pgnotify.E022",
    )
