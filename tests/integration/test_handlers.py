"""``@on_event`` functions are called with every event of their topic, whatever one of them does."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client

from django_pgnotify import Event, NotifyTrigger, event_context, on_event
from django_pgnotify.exceptions import InvalidDeclaration, InvalidGroup
from django_pgnotify.models import ParkedEvent
from tests import tables
from tests.handler_kit import FAST, forget_handlers, handle_now, parked, publish_rows
from tests.pglisten import execute, publish
from tests.shop.models import Customer, Order

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_handlers"),
]


def test_events_written_before_the_first_start_are_handled() -> None:
    # As migrate leaves it.
    execute("TRUNCATE django_pgnotify_ledger, django_pgnotify_tick")
    execute("INSERT INTO django_pgnotify_tick (number, snapshot, bits) VALUES (0, '1:1:', 1)")
    execute("UPDATE django_pgnotify_state SET sent = 0, trimmed = -1, identity = NULL")
    seen: list[Any] = []
    on_event("t")(lambda event: seen.append(event.data))
    publish("t", 1)
    handle_now()
    assert seen == [1]
    handle_now()
    assert seen == [1]


def test_events_of_a_topic_come_once_however_many_groups_they_go_to() -> None:
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        seen.append(event.data)

    execute("SELECT pgnotify_publish('t', '1', ARRAY['a', 'b', 'c'])")
    publish("another", 2)
    handle_now()
    assert seen == [1]


def test_events_come_in_order_for_each_key_and_side_by_side_for_different_ones(
    settings: Any,
) -> None:
    settings.PGNOTIFY |= {"HANDLER_CONCURRENCY": 4}
    seen: dict[int, list[int]] = defaultdict(list)
    running, most = 0, 0
    lock = threading.Lock()

    @on_event("t")
    def keep(event: Event) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        seen[event.pk].append(event.data)
        with lock:
            running -= 1

    publish_rows("t", *((n % 6, n) for n in range(120)))
    handle_now()
    assert seen == {key: list(range(key, 120, 6)) for key in range(6)}
    assert most == 4


def test_async_handlers_run_in_the_event_loop_side_by_side() -> None:
    together = asyncio.Barrier(3)
    names: list[str] = []

    @on_event("t")
    async def meet(event: Event) -> None:
        async with asyncio.timeout(5):
            await together.wait()
        names.append(threading.current_thread().name)

    publish_rows("t", (1, 1), (2, 2), (3, 3))
    handle_now()
    assert parked() == []
    assert len(set(names)) == 1
    assert len(names) == 3


def test_async_function_behind_a_sync_decorator_is_awaited() -> None:
    seen: list[Any] = []

    async def keep(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.data)

    on_event("t")(lambda event: keep(event))
    publish("t", 1)
    handle_now()
    assert seen == [1]


def test_connections_of_a_handlers_thread_are_closed_even_if_kept_alive(
    settings: Any,
) -> None:
    pids: list[int] = []

    @on_event("t")
    def read(event: Event) -> None:
        connections["default"].settings_dict["CONN_MAX_AGE"] = None
        pids.append(execute("SELECT pg_backend_pid()")[0])

    publish_rows("t", (1, 1), (2, 2))
    handle_now()
    assert len(pids) == 2
    # A backend ends a moment after its client has gone.
    gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)"
    end = time.monotonic() + 10
    while execute(gone, pids) != (0,):
        assert time.monotonic() < end
    connection.settings_dict["CONN_MAX_AGE"] = 0


def test_failing_handler_is_tried_again_and_then_its_event_is_parked(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 3}
    calls: list[int] = []

    @on_event("t")
    def fail(event: Event) -> None:
        calls.append(event.pk)
        if event.pk == 13:
            raise ValueError("unlucky \0 \ud800 \N{SNOWMAN}")

    publish_rows("t", (13, 1), (7, 2))
    handle_now()
    assert sorted(calls) == [7, 13, 13, 13]
    ((handler, traceback),) = parked()
    assert handler.endswith(".<locals>.fail")
    assert "ValueError: unlucky" in traceback
    assert "in fail" in traceback
    assert ParkedEvent.objects.get().attempts == 3


def test_handler_that_recovers_is_not_parked() -> None:
    calls: list[Any] = []

    @on_event("t")
    def fail_once(event: Event) -> None:
        calls.append(event.data)
        if len(calls) == 1:
            raise ValueError

    publish("t", 1)
    handle_now()
    assert calls == [1, 1]
    assert parked() == []


@pytest.mark.parametrize(
    "error",
    [SystemExit, KeyboardInterrupt, asyncio.CancelledError, StopIteration, GeneratorExit],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_handler_that_raises_what_ends_programs_is_parked_like_any_other(
    settings: Any, error: type[BaseException], is_async: bool
) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    seen: list[Any] = []

    def fail(event: Event) -> None:
        if event.data == "bad":
            raise error
        seen.append(event.data)

    async def afail(event: Event) -> None:
        fail(event)

    on_event("t")(afail if is_async else fail)
    publish("t", "bad")
    publish("t", "good")
    handle_now()
    assert seen == ["good"]
    assert len(parked()) == 1


def test_later_events_of_other_keys_do_not_wait_for_one_that_is_tried_again(
    settings: Any,
) -> None:
    settings.PGNOTIFY |= {"HANDLER_CONCURRENCY": 1, "HANDLER_ATTEMPTS": 2}
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        if event.data == "bad" and len(seen) < 500:
            raise ValueError
        seen.append(event.data)

    settings.PGNOTIFY |= {"HANDLER_BACKOFF_SECONDS": 4.0}
    publish_rows("t", (0, "bad"), (0, "after"), *((n, n) for n in range(1, 501)))
    handle_now()
    # The second try succeeded, since all others had gone on meanwhile; its key kept its order.
    assert seen[:500] == list(range(1, 501))
    assert seen[500:] == ["bad", "after"]


def test_message_that_fails_holds_up_no_other_message(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_BACKOFF_SECONDS": 1.0}
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        if event.data == "bad" and not seen:
            raise ValueError
        seen.append(event.data)

    for data in ("bad", 1, 2, 3):
        publish("t", data)
    handle_now()
    assert seen == [1, 2, 3, "bad"]


def test_truncate_comes_after_all_before_it_and_before_all_after_it() -> None:
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        if event.data == "slow":
            time.sleep(0.1)
        seen.append(event.data or event.kind)

    publish_rows("t", (1, "slow"), (2, "fast"))
    execute(
        "SELECT pgnotify_append('t', 'shop.order',"
        """ '[{"kind":"truncate","pk":null,"groups":["a"],"templates":["b-{id}"]}]', NULL)"""
    )
    publish_rows("t", (2, "slow"), (3, "fast"))
    handle_now()
    assert sorted(seen[:2]) == ["fast", "slow"]
    assert seen[2] == "truncate"
    assert sorted(seen[3:]) == ["fast", "slow"]


def test_control_rows_are_no_topic_of_a_handler() -> None:
    with pytest.raises(InvalidGroup):
        on_event("pgnotify.revoke")


def test_a_decorator_without_its_topic_says_how_to_write_it() -> None:
    def handler(event: Event) -> None: ...

    with pytest.raises(InvalidDeclaration, match='@on_event\\("orders"\\)'):
        on_event(handler)  # type: ignore[arg-type]


def test_a_table_of_an_earlier_version_gets_what_it_lacks_and_keeps_every_place() -> None:
    seen: list[Any] = []
    on_event("t")(lambda event: seen.append(event.data))
    publish("t", "before")
    handle_now()
    execute("ALTER TABLE django_pgnotify_handler DROP COLUMN ahead")
    execute("COMMENT ON TABLE django_pgnotify_ledger IS 'an earlier version'")
    call_command("migrate", verbosity=0)
    publish("t", "after")
    handle_now()
    assert seen == ["before", "after"]


def test_new_handler_begins_with_what_is_not_relayed_yet_or_the_oldest_retained() -> None:
    publish("t", "relayed")
    handle_now()
    publish("t", "not relayed")
    now: list[Any] = []
    oldest: list[Any] = []

    @on_event("t")
    def from_now(event: Event) -> None:
        now.append(event.data)

    @on_event("t", start="oldest")
    def from_oldest(event: Event) -> None:
        oldest.append(event.data)

    handle_now()
    assert now == ["not relayed"]
    # Rows that other tests left have keys of their own, hence come whenever they like.
    mine = [data for data in oldest if data in ("relayed", "not relayed")]
    assert mine[-2:] == ["relayed", "not relayed"]


def test_without_handlers_their_events_stay_in_the_ledger() -> None:
    seen: list[Any] = []
    on_event("t")(lambda event: seen.append(event.data))
    publish("t", 1)
    handle_now(no_handlers=True)
    assert seen == []
    handle_now()
    assert seen == [1]


def test_each_handler_has_its_own_place() -> None:
    first: list[Any] = []
    second: list[Any] = []

    def one(event: Event) -> None:
        first.append(event.data)

    def two(event: Event) -> None:
        second.append(event.data)

    on_event("t")(one)
    publish("t", 1)
    handle_now()
    on_event("t")(two)
    publish("t", 2)
    handle_now()
    assert (first, second) == ([1, 2], [2])


def test_slow_handler_delays_no_other(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_CONCURRENCY": 2}
    other_done = threading.Event()

    @on_event("t")
    def stuck(event: Event) -> None:
        assert other_done.wait(10)

    @on_event("t")
    def quick(event: Event) -> None:
        if event.pk == 50:
            other_done.set()

    publish_rows("t", *((n, n) for n in range(1, 51)))
    handle_now()
    assert parked() == []


def test_once_may_take_longer_than_a_leader_may_be_silent(settings: Any) -> None:
    settings.PGNOTIFY |= {"LEADER_TIMEOUT_SECONDS": 2.0}
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        time.sleep(4.0)
        seen.append(event.data)

    publish("t", 1)
    handle_now()
    assert seen == [1]


def test_restored_copy_calls_no_handler_with_what_the_original_wrote() -> None:
    seen: list[Any] = []
    on_event("t", start="oldest")(lambda event: seen.append(event.data))
    handle_now()
    seen.clear()
    publish("t", "of the original")
    execute("UPDATE django_pgnotify_state SET identity = '1:00000001:2:elsewhere'")
    execute("UPDATE django_pgnotify_handler SET identity = '1:00000001:2:elsewhere'")
    handle_now()
    publish("t", "of the copy")
    handle_now()
    assert seen == ["of the copy"]


def test_restored_copy_does_no_retry_that_was_asked_for_in_the_original(settings: Any) -> None:
    settings.PGNOTIFY = {**FAST, "HANDLER_ATTEMPTS": 1}
    seen: list[Any] = []

    def mail(event: Event) -> None:
        seen.append(event.data)
        assert len(seen) > 1

    on_event("t")(mail)
    publish("t", "of the original")
    handle_now()
    execute("UPDATE django_pgnotify_parked SET retry = true")
    execute("UPDATE django_pgnotify_state SET identity = '1:00000001:2:elsewhere'")
    execute("UPDATE django_pgnotify_handler SET identity = '1:00000001:2:elsewhere'")
    handle_now()
    assert seen == ["of the original"]
    execute("UPDATE django_pgnotify_parked SET retry = true")
    handle_now()
    assert seen == ["of the original", "of the original"]
    assert parked() == []


def test_handler_gets_the_whole_event_of_a_trigger() -> None:
    model = tables.make(
        constraints=[NotifyTrigger(name="thing_events", fields=["id", "total"], context=[])],
        total=Order._meta.get_field("total").clone(),
    )
    events: list[Event] = []
    try:
        on_event("thing_events")(events.append)
        with event_context(user=7, reason="because"):
            row = model.objects.create(total=Decimal("1.50"))
        handle_now()
        (event,) = events
        assert (event.topic, event.kind, event.model) == (
            "thing_events",
            "insert",
            "made.thing",
        )
        assert (event.pk, event.data) == (row.pk, {"id": row.pk, "total": "1.50"})
        assert event.context == {"user": 7, "reason": "because"}
        assert event.durable
        assert event.using == "default"
    finally:
        tables.drop(model)


def test_python_data_and_the_row_as_it_is_now() -> None:
    order = Order.objects.create(customer=Customer.objects.create(name="Ada"), total="2.50")
    found: dict[str, Any] = {}

    @on_event("t")
    def sync(event: Event) -> None:
        found["data"] = event.python_data()
        found["object"] = event.get_object()

    @on_event("t")
    async def native(event: Event) -> None:
        found["aobject"] = await event.aget_object()

    publish_rows("t", (order.pk, {"total": "2.50"}))
    handle_now()
    assert parked() == []
    assert found == {"data": {"total": Decimal("2.50")}, "object": order, "aobject": order}


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_handlers_are_told_in_which_database_it_happened() -> None:
    forget_handlers("other")
    call_command("pglisten", once=True, database="other")
    seen: list[Any] = []
    on_event("t")(lambda event: seen.append((event.using, event.data)))
    for alias in ("default", "other"):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pgnotify_publish('t', to_jsonb(%s::text))", [alias])
    handle_now(database="other")
    assert seen == [("other", "other")]
    handle_now()
    assert seen == [("other", "other"), ("default", "default")]
    forget_handlers("other")


def test_parked_event_is_retried_or_discarded_in_the_admin(
    settings: Any, admin_client: Client
) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}
    works = False
    seen: list[Any] = []

    @on_event("t")
    def keep(event: Event) -> None:
        if not works:
            raise ValueError("not yet")
        seen.append(event.data)

    publish("t", 1)
    publish("t", 2)
    handle_now()
    first, second = ParkedEvent.objects.order_by("id")
    url = "/admin/django_pgnotify/parkedevent/"
    listed = admin_client.get(url)
    assert listed.status_code == 200
    assert first.handler in unescape(listed.content.decode())
    shown = admin_client.get(f"{url}{first.pk}/change/").content.decode()
    assert "not yet" in shown

    retry = {"action": "retry_events", "_selected_action": [first.pk]}
    assert admin_client.post(url, retry).status_code == 302
    handle_now()
    assert ParkedEvent.objects.get(pk=first.pk).attempts == 2
    works = True
    page = f"{url}{first.pk}/change/"
    assert admin_client.post(page, {"retry": "on", "event": "{}"}).status_code == 302
    discard = {"action": "delete_selected", "_selected_action": [second.pk], "post": "yes"}
    assert admin_client.post(url, discard).status_code == 302
    handle_now()
    assert seen == [1]
    assert not ParkedEvent.objects.exists()
    assert admin.site.is_registered(ParkedEvent)


def test_a_handler_is_never_called_again_before_its_backoff(settings: Any) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 5, "HANDLER_BACKOFF_SECONDS": 0.04}
    called: list[float] = []

    @on_event("t")
    def fail(event: Event) -> None:
        called.append(time.monotonic())
        raise ValueError("never")

    publish("t", 1)
    handle_now()
    gaps = [later - earlier for earlier, later in pairwise(called)]
    assert all(gap > 0.039 * 2**turn for turn, gap in enumerate(gaps))
    assert len(gaps) == 4


def test_who_may_only_look_at_parked_events_can_not_have_them_retried(
    settings: Any, client: Client
) -> None:
    settings.PGNOTIFY |= {"HANDLER_ATTEMPTS": 1}

    @on_event("t")
    def fail(event: Event) -> None:
        raise ValueError("never")

    publish("t", 1)
    handle_now()
    looker = User.objects.create_user("looker", is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_parkedevent"))
    client.force_login(looker)
    url = "/admin/django_pgnotify/parkedevent/"
    assert client.get(url).status_code == 200
    parked = ParkedEvent.objects.get()
    client.post(url, {"action": "retry_events", "_selected_action": [parked.pk]})
    assert client.post(f"{url}{parked.pk}/change/", {"retry": "on"}).status_code == 403
    assert ParkedEvent.objects.get().retry is False


def test_wrong_start_and_a_name_taken_twice_are_refused() -> None:
    def handle(event: Event) -> None: ...

    with pytest.raises(InvalidDeclaration, match="'now' or 'oldest'"):
        on_event("t", start="yesterday")  # type: ignore[arg-type]
    on_event("t")(handle)
    on_event("t")(handle)
    on_event("v")(lambda event: 1)
    with pytest.raises(InvalidDeclaration, match="a name of its own"):
        on_event("v")(lambda event: 2)
    with pytest.raises(InvalidDeclaration, match="has no name"):
        on_event("w")(partial(handle))


def bare(function: Callable[[Event], None]) -> Callable[[Event], None]:
    """A decorator that hides the name."""

    def wrapper(event: Event) -> None:
        function(event)

    return wrapper


def test_two_functions_that_one_place_defines_are_refused() -> None:
    def first(event: Event) -> None: ...

    def second(event: Event) -> None: ...

    class Sender:
        def send(self, event: Event) -> None: ...

    pairs = [
        ("behind_a_decorator", bare(first), bare(second)),
        ("methods", Sender().send, Sender().send),
    ]
    for topic, one, other in pairs:
        on_event(topic)(one)
        on_event(topic)(one)
        with pytest.raises(InvalidDeclaration, match="a name of its own"):
            on_event(topic)(other)


@pytest.mark.parametrize(
    "factory",
    ["lambda n: lambda event: print(n)", "lambda n: wraps(base)(lambda event: print(n))"],
)
def test_functions_that_a_module_makes_in_a_loop_are_refused(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_in_a_loop.py").write_text(
        "from functools import wraps\n"
        "from django_pgnotify import on_event\n"
        "def base(event): ...\n"
        f"make = {factory}\n"
        "for n in range(2):\n"
        "    on_event('t')(make(n))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidDeclaration, match="a name of its own"):
        importlib.import_module("made_in_a_loop")


def test_a_function_that_runs_again_registers_its_handler_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []

    def register(word: str) -> None:
        @on_event("t")
        def handle(event: Event) -> None:
            seen.append(word)

    register("before")
    register("after")
    assert "is registered again" in caplog.text
    publish("t", 1)
    handle_now()
    assert seen == ["after"]


def test_a_function_may_take_several_topics_each_with_a_place_of_its_own() -> None:
    seen: list[Any] = []

    @on_event("a")
    @on_event("b")
    def handle(event: Event) -> None:
        seen.append((event.topic, event.data))

    def made_for(topic: str) -> None:
        on_event(topic)(lambda event: seen.append((event.topic, event.data)))

    for topic in ("c", "d"):
        made_for(topic)
    for topic in "abcd":
        publish(topic, 1)
    handle_now()
    handle_now()
    assert sorted(seen) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
    (names,) = execute("SELECT array_agg(name) FROM django_pgnotify_handler")
    assert sorted(name.rpartition(".")[2] for name in names) == [
        "<lambda>",
        "<lambda>:d",
        "handle",
        "handle:a",
    ]


def test_module_that_is_imported_again_registers_its_handlers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_again.py").write_text(
        "from functools import wraps\n"
        "from django_pgnotify import on_event\n"
        "def loud(function):\n"
        "    return wraps(function)(lambda event: function(event))\n"
        "@on_event('t')\n"
        "def plain(event): ...\n"
        "@on_event('t')\n"
        "@loud\n"
        "def decorated(event): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("imported_again")
    importlib.reload(module)
    monkeypatch.delitem(sys.modules, "imported_again")
    importlib.import_module("imported_again")
    monkeypatch.delitem(sys.modules, "imported_again")


def test_a_handler_that_can_not_take_an_event_is_refused() -> None:
    def two(event: Event, extra: int) -> None: ...

    def none() -> None: ...

    for function in (two, none):
        with pytest.raises(InvalidDeclaration, match="must take one argument, the event"):
            on_event("t")(function)  # type: ignore[type-var]
