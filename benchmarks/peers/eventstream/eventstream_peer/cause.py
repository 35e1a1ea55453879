"""Sends one event at each line of its input, and says when it began."""

from __future__ import annotations

import json
import sys
import time

import django

DATA = {
    "kind": "insert",
    "data": {"id": 1, "name": "a thing of which one speaks", "value": 1},
}

if __name__ == "__main__":
    django.setup()
    from django_eventstream import send_event

    print(json.dumps({"ready": True}), flush=True)
    while sys.stdin.readline():
        begin = time.monotonic()
        send_event("things", "message", DATA)
        print(json.dumps({"begin": begin}), flush=True)
