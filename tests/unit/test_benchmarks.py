"""The page about performance says what was measured, and the measuring modules exist."""

from __future__ import annotations

import importlib

import pytest

from benchmarks import crowd, harness, report, sse, websocket
from benchmarks.sections import SECTIONS


def test_the_page_shows_the_figures_of_the_file() -> None:
    page = report.PAGE.read_text()
    for part in report.written_parts(report.load()):
        assert part in page


def test_every_picture_of_the_page_is_drawn_from_the_file() -> None:
    drawn = {f"bench-{plot.name}.svg" for plot in report.plots(report.load())}
    shown = {line.partition("images/")[2].rstrip(")") for line in _picture_lines()}
    assert shown == drawn
    assert all((report.ROOT / "docs" / "images" / name).exists() for name in shown)


def _picture_lines() -> list[str]:
    return [line for line in report.PAGE.read_text().splitlines() if line.startswith("![")]


def test_the_file_holds_every_section() -> None:
    assert set(report.load()["sections"]) == set(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_can_be_run(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.sections.{name}").run)


def test_a_missed_target_is_shown_as_missed() -> None:
    target = harness.Target(sign=">=", value=3.0)
    row = harness.Row(what="w", unit="1/s", ours=5.0, base=2.0, base_name="b", target=target)
    assert (row.ratio, row.verdict) == (2.5, "no")
    assert report.cells(harness.as_json(row))[-2:] == [">= 3 x", "no"]


def test_ways_take_turns_and_none_always_follows_another() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = harness.in_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 2)
    assert order == ["a", "b", "b", "a"]
    assert figures == {"a": [1.0, 4.0], "b": [2.0, 3.0]}


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_the_client_finds_the_end_of_a_frame_of_any_size(size: int) -> None:
    payload = b"x" * size
    if size <= 125:
        head = bytes([0x81, size])
    elif size < 65_536:
        head = bytes([0x81, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x81, 127]) + size.to_bytes(8, "big")
    frame = head + payload
    found = websocket.frame_at(frame + b"\x81", 0)
    assert found == (websocket.TEXT, len(head), len(frame))
    assert websocket.frame_at(frame[:-1], 0) is None


async def test_an_event_that_is_cut_in_two_is_counted_once() -> None:
    counts: list[int] = []
    stream = sse.Stream("/", 1, lambda _, payload, count: counts.append(count))
    stream.data_received(b"HTTP/1.1 200 OK\r\n\r\nevent: subsc")
    stream.data_received(b"ribed\ndata: {}\n\n")
    assert stream.greeted.done()
    stream.data_received(b'data: {"events": [{"ki')
    stream.data_received(b'nd": "insert"}, {"kind": "insert"}]}\n\n')
    stream.data_received(b'data: {"events": []}\n\n')
    assert (stream.events, counts) == (2, [2])


async def test_a_crowd_has_an_event_when_its_last_socket_has_it() -> None:
    together = crowd.Crowd()
    sockets = [websocket.Socket("/", 1, together._received) for _ in range(2)]
    together.sockets += sockets
    together.expect(1)
    frame = bytes([0x81, 8]) + b'{"kind"}'
    for socket in sockets:
        assert await together.wait(0.0) > 0
        socket.greeted.set_result(None)
        socket._open = True
        socket.data_received(frame)
    assert await together.wait(0.0) == 0
