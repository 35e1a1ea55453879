"""The page of the guarantees tells what the runs have measured, and not what somebody remembers."""

from __future__ import annotations

from .page import FIGURES, PAGE, filled


def test_the_page_has_a_place_for_each_run() -> None:
    text = PAGE.read_text()
    for name in FIGURES:
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1


def test_the_page_tells_the_figures_of_the_runs() -> None:
    text = PAGE.read_text()
    assert filled(text) == text, "python -m tests.oracle.page"
