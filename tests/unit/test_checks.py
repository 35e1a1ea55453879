"""What can't work is said by a check, with its cure, before anything runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.apps.registry import Apps
from django.core.checks import CheckMessage, run_checks
from django.db import connection, models, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.models import F, Q, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Length

from django_pgnotify import NotifyTrigger
from django_pgnotify.checks import check_settings, declaration_messages
from django_pgnotify.database_checks import check_databases
from django_pgnotify.exceptions import InvalidDeclaration, PgnotifyError
from tests.shop.models import Customer
from tests.tables import run


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id).removeprefix("django_pgnotify.") for message in messages]


# Settings


@pytest.fixture(autouse=True)
def layer(settings: Any) -> None:
    backend = "django_pgnotify.layers.PostgresChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}


def test_sound_settings_say_nothing() -> None:
    assert check_settings(None) == []


def test_an_unknown_key_is_an_error_that_names_the_nearest(settings: Any) -> None:
    settings.PGNOTIFY = {"RETENTIONS": 1}
    [message] = check_settings(None)
    assert ids([message]) == ["E001"]
    assert "RETENTION" in message.msg
    assert "QUEUE_SIZE" in str(message.hint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("RETENTION", 3600),
        ("RETENTION", timedelta(0)),
        ("HANDLER_ATTEMPTS", 0),
        ("HANDLER_CONCURRENCY", "10"),
        ("QUEUE_SIZE", -1),
        ("POLL_SECONDS", None),
        ("POLL_SECONDS", 0),
        ("HEARTBEAT_SECONDS", float("inf")),
        ("MAX_FRAME_BYTES", 1),
        ("MAX_FRAME_BYTES", True),
        ("ALLOWED_ORIGINS", "https://a.example"),
        ("LISTENER", 7),
        ("CHANNEL_LAYER", None),
    ],
)
def test_a_value_that_can_not_work_is_an_error(settings: Any, key: str, value: object) -> None:
    settings.PGNOTIFY = {key: value}
    first, *_ = check_settings(None)
    assert ids([first]) == ["E007"]
    assert first.msg.startswith(f"PGNOTIFY[{key!r}] = ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("RETENTION", timedelta(seconds=1)),
        ("HANDLER_BACKOFF_SECONDS", 0),
        ("POLL_SECONDS", 2),
        ("ALLOWED_ORIGINS", ("https://a.example",)),
        ("LISTENER", {"HOST": "db"}),
        ("LISTENER", "direct"),
        ("CHANNEL_LAYER", "default"),
    ],
)
def test_a_value_that_can_work_is_none(settings: Any, key: str, value: object) -> None:
    settings.PGNOTIFY = {key: value}
    assert "E007" not in ids(check_settings(None))


def test_a_key_that_is_no_text_is_an_error(settings: Any) -> None:
    settings.PGNOTIFY = {1: 2}
    assert ids(check_settings(None)) == ["E001"]


@pytest.mark.parametrize("layers", [None, {"default": "x"}])
def test_layers_that_are_none_are_an_error(settings: Any, layers: object) -> None:
    settings.CHANNEL_LAYERS = layers
    assert ids(check_settings(None)) == ["E002"]


def test_settings_that_are_no_dict_are_an_error(settings: Any) -> None:
    settings.PGNOTIFY = ["QUEUE_SIZE"]
    [message] = check_settings(None)
    assert ids([message]) == ["E006"]
    assert "dict" in str(message.hint)


def test_a_missing_channel_layer_is_an_error(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    [message] = check_settings(None)
    assert ids([message]) == ["E002"]
    assert "PostgresChannelLayer" in str(message.hint)


def test_the_in_memory_layer_is_a_warning(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    [message] = check_settings(None)
    assert ids([message]) == ["W003"]
    assert "channels_redis" in str(message.hint)


def test_an_unbounded_queue_is_a_warning(settings: Any) -> None:
    settings.PGNOTIFY = {"QUEUE_SIZE": 0}
    [message] = check_settings(None)
    assert ids([message]) == ["W004"]
    assert "bound" in str(message.hint)


def test_no_postgresql_at_all_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DatabaseWrapper, "vendor", "sqlite")
    [message] = check_settings(None)
    assert ids([message]) == ["W005"]
    assert "django.db.backends.postgresql" in str(message.hint)


def test_the_checks_are_registered() -> None:
    assert [m for m in run_checks() if str(m.id).startswith("django_pgnotify.E")] == []


# Declarations


def model(trigger: Any = None, *, base: Any = models.Model, **fields: Any) -> Any:
    meta = fields.pop("meta", {})
    options = {"app_label": "made", "apps": fields.pop("apps", Apps()), **meta}
    return type(
        "Thing", (base,), {"__module__": __name__, "Meta": type("Meta", (), options), **fields}
    )


def messages(**kwargs: Any) -> list[CheckMessage]:
    """What the checks say of a declaration on a model with all sorts of fields."""
    registry = Apps()
    parent = type(
        "Parent",
        (models.Model,),
        {
            "__module__": __name__,
            "Meta": type("Meta", (), {"app_label": "made", "apps": registry}),
            "inherited": models.IntegerField(),
        },
    )
    Thing = model(
        base=parent,
        apps=registry,
        status=models.CharField(max_length=20),
        total=models.DecimalField(max_digits=5, decimal_places=2),
        at=models.DateTimeField(),
        doc=models.JSONField(),
        number=models.IntegerField(),
        friend=models.ForeignKey(parent, models.CASCADE, related_name="+"),
        tags=models.ManyToManyField(parent, related_name="+"),
        twice=models.GeneratedField(
            expression=F("number") * 2, output_field=models.IntegerField(), db_persist=False
        ),
    )
    return list(declaration_messages(NotifyTrigger(**{"name": "things", **kwargs}), Thing))


def test_a_sound_declaration_says_nothing() -> None:
    assert (
        messages(
            fields=["status", "friend", "friend_id", "doc"],
            groups=["all", "friend-{friend_id}", "{schema}-{status}"],
            changed=["total"],
            condition=Q(status__in=["a", "b"]) & ~Q(number=F("friend")),
        )
        == []
    )


@pytest.mark.parametrize("argument", ["fields", "changed"])
@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("statsu", "Allowed are: "),
        ("tags", "publish_signals"),
        ("inherited", "declare a NotifyTrigger on Parent"),
        ("id", "declare a NotifyTrigger on Parent"),
        ("twice", "db_persist=True"),
        ("friend__inherited", "Allowed are: "),
    ],
)
def test_a_field_that_cannot_be_published_is_refused_with_the_cure(
    argument: str, name: str, cure: str
) -> None:
    [message] = messages(**{argument: [name]})
    assert ids([message]) == ["E013"]
    assert "at, doc, friend, friend_id, number" in str(message.hint)
    assert cure in message.msg
    assert name in message.msg


@pytest.mark.parametrize(
    "group",
    [
        "no spaces",
        "",
        "pgnotify.hubs",
        "x" * 100,
        "{status}{number}",
        "{status}_{number}",
        "{status!r}",
        "{status:>9}",
        "{}",
        "{statsu}",
        "{at}",
        "{total}",
        "{doc}",
        "{tags}",
        "{inherited}",
        "{twice}",
        "{status",
        "{status.upper}",
    ],
)
def test_a_group_that_cannot_be_is_refused(group: str) -> None:
    [message] = messages(groups=[group])
    assert ids([message]) == ["E014"]
    assert "customer-{customer_id}" in str(message.hint)


@pytest.mark.parametrize(
    "condition",
    [
        Q(statsu=1),
        Q(friend__inherited=1),
        Q(status__regex="("),
        Q(status__contains="x"),
        Q(status__iexact="x"),
        Q(at__year=2024),
        Q(doc__a=1),
        Q(inherited=1),
        Q(twice=1),
        Q(number=Value(1) / Value(0)),
        Q(number=F("number") / 0),
        Q(number__in=[F("number") / 0]),
        Q(number__in=[RawSQL("1/0", [])]),
        Q(number__in=Customer.objects.values("id")),
        Q(number=F("statsu")),
        Q(Length("status")),
        Q(tags=1),
        Q(number=F("status")),
        Q(number__in=[1, F("at")]),
        Q(number__startswith=F("total")),
        Q(doc=F("status")),
        Q(number__gt="many"),
        Q(at="not a date"),
    ],
)
def test_a_condition_that_could_raise_is_refused(condition: Q) -> None:
    [message] = messages(condition=condition)
    assert ids([message]) == ["E015"]
    assert "startswith" in str(message.hint)


@pytest.mark.parametrize("name", ["x" * 51, "two words", "pgnotify.own", "é", "a/b", 'q"'])
def test_a_name_that_is_no_topic_is_refused(name: str) -> None:
    found = messages(name=name, groups=["all"])
    assert ids(found) == ["E012"]
    assert "1 to 50" in str(found[0].hint)


def test_the_longest_name_is_allowed() -> None:
    assert messages(name="x" * 50) == []


def test_a_proxy_is_refused_and_its_model_named() -> None:
    registry = Apps()
    concrete = model(apps=registry)
    proxy = type(
        "Proxy",
        (concrete,),
        {
            "__module__": __name__,
            "Meta": type("Meta", (), {"proxy": True, "app_label": "made", "apps": registry}),
        },
    )
    [message] = declaration_messages(NotifyTrigger(name="things"), proxy)
    assert ids([message]) == ["E011"]
    assert "Thing" in str(message.hint)


def test_an_unmanaged_model_is_refused_and_the_operation_named() -> None:
    [message] = declaration_messages(
        NotifyTrigger(name="things"), model(meta={"managed": False})
    )
    assert ids([message]) == ["E011"]
    assert "AddNotifyTrigger" in str(message.hint)


@pytest.mark.parametrize(
    "arguments",
    [
        {"fields": "id"},
        {"fields": []},
        {"fields": [1]},
        {"fields": [["id"]]},
        {"groups": []},
        {"groups": "all"},
        {"changed": []},
        {"on": []},
        {"on": "insert"},
        {"on": ["inserted"]},
        {"context": "user"},
        {"condition": "total > 0"},
        {"condition": {"total": 1}},
    ],
    ids=str,
)
def test_an_argument_of_another_form_is_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        NotifyTrigger(**{"name": "things", **arguments})
    assert next(iter(arguments)) in str(caught.value)


def test_abstract_bases_name_their_triggers_late() -> None:
    class Base(models.Model):
        class Meta:
            abstract = True
            app_label = "made"
            constraints = [NotifyTrigger(name="%(app_label)s_%(class)s_changes")]

    child = type(
        "Child",
        (Base,),
        {"__module__": __name__, "Meta": type("Meta", (Base.Meta,), {"apps": Apps()})},
    )
    [trigger] = child._meta.constraints
    assert trigger.name == "made_child_changes"
    assert list(declaration_messages(trigger, child)) == []


def test_a_repeated_name_counts_once() -> None:
    assert NotifyTrigger(name="a", fields=["id", "id"]) == NotifyTrigger(
        name="a", fields=["id"]
    )


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {
            "fields": ["a"],
            "groups": ["b"],
            "on": ["delete"],
            "changed": ["c"],
            "context": ["d"],
        },
        {"condition": Q(a=1) | ~Q(b=F("c"))},
        {"context": []},
    ],
    ids=str,
)
def test_a_declaration_survives_being_written_into_a_migration(kwargs: dict[str, Any]) -> None:
    trigger = NotifyTrigger(name="things", **kwargs)
    path, args, written = trigger.deconstruct()
    assert path == "django_pgnotify.NotifyTrigger"
    assert NotifyTrigger(*args, **written) == trigger
    assert trigger.clone() == trigger


@pytest.mark.parametrize(
    "listener", ["nodb", {"HOSTS": "db"}, {"HOST": "db", "pgbouncer": True}], ids=str
)
def test_a_listener_that_could_never_connect_is_an_error(settings: Any, listener: Any) -> None:
    settings.PGNOTIFY = {"LISTENER": listener}
    [message] = check_settings(None)
    assert ids([message]) == ["E008"]
    assert "LISTENER" in message.msg


@pytest.mark.parametrize(
    "listener",
    [None, "default", {"HOST": "db", "PORT": 5432}, {"host": "db", "sslmode": "require"}],
)
def test_a_listener_that_could_connect_is_none(settings: Any, listener: Any) -> None:
    settings.PGNOTIFY = {"LISTENER": listener}
    assert check_settings(None) == []


@pytest.mark.parametrize("argument", ["fields", "groups", "on", "changed", "context"])
def test_a_text_where_a_list_belongs_is_refused_by_the_name_of_its_trigger(
    argument: str,
) -> None:
    with pytest.raises(InvalidDeclaration, match=f"'order_changes'.*{argument}='id'"):
        NotifyTrigger(name="order_changes", **{argument: "id"})


# Databases


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch, db: None) -> NotifyTrigger:
    """A trigger that the shop's customers declare, and that no migration has installed."""
    trigger = NotifyTrigger(name="patrons", fields=["name"])
    monkeypatch.setattr(Customer._meta, "constraints", [trigger])
    return trigger


