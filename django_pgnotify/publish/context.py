"""Context: who or what caused a change, carried to events by a setting of the transaction."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..events import Json, dumps
from ..exceptions import InvalidEvent
from ..values import to_json_value

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
R = TypeVar("R")

MAX_CONTEXT_BYTES = 8 * 1024
"""Bytes of JSON of the whole context: it stands in each ledger row beside what happened."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What a block and those around it hold."""

    values: Mapping[str, Json]
    text: str
    """The same as JSON; "" for nothing."""
    block: event_context | None = None
    outer: _Held | None = None

    def within(self, block: event_context) -> _Held:
        """This with a block inside."""
        values = {**self.values, **block._values}
        text = dumps(values) if values else ""
        return _Held(values=values, text=text, block=block, outer=self)

    def without(self, block: event_context) -> _Held:
        """This without the innermost entry of a block. A generator leaves its block when it is
        closed, which may be inside of another one, or in another thread."""
        if self.outer is None or self.block is None:
            return self
        if self.block is block:
            return self.outer
        outer = self.outer.without(block)
        return self if outer is self.outer else outer.within(self.block)


NOTHING = _Held(values={}, text="")
# What to go back to stands in here and not in the block's object, which threads may share.
_current: ContextVar[_Held] = ContextVar("django_pgnotify_context", default=NOTHING)


def current_context() -> dict[str, Json]:
    """What the enclosing ``event_context`` blocks hold, as JSON values."""
    return dict(_current.get().values)


