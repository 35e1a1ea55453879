"""Handlers: Python functions that learn of events, registered by ``@on_event``."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import CellType
from typing import Literal, TypeVar

from .events import Event
from .exceptions import InvalidDeclaration, InvalidGroup
from .groups import check_group

logger = logging.getLogger("django_pgnotify")

Start = Literal["now", "oldest"]
Function = TypeVar("Function", bound=Callable[[Event], object | Awaitable[object]])


@dataclass(frozen=True, kw_only=True)
class Handler:
    """A registered function."""

    name: str
    """Dotted name of the function, or ``name:topic``: the key of its durable progress."""
    topic: str
    function: Callable[[Event], object | Awaitable[object]]
    start: Start
    """Where it begins the first time: with what is not relayed yet, or the oldest retained."""


_registered: dict[str, Handler] = {}


def on_event(topic: str, *, start: Start = "now") -> Callable[[Function], Function]:
    """Call the decorated function, sync or async, with each durable event of the topic.

    Put it into ``handlers.py`` of an app; ``pglisten`` finds it there. The function is called at
    least once an event, in the order of events for each primary key, and for different keys at
    the same time. If it raises, it is tried again later (``HANDLER_ATTEMPTS``,
    ``HANDLER_BACKOFF_SECONDS``); then the event is parked and the next one of its key goes on.
    What happens to a whole table (a truncate) keeps its place in the order of every key. Messages
    have no key: they come in order, but one that is tried again holds up no other.

    Each call gets an Event of its own. A sync function runs in a thread of its own, an async one in
    the event loop, with a thread of its own for the ORM; database connections of that thread are
    closed after the call. Progress is kept for each database by the function's dotted name (for its
    second topic, and further ones, by ``name:topic``): a renamed handler is a new one. A new one
    begins with what is relayed from now on (``start="now"``), which is all there is if nothing ever
    was, or with the oldest event of the ledger (``"oldest"``). Raises InvalidDeclaration if that
    name is taken by another function, or an argument is not valid.
    """
    if callable(topic):
        raise InvalidDeclaration('on_event names a topic: write @on_event("orders").')
    try:
        check_group(topic)
    except InvalidGroup as error:
        raise InvalidGroup(f"on_event: a topic is named like a group. {error}") from None
    if start not in ("now", "oldest"):
        raise InvalidDeclaration(f"on_event: start={start!r} must be 'now' or 'oldest'.")

    def register(function: Function) -> Function:
        name = _name(function, topic)
        _check_takes_an_event(name, function)
        _check_runs(name, function)
        _registered[name] = Handler(name=name, topic=topic, function=function, start=start)
        return function

    return register


def _name(function: Callable[..., object], topic: str) -> str:
    """What its progress is kept by: its dotted name, and the topic if it is not its first one."""
    name = _dotted_name(function)
    known = _registered.get(name)
    if known is not None and known.topic != topic:
        _check_same_place(name, known.function, function)
        name = f"{name}:{topic}"
        known = _registered.get(name)
    if known is not None and known.function != function:
        _check_may_replace(name, known.function, function)
    return name


def _dotted_name(function: Callable[..., object]) -> str:
    module, name = (getattr(function, key, None) for key in ("__module__", "__qualname__"))
    if not isinstance(name, str):
        raise InvalidDeclaration(
            f"on_event: {function!r} has no name, by which its progress would be kept. "
            "Decorate a function."
        )
    return f"{module}.{name}"


def _check_takes_an_event(name: str, function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some written in C have none
    try:
        signature.bind(None)
    except TypeError:
        raise InvalidDeclaration(
            f"on_event: {name}{signature} must take one argument, the event."
        ) from None


def _check_runs(name: str, function: Callable[..., object]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidDeclaration(
            f"on_event: {name} is a generator function, whose body would not run when it is"
            " called. Take the yield out."
        )


def _check_may_replace(
    name: str, known: Callable[..., object], function: Callable[..., object]
) -> None:
    """Let a module that is imported again define its functions again. One place may define many,
    in a factory or behind a decorator: those differ. A function within a function may be defined
    again when that runs again, as a test does; then the one of before is called no more."""
    _check_same_place(name, known, function)
    old, new = inspect.unwrap(known), inspect.unwrap(function)
    code = getattr(new, "__code__", None)
    # A reload keeps the globals; it defines again what stands at the top of the module.
    is_at_the_top = code is not None and code.co_qualname.isidentifier() and old is not new
    if is_at_the_top or _globals_of(old) is not _globals_of(new):
        return
    if inspect.ismethod(new) or _is_being_imported(new):
        raise _taken(name)
    logger.warning(
        "on_event: %s is registered again: the function of before is called no more.", name
    )


def _check_same_place(
    name: str, known: Callable[..., object], function: Callable[..., object]
) -> None:
    old, new = inspect.unwrap(known), inspect.unwrap(function)
    if place_of(old) != place_of(new) or _closed_over(old) != _closed_over(new):
        raise _taken(name)


def _taken(name: str) -> InvalidDeclaration:
    return InvalidDeclaration(
        f"on_event: another function is called {name}. Give this one a name of its own: "
        "its progress is kept by it. (A decorator keeps a name by functools.wraps.)"
    )


def _closed_over(function: Callable[..., object]) -> list[object]:
    """Places of the functions that it knows by its closure: a decorator's one, for instance."""
    cells = getattr(function, "__closure__", None) or ()
    values = [cell.cell_contents for cell in cells if cell != CellType()]
    return [place_of(value) for value in values if inspect.isfunction(value)]


def _globals_of(function: Callable[..., object]) -> object:
    return getattr(function, "__globals__", None)


def _is_being_imported(function: Callable[..., object]) -> bool:
    spec = getattr(sys.modules.get(function.__module__), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))  # CPython's importlib


def place_of(function: Callable[..., object] | None) -> object:
    """Where it is defined, since a module that is imported again defines it anew; else itself."""
    code = function and getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else function


def registered() -> list[Handler]:
    """The handlers that are known so far, in the order of their registration."""
    return list(_registered.values())


def find_handlers() -> list[Handler]:
    """Import ``handlers.py`` of every app, then give the handlers."""
    from django.utils.module_loading import autodiscover_modules

    autodiscover_modules("handlers")
    return registered()
