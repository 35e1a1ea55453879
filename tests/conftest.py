"""What every test may ask for; the servers' fixtures stand in ``tests/servers/fixtures.py``."""

from __future__ import annotations
