"""A ledger that nobody reads stops to grow, and the next relay says so to everybody."""

from __future__ import annotations

import io
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.db import models, transaction

from django_pgnotify import Event, NotifyTrigger, notify, on_event
from django_pgnotify.connecting import connect
from django_pgnotify.ledger.positions import Position, look
from tests import tables
from tests.handler_kit import TABLE, handle_now, publish_rows
from tests.hub_kit import Browser, query, relay, tell
from tests.pglisten import StartPglisten, execute, publish
from tests.sessions import open_session

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("no_handlers"),
]

MAX_BYTES = 300_000
SLACK_BYTES = 1_500_000
"""The trigger looks once in 256 statements; each here writes 1.2 KB."""
SIZE = "SELECT pg_total_relation_size('django_pgnotify_ledger')"
ROWS = "SELECT count(*) FROM django_pgnotify_ledger"
FULL = "SELECT count(*) > 0 FROM django_pgnotify_full"


@pytest.fixture
def thing(settings: Any) -> Iterator[Any]:
    """A model with a trigger, over an empty ledger of a small limit."""
    settings.PGNOTIFY |= {"LEDGER_MAX_BYTES": MAX_BYTES}
    handle_now()
    execute("TRUNCATE django_pgnotify_ledger")
    trigger = NotifyTrigger(name="things", fields=["text"], groups=["things"])
    model = tables.make(constraints=[trigger], text=models.TextField())
    yield model
    tables.drop(model)
    execute("DELETE FROM django_pgnotify_full")
    settings.PGNOTIFY = {}
    handle_now()


def text() -> str:
    """A kilobyte that no two rows share, so that compressing does not make it small."""
    return token_hex(500)


def fill(thing: Any) -> None:
    """Write until the ledger is full, and on."""
    for _ in range(6000):
        thing.objects.create(text=text())
        if execute(FULL) == (True,):
            break
    for _ in range(50):
        thing.objects.create(text=text())


def test_writes_go_on_and_the_ledger_stays_small(thing: Any) -> None:
    fill(thing)
    written, rows = thing.objects.count(), execute(ROWS)[0]
    assert rows < written
    assert execute(SIZE)[0] < MAX_BYTES + SLACK_BYTES
    thing.objects.update(text="y")
    with transaction.atomic():
        notify("t", 1)
    publish("t", 2)
    thing.objects.all().delete()
    assert execute(ROWS) == (rows,)


def test_bulk_write_is_noticed_at_once(thing: Any) -> None:
    thing.objects.bulk_create([thing(text=text()) for _ in range(2000)])
    assert execute(FULL) == (True,)


def test_rolled_back_write_leaves_no_mark(thing: Any) -> None:
    with transaction.atomic():
        thing.objects.bulk_create([thing(text=text()) for _ in range(2000)])
        assert execute(FULL) == (True,)
        transaction.set_rollback(True)
    assert execute(FULL) == (False,)


def test_writers_wait_for_nobody_who_is_just_marking_it(
    thing: Any, django_db_blocker: Any
) -> None:
    with open_session() as other:
        other.execute(
            "INSERT INTO made_thing (text) SELECT string_agg(md5(n || ' ' || m), '')"
            " FROM generate_series(1, 2000) AS n, generate_series(1, 31) AS m GROUP BY n"
        )
        assert other.execute(FULL).fetchone() == (True,)
        execute("SET lock_timeout = '50ms'")
        thing.objects.bulk_create([thing(text=text()) for _ in range(100)])
        handle_now()
        execute("RESET lock_timeout")


