"""Install: SQL expressions that put a text together.

A chain of ``||`` is the quickest way for many rows. For one row PostgreSQL spends most of its time
on setting the expression up, function by function: there ``format()`` is the quickest, which is a
single function and takes a value that comes twice once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger.install import literal

MAX_PIECES = 90
"""Of one format(): PostgreSQL passes a function at most 100 arguments (FUNC_MAX_ARGS)."""


class Raw(str):
    """A piece of the text itself. Every other piece is an SQL expression, and never NULL."""

    __slots__ = ()


def concatenated(pieces: Sequence[str]) -> str:
    """The pieces, joined by ``||``."""
    return " || ".join(
        literal(piece) if isinstance(piece, Raw) else piece for piece in _merged(pieces)
    )


def formatted(pieces: Sequence[str]) -> str:
    """The pieces, put together by ``format()``."""
    merged = _merged(pieces)
    batches = [merged[at : at + MAX_PIECES] for at in range(0, len(merged), MAX_PIECES)]
    return " || ".join(map(_format, batches))


def _format(pieces: Sequence[str]) -> str:
    if len(pieces) == 1:
        return concatenated(pieces)
    values = list(dict.fromkeys(piece for piece in pieces if not isinstance(piece, Raw)))
    shape = "".join(
        piece.replace("%", "%%") if isinstance(piece, Raw) else f"%{values.index(piece) + 1}$s"
        for piece in pieces
    )
    return f"format({literal(shape)}, {', '.join(values)})"


def _merged(pieces: Sequence[str]) -> list[str]:
    """Raw pieces that stand side by side are one."""
    found: list[str] = []
    for piece in pieces:
        if found and isinstance(piece, Raw) and isinstance(found[-1], Raw):
            found[-1] = Raw(found[-1] + piece)
        else:
            found.append(piece)
    return found
