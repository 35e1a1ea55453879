"""A project of its own, with stock makemigrations and migrate in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest

from tests.servers.postgres import Postgres
from tests.settings import BASE_DIR

NAME = "pgnotify_story"

SETTINGS = """
from tests.settings import database
DATABASES = {{
    "default": database({url!r}),
    "file": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {sqlite!r}}},
}}
INSTALLED_APPS = [
    "desk", "django.contrib.contenttypes", "django.contrib.auth", "channels", "django_pgnotify",
]
CHANNEL_LAYERS = {{"default": {{"BACKEND": "django_pgnotify.layers.PostgresChannelLayer"}}}}
SECRET_KEY = "for the tests only"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
if {no_migrations}:
    MIGRATION_MODULES = {{app.rpartition(".")[2]: None for app in INSTALLED_APPS}}
"""

MODELS = """
from django.db import models
from django_pgnotify import NotifyTrigger

class Base(models.Model):
    class Meta:
        abstract = True
        constraints = [NotifyTrigger(name="%(app_label)s_%(class)s_changes")]

class Order(Base):
    {field} = models.CharField(max_length=20, default="new")
    class Meta:
        constraints = [NotifyTrigger(name="orders", fields=["id", "{field}"]{more})]

class Line(Base):
    pass
"""


KEEPS_OUT = """
class Router:
    def allow_migrate(self, db, app_label, **hints):
        return app_label != "django_pgnotify"
"""


class Project:
    """A Django project in a folder, on a database of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "desk").mkdir()
        (folder / "desk" / "__init__.py").touch()
        self.settings()
        self.models()

    def settings(self, *, no_migrations: bool = False) -> None:
        text = SETTINGS.format(
            url=self.url, sqlite=str(self.folder / "file.db"), no_migrations=no_migrations
        )
        (self.folder / "project_settings.py").write_text(text)

    def models(self, field: str = "status", more: str = "") -> None:
        (self.folder / "desk" / "models.py").write_text(MODELS.format(field=field, more=more))

    def manage(self, *args: str, answers: str = "", errors: bool = False) -> str:
        """Run ``manage.py`` and give what it prints, with `errors` on stderr too; a non-zero exit
        fails the test."""
        path = os.pathsep.join([str(self.folder), str(BASE_DIR.parent)])
        done = subprocess.run(
            [sys.executable, "-m", "django", *args],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "DJANGO_SETTINGS_MODULE": "project_settings",
            },
            input=answers,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + (done.stderr if errors else "")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as session:
            cursor = session.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def told(self, statement: str) -> list[dict[str, Any]]:
        """What the statement leaves in the ledger."""
        [(last,)] = self.sql("SELECT coalesce(max(id), 0) FROM django_pgnotify_ledger")
        self.sql(statement)
        rows = self.sql(
            f"SELECT topic, changes FROM django_pgnotify_ledger WHERE id > {last} ORDER BY id"
        )
        return [{"topic": topic, **c} for topic, changes in rows for c in json.loads(changes)]


@pytest.fixture
def project(postgres: Postgres, tmp_path: Path) -> Iterator[Project]:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {NAME}")
        yield Project(tmp_path, postgres.url(NAME))
        server.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