def test_next_relay_sends_what_is_there_and_opens_the_ledger_again(
    thing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []
    on_event("things")(seen.append)
    token = current_token()
    fill(thing)
    rows = execute(ROWS)[0]
    caplog.clear()
    handle_now()
    actions = [r.action for r in caplog.records if hasattr(r, "action")]
    assert actions == ["ledger-full", "ledger-emptied"]
    assert len(seen) == rows
    assert execute(FULL) == (False,)
    assert execute(SIZE)[0] < MAX_BYTES
    assert resolution(token) == "expired"

    after = current_token()
    thing.objects.create(text="recorded")
    handle_now()
    assert seen[-1].data == {"text": "recorded"}
    assert not isinstance(resolution(after), str)


def test_what_handlers_have_not_had_is_kept_while_nobody_runs_them(thing: Any) -> None:
    seen: list[Event] = []
    on_event("things")(seen.append)
    handle_now(no_handlers=True)
    fill(thing)
    rows = execute(ROWS)[0]
    handle_now(no_handlers=True)
    assert execute(ROWS) == (rows,)
    handle_now()
    assert len(seen) == rows
    assert execute(ROWS) == (0,)


async def test_open_sockets_are_told_to_read_anew(settings: Any, thing: Any) -> None:
    from asgiref.sync import sync_to_async

    async with Browser() as browser:
        await browser.subscribe("things")
        await tell("before", "things")
        assert await browser.data() == ["before"]
        await query("DELETE FROM django_pgnotify_ledger")
        await sync_to_async(fill)(thing)
        # Only the announcement is of interest: let nothing else be sent.
        await query("TRUNCATE django_pgnotify_ledger")
        await relay()
        reset = await browser.receive()
        assert (reset["type"], reset["reason"]) == ("reset", "expired")
        await tell("after", "things")
        assert await browser.data() == ["after"]


def test_check_fails_while_it_is_full_and_says_what_to_do(thing: Any) -> None:
    out = io.StringIO()
    execute("INSERT INTO django_pgnotify_full DEFAULT VALUES")
    with pytest.raises(CommandError):
        call_command("pglisten", check=True, stdout=out)
    (line,) = (line for line in out.getvalue().splitlines() if " room: " in line)
    assert line.startswith("FAIL room: The ledger is full")
    assert "Start pglisten" in line


def test_migrate_tells_the_triggers_their_limit(settings: Any) -> None:
    settings.PGNOTIFY = {"LEDGER_MAX_BYTES": 123_456_789}
    call_command("migrate", "django_pgnotify", verbosity=0)
    assert execute("SELECT max_bytes FROM django_pgnotify_state") == (123_456_789,)


def test_running_relay_with_a_stuck_handler_keeps_the_ledger_below_its_limit(
    start_pglisten: StartPglisten,
) -> None:
    execute(TABLE)
    pglisten = start_pglisten(
        handlers="tests.told_handler",
        LEDGER_MAX_BYTES=40_000_000,
        RETENTION_SECONDS=0.4,
        POLL_SECONDS=0.05,
        HEARTBEAT_SECONDS=0.5,
    )
    pglisten.wait_for("listening")
    try:
        publish_rows("told", (1, "hang"))
        for _ in range(800):
            execute(
                "SELECT pgnotify_publish('t', to_jsonb(repeat('x', 1000)))"
                " FROM generate_series(1, 100)"
            )
            if any("dropped before" in line for line in list(pglisten.lines.queue)):
                break
        assert "handlers had them" in pglisten.wait_for("dropped before")
        assert execute(FULL) == (False,)
    finally:
        pglisten.process.kill()
        pglisten.wait()
        execute("DROP TABLE handled")


def test_full_ledger_waits_for_a_stuck_handler_no_longer_than_the_retention(
    start_pglisten: StartPglisten,
) -> None:
    execute(TABLE)
    pglisten = start_pglisten(
        handlers="tests.told_handler", RETENTION_SECONDS=2.0, HEARTBEAT_SECONDS=0.5
    )
    pglisten.wait_for("listening")
    try:
        publish_rows("told", (1, "hang"))
        execute("INSERT INTO django_pgnotify_full DEFAULT VALUES")
        pglisten.wait_for("The ledger is full")
        publish_rows("told", (2, "not recorded"))
        pglisten.wait_for("The ledger is empty again")
        publish_rows("told", (3, "recorded"))
        expired = "were trimmed before it handled them"
        if expired not in pglisten.output():  # the handler may be the first to notice
            pglisten.wait_for(expired)
        while execute("SELECT count(*) FROM handled WHERE what = 'recorded'") == (0,):
            assert pglisten.process.poll() is None
        assert execute("SELECT count(*) FROM handled WHERE what = 'not recorded'") == (0,)
    finally:
        pglisten.process.kill()
        pglisten.wait()
        execute("DROP TABLE handled")


def current_token() -> str:
    async def read() -> str:
        async with await connect("default", application_name="test") as conn:
            return (await look(conn, "public", ())).position.token

    return async_to_sync(read)()


def resolution(token: str) -> Any:
    async def read() -> Any:
        async with await connect("default", application_name="test") as conn:
            position = Position.parse(token)
            assert position is not None
            return (await look(conn, "public", [position.tick])).resolve(position)

    return async_to_sync(read)()


def test_handler_that_has_handled_everything_is_not_told_that_it_missed_something(
    thing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    on_event("things")(lambda event: seen.append(event.pk))
    handle_now()
    fill(thing)
    handle_now()
    thing.objects.create(text="after")
    handle_now()
    assert len(seen) > 1
    assert not [record for record in caplog.records if "trimmed before" in record.getMessage()]
