"""A row is told to exactly the groups that its values name, and to no other."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models
from django.db.models import F, Q

from django_pgnotify import NotifyTrigger, group_name
from django_pgnotify.database_checks import check_databases
from django_pgnotify.groups import GroupTemplate
from django_pgnotify.publish.registry import refresh
from tests.tables import Ledger, make, run

pytestmark = pytest.mark.django_db

KEY = uuid.UUID(int=10)


def thing(**kwargs: Any) -> Any:
    return make(
        constraints=[NotifyTrigger(**{"name": "things", **kwargs})],
        number=models.BigIntegerField(null=True),
        other=models.IntegerField(null=True),
        slug=models.CharField(max_length=200, null=True),
        text=models.TextField(null=True),
        key=models.UUIDField(null=True),
        flag=models.BooleanField(null=True),
        day=models.DateField(null=True),
    )


def told(ledger: Ledger) -> list[tuple[str, bool, list[str]]]:
    """Kind, moved and groups of the new events, each group once as the relay takes them."""
    return [(c["kind"], c.get("moved", False), sorted(set(c["groups"]))) for c in ledger.take()]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("number", 0),
        ("number", -(2**63)),
        ("slug", "plain_Value-9"),
        ("slug", "two words"),
        ("slug", ""),
        ("slug", "h.tricked"),
        ("slug", "é" * 90),
        ("slug", "a" * 92),
        ("slug", "a" * 93),
        ("slug", 'q"\\'),
        ("text", "plain"),
        ("text", "x" * 100_000),
        ("text", "a\n"),
        ("key", KEY),
        ("flag", True),
        ("flag", False),
        ("day", dt.date(2024, 2, 29)),
        ("day", dt.date.min),
        ("day", dt.date.max),
    ],
)
def test_sql_and_python_give_one_name(column: str, value: Any) -> None:
    Thing = thing(groups=[f"thing-{{{column}}}"])
    ledger = Ledger()
    Thing.objects.create(**{column: value})
    assert told(ledger) == [("insert", False, [group_name("thing-{}", value)])]


@pytest.mark.parametrize("values", [("a-b", "c"), ("a", "b-c"), ("a", "b"), ("", "-")])
def test_two_placeholders_never_blur(values: tuple[str, str]) -> None:
    Thing = thing(groups=["t-{slug}-{text}"])
    ledger = Ledger()
    Thing.objects.create(slug=values[0], text=values[1])
    assert told(ledger) == [("insert", False, [group_name("t-{}-{}", *values)])]


def test_dates_that_python_lacks_get_names_of_their_own() -> None:
    thing(groups=["d-{day}"])
    ledger = Ledger()
    run("INSERT INTO made_thing (day) VALUES ('0044-03-15'), ('0044-03-15 BC'), ('infinity')")
    names = {name for _, _, names in told(ledger) for name in names}
    assert len(names) == 3
    assert "d-0044-03-15" in names


def test_null_is_in_no_group_and_a_later_value_enters_one() -> None:
    Thing = thing(groups=["n-{number}"])
    ledger = Ledger()
    Thing.objects.create(id=1)
    assert told(ledger) == [("insert", False, [])]
    Thing.objects.update(number=7)
    assert told(ledger) == [("insert", True, ["n-7"])]
    Thing.objects.update(number=None)
    assert told(ledger) == [("delete", True, ["n-7"])]


def test_a_move_is_a_delete_with_the_old_values_and_an_insert_with_the_new() -> None:
    Thing = thing(groups=["all", "n-{number}"], fields=["id", "number", "slug"])
    Thing.objects.create(id=1, number=1, slug="a")
    ledger = Ledger()
    Thing.objects.update(number=2, slug="b")
    new = {"id": 1, "number": 2, "slug": "b"}
    assert ledger.take() == [
        {
            "kind": "delete",
            "pk": 1,
            "data": {"id": 1, "number": 1, "slug": "a"},
            "moved": True,
            "groups": ["n-1"],
        },
        {
            "kind": "update",
            "pk": 1,
            "data": new,
            "changed": ["number", "slug"],
            "groups": ["all"],
        },
        {"kind": "insert", "pk": 1, "data": new, "moved": True, "groups": ["n-2"]},
    ]


def test_a_move_is_told_whether_or_not_its_column_is_in_changed() -> None:
    Thing = thing(groups=["all", "n-{number}"], changed=["slug"])
    Thing.objects.create(number=1, slug="a")
    ledger = Ledger()
    Thing.objects.update(number=2)
    assert told(ledger) == [("delete", True, ["n-1"]), ("insert", True, ["n-2"])]
    Thing.objects.update(text="other")
    assert told(ledger) == []
    Thing.objects.update(slug="b")
    assert told(ledger) == [("update", False, ["all", "n-2"])]


def test_swapped_sender_and_recipient_stay_in_both_groups() -> None:
    Thing = thing(groups=["user-{number}", "user-{other}"])
    Thing.objects.create(number=1, other=2)
    ledger = Ledger()
    Thing.objects.update(number=F("other"), other=F("number"))
    assert told(ledger) == [("update", False, ["user-1", "user-2"])]


def test_a_group_that_two_templates_name_is_told_once() -> None:
    Thing = thing(groups=["user-{number}", "user-{other}"])
    ledger = Ledger()
    Thing.objects.create(number=1, other=1)
    assert told(ledger) == [("insert", False, ["user-1"])]
    Thing.objects.update(other=2)
    assert sorted(told(ledger)) == [
        ("insert", True, ["user-2"]),
        ("update", False, ["user-1"]),
    ]
    Thing.objects.all().delete()
    assert told(ledger) == [("delete", False, ["user-1", "user-2"])]


def test_rows_that_enter_or_leave_the_condition_move() -> None:
    Thing = thing(condition=Q(number__gt=0))
    ledger = Ledger()
    Thing.objects.create(id=1, number=0)
    assert told(ledger) == []
    Thing.objects.update(number=1)
    assert told(ledger) == [("insert", True, ["things"])]
    Thing.objects.update(number=2)
    assert told(ledger) == [("update", False, ["things"])]
    Thing.objects.update(number=0)
    assert told(ledger) == [("delete", True, ["things"])]
    Thing.objects.all().delete()
    assert told(ledger) == []


def test_null_does_not_meet_a_condition() -> None:
    Thing = thing(condition=Q(number__gt=0))
    ledger = Ledger()
    Thing.objects.create(number=None)
    assert told(ledger) == []
    Thing.objects.update(number=5)
    assert told(ledger) == [("insert", True, ["things"])]
    Thing.objects.update(number=None)
    assert told(ledger) == [("delete", True, ["things"])]


@pytest.mark.parametrize(
    "condition",
    [
        Q(number=3),
        Q(number__in=[1, 2, 3]),
        Q(number__in=[3, None]),
        Q(number__gte=3) & Q(number__lte=F("id")),
        Q(text__isnull=True) | Q(number__lt=0),
        ~Q(number=4),
        ~Q(number__gt=3, slug="a"),
        Q(slug__startswith="50%_\\'"),
        Q(slug="50%_\\'x"),
        Q(slug__in=["50%_\\'x", "$pgnotify$"]),
        Q(flag=True),
        ~Q(flag=False),
        Q(day__gt=dt.date(2024, 1, 1)),
        Q(key=KEY),
        Q(pk=3),
        Q(pk__in=[3, 4]),
        Q(number=F("id")),
        Q(),
        Q(number__in=[]),
        ~Q(number__in=[]),
        Q(text=None),
        Q(slug__gt="5"),
    ],
    ids=str,
)
def test_a_condition_means_what_filter_means(condition: Q) -> None:
    Thing = thing(condition=condition)
    ledger = Ledger()
    Thing.objects.create(
        id=3, number=3, slug="50%_\\'x", flag=True, day=dt.date(2024, 2, 3), key=KEY
    )
    Thing.objects.create(id=4, number=4, slug="a", flag=False, day=dt.date(2023, 2, 3))
    Thing.objects.create(id=5)
    assert [c["pk"] for c in ledger.take()] == list(
        Thing.objects.filter(condition).order_by("id").values_list("id", flat=True)
    )


@pytest.mark.parametrize(
    ("on", "kinds"),
    [
        (["insert"], ["insert", "insert"]),
        (["delete"], ["delete", "delete"]),
        (["update"], ["delete", "insert", "update"]),
        (["insert", "delete"], ["insert", "delete", "insert", "delete"]),
    ],
)
def test_on_names_the_kinds_and_moves_follow_them(on: list[str], kinds: list[str]) -> None:
    Thing = thing(on=on, groups=["n-{number}"])
    ledger = Ledger()
    Thing.objects.create(number=1)
    Thing.objects.update(number=2)
    Thing.objects.update(text="x")
    Thing.objects.all().delete()
    assert [kind for kind, _, _ in told(ledger)] == kinds


@pytest.mark.parametrize("on", [["insert"], ["update"], ["delete"], ["insert", "truncate"]])
def test_without_moves_only_the_kinds_of_on_are_told(on: list[str]) -> None:
    Thing = thing(on=on)
    ledger = Ledger()
    Thing.objects.create(number=1)
    Thing.objects.update(number=2)
    Thing.objects.all().delete()
    run("TRUNCATE made_thing")
    assert [kind for kind, _, _ in told(ledger)] == on


def test_undisclosed_columns_never_appear() -> None:
    Thing = thing(
        fields=["id"],
        groups=["n-{number}"],
        condition=Q(slug__startswith="SECRET"),
        changed=["slug"],
    )
    Thing.objects.create(number=1, slug="SECRET one")
    Thing.objects.update(slug="SECRET two")
    Thing.objects.update(number=2)
    Thing.objects.update(slug="hidden")
    run("ALTER TABLE made_thing RENAME slug TO slug2")
    run("INSERT INTO made_thing (number, slug2) VALUES (1, 'SECRET three')")
    [(everything,)] = run("SELECT string_agg(l::text, '') FROM django_pgnotify_ledger AS l")
    assert "SECRET" not in everything
    assert "slug" not in everything


def test_an_event_without_key_is_not_told_to_groups_of_other_rows() -> None:
    thing(groups=["all", "n-{number}"])
    run("ALTER TABLE made_thing RENAME number TO n")
    ledger = Ledger()
    run("INSERT INTO made_thing (n) VALUES (5)")
    assert ledger.take() == [
        {
            "kind": "insert",
            "pk": None,
            "truncated": True,
            "groups": ["all"],
            "templates": ["n-{number}"],
        }
    ]


# Schemas


def tenant(schema: str, **kwargs: Any) -> Any:
    run(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    run(f'SET LOCAL search_path = "{schema}", public')
    return thing(**kwargs)


def test_tenants_have_functions_and_groups_of_their_own() -> None:
    tenant("tenant1", groups=["{schema}-things"])
    tenant("tenant-2%", groups=["{schema}-things"])
    ledger = Ledger()
    run("INSERT INTO tenant1.made_thing (number) VALUES (1)")
    run('INSERT INTO "tenant-2%%".made_thing (number) VALUES (1)'.replace("%%", "%"))
    assert told(ledger) == [
        ("insert", False, ["tenant1-things"]),
        ("insert", False, [group_name("{schema}-things", schema="tenant-2%")]),
    ]
    assert run(
        "SELECT schema, function FROM django_pgnotify_trigger WHERE name = 'things' ORDER BY 1"
    ) == [
        ("tenant-2%", '"tenant-2%".pgnotify_things_ins()'),
        ("tenant1", "tenant1.pgnotify_things_ins()"),
    ]
    assert "django_pgnotify.E022" not in {m.id for m in check_databases(None, ["default"])}


def test_tenants_that_would_see_each_other_are_an_error() -> None:
    tenant("tenant1", groups=["{schema}-things", "all"])
    tenant("tenant2", groups=["{schema}-things", "all"])
    [message] = [
        m for m in check_databases(None, ["default"]) if m.id == "django_pgnotify.E022"
    ]
    assert "tenant1, tenant2" in message.msg
    assert message.hint is not None
    assert "{schema}" in message.hint


def test_dropping_one_tenant_leaves_the_others_alone() -> None:
    tenant("tenant1", groups=["{schema}-things"])
    tenant("tenant2", groups=["{schema}-things"])
    run("DROP SCHEMA tenant2 CASCADE; SET LOCAL search_path = public")
    refresh(connection, apps)
    ledger = Ledger()
    run("INSERT INTO tenant1.made_thing (number) VALUES (1)")
    assert told(ledger) == [("insert", False, ["tenant1-things"])]
    assert run("SELECT schema FROM django_pgnotify_trigger WHERE name = 'things'") == [
        ("tenant1",)
    ]


def test_a_shared_table_keeps_its_function_when_a_tenant_migrates_it() -> None:
    Thing = thing()
    run("CREATE SCHEMA tenant1; SET LOCAL search_path = tenant1, public")
    with connection.schema_editor() as editor:
        editor.execute(Thing._meta.constraints[0].create_sql(Thing, editor), None)
    run("DROP SCHEMA tenant1 CASCADE")
    ledger = Ledger()
    run("INSERT INTO public.made_thing (number) VALUES (1)")
    assert told(ledger) == [("insert", False, ["things"])]


def test_an_update_of_a_row_in_no_group_is_there_for_handlers() -> None:
    Thing = thing(groups=["thing-{number}-{other}"])
    ledger = Ledger()
    Thing.objects.create(number=1)
    Thing.objects.update(number=2)
    Thing.objects.update(slug="a")
    assert told(ledger) == [("insert", False, []), ("update", False, []), ("update", False, [])]
    Thing.objects.update(other=3)
    assert told(ledger) == [("insert", True, ["thing-2-3"])]


def test_a_short_value_that_becomes_a_long_one_is_cut_as_code_cuts_it() -> None:
    prefix = "x" * 80 + "-"
    model = make(
        constraints=[NotifyTrigger(name="things", groups=[f"{prefix}{{status}}"])],
        status=models.CharField(max_length=10),
    )
    ledger = Ledger()
    model.objects.create(status="a b")
    (change,) = ledger.take()
    assert change["groups"] == [group_name(f"{prefix}{{}}", "a b")]


def test_a_truncate_names_its_own_schema_to_the_groups_of_rows() -> None:
    groups = ["{schema}-n-{number}", "all"]
    thing(groups=groups, on=["truncate"])
    ledger = Ledger()
    run("TRUNCATE made_thing")
    (change,) = ledger.take()
    (template,) = map(GroupTemplate, change["templates"])
    assert change["groups"] == ["all"]
    own, other = (group_name("{}-n-{}", schema, 7) for schema in ("public", "else"))
    assert template.matches(own)
    assert not template.matches(other)
    assert not template.matches("public-n-7-8")
    # Where one value is long, all are hashed.
    long = GroupTemplate(template.text.replace("{number}", "{slug}"))
    assert long.matches(group_name("{}-n-{}", "public", "a" * 95))
    assert not long.matches(group_name("{}-n-{}", "else", "a" * 95))
