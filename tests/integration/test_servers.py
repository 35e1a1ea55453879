"""The servers of the tests do what tests rely on."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from django.db import connections

from example_project.embedded import (
    IMMEDIATE,
    EmbeddedPostgres,
    EmbeddedPostgresError,
)
from tests.servers.fixtures import StartPgBouncer, StartPostgres, StartProxy
from tests.servers.postgres import Postgres, remove_abandoned
from tests.servers.redis import Redis

SILENCE_SECONDS = 0.5
"""Long enough that a server that still answers would have."""
ANSWER_SECONDS = 10.0
LAUNCHER = """
import os, pathlib, signal, sys
from example_project.embedded import EmbeddedPostgres
EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
WRITER = """
import django
django.setup()
from tests.shop.models import Customer
Customer(name="x").save()
"""


def answer(url: str) -> int:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        row = connection.execute("SELECT 1").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "postgres"


def test_embedded_server_starts_twice_on_the_same_data(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server, psycopg.connect(server.url()) as db:
        db.execute("CREATE TABLE kept (id int)")
    with EmbeddedPostgres(folder, durable=False) as server, psycopg.connect(server.url()) as db:
        assert db.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_embedded_server_can_be_reached_only_with_its_password(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        wrong = server.url().replace(server.password, "guess")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)


def test_embedded_server_outlives_no_stop_and_takes_over_from_a_killed_launcher(
    folder: Path,
) -> None:
    subprocess.run([sys.executable, "-c", LAUNCHER, folder], check=False)
    abandoned = folder / "data" / "postmaster.pid"
    assert abandoned.exists()
    with EmbeddedPostgres(folder, durable=False) as server:
        assert answer(server.url()) == 1
    assert not abandoned.exists()


def test_embedded_server_refuses_a_folder_in_use_in_one_line(folder: Path) -> None:
    with (
        EmbeddedPostgres(folder, durable=False),
        pytest.raises(EmbeddedPostgresError, match=r"^another process already runs"),
    ):
        EmbeddedPostgres(folder).start()


def test_the_sweep_of_abandoned_servers_leaves_those_in_use_alone(
    start_postgres: StartPostgres,
) -> None:
    server = start_postgres()
    remove_abandoned()
    assert answer(server.url()) == 1


def test_embedded_server_names_a_busy_port(folder: Path, start_postgres: StartPostgres) -> None:
    busy = start_postgres().port
    with pytest.raises(EmbeddedPostgresError, match=f"^port {busy} of 127.0.0.1 is in use$"):
        EmbeddedPostgres(folder, port=busy, durable=False).start()


def test_embedded_server_says_in_one_line_why_it_can_not_start(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False, options={"shared_buffers": "many"})
    with pytest.raises(EmbeddedPostgresError) as failure:
        server.start()
    assert 'invalid value for parameter "shared_buffers"' in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("version", ["15", "16", "17", "18"])
def test_a_test_can_start_each_version_with_options(
    version: str, start_postgres: StartPostgres
) -> None:
    server = start_postgres(version, max_locks_per_transaction="99")
    with psycopg.connect(server.url()) as db:
        assert db.info.server_version // 10_000 == int(version)
        assert db.execute("SHOW max_locks_per_transaction").fetchone() == ("99",)


def test_a_server_restarts_on_its_port_after_a_crash(start_postgres: StartPostgres) -> None:
    server = start_postgres()
    url = server.url()
    server.crash()
    server.restart()
    assert answer(url) == 1
    server.restart(IMMEDIATE)
    assert answer(url) == 1


def test_a_frozen_server_is_silent_and_goes_on_when_thawed(
    start_postgres: StartPostgres,
) -> None:
    server = start_postgres()
    with ThreadPoolExecutor() as executor, psycopg.connect(server.url()) as db:
        server.freeze()
        waiting = executor.submit(db.execute, "SELECT 1")
        with pytest.raises(TimeoutError):
            waiting.result(SILENCE_SECONDS)
        server.thaw()
        assert waiting.result(ANSWER_SECONDS).fetchone() == (1,)


@pytest.mark.django_db(databases=["default", "other"])
def test_both_databases_are_on_the_server_of_the_run(postgres: Postgres) -> None:
    ports = set()
    for alias in connections:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT current_setting('port'), current_database()")
            port, name = cursor.fetchone()
            ports.add(port)
            assert name.startswith("test_")
    assert len(ports) == 1


@pytest.mark.django_db(transaction=True)
def test_a_child_process_works_on_the_test_database(database_env: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", WRITER], env=database_env, check=True)
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT name FROM shop_customer")
        assert cursor.fetchall() == [("x",)]


def test_a_cut_proxy_ends_connections_and_takes_new_ones(
    postgres: Postgres, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(postgres.url())
    url = proxy.url(postgres.url())
    with psycopg.connect(url) as db:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            db.execute("SELECT 1")
    assert answer(url) == 1


def test_a_refusing_proxy_takes_no_connection_until_it_resumes(
    postgres: Postgres, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(postgres.url())
    url = proxy.url(postgres.url())
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError):
        answer(url)
    proxy.resume()
    assert answer(url) == 1


def test_a_silent_proxy_holds_bytes_back_and_loses_none(
    postgres: Postgres, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(postgres.url())
    url = proxy.url(postgres.url())
    with ThreadPoolExecutor() as executor, psycopg.connect(url) as db:
        proxy.silence()
        waiting = executor.submit(db.execute, "SELECT 1")
        with pytest.raises(TimeoutError):
            waiting.result(SILENCE_SECONDS)
        proxy.resume()
        assert waiting.result(ANSWER_SECONDS).fetchone() == (1,)


@pytest.mark.redis
def test_redis_answers(redis: Redis) -> None:
    from redis import Redis as Client

    with Client.from_url(redis.url) as client:
        assert client.ping()


@pytest.mark.pgbouncer
def test_pgbouncer_pools_by_transaction(
    postgres: Postgres, start_pgbouncer: StartPgBouncer
) -> None:
    assert answer(start_pgbouncer(postgres.url()).url()) == 1


@pytest.mark.browser
def test_chromium_runs(chromium: Path) -> None:
    output = subprocess.run([chromium, "--version"], capture_output=True, text=True, check=True)
    assert "Chrom" in output.stdout