def database_messages() -> list[CheckMessage]:
    return [m for m in check_databases(None, ["default"]) if m.obj in {None, Customer}]


def install(trigger: NotifyTrigger) -> None:
    with connection.schema_editor() as editor:
        editor.add_constraint(Customer, trigger)


def test_an_installed_trigger_says_nothing(declared: NotifyTrigger) -> None:
    install(declared)
    assert database_messages() == []


def test_a_missing_trigger_is_a_warning(declared: NotifyTrigger) -> None:
    [message] = database_messages()
    assert ids([message]) == ["W021"]
    assert "missing" in message.msg
    assert "migrate" in str(message.hint)


def test_an_outdated_trigger_is_a_warning(declared: NotifyTrigger) -> None:
    install(declared)
    run("UPDATE django_pgnotify_trigger SET version = 'old' WHERE name = 'patrons'")
    [message] = database_messages()
    assert ids([message]) == ["W021"]
    assert "outdated" in message.msg


def test_a_disabled_trigger_is_a_warning_with_its_own_cure(declared: NotifyTrigger) -> None:
    install(declared)
    run("ALTER TABLE shop_customer DISABLE TRIGGER patrons_update")
    [message] = database_messages()
    assert ids([message]) == ["W021"]
    assert "ENABLE TRIGGER" in str(message.hint)


