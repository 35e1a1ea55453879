"""Triggers on models of other people's apps, as those apps go on."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest
from django.apps import apps as global_apps
from django.contrib.auth.models import Group
from django.db import connection, models
from django.db.migrations.state import ProjectState

from django_pgnotify import NotifyTrigger
from django_pgnotify.exceptions import InvalidDeclaration
from django_pgnotify.operations import AddNotifyTrigger
from tests.integration.test_trigger_project import NAME, Project, project
from tests.servers.postgres import Postgres
from tests.tables import Ledger, make

__all__ = ["project"]

OTHER_MODELS = """
    from django.db import models

    class {model}(models.Model):
        {field} = models.CharField(max_length=9, default="a")
"""
OTHER_MIGRATION = """
    from django.db import migrations

    class Migration(migrations.Migration):
        dependencies = [("other", "{after}")]
        operations = [migrations.{operation}]
"""
WATCHES = """
    from django.db import migrations
    from django_pgnotify import NotifyTrigger
    from django_pgnotify.operations import AddNotifyTrigger

    watched = NotifyTrigger(name="watched", fields=["id", "name"], groups=["all"])

    class Migration(migrations.Migration):
        dependencies = [("desk", "0001_initial"), ("other", "0001_initial")]
        operations = [
            migrations.SeparateDatabaseAndState(
                database_operations=[AddNotifyTrigger("other.Thing", watched)],
            ),
        ]
"""
CURES = """
    from django.db import migrations
    from django_pgnotify import NotifyTrigger
    from django_pgnotify.operations import AddNotifyTrigger, RemoveNotifyTrigger

    before = NotifyTrigger(name="watched", fields=["id", "name"], groups=["all"])
    after = NotifyTrigger(name="watched", fields=["id", "title"], groups=["all"])

    class Migration(migrations.Migration):
        dependencies = [("desk", "0002_watch"), ("other", "0002_field")]
        operations = [
            RemoveNotifyTrigger("other.Thing", before),
            AddNotifyTrigger("other.Thing", after),
        ]
"""
ROUTER = """
    class Router:
        def allow_migrate(self, db, app_label, model_name=None, **hints):
            return not (db == "second" and app_label == "other")
