"""Reads the documentation as tests do: fenced blocks, tables and headings of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
FENCE = re.compile(r"^(`{3,})(.*)$")
OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
HEADING = re.compile(r"^#+ (.+)$")
CODE = re.compile(r"`([^`]+)`")
ROW = re.compile(r"(?<!\\)\|")


@dataclass(kw_only=True)
class Block:
    """One fenced block."""

    language: str
    """What the fence or its ``code-block`` directive says: python, sql, shell..."""
    text: str
    """The block's lines, each with its line end."""
    options: dict[str, str] = field(default_factory=dict)
    """The directive's options, ``caption`` above all."""
    section: str = ""
    """The heading that the block stands under."""
    line: int = 0
    """Of the fence, from 1."""


def page(name: str) -> str:
    """The text of a page by its path below ``docs``."""
    return (DOCS / name).read_text()


def pages() -> list[str]:
    """The paths of all pages below ``docs``."""
    found = (path.relative_to(DOCS) for path in DOCS.rglob("*.md"))
    return sorted(str(path) for path in found if path.parts[0] != "_build")


def blocks(name: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    section = ""
    lines = iter(enumerate(page(name).splitlines(), 1))
    for number, line in lines:
        if heading := HEADING.match(line):
            section = heading[1]
        elif fence := FENCE.match(line):
            body: list[str] = []
            for _, inner in lines:
                if inner.strip() == fence[1]:
                    break
                body.append(inner)
            yield _block(fence[2].strip(), body, section, number)


def _block(info: str, body: list[str], section: str, line: int) -> Block:
    options: dict[str, str] = {}
    directive = info.startswith("{code-block}")
    while directive and body and (option := OPTION.match(body[0])):
        options[option[1]] = option[2]
        body = body[1:]
    if directive and body and not body[0]:
        body = body[1:]
    return Block(
        language=info.removeprefix("{code-block}").strip(),
        text="".join(f"{text}\n" for text in body),
        options=options,
        section=section,
        line=line,
    )


def tables(name: str) -> Iterator[list[dict[str, str]]]:
    """The tables of a page: each row a dict by the column's heading."""
    table: list[list[str]] = []
    for line in [*page(name).splitlines(), ""]:
        if line.startswith("|"):
            cells = ROW.split(line.strip().strip("|"))
            table.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif table:
            head, _, *rows = table
            yield [dict(zip(head, row, strict=True)) for row in rows]
            table = []


def column(name: str, heading: str) -> list[str]:
    """What stands in a column of that heading, in all tables of the page."""
    return [row[heading] for table in tables(name) for row in table if heading in row]


def code(cell: str) -> str:
    """The first code span of a cell."""
    match = CODE.search(cell)
    assert match is not None, f"no code in {cell!r}"
    return match[1]