def test_a_database_without_ledger_is_one_warning(declared: NotifyTrigger) -> None:
    run("ALTER TABLE django_pgnotify_ledger RENAME TO gone")
    [message] = database_messages()
    assert ids([message]) == ["W020"]
    assert "migrate" in str(message.hint)


def test_names_that_stand_in_two_schemas_without_the_schema_in_each_group_are_an_error(
    declared: NotifyTrigger,
) -> None:
    install(declared)
    run(
        "INSERT INTO django_pgnotify_trigger SELECT 'tenant', \"table\", name, 1, function,"
        " declaration, version FROM django_pgnotify_trigger WHERE name = 'patrons'"
    )
    [message] = database_messages()
    assert ids([message]) == ["E022"]
    assert "{schema}" in str(message.hint)


def test_a_schema_that_was_dropped_stands_in_nobodys_way(declared: NotifyTrigger) -> None:
    install(declared)
    run(
        "INSERT INTO django_pgnotify_trigger SELECT 'tenant', \"table\", name, 1,"
        " 'tenant.pgnotify_patrons_ins()', declaration, version"
        " FROM django_pgnotify_trigger WHERE name = 'patrons'"
    )
    assert database_messages() == []


def test_names_that_the_models_tell_apart_by_now_keep_migrate_from_nothing(
    declared: NotifyTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(declared)
    run(
        "INSERT INTO django_pgnotify_trigger SELECT 'tenant', \"table\", name, 1, function,"
        " declaration, version FROM django_pgnotify_trigger WHERE name = 'patrons'"
    )
    cured = NotifyTrigger(name="patrons", fields=["name"], groups=["{schema}-patrons"])
    monkeypatch.setattr(Customer._meta, "constraints", [cured])
    assert ids(database_messages()) == ["W021"]


def test_a_role_that_may_not_read_the_registry_is_told_so(declared: NotifyTrigger) -> None:
    install(declared)
    run("CREATE ROLE made_reader; GRANT USAGE ON SCHEMA public TO made_reader")
    run("SET LOCAL ROLE made_reader")
    with transaction.atomic():
        [message] = check_databases(None, ["default"])
        transaction.set_rollback(True)
    run("RESET ROLE")
    assert ids([message]) == ["W023"]
    assert "GRANT" in str(message.hint)


@pytest.mark.parametrize(
    "trigger",
    [
        NotifyTrigger(name="patrons", fields=["nothing"]),
        NotifyTrigger(name="patrons", groups=["{nothing}"]),
        NotifyTrigger(name="patrons", condition=Q(nothing=1)),
    ],
)
@pytest.mark.django_db
def test_a_declaration_that_another_check_refuses_ends_no_database_check(
    monkeypatch: pytest.MonkeyPatch, trigger: NotifyTrigger
) -> None:
    install(NotifyTrigger(name="patrons"))
    monkeypatch.setattr(Customer._meta, "constraints", [trigger])
    assert database_messages() == []


def test_only_the_databases_that_are_asked_about_are_touched() -> None:
    assert check_databases(None, None) == []


def test_all_refusals_are_of_one_root() -> None:
    assert issubclass(InvalidDeclaration, PgnotifyError)
    assert apps.is_installed("django_pgnotify")


def test_a_declaration_is_the_same_in_every_process() -> None:
    shuffled = NotifyTrigger(name="t", on={"update", "delete", "insert"})
    assert shuffled == NotifyTrigger(name="t")
    assert NotifyTrigger(name="t", on=["truncate", "insert"]).on == ("insert", "truncate")
    with pytest.raises(InvalidDeclaration, match="must be a list"):
        NotifyTrigger(name="t", fields={"id", "name"})
