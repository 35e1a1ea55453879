# One command each; every target sets itself up. Needed beforehand: make and Python >= 3.11.
#
#   make demo  [PORT=8000]      the order desk with a PostgreSQL of its own
#   make test  [ARGS="..."]     all tests; ARGS goes to pytest
#   make bench [ONLY="..."]     the measurements; ONLY names sections, EFFORT is quick, usual or full
#   make soak  [MINUTES=30]     the oracle test for long, over both channel layers
#   make lint                   ruff and mypy
#   make docs                   the documentation, into docs/_build
#   make screenshot             the picture of the page in the README
#
# PYTHON=... chooses the interpreter of a new environment, VENV=... its folder, and
# CONSTRAINT="django~=5.2.0" a version to install with.

PORT ?= 8000
ARGS ?=
MINUTES ?= 30
ONLY ?=
EFFORT ?= usual
VENV ?= .venv
CONSTRAINT ?=
PYTHON ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test bench soak lint docs screenshot
.SILENT:

help:
	sed -n '/^#   make/s/^#   //p' Makefile

demo: $(VENV)/demo.stamp
	exec $(VENV)/bin/python -m example_project.demo --port $(PORT)

test: $(VENV)/test.stamp
	exec $(VENV)/bin/python -m pytest $(ARGS)

bench: $(VENV)/bench.stamp
	exec $(VENV)/bin/python -m benchmarks $(ONLY) --effort $(EFFORT)

soak: $(VENV)/test.stamp
	exec $(VENV)/bin/python -m tests.oracle.soak --minutes $(MINUTES) --out docs/soak.json

lint: $(VENV)/lint.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/docs.stamp
	$(VENV)/bin/python -m sphinx -q -W --keep-going -b html docs docs/_build
	echo "docs/_build/index.html"

screenshot: $(VENV)/test.stamp
	$(VENV)/bin/python -m example_project.screenshot

# The stamp of an extra is as old as its installation; a changed pyproject.toml repeats it.
$(VENV)/%.stamp: pyproject.toml scripts/install
	VENV="$(VENV)" PYTHON="$(PYTHON)" CONSTRAINT="$(CONSTRAINT)" scripts/install $*
	touch $@
