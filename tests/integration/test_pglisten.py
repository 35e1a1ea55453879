"""pglisten as a process: it listens, stands by, drains, checks and refuses."""

from __future__ import annotations

import gc
import io
import re
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import BaseChannelLayer
from django.core.management import CommandError, call_command
from django.db import connection

from django_pgnotify.relay.process import frozen
from tests.own_server import wait_until
from tests.pglisten import StartPglisten, execute, publish, receive_data
from tests.servers.fixtures import StartPgBouncer
from tests.servers.postgres import Postgres
from tests.servers.process import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def test_sigterm_drains_and_exits_0(start_pglisten: StartPglisten) -> None:
    pglisten = start_pglisten()
    pglisten.wait_for("listening")
    publish("t", 1)
    pglisten.process.send_signal(signal.SIGTERM)
    assert pglisten.wait() == 0
    assert "draining" in pglisten.output()
    assert "stopped" in pglisten.output()


def test_sigterm_while_standing_by_exits_0(start_pglisten: StartPglisten) -> None:
    start_pglisten().wait_for("listening")
    second = start_pglisten()
    second.wait_for("standing by")
    second.process.send_signal(signal.SIGTERM)
    assert second.wait() == 0


def test_once_beside_a_running_leader_exits_3_with_one_line(
    start_pglisten: StartPglisten,
) -> None:
    start_pglisten().wait_for("listening")
    once = start_pglisten("--once")
    assert once.wait() == 3
    assert len(once.output().splitlines()) == 1


def test_verbosity_0_is_silent(start_pglisten: StartPglisten) -> None:
    pglisten = start_pglisten("--once", "--verbosity", "0")
    assert pglisten.wait() == 0
    assert pglisten.output() == ""


ROLES = """
    SELECT array_agg(substr(application_name, 17) ORDER BY application_name)
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name ~ '^django_pgnotify '
"""
OF_A_LEADER = ["gate", "layer send", "leader", "listener", "reader"]


def test_connections_say_who_they_are_and_are_as_many_as_the_docs_say(
    start_pglisten: StartPglisten,
) -> None:
    start_pglisten().wait_for("listening")
    publish("t", 1)  # the layer's is opened on first use
    wait_until(lambda: execute(ROLES)[0] == OF_A_LEADER, str(OF_A_LEADER))
    start_pglisten().wait_for("standing by")
    both = sorted([*OF_A_LEADER, "leader", "listener"])
    wait_until(lambda: execute(ROLES)[0] == both, str(both))


def test_metrics_are_served(start_pglisten: StartPglisten) -> None:
    port = free_port()
    pglisten = start_pglisten("--metrics-port", str(port))
    publish("t", 1)
    pglisten.wait_for("listening")
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert "pgnotify_leader 1\n" in text
    assert "pgnotify_lag_seconds 0.0\n" in text


def test_a_port_that_can_not_be_had_is_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"^--metrics-port {port} can't be opened"):
            call_command("pglisten", metrics_port=port)
    with pytest.raises(CommandError, match="65536 is no port"):
        call_command("pglisten", "--metrics-port", "65536")


def test_check_beside_a_running_relay_names_each_probe(start_pglisten: StartPglisten) -> None:
    start_pglisten().wait_for("listening")
    check = start_pglisten("--check")
    assert check.wait() == 0, check.output()
    lines = check.output().splitlines()
    assert all(line.startswith("ok ") for line in lines)
    names = ", ".join(line.split(":")[0].removeprefix("ok ") for line in lines)
    assert names == (
        "server, ledger, privileges, bell, notify queue, room, relay, channel layer, handlers,"
        " triggers"
    )
    assert "ok relay: a pglisten is running" in lines


def test_check_fails_for_the_in_memory_layer_and_says_what_to_use() -> None:
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 probe failed"):
        call_command("pglisten", check=True, stdout=out)
    (failed,) = (line for line in out.getvalue().splitlines() if line.startswith("FAIL"))
    assert failed.startswith("FAIL channel layer: InMemoryChannelLayer")
    assert "PostgresChannelLayer" in failed


def test_check_names_the_handlers(start_pglisten: StartPglisten) -> None:
    check = start_pglisten("--check", handlers="tests.told_handler")
    assert check.wait() == 0
    assert "ok handlers: these will be called: tests.told_handler.obey" in check.output()


