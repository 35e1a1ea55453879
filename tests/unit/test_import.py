"""Importing the package: what it offers, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import django_pgnotify

IMPORT = """
import sys
sys.modules["psycopg"] = None
import django_pgnotify
assert django_pgnotify.notify and django_pgnotify.NotifyTrigger
assert not any(name.startswith("psycopg.") for name in sys.modules)
"""


def test_importing_needs_neither_psycopg_nor_settings() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    assert sorted(django_pgnotify.__all__) == django_pgnotify.__all__
    for name in django_pgnotify.__all__:
        assert getattr(django_pgnotify, name)
