"""The one rule of values, where no database is needed."""

from __future__ import annotations

import enum
import uuid
from collections import OrderedDict, UserDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.apps.registry import Apps
from django.db import models
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from django_pgnotify.events import dumps
from django_pgnotify.exceptions import InvalidEvent
from django_pgnotify.values import row_json, to_json_value


class Status(models.TextChoices):
    PAID = "paid"


class Size(enum.Enum):
    BIG = Decimal("1.50")


VECTORS: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (2**53 - 1, 2**53 - 1),
    (2**53, str(2**53)),
    (-(2**53), str(-(2**53))),
    (1.5, 1.5),
    (float("nan"), None),
    (float("-inf"), None),
    (Decimal("1.50"), "1.50"),
    (Decimal("1E+3"), "1000"),
    (Decimal("-0.00"), "0.00"),
    (Decimal("NaN"), None),
    (Decimal("Infinity"), None),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02T03:04:05Z"),
    (
        datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=-2))),
        "2024-01-02T05:04:05.000006Z",
    ),
    (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
    (date(2024, 1, 2), "2024-01-02"),
    (time(3, 4), "03:04:00"),
    (timedelta(days=-1), "-P1DT00H00M00S"),
    (timedelta(seconds=1, microseconds=1), "P0DT00H00M01.000001S"),
    (b"\x00\xff", "AP8="),
    (memoryview(b"abc"), "YWJj"),
    (Status.PAID, "paid"),
    (Size.BIG, "1.50"),
    (gettext_lazy("hello"), "hello"),
    (mark_safe("<b>"), "<b>"),
    ((1, [2, (3,)]), [1, [2, [3]]]),
    ({"a": {"n": 2**60}}, {"a": {"n": str(2**60)}}),
    ({1: "x", Status.PAID: "y"}, {"1": "x", "paid": "y"}),
    (OrderedDict(a=Decimal(1)), {"a": "1"}),
    (UserDict(a=[b"a"]), {"a": ["YQ=="]}),
    ("\ud800 \x00", "\ud800 \x00"),
]


@pytest.mark.parametrize(("value", "expected"), VECTORS, ids=[repr(v)[:40] for v, _ in VECTORS])
def test_a_value_becomes_json_by_the_rule(value: Any, expected: Any) -> None:
    assert dumps(to_json_value(value)) == dumps(expected)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, object()]}, "data['a'][1]"),
        ({"a": {2, 3}}, "data['a']"),
        ({("x",): 1}, "data"),
        (int, "data"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "data"),
    ],
)
def test_what_is_no_json_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(InvalidEvent) as error:
        to_json_value(value)
    assert str(error.value).startswith(path)


def test_inside_a_json_field_of_a_row_nothing_is_rewritten() -> None:
    class Paper(models.Model):
        content = models.JSONField()
        size = models.BigIntegerField()

        class Meta:
            app_label = "values"
            apps = Apps()

    row = {"content": {"n": 2**60}, "size": 2**60, "other": [2**60], "total": Decimal("1.50")}
    assert row_json(Paper, row) == {
        "content": {"n": 2**60},
        "size": str(2**60),
        "other": [str(2**60)],
        "total": "1.50",
    }
