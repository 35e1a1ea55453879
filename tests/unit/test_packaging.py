"""What is built is what is installed, and it works in an environment that has nothing else."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_pgnotify"
DATA_SUFFIXES = {".sql", ".js", ".css", ".html", ".typed"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel from the committed files' copy, so that no old build leaks in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in expected():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def expected() -> set[str]:
    """Give every file of the package that Python or Django reads."""
    return {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", *DATA_SUFFIXES} and path.is_file()
    }


def test_the_package_has_migrations_sql_static_files_and_types() -> None:
    names = expected()
    for part in (
        "migrations/0001_initial.py",
        "static/django_pgnotify/pgnotify.js",
        "py.typed",
    ):
        assert f"django_pgnotify/{part}" in names
    assert any(name.endswith(".sql") for name in names)


def test_wheel_holds_the_whole_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected()


def test_sdist_holds_the_whole_package_and_no_tests(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert expected() <= names
    assert not any(name.startswith(("example_project", "benchmarks")) for name in names)


def test_wheel_needs_django_psycopg_and_channels_alone(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (metadata,) = (
        zipfile.ZipFile(wheel).read(name).decode()
        for name in zipfile.ZipFile(wheel).namelist()
        if name.endswith(".dist-info/METADATA")
    )
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert sorted(needed) == ["channels", "django", "psycopg"]


def test_wheel_installs_into_an_empty_environment_and_runs(built: Path, tmp_path: Path) -> None:
    environment, (wheel,) = tmp_path / "venv", built.glob("*.whl")
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True)
    # Its dependencies come from here, so that the test needs no network.
    borrowed = os.environ | {"PYTHONPATH": os.pathsep.join(site.getsitepackages())}
    output = subprocess.run(
        [python, "-c", "import django_pgnotify; print(django_pgnotify.__file__)"],
        cwd=tmp_path,
        env=borrowed,
        check=True,
        capture_output=True,
        text=True,
    )
    assert output.stdout.startswith(str(environment))


def test_importing_the_package_imports_no_driver() -> None:
    code = "import sys, django_pgnotify; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
