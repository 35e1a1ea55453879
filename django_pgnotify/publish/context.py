"""Context: who or what caused a change, carried to events by a setting of the transaction."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from asgiref.sync import iscoroutinefunction

from ..events import Json, dumps
from ..exceptions import InvalidDeclaration, InvalidEvent
from ..values import to_json_value
from .verbs import WRITES, WRITES_IN_TRANSACTION, verb_of

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
    (VACUUM) or might refuse (CALL, DO) then goes without context, and so do ``cursor.copy()``
    and ``cursor.callproc()`` where they are the first write of a transaction, or of a block.
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
        """Run each call of the function in this context; InvalidDeclaration for a generator,
        whose call runs none of it."""
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise InvalidDeclaration(
                f"event_context can't decorate the generator {func!r:.200}: use a with block in it."
            )
        if iscoroutinefunction(func):  # what as_view() of an async view is too

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

    def forget(self, block: object = None) -> None:
        """A transaction begins, of this outermost ``atomic`` block: nothing is set."""
        self.block = block
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
        verb = verb_of(sql, raw)
        block = next(iter(connection.atomic_blocks), None)
        # What goes past wrappers, as cursor.copy() does, may have begun a transaction.
        if _is_idle(raw) or block is not self.block:
            self.forget(block)
        if _is_idle(raw) and raw.autocommit:
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


def _is_idle(raw: Any) -> bool:
    return bool(raw.info.transaction_status.name == "IDLE")


def _is_failed(raw: Any) -> bool:
    return raw.info.transaction_status.name not in ("IDLE", "INTRANS")


def _is_server_side(cursor: Any) -> bool:
    return hasattr(cursor.cursor, "name")


def _set(raw: Any, text: str) -> None:
    with raw.cursor() as cursor:
        cursor.execute("SELECT set_config('django_pgnotify.context', %s, true)", [text])