"""


def add(trigger: NotifyTrigger) -> None:
    state = ProjectState.from_apps(global_apps)
    with connection.schema_editor() as editor:
        operation = AddNotifyTrigger("auth.Group", trigger)
        operation.database_forwards("made", editor, state, state)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["n" * 51, "bad name", "é"])
def test_a_name_that_is_no_topic_is_refused(name: str) -> None:
    with pytest.raises(InvalidDeclaration, match="is not a topic"):
        add(NotifyTrigger(name=name, fields=["name"]))


@pytest.mark.django_db
def test_the_longest_name_tells_each_operation_as_what_it_is() -> None:
    add(NotifyTrigger(name="n" * 50, fields=["name"]))
    ledger = Ledger()
    Group.objects.create(name="a")
    Group.objects.update(name="b")
    Group.objects.all().delete()
    assert [change["kind"] for change in ledger.take()] == ["insert", "update", "delete"]


@pytest.mark.django_db
def test_a_topic_that_another_table_has_is_refused_and_goes_on_there() -> None:
    trigger = NotifyTrigger(name="things", fields=["id"])
    Thing = make(constraints=[trigger], text=models.TextField(null=True))
    with pytest.raises(InvalidDeclaration, match="table made_thing has a trigger of this name"):
        add(NotifyTrigger(name="things", fields=["name"]))
    ledger = Ledger()
    Thing.objects.create()
    assert len(ledger.take()) == 1


@pytest.mark.timeout(120)
def test_a_topic_of_a_meta_that_was_added_to_another_model_is_told(project: Project) -> None:
    other = OtherApp(project)
    project.manage("migrate")
    models_file = project.folder / "desk/models.py"
    models_file.write_text(models_file.read_text().replace('name="orders"', 'name="watched"'))
    assert "W024" in other.problems()
    watches = project.folder / "desk/migrations/0003_unwatch.py"
    write(watches, WATCHES.replace("AddNotify", "RemoveNotify").replace(
        '("desk", "0001_initial"), ("other", "0001_initial")', '("desk", "0002_watch")'
    ))  # fmt: skip
    project.manage("makemigrations", "desk")
    project.manage("migrate")
    assert "W024" not in other.problems()
    insert = "INSERT INTO desk_order (status) VALUES ('x')"
    assert [event["topic"] for event in project.told(insert)] == ["watched"]
    assert project.told("INSERT INTO other_thing (name) VALUES ('x')") == []


class OtherApp:
    """An app of somebody else, whose models change, and a migration of ours that watches it."""

    def __init__(self, project: Project) -> None:
        self.project, self.folder = project, project.folder / "other"
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        self.models("Thing", "name")
        settings = project.folder / "project_settings.py"
        settings.write_text(settings.read_text().replace('"desk",', '"desk", "other",'))
        project.manage("makemigrations", "desk", "other")
        write(project.folder / "desk/migrations/0002_watch.py", WATCHES)

    def models(self, model: str, field: str) -> None:
        write(self.folder / "models.py", OTHER_MODELS.format(model=model, field=field))

    def migrate(self, name: str, after: str, operation: str) -> None:
        text = OTHER_MIGRATION.format(after=after, operation=operation)
        write(self.folder / f"migrations/{name}.py", text)
        self.project.manage("migrate")

    def problems(self) -> str:
        return self.project.manage("check", "--database", "default", errors=True)


def write(path: Path, text: str) -> None:
    path.write_text(dedent(text))


@pytest.mark.timeout(120)
def test_what_the_other_app_changes_is_followed_or_told(project: Project) -> None:
    other = OtherApp(project)
    project.manage("migrate")
    insert = "INSERT INTO other_thing (name) VALUES ('x')"
    assert [event["data"]["name"] for event in project.told(insert)] == ["x"]
    project.sql("DROP TRIGGER watched_insert ON other_thing")
    assert "watched' is missing" in other.problems()
    project.manage("migrate")
    assert len(project.told(insert)) == 1
    assert "W021" not in other.problems()

    other.models("Thing", "title")
    other.migrate("0002_field", "0001_initial", 'RenameField("Thing", "name", "title")')
    assert "'watched', which a migration has added, no longer fits" in other.problems()

    other.models("Item", "title")
    other.migrate("0003_model", "0002_field", 'RenameModel("Thing", "Item")')
    assert "'watched', which a migration has added, no longer fits" in other.problems()


@pytest.mark.timeout(120)
def test_what_was_written_for_an_older_model_stops_no_migrate(project: Project) -> None:
    other = OtherApp(project)
    project.manage("migrate")
    other.models("Thing", "title")
    other.migrate("0002_field", "0001_initial", 'RenameField("Thing", "name", "title")')
    project.manage("migrate", "desk", "zero")
    with pytest.raises(AssertionError, match="AddNotifyTrigger for the model as it is now"):
        project.manage("migrate")

    write(project.folder / "desk/migrations/0003_watch_title.py", CURES)
    insert = "INSERT INTO other_thing (title) VALUES ('x')"
    project.manage("migrate")
    assert [event["data"]["title"] for event in project.told(insert)] == ["x"]
    project.manage("migrate", "desk", "0001")
    assert project.told(insert) == []
    project.manage("migrate")
    assert len(project.told(insert)) == 1


@pytest.mark.timeout(120)
def test_a_database_that_the_router_keeps_the_model_out_of_gets_no_trigger(
    project: Project, postgres: Postgres
) -> None:
    second = f"{NAME}_second"
    OtherApp(project)
    write(project.folder / "desk/router.py", ROUTER)
    with (project.folder / "project_settings.py").open("a") as settings:
        settings.write(f"DATABASES['second'] = database({postgres.url(second)!r})\n")
        settings.write("DATABASE_ROUTERS = ['desk.router.Router']\n")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {second} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {second}")
        try:
            with psycopg.connect(postgres.url(second), autocommit=True) as session:
                session.execute("CREATE TABLE other_thing (id bigint PRIMARY KEY, name text)")
                project.manage("migrate", "--database", "second")
                query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'other_thing'::regclass"
                names: list[tuple[Any, ...]] = session.execute(query).fetchall()
            assert names == []
        finally:
            server.execute(f"DROP DATABASE {second} WITH (FORCE)")
