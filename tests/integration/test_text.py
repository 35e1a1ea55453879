"""Both ways to put a text together in SQL give the same."""

from __future__ import annotations

import pytest

from django_pgnotify.publish.text import MAX_PIECES, Raw, concatenated, formatted
from tests.hub_kit import execute

pytestmark = pytest.mark.django_db

ODD = Raw("100%s %1$s 'quoted' \"twice\" back\\slash $pgnotify$ \u00e4\n")


@pytest.mark.parametrize(
    "pieces",
    [
        [Raw("nothing but text %")],
        ["'a value'"],
        [ODD, "1::text", ODD, ODD, "'%s'::text", "1::text", Raw("")],
        [piece for n in range(3 * MAX_PIECES) for piece in (f"{n % 100}::text", Raw(","))],
    ],
    ids=["text", "value", "odd", "more than a function takes"],
)
def test_format_gives_what_a_chain_gives(pieces: list[str]) -> None:
    values = [piece if isinstance(piece, Raw) else _value(piece) for piece in pieces]
    shown = "".join(values)
    for expression in (concatenated(pieces), formatted(pieces)):
        # %% as in any query with parameters.
        [[text]] = execute("SELECT " + expression.replace("%", "%%"))
        assert text == shown


def test_a_value_that_is_the_whole_text_stays_null() -> None:
    assert execute("SELECT " + formatted(["NULL::text"])) == [(None,)]


def _value(piece: str) -> str:
    return piece.removesuffix("::text").strip("'")
