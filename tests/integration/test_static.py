"""The client as ``collectstatic`` takes it, with storages that rewrite what a script imports."""

from __future__ import annotations

from pathlib import Path

from django.contrib.staticfiles.storage import ManifestStaticFilesStorage
from django.core.management import call_command
from django.test import override_settings


class AggregatingStorage(ManifestStaticFilesStorage):
    support_js_module_import_aggregation = True


def test_the_client_is_collected_where_the_imports_of_modules_are_rewritten(
    tmp_path: Path,
) -> None:
    backend = f"{__name__}.{AggregatingStorage.__name__}"
    storages = {"staticfiles": {"BACKEND": backend}}
    with override_settings(
        STORAGES=storages, STATIC_ROOT=tmp_path, STATIC_URL="/static/", DEBUG=False
    ):
        call_command("collectstatic", interactive=False, verbosity=0)
    assert list(tmp_path.glob("django_pgnotify/pgnotify.????????????.js"))
