"""The reference pages say what the code says: nothing is missing, and nothing is made up."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

import django_pgnotify
from django_pgnotify import checks, conf, database_checks, events, exceptions
from django_pgnotify.consumers import browser
from django_pgnotify.ledger.install import TABLES, function_names
from django_pgnotify.management.commands import pglisten
from django_pgnotify.metrics import Metrics
from tests.markdown import Block, blocks, code, column, page, pages, tables

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "django_pgnotify"
PYTHON_PAGE = "reference/python.md"


def rows(name: str, heading: str) -> dict[str, dict[str, str]]:
    """The rows of the tables with this column, by the code in it."""
    found = [row for table in tables(name) for row in table if heading in row]
    by_code = {code(row[heading]): row for row in found}
    assert len(by_code) == len(found), f"{name} says something twice"
    return by_code


def codes(name: str, heading: str) -> set[str]:
    """The code in each cell of a column."""
    return {code(cell) for cell in column(name, heading)}


def test_the_settings_page_lists_every_key_with_its_true_default() -> None:
    shown = rows("reference/settings.md", "key")
    assert set(shown) == set(conf.KEYS)
    for key, row in shown.items():
        default = eval(code(row["default"]), {"timedelta": timedelta})
        assert default == getattr(conf.Defaults, key), key


def test_the_checks_page_lists_every_id() -> None:
    source = inspect.getsource(checks) + inspect.getsource(database_checks)
    numbers = set(re.findall(r"\b[EW]\d{3}\b", source))
    assert codes("reference/checks.md", "id") == {f"django_pgnotify.{n}" for n in numbers}


def test_the_page_of_pglisten_lists_every_option_exit_code_and_metric() -> None:
    name = "reference/pglisten.md"
    options = re.findall(r'add_argument\(\s*"(--[\w-]+)"', inspect.getsource(pglisten))
    assert codes(name, "option") == set(options)
    assert codes(name, "code") == set(re.findall(r"^  (\d)  ", pglisten.HELP, re.MULTILINE))
    assert {
        line.split()[0] for line in Metrics().text().splitlines() if not line.startswith("#")
    } == codes(name, "metric")


def test_the_page_of_pglisten_lists_every_line_that_the_relay_logs() -> None:
    folders = ("relay", "handling")
    paths = [path for folder in folders for path in (PACKAGE / folder).glob("*.py")]
    source = "".join(path.read_text() for path in paths)
    assert codes("reference/pglisten.md", "action") == set(
        re.findall(r'"action": "([\w-]+)"', source)
    )


def test_the_page_of_pglisten_lists_every_probe() -> None:
    source = (PACKAGE / "relay" / "probes.py").read_text()
    assert codes("reference/pglisten.md", "probe") == set(
        re.findall(r'_?[pP]robe\("([\w ]+)"', source)
    )


def test_the_frames_page_lists_every_key_of_an_event() -> None:
    keys = [
        code(row["key"])
        for table in tables("reference/frames.md")
        for row in table
        if "key" in row
    ]
    assert keys[: len(events.WIRE_KEYS)] == list(events.WIRE_KEYS)
    for kind in events.KINDS:
        assert f"`{kind}`" in page("reference/frames.md")


def test_the_frames_page_lists_every_reason_and_error_code() -> None:
    assert codes("reference/frames.md", "reason") == set(get_args(browser.Reason))
    assert codes("reference/frames.md", "code") == set(get_args(browser.ErrorCode))


def test_the_errors_page_lists_every_error() -> None:
    defined = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and issubclass(value, exceptions.PgnotifyError)
    }
    assert codes("reference/errors.md", "error") == defined


def test_the_sql_page_lists_every_function_and_table() -> None:
    assert codes("reference/sql.md", "function") == set(function_names())
    assert codes("reference/sql.md", "table") == {f"django_pgnotify_{name}" for name in TABLES}


def imported() -> dict[str, Any]:
    """The public names, imported as the Python page says."""
    (block, *_) = blocks(PYTHON_PAGE)
    names: dict[str, Any] = {}
    exec(block.text, names)
    return {name: value for name, value in names.items() if name != "__builtins__"}


def definitions() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """What the Python page defines."""
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        node.name: node
        for block in blocks(PYTHON_PAGE)
        if block.language == "python"
        for node in ast.parse(block.text).body
        if isinstance(node, defined)
    }


def test_the_python_page_imports_every_public_name() -> None:
    assert set(django_pgnotify.__all__) <= set(imported())


@pytest.mark.parametrize("name", sorted(definitions()))
def test_the_python_page_shows_the_true_signature(name: str) -> None:
    node, value = definitions()[name], imported()[name]
    if not isinstance(node, ast.ClassDef):
        assert isinstance(node, ast.AsyncFunctionDef) == inspect.iscoroutinefunction(value)
        assert shown_parameters(node) == true_parameters(value)
        return
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            assert shown_parameters(item) == true_parameters(getattr(value, item.name))
        elif isinstance(item, ast.Assign):
            (target,) = item.targets
            assert isinstance(target, ast.Name)
            shown = ast.literal_eval(item.value)
            assert plain(getattr(value, target.id)) == plain(shown)
    annotated = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    if annotated:
        names = [item.target.id for item in annotated if isinstance(item.target, ast.Name)]
        assert names == [field.name for field in dataclasses.fields(value)]


def shown_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, str]]:
    """Names and defaults of a definition in the page."""
    blank = ast.fix_missing_locations(
        ast.Module([type(node)(**{**vars(node), "body": [ast.Pass()]})], [])
    )
    names: dict[str, Any] = {}
    exec(compile(blank, PYTHON_PAGE, "exec"), names)
    return true_parameters(names[node.name])


def true_parameters(function: Any) -> list[tuple[str, str]]:
    """Names with their kind, and defaults."""
    return [
        (f"{parameter.kind.name} {parameter.name}", repr(plain(parameter.default)))
        for parameter in inspect.signature(function).parameters.values()
    ]


def plain(value: Any) -> Any:
    """A tuple and a list say the same."""
    return list(value) if isinstance(value, tuple) else value


def python_blocks() -> list[Any]:
    found = [
        pytest.param(block, id=f"{name}:{block.line}")
        for name in [*pages(), "../README.md"]
        for block in blocks(name)
        if block.language == "python"
    ]
    assert found
    return found


@pytest.mark.parametrize("block", python_blocks())
def test_python_in_the_documentation_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(tree, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("django"):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize("name", ["guarantees", "faults"])
def test_the_explanations_name_tests_that_exist(name: str) -> None:
    defined = {
        found
        for folder in ("tests", "example_project")
        for path in (ROOT / folder).rglob("test_*.py")
        for found in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    named = re.findall(r"`(test_\w+)`", page(f"explanation/{name}.md"))
    assert named
    unknown = set(named) - defined
    assert not unknown


@pytest.mark.parametrize("name", [*pages(), "../README.md", "../CHANGELOG.md"])
def test_the_word_channel_never_stands_bare(name: str) -> None:
    text = re.sub(r"`[^`]*`|```.*?```", "", page(name), flags=re.DOTALL)
    text = re.sub(r"the word \*channel\*", "", text, flags=re.IGNORECASE)
    bare = re.findall(r"(?<!pg\s)\bchannels?\b(?!\s+layer)", text)
    assert not bare


@pytest.mark.parametrize("name", pages())
def test_links_between_pages_lead_somewhere(name: str) -> None:
    folder = (ROOT / "docs" / name).parent
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page(name)):
        if "://" not in target:
            assert (folder / target).exists(), target
