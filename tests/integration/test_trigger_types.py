"""Every column type travels as promised, and no value that PostgreSQL accepts fails a write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.postgres import fields as postgres
from django.db import connection, models
from django.db.models import Q

from django_pgnotify import NotifyTrigger
from tests.tables import Ledger, make, run

pytestmark = pytest.mark.django_db


class Raw(models.Field):  # type: ignore[type-arg]
    """A column of any type of PostgreSQL's."""

    def __init__(self, column_type: str = "text", **kwargs: Any) -> None:
        self.column_type = column_type
        super().__init__(**kwargs)

    def db_type(self, connection: Any) -> str:
        return self.column_type

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, [self.column_type, *args], kwargs


NEEDS = {
    "hstore": "CREATE EXTENSION IF NOT EXISTS hstore",
    "citext": "CREATE EXTENSION IF NOT EXISTS citext",
    "mood": "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "pair": "CREATE TYPE pair AS (a int, b text)",
    "short": "CREATE DOMAIN short AS text CHECK (length(VALUE) < 9)",
    "whole": "CREATE DOMAIN whole AS bigint",
    "floats": "CREATE TYPE floats AS RANGE (subtype = float8)",
}


def table(field: models.Field[Any, Any], *, partitioned: bool, **options: Any) -> None:
    kind = getattr(field, "column_type", "").removesuffix("[]")
    if kind in NEEDS:
        run(NEEDS[kind])
    trigger = NotifyTrigger(**{"name": "typed", "fields": ["value"], **options})
    if not partitioned:
        make("Typed", constraints=[trigger], value=field)
        return
    model = make("Typed", constraints=[], value=field)
    run(
        "ALTER TABLE made_typed RENAME TO made_plain;"
        "CREATE TABLE made_typed (LIKE made_plain INCLUDING DEFAULTS INCLUDING IDENTITY)"
        " PARTITION BY LIST (id); CREATE TABLE made_typed_1 PARTITION OF made_typed DEFAULT"
    )
    with connection.schema_editor() as editor:
        editor.add_constraint(model, trigger)


