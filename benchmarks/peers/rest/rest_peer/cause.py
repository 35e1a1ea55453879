"""Saves one row at each line of its input, and says when it began."""

from __future__ import annotations

import json
import sys
import time

import django

if __name__ == "__main__":
    django.setup()
    # The observer lives where the consumer is imported: in every process that saves.
    from .consumers import Thing

    print(json.dumps({"ready": True}), flush=True)
    while sys.stdin.readline():
        begin = time.monotonic()
        Thing.objects.create(name="a thing of which one speaks", room=1, value=1)
        print(json.dumps({"begin": begin}), flush=True)
