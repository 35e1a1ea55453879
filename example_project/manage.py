#!/usr/bin/env python
"""Django's command line for the order desk: ``python example_project/manage.py <command>``."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command that the command line names."""
    # Run as a script, Python looks into this folder alone; the package stands in its parent.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