BIG = 2**53
VALUES: list[tuple[models.Field[Any, Any], str, str]] = [
    (models.SmallIntegerField(), "-5", "-5"),
    (models.IntegerField(), "2147483647", "2147483647"),
    (models.PositiveIntegerField(), "0", "0"),
    (models.BigIntegerField(), f"{BIG - 1}", f"{BIG - 1}"),
    (models.BigIntegerField(), f"{BIG}", f'"{BIG}"'),
    (models.BigIntegerField(), f"-{BIG - 1}", f"-{BIG - 1}"),
    (models.BigIntegerField(), f"-{BIG}", f'"-{BIG}"'),
    (models.BigIntegerField(), "-9223372036854775808", '"-9223372036854775808"'),
    (models.BooleanField(), "true", "true"),
    (models.FloatField(), "0.1", "0.1"),
    (models.FloatField(), "'-0'", "-0"),
    (models.FloatField(), "'1e308'", "1e+308"),
    (models.FloatField(), "'Infinity'", "null"),
    (models.FloatField(), "'NaN'", "null"),
    (Raw("real"), "'0.1'", "0.1"),
    (Raw("real"), "'-Infinity'", "null"),
    (Raw("numeric"), "1.50", '"1.50"'),
    (Raw("numeric"), "'NaN'", "null"),
    (Raw("numeric"), "'Infinity'", "null"),
    (Raw("numeric"), "1e-20", '"0.00000000000000000001"'),
    (models.CharField(max_length=99), r"E'a\"\\\n\u2028\u0001é'", None),  # type: ignore[list-item]
    (models.TextField(), r"E'</script>\t\U0001F600'", None),  # type: ignore[list-item]
    (models.TextField(), "''", '""'),
    (models.SlugField(), "'a-b'", '"a-b"'),
    (models.EmailField(), "'a@b.c'", '"a@b.c"'),
    (models.FileField(), "'x/y.txt'", '"x/y.txt"'),
    (models.URLField(), "'http://a'", '"http://a"'),
    (
        models.UUIDField(),
        "'00000000-0000-0000-0000-00000000000A'",
        '"00000000-0000-0000-0000-00000000000a"',
    ),
    (models.DateField(), "'2024-02-29'", '"2024-02-29"'),
    (models.DateField(), "'infinity'", "null"),
    (models.DateField(), "'0044-03-15 BC'", '"0044-03-15 BC"'),
    (models.DateField(), "'12345-01-02'", '"12345-01-02"'),
    (models.DateTimeField(), "'2024-02-29 23:59:59.5+01'", '"2024-02-29T22:59:59.500000Z"'),
    (models.DateTimeField(), "'2024-02-29 00:00:00+00'", '"2024-02-29T00:00:00Z"'),
    (models.DateTimeField(), "'-infinity'", "null"),
    (models.DateTimeField(), "'294276-12-31 00:00:00+00'", '"294276-12-31T00:00:00Z"'),
    (Raw("timestamp"), "'2024-02-29 23:59:59.000001'", '"2024-02-29T23:59:59.000001"'),
    (Raw("timestamp"), "'infinity'", "null"),
    (models.TimeField(), "'23:59:59.25'", '"23:59:59.250000"'),
    (models.TimeField(), "'24:00'", '"24:00:00"'),
    (models.DurationField(), "'1 day 2 hours'", '"P1DT02H00M00S"'),
    (models.DurationField(), "'-1.5 seconds'", '"-P0DT00H00M01.500000S"'),
    (models.DurationField(), "'100000000 years'", '"P36500000000DT00H00M00S"'),
    (models.GenericIPAddressField(), "'10.0.0.1'", '"10.0.0.1"'),
    (models.GenericIPAddressField(), "'::1'", '"::1"'),
    (models.BinaryField(), r"'\x00ff10'", '"AP8Q"'),
    (models.BinaryField(), "''", '""'),
    (models.JSONField(), """'{"b": [1, 1.0, 1e400, 12345678901234567890], "a": "é"}'""", None),  # type: ignore[list-item]
    (models.JSONField(), "'null'", "null"),
    (Raw("json"), r"""'{"a": "\u0000", "a": 2}'""", r'{"a": "\u0000", "a": 2}'),
    (postgres.ArrayField(models.IntegerField()), "'{1,NULL,3}'", "[1,null,3]"),
    (postgres.ArrayField(models.IntegerField()), "'{}'", "[]"),
    (
        postgres.ArrayField(postgres.ArrayField(models.DateField())),
        "'{{2024-01-01,infinity},{NULL,2024-01-02}}'",
        '[["2024-01-01",null],[null,"2024-01-02"]]',
    ),
    (
        postgres.ArrayField(models.CharField(max_length=5)),
        """'{"a,\\"",NULL}'""",
        r'["a,\"",null]',
    ),
    (postgres.ArrayField(Raw("numeric")), "'{1.50,NaN}'", '["1.50",null]'),
    (postgres.ArrayField(models.BigIntegerField()), f"'{{{BIG}}}'", f'["{BIG}"]'),
    (Raw("int[]"), "'[5:6]={1,2}'", "[1,2]"),
    (Raw("int[]"), "'{{{1},{2}},{{3},{4}}}'", "[[[1],[2]],[[3],[4]]]"),
    (postgres.IntegerRangeField(), "'[1,5)'", '{"lower":1,"upper":5,"bounds":"[)"}'),
    (postgres.IntegerRangeField(), "'empty'", '"empty"'),
    (postgres.BigIntegerRangeField(), "'(,5)'", '{"lower":null,"upper":5,"bounds":"()"}'),
    (postgres.DecimalRangeField(), "'[1.50,2]'", '{"lower":"1.50","upper":"2","bounds":"[]"}'),
    (
        postgres.DateRangeField(),
        "'[2024-01-01,infinity)'",
        '{"lower":"2024-01-01","upper":null,"bounds":"[)"}',
    ),
    (
        postgres.DateTimeRangeField(),
        "'[2024-01-01 00:00+00,)'",
        '{"lower":"2024-01-01T00:00:00Z","upper":null,"bounds":"[)"}',
    ),
    (
        Raw("int4multirange"),
        "'{[1,2),[5,7)}'",
        '[{"lower":1,"upper":2,"bounds":"[)"},{"lower":5,"upper":7,"bounds":"[)"}]',
    ),
    (Raw("hstore"), "'a=>1,b=>NULL'", '{"a": "1", "b": null}'),
    (Raw("citext"), "'Aé'", '"Aé"'),
    (Raw("mood"), "'happy'", '"happy"'),
    (Raw("mood[]"), "'{happy,NULL}'", '["happy",null]'),
    (Raw("short"), "'abc'", '"abc"'),
    (Raw("whole"), f"{BIG}", f'"{BIG}"'),
    (Raw("pair"), "'(1,x)'", '{"a":1,"b":"x"}'),
    (Raw("floats"), "'[1.5,2]'", None),  # type: ignore[list-item]
    (Raw("point"), "'(1,2)'", '"(1,2)"'),
    (Raw("money"), "1.5", '"$1.50"'),
    (Raw("bit(3)"), "B'101'", '"101"'),
    (Raw("char(3)"), "'a'", '"a"'),
    (Raw("oid"), "5", '"5"'),
    (Raw("inet"), "'10.0.0.0/8'", '"10.0.0.0/8"'),
    (Raw("tsvector"), "'a:1'", "\"'a':1\""),
    (Raw("int4range[]"), """'{"[1,2)"}'""", '[{"lower":1,"upper":2,"bounds":"[)"}]'),
    (Raw("name"), "'x'", '"x"'),
    (Raw("jsonpath"), "'$.a'", r'"$.\"a\""'),
    (Raw("timetz"), "'10:00+02'", '"10:00:00+02"'),
    (Raw("pg_lsn"), "'0/1'", '"0/1"'),
    (Raw("macaddr"), "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'),
]


def ids(value: Any) -> str:
    return (
        getattr(value, "column_type", type(value).__name__)
        if isinstance(value, models.Field)
        else str(value)[:30]
    )


@pytest.mark.parametrize(("field", "value", "text"), VALUES, ids=ids)
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_a_value_travels_as_promised_and_is_the_same_when_written_again(
    field: models.Field[Any, Any], value: str, text: str | None, partitioned: bool
) -> None:
    table(field, partitioned=partitioned, changed=["value"])
    run("ALTER TABLE made_typed ALTER value DROP NOT NULL")
    ledger = Ledger()
    run(f"INSERT INTO made_typed (value) VALUES ({value})")
    [(changes,)] = run("SELECT changes FROM django_pgnotify_ledger ORDER BY id DESC LIMIT 1")
    if text is not None:
        told = f'[{{"kind":"insert","pk":1,"data":{{"value":{text}}},"groups":["typed"]}}]'
        assert changes == told
    assert "data" in ledger.take()[0]
    run("UPDATE made_typed SET value = value")
    run(f"UPDATE made_typed SET value = ({value})")
    assert ledger.rows() == []
    run("UPDATE made_typed SET value = NULL")
    [change] = ledger.take()
    assert change["data"] == {"value": None}
    assert change["changed"] == ["value"]


@pytest.mark.parametrize(("field", "value", "text"), VALUES, ids=ids)
def test_no_value_makes_postgresql_think_that_compiling_pays(
    field: models.Field[Any, Any], value: str, text: str | None
) -> None:
    table(field, partitioned=False)
    run(f"INSERT INTO made_typed (value) VALUES ({value})")
    with plans() as told:
        run(f"INSERT INTO made_typed (value) VALUES ({value})")
        run(f"UPDATE made_typed SET value = ({value}), id = id + 100")
        run("DELETE FROM made_typed")
    assert "pgnotify_new" in "".join(told)
    costs = [float(cost) for plan in told for cost in re.findall(r"\.\.([\d.]+) rows=", plan)]
    [(above,)] = run("SHOW jit_above_cost")
    assert max(costs) < float(above) or is_matrix(value)


def is_matrix(value: str) -> bool:
    return value.startswith("'{{")


@contextmanager
def plans() -> Iterator[list[str]]:
    """The plans of all statements inside, also of those within functions."""
    told: list[str] = []

    def tell(diagnostic: Any) -> None:
        told.append(diagnostic.message_primary)

    run(
        "LOAD 'auto_explain'; SET LOCAL auto_explain.log_nested_statements = on;"
        "SET LOCAL auto_explain.log_min_duration = 0; SET LOCAL client_min_messages = log"
    )
    connection.connection.add_notice_handler(tell)
    try:
        yield told
    finally:
        connection.connection.remove_notice_handler(tell)


CHANGES = [
    ("citext", "'A'", "'a'"),
    ("jsonb", "'1'", "'1.0'"),
    ("numeric", "1.0", "1.00"),
    ("float8", "'-0'", "'0'"),
    ("real", "'-0'", "'0'"),
    ("interval", "'1 day'", "'24:00'"),
    ("json", "'{}'", "'{ }'"),
    ("point", "'(1,2)'", "'(1,3)'"),
    ("text[]", "'{a}'", "'{A}'"),
    ("numeric[]", "'{1.0}'", "'{1.00}'"),
    ("int[]", "'{1}'", "'[2:2]={1}'"),
    ("numrange", "'[1.0,2]'", "'[1.00,2]'"),
    ("hstore", "'a=>1'", "'a=>2'"),
    ("pair", "'(1,a)'", "'(1,b)'"),
    ("mood", "'sad'", "'happy'"),
    ("short", "'a'", "'b'"),
    ("bytea", r"'\x00'", r"'\x01'"),
    ("bit(2)", "B'00'", "B'01'"),
    ("timetz", "'10:00+00'", "'12:00+02'"),
    ("boolean", "true", "NULL"),
]


@pytest.mark.parametrize(("kind", "before", "after"), CHANGES)
@pytest.mark.parametrize("changed", [None, ["value"]], ids=["any column", "named column"])
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_a_change_of_the_stored_image_is_a_change(
    kind: str, before: str, after: str, changed: list[str] | None, partitioned: bool
) -> None:
    table(Raw(kind, null=True), partitioned=partitioned, changed=changed)
    run(f"INSERT INTO made_typed (value) VALUES ({before})")
    ledger = Ledger()
    run(f"UPDATE made_typed SET value = {after}")
    [change] = ledger.take()
    assert change["changed"] == ["value"]
    assert "data" in change


def test_no_collation_hides_a_change_or_blurs_groups() -> None:
    # Without ICU no collation ignores case; two different ones still meet in one group name.
    collation = "POSIX"
    if run("SELECT FROM pg_collation WHERE collprovider = 'i'"):
        collation = "anycase"
        run(
            "CREATE COLLATION anycase"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    make(
        constraints=[
            NotifyTrigger(
                name="things",
                fields=["text"],
                groups=["a-{text}", "b-{text}-{other}", "all"],
                changed=["text"],
            )
        ],
        text=models.CharField(max_length=9, db_collation=collation),
        other=models.CharField(max_length=9, db_collation="C"),
    )
    run("INSERT INTO made_thing (text, other) VALUES ('A', 'x')")
    ledger = Ledger()
    run("UPDATE made_thing SET text = 'a'")
    assert {(c["kind"], *sorted(c["groups"])) for c in ledger.take()} == {
        ("delete", "a-A", "b-A-x"),
        ("update", "all"),
        ("insert", "a-a", "b-a-x"),
    }


def test_stored_generated_fields_travel() -> None:
    Square = make(
        "Square",
        constraints=[
            NotifyTrigger(
                name="squares", fields=["area"], groups=["area-{area}"], changed=["area"]
            )
        ],
        side=models.IntegerField(),
        area=models.GeneratedField(
            expression=models.F("side") * models.F("side"),
            output_field=models.BigIntegerField(),
            db_persist=True,
        ),
    )
    ledger = Ledger()
    Square.objects.create(side=3)
    Square.objects.update(side=-3)
    Square.objects.update(side=4)
    assert [(c["kind"], c["data"], c["groups"]) for c in ledger.take()] == [
        ("insert", {"area": 9}, ["area-9"]),
        ("delete", {"area": 9}, ["area-9"]),
        ("insert", {"area": 16}, ["area-16"]),
    ]


def test_uuid_keys_travel() -> None:
    make(
        constraints=[NotifyTrigger(name="things")],
        id=models.UUIDField(primary_key=True),
    )
    ledger = Ledger()
    key = "00000000-0000-0000-0000-00000000000a"
    run("INSERT INTO made_thing VALUES (%s)", key)
    [change] = ledger.take()
    assert (change["pk"], change["data"]) == (key, {"id": key})


def test_text_keys_that_differ_in_case_only_are_two_keys() -> None:
    run("CREATE EXTENSION IF NOT EXISTS citext")
    make(constraints=[NotifyTrigger(name="things")], id=Raw("citext", primary_key=True))
    run("INSERT INTO made_thing VALUES ('A')")
    ledger = Ledger()
    run("UPDATE made_thing SET id = 'a'")
    assert sorted((c["kind"], c["pk"]) for c in ledger.take()) == [
        ("delete", "A"),
        ("insert", "a"),
    ]


def test_composite_keys_travel_as_a_list() -> None:
    make(
        "Seat",
        constraints=[NotifyTrigger(name="seats", fields=["free"])],
        pk=models.CompositePrimaryKey("row", "number"),
        row=models.CharField(max_length=2),
        number=models.IntegerField(),
        free=models.BooleanField(),
    )
    ledger = Ledger()
    run("INSERT INTO made_seat VALUES ('A', 1, true)")
    run("UPDATE made_seat SET free = false")
    run("UPDATE made_seat SET number = 2")
    run("DELETE FROM made_seat")
    assert [(c["kind"], c["pk"]) for c in ledger.take()] == [
        ("insert", ["A", 1]),
        ("update", ["A", 1]),
        *sorted([("delete", ["A", 1]), ("insert", ["A", 2])], key=str),
        ("delete", ["A", 2]),
    ]


def test_the_default_of_fields_is_each_part_of_a_composite_key() -> None:
    make(
        "Seat",
        constraints=[NotifyTrigger(name="seats")],
        pk=models.CompositePrimaryKey("row", "number"),
        row=models.CharField(max_length=2),
        number=models.IntegerField(),
    )
    ledger = Ledger()
    run("INSERT INTO made_seat VALUES ('A', 1)")
    [change] = ledger.take()
    assert change["data"] == {"row": "A", "number": 1}


def test_a_multi_table_child_publishes_its_own_columns() -> None:
    Place = make("Place", constraints=[], title=models.TextField())
    Cafe = make(
        "Cafe",
        constraints=[NotifyTrigger(name="cafes", fields=["place_ptr", "seats"])],
        base=Place,
        apps=Place._meta.apps,
        seats=models.IntegerField(),
    )
    ledger = Ledger()
    cafe = Cafe.objects.create(title="x", seats=3)
    Cafe.objects.update(seats=4, title="y")
    assert [(c["kind"], c["pk"], c["data"]) for c in ledger.take()] == [
        ("insert", cafe.pk, {"place_ptr": cafe.pk, "seats": 3}),
        ("update", cafe.pk, {"place_ptr": cafe.pk, "seats": 4}),
    ]


def test_a_foreign_key_stands_under_the_name_that_was_declared() -> None:
    Parent = make("Parent", constraints=[], id=models.UUIDField(primary_key=True))
    make(
        "Child",
        constraints=[NotifyTrigger(name="children", fields=["parent", "parent_id"])],
        parent=models.ForeignKey(Parent, on_delete=models.CASCADE, db_constraint=False),
        apps=Parent._meta.apps,
    )
    ledger = Ledger()
    key = "00000000-0000-0000-0000-00000000000a"
    run("INSERT INTO made_child (parent_id) VALUES (%s)", key)
    assert ledger.take()[0]["data"] == {"parent": key, "parent_id": key}


def test_columns_that_no_field_knows_hurt_nobody() -> None:
    make(constraints=[NotifyTrigger(name="things", fields=["text"])], text=models.TextField())
    run(
        "ALTER TABLE made_thing ADD at point DEFAULT '(1,2)',"
        ' ADD raw json DEFAULT \'{"a":"\\u0000"}\', ADD "~x" money DEFAULT 1, ADD _pgn_rows int,'
        " ADD found int, ADD old int, ADD new text, ADD tg_op text, ADD head text, ADD data text"
    )
    ledger = Ledger()
    run("INSERT INTO made_thing (text) VALUES ('a')")
    run("UPDATE made_thing SET at = '(1,3)'")
    run("UPDATE made_thing SET raw = '{ }'")
    run("UPDATE made_thing SET raw = '{ }'")
    assert [(c["kind"], c["changed"]) for c in ledger.take()[1:]] == [("update", [])] * 2


def test_columns_named_like_our_words_are_columns() -> None:
    names = [
        "kind",
        "pk_",
        "old",
        "new",
        "found",
        "data",
        "head",
        "tail",
        "names",
        "schema",
        "r",
        "tg_op",
    ]
    make(
        constraints=[
            NotifyTrigger(
                name="things",
                fields=names,
                groups=["g-{old}", "s-{schema}"],
                condition=Q(found__lt="z"),
            )
        ],
        **{name: models.CharField(max_length=9, default=name) for name in names},
    )
    quoted = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(f"'{name}'" for name in names)
    ledger = Ledger()
    run(f"INSERT INTO made_thing ({quoted}) VALUES ({values})")
    run("UPDATE made_thing SET old = 'other'")
    changes = ledger.take()
    assert changes[0]["data"] == {name: name for name in names}
    assert changes[0]["groups"] == ["g-old", "s-schema"]
    assert [c["kind"] for c in changes] == ["insert", "delete", "update", "insert"]


# Sizes


def typed_text() -> Ledger:
    make(constraints=[NotifyTrigger(name="things", fields=["text"])], text=models.TextField())
    return Ledger()


def test_a_value_of_sixteen_mebibytes_goes_without_data() -> None:
    ledger = typed_text()
    run("INSERT INTO made_thing (text) VALUES (repeat('x', 17 * 1024 * 1024))")
    run("UPDATE made_thing SET text = repeat('y', 17 * 1024 * 1024)")
    run("DELETE FROM made_thing")
    assert ledger.take() == [
        {"kind": "insert", "pk": 1, "truncated": True, "groups": ["things"]},
        {
            "kind": "update",
            "pk": 1,
            "truncated": True,
            "changed": ["text"],
            "groups": ["things"],
        },
        {"kind": "delete", "pk": 1, "truncated": True, "groups": ["things"]},
    ]


def test_a_value_that_grows_over_the_limit_as_json_goes_without_data() -> None:
    ledger = typed_text()
    run("INSERT INTO made_thing (text) VALUES (repeat(E'\\x01', 4 * 1024 * 1024))")
    assert ledger.take() == [
        {"kind": "insert", "pk": 1, "truncated": True, "groups": ["things"]}
    ]


def test_a_hundred_megabytes_that_compress_well_are_not_unpacked() -> None:
    make(
        constraints=[NotifyTrigger(name="things", fields=["raw", "text"])],
        raw=models.BinaryField(default=b""),
        text=models.TextField(default=""),
    )
    ledger = Ledger()
    run(
        "INSERT INTO made_thing (raw, text)"
        " VALUES (convert_to(repeat('x', 50000000), 'UTF8'), repeat('y', 50000000))"
    )
    assert ledger.take() == [
        {"kind": "insert", "pk": 1, "truncated": True, "groups": ["things"]}
    ]


def test_a_number_of_twenty_thousand_digits_travels_whole() -> None:
    make(constraints=[NotifyTrigger(name="things", fields=["n"])], n=Raw("numeric"))
    ledger = Ledger()
    run("INSERT INTO made_thing (n) VALUES (repeat('7', 20000)::numeric)")
    assert ledger.take()[0]["data"] == {"n": "7" * 20000}


def test_a_row_of_eight_hundred_columns_travels() -> None:
    names = [f"c{n}" for n in range(800)]
    make(
        constraints=[NotifyTrigger(name="things", fields=names)],
        **{name: models.SmallIntegerField(default=0) for name in names},
    )
    ledger = Ledger()
    run(f"INSERT INTO made_thing ({', '.join(names)}) VALUES ({', '.join('1' for _ in names)})")
    run("UPDATE made_thing SET c7 = 2")
    first, second = ledger.take()
    assert len(first["data"]) == 800
    assert second["changed"] == ["c7"]


def test_a_table_of_sixteen_hundred_columns_can_be_written() -> None:
    make(constraints=[NotifyTrigger(name="things")], text=models.TextField(null=True))
    for start in range(0, 1598, 200):
        stop = min(start + 200, 1598)
        run("ALTER TABLE made_thing " + ", ".join(f"ADD c{n} bool" for n in range(start, stop)))
    ledger = Ledger()
    run("INSERT INTO made_thing (text) VALUES ('a')")
    run("UPDATE made_thing SET c1 = true")
    run("DELETE FROM made_thing")
    assert [c["kind"] for c in ledger.take()] == ["insert", "update", "delete"]


def test_json_of_any_depth_can_be_written() -> None:
    make(constraints=[NotifyTrigger(name="things", fields=["doc"])], doc=models.JSONField())
    run("INSERT INTO made_thing (doc) VALUES ((repeat('[', 5000) || repeat(']', 5000))::jsonb)")
    [(changes,)] = run("SELECT changes FROM django_pgnotify_ledger ORDER BY id DESC LIMIT 1")
    assert "[" * 5000 in changes