@pytest.mark.timeout(400)
def test_stock_commands_carry_a_declaration_through_its_life(project: Project) -> None:
    manage = project.manage
    manage("makemigrations", "desk")
    # Stock migrations order nobody's app after ours: the table is there and written before.
    manage("migrate", "desk")
    project.sql("INSERT INTO desk_order (status) VALUES ('early')")
    manage("migrate")
    [event] = project.told("INSERT INTO desk_order (status) VALUES ('new')")
    assert (event["topic"], event["data"]) == ("orders", {"id": 2, "status": "new"})
    [event] = project.told("INSERT INTO desk_line DEFAULT VALUES")
    assert event["topic"] == "desk_line_changes"
    text = manage("sqlmigrate", "desk", "0001")
    assert "CREATE OR REPLACE FUNCTION" in text
    assert text.count("CREATE OR REPLACE TRIGGER") == 6

    # A rename and an altered argument at once.
    project.models("state", ', groups=["state-{state}"]')
    manage("makemigrations", "desk", answers="y\n")
    assert "W021" not in manage("migrate", errors=True)
    [event] = project.told("INSERT INTO desk_order (state) VALUES ('b')")
    assert (event["data"]["state"], event["groups"]) == ("b", ["state-b"])
    assert manage("check", "--database", "default").startswith(
        "System check identified no issues"
    )
    manage("makemigrations", "--check")

    # A third-party model, from our own migration.
    (project.folder / "desk" / "migrations" / "0003_users.py").write_text(
        dedent(
            """
            from django.db import migrations
            from django_pgnotify import NotifyTrigger
            from django_pgnotify.operations import AddNotifyTrigger

            class Migration(migrations.Migration):
                dependencies = [("desk", "DESK"), ("auth", "0012_alter_user_first_name_max_length")]
                operations = [
                    AddNotifyTrigger("auth.User", NotifyTrigger(name="users", fields=["username"]))
                ]
            """
        ).replace("DESK", _second(project))
    )
    manage("migrate")
    insert = (
        "INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email,"
        " is_staff, is_active, date_joined)"
        " VALUES ('', false, '{}', '', '', '', false, true, now())"
    )
    assert [e["data"] for e in project.told(insert.format("ann"))] == [{"username": "ann"}]
    manage("makemigrations", "--check")
    project.sql("UPDATE django_pgnotify_trigger SET version = 'old'")
    manage("migrate")
    assert project.sql("SELECT FROM django_pgnotify_trigger WHERE version = 'old'") == []
    assert [e["data"] for e in project.told(insert.format("bob"))] == [{"username": "bob"}]

    # Uninstalled, no write breaks; installed again, all triggers are back.
    manage("migrate", "django_pgnotify", "zero")
    project.sql("INSERT INTO desk_order (state) VALUES ('c'); " + insert.format("eve"))
    manage("migrate")
    assert len(project.told("INSERT INTO desk_order (state) VALUES ('d')")) == 1
    assert len(project.told(insert.format("joe"))) == 1

    # Back and squashed.
    manage("migrate", "desk", "0002")
    assert project.told(insert.format("zoe")) == []
    manage("migrate", "desk", "0001")
    [event] = project.told("INSERT INTO desk_order (status) VALUES ('e')")
    assert event["data"]["status"] == "e"
    manage("squashmigrations", "desk", "0003", "--noinput")
    manage("migrate", "desk", "zero")
    assert project.sql("SELECT FROM django_pgnotify_trigger") == []
    manage("migrate")
    [event] = project.told("INSERT INTO desk_order (state) VALUES ('f')")
    assert event["groups"] == ["state-f"]
    assert len(project.told(insert.format("max"))) == 1


def _second(project: Project) -> str:
    [path] = (project.folder / "desk" / "migrations").glob("0002_*.py")
    return path.stem


@pytest.mark.timeout(200)
def test_on_sqlite_all_of_it_does_nothing_and_nothing_fails(project: Project) -> None:
    project.manage("makemigrations", "desk")
    project.manage("migrate", "--database", "file")
    write = (
        "from desk.models import Order; o = Order.objects.using('file').create(); o.delete()"
    )
    project.manage("shell", "-c", write)
    assert (
        project.manage("sqlmigrate", "desk", "0001", "--database", "file").count("TRIGGER") == 0
    )
    revoking = (
        "from asgiref.sync import async_to_sync; from django_pgnotify.consumers import revoke; "
        "async_to_sync(revoke)('orders', using='file')"
    )
    project.manage("shell", "-c", revoking)
    dump = project.manage("dumpdata", "--database", "file")
    assert '"model": "django_pgnotify' not in dump
    project.manage("migrate", "desk", "zero", "--database", "file")


@pytest.mark.timeout(200)
def test_parked_events_are_dumped_and_loaded(project: Project) -> None:
    project.manage("makemigrations", "desk")
    project.manage("migrate")
    project.sql(
        "INSERT INTO django_pgnotify_parked (handler, event, traceback, attempts)"
        " VALUES ('handle', '{}', 'Traceback', 5)"
    )
    dump = project.manage("dumpdata", "django_pgnotify.ParkedEvent")
    (project.folder / "dump.json").write_text(dump)
    project.sql("DELETE FROM django_pgnotify_parked")
    project.manage("loaddata", "dump.json")
    assert project.sql("SELECT handler FROM django_pgnotify_parked") == [("handle",)]


@pytest.mark.timeout(200)
def test_a_router_that_keeps_the_ledger_out_is_told(project: Project) -> None:
    project.manage("makemigrations", "desk")
    with (project.folder / "project_settings.py").open("a") as settings:
        settings.write("DATABASE_ROUTERS = ['desk.Router']\n")
    (project.folder / "desk" / "__init__.py").write_text(KEEPS_OUT)
    project.manage("migrate")
    problems = project.manage("check", "--database", "default", errors=True)
    assert "W020" in problems
    assert "Let DATABASE_ROUTERS allow django_pgnotify there" in problems


@pytest.mark.timeout(200)
def test_without_any_migrations_everything_is_there(project: Project) -> None:
    project.settings(no_migrations=True)
    project.manage("migrate", "--run-syncdb")
    [event] = project.told("INSERT INTO desk_order (status) VALUES ('new')")
    assert event["topic"] == "orders"
