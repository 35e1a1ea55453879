"""Our own connections follow the options of the database alias."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection as django_connection
from django.db import connections

from django_pgnotify.connecting import connect, connect_listener, connection_parameters
from django_pgnotify.exceptions import ListenerRefused

pytestmark = pytest.mark.django_db


def test_parameters_name_the_database_of_the_alias() -> None:
    parameters = connection_parameters("default")
    assert parameters["dbname"] == django_connection.settings_dict["NAME"]
    assert parameters["tcp_user_timeout"] == 25_000
    assert parameters["connect_timeout"] == 5
    assert parameters["application_name"] == "django_pgnotify"
    assert not {"cursor_factory", "context", "pool"} & parameters.keys()


def test_options_of_the_alias_win_over_ours_and_overrides_over_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"keepalives_idle": 77, "connect_timeout": 9}
    monkeypatch.setitem(django_connection.settings_dict, "OPTIONS", options)
    parameters = connection_parameters("default", overrides={"connect_timeout": 3, "HOST": "h"})
    assert parameters["keepalives_idle"] == 77
    assert parameters["connect_timeout"] == 3
    assert parameters["host"] == "h"


def test_another_database_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(connections["default"]), "vendor", "sqlite")
    with pytest.raises(ListenerRefused, match="'default' is sqlite"):
        connection_parameters("default")


async def test_a_connection_is_autocommit_and_says_who_it_is() -> None:
    async with await connect("default", application_name="django_pgnotify test") as connection:
        assert connection.autocommit
        cursor = await connection.execute("SHOW application_name")
        assert await cursor.fetchone() == ("django_pgnotify test",)


async def test_the_role_of_the_alias_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"assume_role": "pg_monitor"}
    monkeypatch.setitem(django_connection.settings_dict, "OPTIONS", options)
    async with await connect("default", application_name="django_pgnotify") as connection:
        cursor = await connection.execute("SELECT current_user::text")
        assert await cursor.fetchone() == ("pg_monitor",)


@pytest.mark.parametrize("listener", [None, "default", {"options": "-c work_mem=9MB"}])
async def test_the_listener_is_the_alias_another_one_or_has_options(
    settings: Any, listener: object
) -> None:
    settings.PGNOTIFY = {"LISTENER": listener}
    async with await connect_listener("default", application_name="listener") as connection:
        cursor = await connection.execute("SHOW work_mem")
        expected = "9MB" if isinstance(listener, dict) else "4MB"
        assert await cursor.fetchone() == (expected,)


@pytest.mark.django_db(databases=["default", "other"])
async def test_a_listener_alias_stands_in_for_default_only(settings: Any) -> None:
    settings.PGNOTIFY = {"LISTENER": "other"}
    names = []
    for alias in ("default", "other"):
        async with await connect_listener(alias, application_name="listener") as connection:
            names.append(connection.info.dbname)
    assert names == [connections["other"].settings_dict["NAME"]] * 2
    settings.PGNOTIFY = {"LISTENER": "default"}
    async with await connect_listener("other", application_name="listener") as connection:
        assert connection.info.dbname == names[0]


async def test_the_listener_is_read_committed_whatever_is_the_default_for_others(
    settings: Any,
) -> None:
    options = {"options": "-c default_transaction_isolation=serializable"}
    settings.PGNOTIFY = {"LISTENER": options}
    async with await connect_listener("default", application_name="x") as connection:
        cursor = await connection.execute("SHOW transaction_isolation")
        assert await cursor.fetchone() == ("read committed",)
