"""SQL and Python agree: a column's JSON by ``pgnotify_json`` is the value's by ``field_json``."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.postgres import fields as postgres
from django.contrib.postgres.signals import get_hstore_oids, register_type_handlers
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models
from django.db.backends.postgresql.psycopg_any import (
    DateRange,
    DateTimeTZRange,
    NumericRange,
)

from django_pgnotify.python_values import pk_to_python, to_python
from django_pgnotify.values import field_json, pk_json
from tests.tables import make

pytestmark = pytest.mark.django_db

UTC = dt.UTC
EAST = dt.timezone(dt.timedelta(hours=5, minutes=30))
MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 1000, tzinfo=EAST)
decimal = models.DecimalField(max_digits=20, decimal_places=3)

# (field, what Python holds before the save)
VALUES: list[tuple[models.Field[Any, Any], list[Any]]] = [
    (models.BooleanField(null=True), [True, False, None]),
    (models.SmallIntegerField(), [-32768, 0, "7"]),
    (models.IntegerField(), [2**31 - 1, -1]),
    (models.BigIntegerField(), [2**53 - 1, 2**53, -(2**53) + 1, -(2**53), 2**63 - 1]),
    (models.PositiveBigIntegerField(), [0, 2**60]),
    (models.FloatField(), [0.1, 1.0, 1e300, 5e-324, float("nan"), float("inf"), -float("inf")]),
    (decimal, [Decimal("1"), Decimal("1.5"), Decimal("-0"), Decimal("2E+3"), "7.1234"]),
    (decimal, [Decimal("0.0005"), Decimal("-0.0005"), 3]),
    (models.CharField(max_length=99), ["", "it's", 'q"\\', "€ 😀", "a\nb\x7f\u2028</script>"]),
    (models.TextField(), ["x" * 10_000]),
    (models.SlugField(), ["a-b_c"]),
    (models.EmailField(), ["a@b.example"]),
    (models.URLField(), ["https://a.example/?b=c&d"]),
    (models.UUIDField(), [uuid.UUID(int=1), str(uuid.UUID(int=2**127))]),
    (models.DateField(), [dt.date(2024, 2, 29), dt.date.min, dt.date.max, "2024-03-01"]),
    (models.DateTimeField(), [MOMENT, MOMENT.replace(microsecond=0)]),
    (models.DateTimeField(), [dt.datetime.min.replace(tzinfo=UTC), dt.datetime(2024, 1, 1)]),
    (models.DateTimeField(), [dt.datetime.max.replace(tzinfo=UTC), dt.date(2024, 1, 1)]),
    (models.TimeField(), [dt.time(0), dt.time(23, 59, 59, 999999), dt.time(12, 30)]),
    (models.DurationField(), [dt.timedelta(0), dt.timedelta(days=1, hours=2, microseconds=3)]),
    (models.DurationField(), [-dt.timedelta(days=400, microseconds=1), dt.timedelta(hours=-1)]),
    (models.BinaryField(), [b"", b"\x00\xff" * 100, memoryview(b"abc")]),
    (models.GenericIPAddressField(), ["192.168.0.1", "2001:DB8::1", "::ffff:10.0.0.1"]),
    (models.FileField(), ["files/a.txt"]),
    (models.JSONField(null=True), [None, {}, [1, 2.5, "é", None], {"n": 2**60, "f": 1.0}]),
    (models.JSONField(encoder=DjangoJSONEncoder), [{"at": MOMENT, "d": Decimal("1.10")}]),
    (postgres.ArrayField(models.IntegerField()), [[], [1, 2, 3]]),
    (postgres.ArrayField(models.BigIntegerField(null=True)), [[2**60, None, 1]]),
    (postgres.ArrayField(decimal), [[Decimal("1"), Decimal("2.5")]]),
    (postgres.ArrayField(models.DateTimeField()), [[MOMENT]]),
    (postgres.ArrayField(models.CharField(max_length=9)), [["a,b", '"', "NULL"]]),
    (postgres.ArrayField(models.UUIDField()), [[uuid.UUID(int=3)]]),
    (postgres.ArrayField(models.BinaryField()), [[b"\x00"]]),
    (postgres.ArrayField(postgres.ArrayField(models.IntegerField())), [[[1, 2], [3, 4]]]),
    (postgres.IntegerRangeField(null=True), [None, NumericRange(1, 5), NumericRange(1, 1)]),
    (postgres.IntegerRangeField(), [NumericRange(1, 5, "(]"), (1, 5), NumericRange(None, 3)]),
    (postgres.IntegerRangeField(), [NumericRange(empty=True), NumericRange()]),
    (postgres.BigIntegerRangeField(), [NumericRange(2**60, 2**60 + 5)]),
    (postgres.DecimalRangeField(), [NumericRange(Decimal("1.5"), Decimal("2.50"), "[]")]),
    (postgres.DateRangeField(), [DateRange(dt.date(2024, 1, 1), dt.date(2024, 2, 1), "[]")]),
    (postgres.DateTimeRangeField(), [DateTimeTZRange(MOMENT, None, "(]")]),
    (postgres.HStoreField(), [{}, {"a": "1", "b": None}]),
]


@pytest.fixture
def hstore(db: None) -> Iterator[None]:
    """The extension, which takes a second to make: only for those who need it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    # Django remembers the type's oid, which goes with the test's transaction.
    get_hstore_oids.cache_clear()
    register_type_handlers(connection)
    yield
    get_hstore_oids.cache_clear()


