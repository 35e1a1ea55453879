"""Publish: which statements may write, by their first word."""

from __future__ import annotations

import re
from typing import Any

WRITES = frozenset(
    {"INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "WITH", "SELECT"}
)
"""First words of statements that may write, and that may always run in a transaction."""
WRITES_IN_TRANSACTION = WRITES | {"CALL", "DO", "EXECUTE"}
"""The further ones may commit by themselves, which PostgreSQL refuses in a transaction."""
FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.DOTALL)
LIVE = "SELECT count(pg_notify("
"""Begins the statement of live events, which carry their context themselves."""
BY_ORM = ' FROM "'
"""Marks a SELECT by the ORM; others may call functions that write."""
CALL = re.compile(r"""([\w."]+)\s*\(""")
READS_ONLY = re.compile(
    "ABS|ARRAY_AGG|AVG|BOOL_AND|BOOL_OR|CAST|COALESCE|CONCAT|COUNT|DATE_PART|"
    "DATE_TRUNC|EXISTS|EXTRACT|GREATEST|JSONB_AGG|LEAST|LEFT|LENGTH|LOWER|MAX|MIN|"
    "NULLIF|NUMERIC|REPLACE|RIGHT|ROUND|ROW_NUMBER|STRING_AGG|SUBSTRING|SUM|TO_CHAR|"
    "TRIM|UPPER|VARCHAR|"
    "AND|ANY|AS|BY|DISTINCT|ELSE|FILTER|FROM|IN|JOIN|NOT|ON|OR|OVER|SELECT|THEN|WHEN|WHERE",
    re.IGNORECASE,
)
"""Words before a parenthesis: functions that the ORM calls most, and keywords. A SELECT with another
function may write by it."""


def verb_of(sql: Any, raw: Any) -> str:
    """The statement's first word; '' for a SELECT that surely writes nothing and would only pay
    with round trips. Others may call functions that write."""
    if isinstance(sql, bytes):
        sql = sql.decode(errors="replace")
    elif not isinstance(sql, str) and not hasattr(sql, "as_string"):
        return "EXECUTE"  # whatever the driver makes of it
    text = sql if isinstance(sql, str) else sql.as_string(raw)
    match = FIRST_WORD.match(text)
    verb = match[1].upper() if match else ""
    return "" if verb == "SELECT" and _only_reads(text) else verb


def _only_reads(select: str) -> bool:
    if select.startswith(LIVE):
        return True
    if BY_ORM not in select or "/*" in select:
        return False
    return all(map(READS_ONLY.fullmatch, CALL.findall(select)))