def test_check_names_a_module_of_handlers_that_can_not_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    app = tmp_path / "app_with_a_slip"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "handlers.py").write_text("import nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, app.name]
    out = io.StringIO()
    with pytest.raises(CommandError, match="failed"):
        call_command("pglisten", check=True, stdout=out)
    (line,) = (line for line in out.getvalue().splitlines() if "handlers" in line)
    assert line.startswith("FAIL handlers:")
    assert line.endswith("ModuleNotFoundError: No module named 'nowhere'")


def test_check_names_a_missing_trigger() -> None:
    out = io.StringIO()
    with connection.schema_editor() as editor:
        editor.execute("ALTER TABLE django_pgnotify_ledger RENAME TO elsewhere")
    try:
        with pytest.raises(CommandError):
            call_command("pglisten", check=True, stdout=out)
        with pytest.raises(CommandError, match="migrate django_pgnotify"):
            call_command("pglisten", once=True)
    finally:
        execute("ALTER TABLE elsewhere RENAME TO django_pgnotify_ledger")
    assert "FAIL ledger: The ledger is not installed" in out.getvalue()


@pytest.mark.pgbouncer
def test_pooler_is_named_and_the_cure_told(
    start_pglisten: StartPglisten, start_pgbouncer: StartPgBouncer, postgres: Postgres
) -> None:
    name = str(connection.settings_dict["NAME"])
    pooled = start_pgbouncer(postgres.url()).url(name)
    pglisten = start_pglisten(url=pooled, HEARTBEAT_SECONDS=0.5)
    assert pglisten.wait() == 1
    assert "pooler" in pglisten.output()
    assert "PGNOTIFY['LISTENER']" in pglisten.output()
    direct = postgres.url(name)
    listener = psycopg.conninfo.conninfo_to_dict(direct)
    start_pglisten(
        url=pooled,
        LISTENER=listener,
        layers={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    ).wait_for("listening")


def test_role_without_privileges_is_told_the_grants_that_suffice(
    start_pglisten: StartPglisten,
) -> None:
    execute("DROP ROLE IF EXISTS pgnotify_nobody")
    execute("CREATE ROLE pgnotify_nobody LOGIN PASSWORD 'nobody'")
    in_memory = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    nobody = {"user": "pgnotify_nobody", "password": "nobody"}
    as_nobody = {"LISTENER": nobody, "layers": in_memory}
    try:
        refused = start_pglisten(**as_nobody)
        assert refused.wait() == 1
        grants = re.findall(r"GRANT [^;]+;", refused.output())
        assert len(grants) > 3
        for grant in grants:
            execute(grant)
        publish("t", 1)
        assert start_pglisten("--once", **as_nobody).wait() == 0
        start_pglisten(**as_nobody).wait_for("listening")
    finally:
        execute("DROP OWNED BY pgnotify_nobody")
        execute("DROP ROLE pgnotify_nobody")


@pytest.mark.parametrize("arguments", [(), ("--once",), ("--check",)])
def test_ledger_of_an_earlier_version_is_refused_with_the_cure(
    start_pglisten: StartPglisten, arguments: tuple[str, ...]
) -> None:
    execute("ALTER TABLE django_pgnotify_handler DROP COLUMN ahead")
    execute("COMMENT ON TABLE django_pgnotify_ledger IS 'an earlier version'")
    try:
        pglisten = start_pglisten(*arguments)
        assert pglisten.wait() == 1
        assert "has no column 'ahead'. Run `manage.py migrate`." in pglisten.output()
    finally:
        call_command("migrate", verbosity=0)
    assert start_pglisten(*arguments or ("--once",)).wait() == 0


@pytest.mark.parametrize("arguments", [(), ("--once",), ("--check",)])
def test_ledger_that_was_restored_without_its_data_is_refused_with_the_cure(
    start_pglisten: StartPglisten, arguments: tuple[str, ...]
) -> None:
    tables = ("ledger", "tick", "state", "trigger", "handler", "parked", "message")
    execute("TRUNCATE " + ", ".join(f"django_pgnotify_{table}" for table in tables))
    try:
        pglisten = start_pglisten(*arguments)
        assert pglisten.wait() == 1
        assert "is empty, as after a restore without its data" in pglisten.output()
    finally:
        call_command("migrate", verbosity=0)
    assert start_pglisten(*arguments or ("--once",)).wait() == 0


def test_database_that_is_down_is_told_in_a_line(start_pglisten: StartPglisten) -> None:
    once = start_pglisten("--once", LISTENER={"host": "127.0.0.1", "port": free_port()})
    assert once.wait() == 1
    assert "Traceback" not in once.output()
    assert "connection" in once.output().lower()


def test_missing_channel_layer_is_refused_with_the_cure(start_pglisten: StartPglisten) -> None:
    pglisten = start_pglisten(layers={})
    assert pglisten.wait() == 1
    assert "CHANNEL_LAYERS has no 'default'" in pglisten.output()


def test_standby_takes_over_when_the_leader_is_killed(
    start_pglisten: StartPglisten, pg_layer: BaseChannelLayer
) -> None:
    first = start_pglisten()
    first.wait_for("listening")
    second = start_pglisten()
    second.wait_for("standing by")

    async def subscribe_and_see() -> list[Any]:
        channel = await pg_layer.new_channel()
        await pg_layer.group_add("t", channel)
        await sync_to_async(publish)("t", "before")
        found = await receive_data(pg_layer, channel, "before")
        first.process.send_signal(signal.SIGKILL)
        await sync_to_async(publish)("t", "meanwhile")
        await sync_to_async(second.wait_for)("listening")
        await sync_to_async(publish)("t", "after")
        return found + await receive_data(pg_layer, channel, "after")

    found = async_to_sync(subscribe_and_see)()
    assert list(dict.fromkeys(found)) == ["before", "meanwhile", "after"]


def test_what_is_loaded_is_kept_from_the_collector_and_given_back() -> None:
    before = gc.get_freeze_count()  # some Pythons begin with a few hundred
    usual = gc.get_threshold()
    with frozen():
        assert gc.get_freeze_count() > before + 10_000
        assert gc.get_threshold()[0] > usual[0]
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == usual
