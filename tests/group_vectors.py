"""Group templates, the values of a row as text, and the names they give: for SQL and Python."""

from __future__ import annotations

import hashlib


def h(text: str) -> str:
    return "h." + hashlib.sha256(text.encode()).hexdigest()[:32]


VECTORS: list[tuple[str, list[str], str]] = [
    ("orders", [], "orders"),
    ("customer-{}", ["7"], "customer-7"),
    ("customer-{}", ["-7"], "customer--7"),
    ("{}", ["true"], "true"),
    ("{}.x", ["2024-02-29"], "2024-02-29.x"),
    (
        "u-{}",
        ["0b9e4d1c-0000-4000-8000-000000000001"],
        "u-0b9e4d1c-0000-4000-8000-000000000001",
    ),
    ("s-{}", ["a_b-C9"], "s-a_b-C9"),
    ("s-{}", [""], "s-" + h("")),
    ("s-{}", ["a.b"], "s-" + h("a.b")),
    ("s-{}", [h("x")], "s-" + h(h("x"))),
    ("s-{}", ["it's"], "s-" + h("it's")),
    ("s-{}", ["a b"], "s-" + h("a b")),
    ("s-{}", ["7\n"], "s-" + h("7\n")),
    ("s-{}", ["é"], "s-" + h("é")),
    ("s-{}", ["😀"], "s-" + h("😀")),
    ("s-{}", ["\uff58"], "s-" + h("\uff58")),
    ("s-{}", ["\u0663"], "s-" + h("\u0663")),
    ("s-{}", ["x" * 97], "s-" + "x" * 97),
    ("s-{}", ["x" * 98], "s-" + h("x" * 98)),
    ("t-{}-{}", ["1", "2"], "t-1-2"),
    ("t-{}-{}", ["1", "-2"], "t-1-" + h("-2")),
    ("t-{}-{}", ["a-b", "c"], "t-" + h("a-b") + "-c"),
    ("t-{}-{}", ["a", "b-c"], "t-a-" + h("b-c")),
    ("{}.{}", ["a", "b"], "a.b"),
    ("t-{}-{}", ["x" * 50, "y" * 60], "t-" + h("x" * 50) + "-" + h("y" * 60)),
    (
        "{}-{}-{}",
        ["x" * 50, "y" * 60, "z"],
        h("-".join([h("x" * 50), h("y" * 60), h("z")])),
    ),
]