def sql_json(instance: models.Model, name: str) -> Any:
    table, column = instance._meta.db_table, instance._meta.get_field(name).column
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT pgnotify_json("{column}") FROM "{table}"')
        return json.loads(cursor.fetchone()[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(field, value, id=f"{type(field).__name__}-{value!r:.40}")
        for field, values in VALUES
        for value in values
    ],
)
@pytest.mark.filterwarnings("ignore:DateTimeField .* received a naive datetime")
def test_sql_and_python_agree(
    request: pytest.FixtureRequest, field: models.Field[Any, Any], value: Any
) -> None:
    if isinstance(field, postgres.HStoreField):
        request.getfixturevalue("hstore")
    model = make(constraints=[], value=field.clone())
    saved = model.objects.create(value=value)
    bound = model._meta.get_field("value")
    expected = sql_json(saved, "value")
    stored = model.objects.get()

    assert field_json(bound, value) == expected, "as it was before the save"
    assert field_json(bound, stored.value) == expected, "as it was read"
    back = to_python(model, "value", expected)
    if expected is not None and not isinstance(field, models.JSONField | models.FileField):
        assert back == stored.value
        assert field_json(bound, back) == expected, "there and back again"


def test_foreign_keys_follow_their_target() -> None:
    parent = make("Parent", constraints=[], id=models.UUIDField(primary_key=True))
    field = models.ForeignKey(parent, models.CASCADE, null=True)
    child = make("Child", constraints=[], parent=field)
    key = uuid.uuid4()
    parent.objects.create(id=key)
    saved = child.objects.create(parent_id=str(key))

    assert field_json(child._meta.get_field("parent"), saved.parent_id) == str(key)
    assert sql_json(saved, "parent") == str(key)
    assert to_python(child, "parent", str(key)) == key
    assert to_python(child, "parent_id", str(key)) == key


def test_a_composite_key_is_a_list_and_comes_back_as_a_tuple() -> None:
    model = make(
        constraints=[],
        pk=models.CompositePrimaryKey("shop", "day"),
        shop=models.BigIntegerField(),
        day=models.DateField(),
    )
    thing = model(shop=2**60, day=dt.date(2024, 1, 2))

    assert pk_json(thing) == [str(2**60), "2024-01-02"]
    assert pk_to_python(model, pk_json(thing)) == (2**60, dt.date(2024, 1, 2))


def test_what_no_field_explains_stays_as_it_is() -> None:
    model = make(constraints=[], n=models.IntegerField())
    assert to_python(model, "unknown", "x") == "x"
    assert to_python(None, "n", "x") == "x"
    assert to_python(model, "n", "no number any more") == "no number any more"
