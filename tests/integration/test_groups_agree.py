"""SQL and Python agree: ``pgnotify_group`` gives the names that ``GroupTemplate`` gives."""

from __future__ import annotations

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_pgnotify.groups import GroupTemplate
from tests.group_vectors import VECTORS

pytestmark = pytest.mark.django_db

# What a text column can hold.
stored_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
mostly_plain = st.one_of(stored_text, st.from_regex(r"[A-Za-z0-9_.\-]{0,60}", fullmatch=True))


def in_sql(template: GroupTemplate, texts: list[str]) -> str:
    literals = [literal for literal, _ in template.parts]
    if len(literals) == len(texts):
        literals.append("")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pgnotify_group(%s::text[], %s::text[])", [literals, texts])
        return str(cursor.fetchone()[0])


@pytest.mark.parametrize(("template", "texts", "name"), VECTORS)
def test_the_vectors_hold_in_sql(template: str, texts: list[str], name: str) -> None:
    assert in_sql(GroupTemplate(template), texts) == name


@pytest.mark.parametrize("template", ["{}", "a-{}", "{}.z", "a-{}-{}", "{}.{}", "{}-{}-{}-end"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_text_gives_one_name_in_both(template: str, data: st.DataObject) -> None:
    parsed = GroupTemplate(template)
    count = len(parsed.placeholders)
    texts = data.draw(st.lists(mostly_plain, min_size=count, max_size=count))
    assert in_sql(parsed, texts) == parsed.fill(texts)


def test_null_gives_no_name() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pgnotify_group(ARRAY['a-', ''], ARRAY[NULL]::text[])")
        assert cursor.fetchone() == (None,)
