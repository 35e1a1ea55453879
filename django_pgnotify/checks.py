"""System checks: what can't work is said before anything runs. One builder a message; ids are
never reused. Those that need a database stand in ``database_checks.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import connections, models

from .conf import KEYS, settings, unknown_key_message, wrong_value_message
from .connecting import unknown_option
from .exceptions import PgnotifyError
from .groups import RESERVED_PREFIX, check_group
from .publish import declaration as declared
from .publish.trigger import NotifyTrigger

# "pgnotify_..._ins", of a function, makes it 63, the most that an identifier has.
NAME_BYTES = 50
NOT_IN_META = "django_pgnotify.E011"
"""Of a model that no migration of its own app installs a trigger on."""
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
        *_listener_messages(given.get("LISTENER")),
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


def _listener_messages(listener: object) -> Iterator[CheckMessage]:
    """E008: pglisten and the hubs would try it for ever."""
    problem = None
    if isinstance(listener, str) and listener not in connections:
        problem = "is no alias of DATABASES"
    elif isinstance(listener, dict) and (reason := unknown_option(listener)):
        problem = f"is no set of connection options: {reason}"
    if problem:
        yield Error(
            f'PGNOTIFY["LISTENER"] = {listener!r} {problem}.',
            hint='Name an alias, or give options of libpq, such as {"host": "db", "port": 5432}.',
            id="django_pgnotify.E008",
        )


def _layer_messages() -> Iterator[CheckMessage]:
    alias = str(settings.CHANNEL_LAYER)
    layers = getattr(django_settings, "CHANNEL_LAYERS", None) or {}
    if not isinstance(layers.get(alias), dict):
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
            id=NOT_IN_META,
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
