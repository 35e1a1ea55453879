"""Peers: other packages where they can do a part of it, each in an environment of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from tests.servers.process import free_port

from ..child import ROOT, Child
from ..environments import PEERS, python
from ..harness import Findings, Row, in_turns, medians
from ..place import POSTGRES, REDIS, Place, Project, server_arguments, wait_for_port
from . import fanout

SOCKETS = 200
EVENTS = 10
BURST = 1_000
SINGLES = 30
PAUSE_SECONDS = 0.05
MILLI = 1000.0
OURS = "django_pgnotify"
REST, EVENTSTREAM, LAYER = (
    "djangochannelsrestframework",
    "django-eventstream",
    "channels_postgres",
)


def run(place: Place) -> Findings:
    """Fan-out to WebSockets and to streams, and a channel layer."""
    found = Findings()
    project = place.project("peers", layer=REDIS)
    found.rows += [
        _fanned_out(place, project, found, "rest", REST, "/things/"),
        _fanned_out(place, project, found, "eventstream", EVENTSTREAM, "/stream/"),
        *_layers(place, found),
    ]
    found.notes.append(
        f"{REST}: a model observer and a process that saves by the ORM; {EVENTSTREAM}:"
        " Server-Sent Events, send_event() in a process of its own, through Redis, against our"
        f" EventStreamConsumer. {LAYER}: its layer against our PostgresChannelLayer, group_send"
        " from one process to a receiver in another."
    )
    return found


def _fanned_out(
    place: Place, project: Project, found: Findings, peer: str, name: str, page: str
) -> Row:
    """One event to all, by turns; both on Daphne."""
    sockets = place.size(SOCKETS)
    kind = ["--sse"] if peer == "eventstream" else []
    env = {
        **project.env,
        "BENCH_DATABASE": place.create_database(f"peers_{peer}"),
        "BENCH_REDIS": place.redis.url,
        "DJANGO_SETTINGS_MODULE": f"{peer}_peer.settings",
    }
    with ExitStack() as stack:
        _peer(peer, env, "-m", "django", "migrate", "--run-syncdb", "-v", "0").finish()
        stack.enter_context(project.pglisten())
        calls: dict[str, Callable[[], float]] = {}
        web, port = project.web()
        stack.enter_context(web)
        own_page = "/stream/" if kind else "/ours/"
        crowd = project.child("workers.crowd", port, own_page, sockets, *kind)
        stack.enter_context(crowd).answer()
        calls[OURS] = partial(
            fanout.delivery, crowd, fanout.causes(project, stack, ["ours"])["ours"], 1
        )
        port = free_port()
        arguments = server_arguments("daphne", port, f"{peer}_peer.asgi")
        stack.enter_context(_peer(peer, env, "-m", *arguments))
        wait_for_port(port)
        crowd = project.child("workers.crowd", port, page, sockets, *kind)
        stack.enter_context(crowd).answer()
        cause = stack.enter_context(_peer(peer, env, "-m", f"{peer}_peer.cause"))
        cause.answer()
        calls[name] = partial(fanout.delivery, crowd, lambda _: _told(cause), 1)
        in_turns(calls, 1)
        taken = in_turns(calls, place.runs(EVENTS))
    found.figures[name] = taken
    median = medians(taken)
    return Row(
        what=f"deliveries to {sockets} {'streams' if kind else 'sockets'}, daphne",
        unit="1/s",
        ours=sockets / median[OURS],
        base=sockets / median[name],
        base_name=name,
        runs=place.runs(EVENTS),
    )


def _told(cause: Child) -> float:
    cause.tell(count=1)
    begin: float = cause.answer()["begin"]
    return begin


def _peer(peer: str, env: dict[str, str], *arguments: str) -> Child:
    return Child(arguments, env, python=python(peer), path=PEERS / peer)


def _layers(place: Place, found: Findings) -> list[Row]:
    project = place.project("peers_layer", layer=POSTGRES)
    env = {
        "BENCH_DATABASE": place.create_database("peers_channels_postgres"),
        "DJANGO_SETTINGS_MODULE": "channels_postgres_peer.settings",
    }
    _peer("channels_postgres", env, "-m", "django", "migrate", "-v", "0").finish()

    def worker(module: str, *arguments: str) -> Child:
        path = f"{PEERS / 'channels_postgres'}:{ROOT}"
        command = ["-m", f"benchmarks.workers.{module}", *arguments]
        return Child(command, env, python=python("channels_postgres"), python_path=path)

    with ExitStack() as stack:
        pairs = {
            OURS: (project.child("workers.receive"), project.child("workers.send", "things")),
            LAYER: (worker("receive"), worker("send", "things")),
        }
        for pair in pairs.values():
            for child in pair:
                stack.enter_context(child).answer()
        bursts = {n: _burst_of(place.size(BURST), *pair) for n, pair in pairs.items()}
        in_turns(bursts, 1)
        speed = in_turns(bursts, place.runs(3))
        singles = {n: _single_of(*pair) for n, pair in pairs.items()}
        delay = in_turns(singles, place.size(SINGLES))
    found.figures[LAYER] = {"1/s": speed, "ms": delay}
    return [
        _layer_row("group_send in a row, received", "1/s", medians(speed), place.runs(3)),
        _layer_row("one group_send, received", "ms", medians(delay), place.size(SINGLES)),
    ]


def _layer_row(what: str, unit: str, median: dict[str, float], runs: int) -> Row:
    return Row(
        what=what, unit=unit, ours=median[OURS], base=median[LAYER], base_name=LAYER, runs=runs
    )


def _burst_of(count: int, receiver: Child, sender: Child) -> Callable[[], float]:
    """Messages a second."""

    def measure() -> float:
        return count / _sent(count, receiver, sender)

    return measure


def _single_of(receiver: Child, sender: Child) -> Callable[[], float]:
    """Milliseconds."""

    def measure() -> float:
        time.sleep(PAUSE_SECONDS)
        return _sent(1, receiver, sender) * MILLI

    return measure


def _sent(count: int, receiver: Child, sender: Child) -> float:
    receiver.tell(expect=count)
    sender.tell(count=count)
    begin, last = sender.answer()["begin"], receiver.answer()["last"]
    return float(last - begin)
