"""Group names in Python."""

from __future__ import annotations

import enum
import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import models
from hypothesis import assume, given
from hypothesis import strategies as st

from django_pgnotify import group_name
from django_pgnotify.exceptions import InvalidGroup
from django_pgnotify.groups import GroupTemplate, check_group, wire_name
from tests.group_vectors import VECTORS


class Status(models.TextChoices):
    PAID = "paid"


class Level(str, enum.Enum):  # noqa: UP042 - its str() is not its value
    HIGH = "high"


@pytest.mark.parametrize(("template", "texts", "name"), VECTORS)
def test_values_fill_a_template(template: str, texts: list[str], name: str) -> None:
    assert GroupTemplate(template).fill(texts) == name
    assert group_name(template, *texts) == name
    assert GroupTemplate(template).matches(name)
    check_group(name)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (7, "g-7"),
        (True, "g-true"),
        (False, "g-false"),
        (uuid.UUID(int=1), f"g-{uuid.UUID(int=1)}"),
        (date(2024, 1, 2), "g-2024-01-02"),
        (Status.PAID, "g-paid"),
        (Level.HIGH, "g-high"),
    ],
)
def test_python_values_stand_as_their_text(value: Any, name: str) -> None:
    assert group_name("g-{}", value) == name
    assert group_name("g-{key}", key=value) == name


@pytest.mark.parametrize("value", [None, 1.5, Decimal(1), datetime(2024, 1, 1), b"x", [1]])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(InvalidGroup):
        group_name("g-{}", value)


@pytest.mark.parametrize(
    ("template", "args", "kwargs"),
    [
        ("g-{}", [], {}),
        ("g-{}", [1, 2], {}),
        ("g-{a}", [1], {}),
        ("g-{a}", [], {"b": 1}),
        ("g-{", [1], {}),
        ("g-{!r}", [1], {}),
        ("g-{:>5}", [1], {}),
        ("g {}", [1], {}),
        ("g-{}{}", [1, 23], {}),
        ("g-{}_{}", ["a_b", "c"], {}),
    ],
)
def test_a_template_that_does_not_fit_is_refused(
    template: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(InvalidGroup):
        group_name(template, *args, **kwargs)


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "é", "x" * 100, "pgnotify.hubs", "a\n", None, 7]
)
def test_what_is_no_group_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidGroup):
        check_group(name)


@pytest.mark.parametrize(
    "template", ["{a}{b}", "{a}_{b}", "{a}.{b}.{c}", "pgnotify.{a}", "{a} x"]
)
def test_templates_whose_values_could_blur_are_refused(template: str) -> None:
    with pytest.raises(InvalidGroup):
        GroupTemplate(template).check()


@given(st.lists(st.text(), min_size=2, max_size=2), st.lists(st.text(), min_size=2, max_size=2))
def test_two_rows_never_meet_in_one_group(one: list[str], other: list[str]) -> None:
    assume(one != other)
    template = GroupTemplate("a-{x}-{y}")
    assert template.fill(one) != template.fill(other)


def test_null_yields_no_group() -> None:
    assert GroupTemplate("a-{x}").render({"x": None}) is None
    assert GroupTemplate("a-{x}").render({"x": 1, "y": None}) == "a-1"


def test_other_databases_groups_are_prefixed_on_the_wire() -> None:
    assert wire_name("orders", "default") == "orders"
    assert wire_name("orders", "other") == "other.orders"
    assert len(wire_name("x" * 99, "other")) < 100