class event_context:
    """Say who or what causes the changes inside: ``with event_context(user=user.pk): ...``.

    A context manager (``async with`` too) and a decorator of sync and async functions. Inner
    blocks add to outer ones and win where both name a key. Values follow the rule of event
    data and together have at most 8 KiB as JSON; else InvalidEvent is raised.

    It holds for events of triggers, ``notify`` and ``publish_signals``, on all databases.
    Outside of a transaction the statement gets one of its own; what PostgreSQL refuses in one
    (VACUUM) or might refuse (CALL, DO) then goes without context, and so does
    ``cursor.copy()`` where it is the first write of its transaction.
    """

    def __init__(self, /, **values: Any) -> None:
        self._values: dict[str, Json] = {
            key: to_json_value(value, f"event_context({key}=...)")
            for key, value in values.items()
        }

    def __enter__(self) -> None:
        held = _current.get().within(self)
        if len(held.text) > MAX_CONTEXT_BYTES:
            raise InvalidEvent(
                f"event_context holds {len(held.text)} bytes of JSON in all, of "
                f"{MAX_CONTEXT_BYTES} allowed: give keys, not objects."
            )
        _current.set(held)

    def __exit__(self, *exc_info: object) -> None:
        # Connections follow at their next statement, so that leaving costs nothing.
        _current.set(_current.get().without(self))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """Run each call of the function in this context."""
        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def async_inner(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self:
                    return await func(*args, **kwargs)

            return async_inner  # type: ignore[return-value]

        @functools.wraps(func)
        def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return func(*args, **kwargs)

        return inner


def install_context(
    sender: object = None, *, connection: BaseDatabaseWrapper, **kwargs: object
) -> None:
    """Receiver of ``connection_created``: let the context into the transactions."""
    if connection.vendor == "postgresql" and _wrapper_of(connection) is None:
        # At the front: connection.execute_wrapper() removes whatever stands at the end.
        connection.execute_wrappers.insert(0, _ContextWrapper())


@contextmanager
def quiet_cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """A cursor of the driver's, whose statements no query count, log or wrapper sees."""
    connection.ensure_connection()
    raw = connection.connection
    if (wrapper := _wrapper_of(connection)) and _is_idle(raw):
        wrapper.forget()  # else it would miss that this statement begins a transaction
    with connection.wrap_database_errors, raw.cursor() as cursor:
        yield cursor


def _wrapper_of(connection: BaseDatabaseWrapper) -> _ContextWrapper | None:
    wrappers = connection.execute_wrappers
    return next((item for item in wrappers if isinstance(item, _ContextWrapper)), None)


class _ContextWrapper:
    """Sets ``django_pgnotify.context`` before a statement that may write, always LOCAL to the
    transaction: a pooled connection gives nothing away.

    Speaks to psycopg directly, so that query counts and logs show the user's statements only.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """No transaction is open: nothing is set."""
        self.touched = False
        # What the transaction holds; None = unknown, after a savepoint was rolled back.
        self.applied: str | None = ""

    def __call__(
        self,
        execute: Callable[[Any, Any, bool, dict[str, Any]], Any],
        sql: Any,
        params: Any,
        many: bool,
        context: dict[str, Any],
    ) -> Any:
        wanted = _current.get().text
        if not wanted and not self.touched:
            return execute(sql, params, many, context)
        connection = context["connection"]
        raw = connection.connection
        verb = _verb(sql, raw)
        if _is_idle(raw):
            self.forget()
            if raw.autocommit:
                if not wanted or verb not in WRITES or _is_server_side(context["cursor"]):
                    return execute(sql, params, many, context)
                # The COMMIT may raise too (deferred constraints): as Django's own errors.
                with connection.wrap_database_errors, raw.transaction():
                    _set(raw, wanted)
                    return execute(sql, params, many, context)
        if wanted != self.applied and verb in WRITES_IN_TRANSACTION and not _is_failed(raw):
            with connection.wrap_database_errors:
                _set(raw, wanted)
            self.touched, self.applied = True, wanted
        try:
            return execute(sql, params, many, context)
        finally:
            if verb == "ROLLBACK":
                self.applied = None


WRITES = frozenset(
    {"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "WITH", "SELECT"}
)
"""First words of statements that may write, and that may always run in a transaction."""
WRITES_IN_TRANSACTION = WRITES | {"CALL", "DO", "EXECUTE"}
"""The further ones may commit by themselves, which PostgreSQL refuses in a transaction."""
FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.DOTALL)
LIVE = "SELECT count(pg_notify("
"""Begins the statement of live events, which carry their context themselves."""
BY_ORM = ' FROM "'
"""Marks a SELECT by the ORM; others may call functions that write."""
CALL = re.compile(r"""([\w."]+)\s*\(""")
READS_ONLY = re.compile(
    "ABS|ARRAY_AGG|AVG|BOOL_AND|BOOL_OR|CAST|COALESCE|CONCAT|COUNT|DATE_PART|"
    "DATE_TRUNC|EXISTS|EXTRACT|GREATEST|JSONB_AGG|LEAST|LEFT|LENGTH|LOWER|MAX|MIN|"
    "NULLIF|NUMERIC|REPLACE|RIGHT|ROUND|ROW_NUMBER|STRING_AGG|SUBSTRING|SUM|TO_CHAR|"
    "TRIM|UPPER|VARCHAR|"
    "AND|ANY|AS|BY|DISTINCT|ELSE|FILTER|FROM|IN|JOIN|NOT|ON|OR|OVER|SELECT|THEN|WHEN|WHERE",
    re.IGNORECASE,
)
"""Words before a parenthesis: functions that the ORM calls most, and keywords. A SELECT with another
function may write by it."""


def _verb(sql: Any, raw: Any) -> str:
    """The statement's first word; '' for a SELECT that surely writes nothing and would only pay
    with round trips. Others may call functions that write."""
    text = sql if isinstance(sql, str) else sql.as_string(raw)
    match = FIRST_WORD.match(text)
    verb = match[1].upper() if match else ""
    return "" if verb == "SELECT" and _only_reads(text) else verb


def _only_reads(select: str) -> bool:
    if select.startswith(LIVE):
        return True
    if BY_ORM not in select or "/*" in select:
        return False
    return all(map(READS_ONLY.fullmatch, CALL.findall(select)))


def _is_idle(raw: Any) -> bool:
    return bool(raw.info.transaction_status.name == "IDLE")


def _is_failed(raw: Any) -> bool:
    return raw.info.transaction_status.name not in ("IDLE", "INTRANS")


def _is_server_side(cursor: Any) -> bool:
    return hasattr(cursor.cursor, "name")


def _set(raw: Any, text: str) -> None:
    with raw.cursor() as cursor:
        cursor.execute("SELECT set_config('django_pgnotify.context', %s, true)", [text])
