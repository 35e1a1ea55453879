"""Bell: what a writer does after its ledger row, so that a sleeping relay wakes and an awake one
costs nothing.

A NOTIFY inside a writing transaction holds a lock of the whole cluster until its WAL is flushed
(PostgreSQL's ``async.c``, PreCommit_Notify). So writers ring only while the relay sleeps, and an
advisory lock tells them: the *gate*. A relay that is awake holds it, or waits for it, exclusively;
a writer that gets it shared knows that nobody is looking. Waiting shuts the gate as well as
holding does, since PostgreSQL lets no newcomer overtake a waiter. See ``relay/gate.py``.
"""

from __future__ import annotations

import hashlib

BELL_PG_CHANNEL = "django_pgnotify_bell"

# The row must be there before the gate is tried: a relay that goes to sleep waits for everybody
# who has an xid by then, and only those. The lock ends with the transaction or savepoint, like
# the NOTIFY. Roles that use two-phase commit turn the bell off (a NOTIFY forbids PREPARE), and a
# queue that fills would fail the user's COMMIT: the relay's poll finds the row all the same.
NEEDED = """coalesce(current_setting('django_pgnotify.bell', true), '')
            NOT IN ('off', 'false', 'no', '0')
        AND pg_try_advisory_xact_lock_shared(@gate@)"""
PULL = """IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('django_pgnotify_bell', '');
    END IF;"""
RING = f"IF {NEEDED} THEN\n    {PULL}\n    END IF;"


def gate_key(schema: str) -> int:
    """The gate's advisory lock key: one for each ledger of a database."""
    digest = hashlib.sha256(f"django_pgnotify gate {schema}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def needed_sql(schema: str) -> str:
    """An expression that tells whether the relay of the schema's ledger sleeps, once the row is
    there: then the bell must be pulled. Wherever it is evaluated, the gate has been tried."""
    return NEEDED.replace("@gate@", str(gate_key(schema)))


def ring_sql(schema: str) -> str:
    """Statements of plpgsql that ring the bell of the schema's ledger if its relay sleeps."""
    return RING.replace("@gate@", str(gate_key(schema)))
