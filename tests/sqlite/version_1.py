"""A file as the first version of this package made it, with something in it. What stands here is never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing

__all__ = ["make"]

SCHEMA = (
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        state TEXT NOT NULL,
        due_at INTEGER NOT NULL,
        deliveries INTEGER NOT NULL CHECK (deliveries >= 0),
        data BLOB NOT NULL,
        worker INTEGER,
        token INTEGER,
        claimed_at INTEGER,
        died_at INTEGER,
        reason TEXT,
        letter TEXT,
        CHECK (CASE state
            WHEN 'waiting' THEN coalesce(worker, token, claimed_at, died_at, reason, letter) IS NULL
            WHEN 'claimed' THEN worker + token + claimed_at IS NOT NULL
                AND coalesce(died_at, reason, letter) IS NULL
            WHEN 'dead' THEN coalesce(worker, token, claimed_at) IS NULL
                AND died_at IS NOT NULL AND reason IS NOT NULL AND letter IS NOT NULL
            ELSE 0 END)
    )
    """,
    "CREATE INDEX waiting ON messages (queue, due_at, id) WHERE state = 'waiting'",
    "CREATE INDEX claimed ON messages (worker) WHERE state = 'claimed'",
    "CREATE INDEX dead ON messages (died_at, id) WHERE state = 'dead'",
    """
    CREATE TABLE workers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        file TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        started_at INTEGER NOT NULL
    )
    """,
    # What the result backend and the rate limiter backend keep, each until it expires.
    "CREATE TABLE results (key TEXT PRIMARY KEY, data BLOB NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX results_by_end ON results (expires_at)",
    "CREATE TABLE limits (key TEXT PRIMARY KEY, value INTEGER NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX limits_by_end ON limits (expires_at)",
)

PUT = "INSERT INTO messages (id, queue, state, due_at, deliveries, data) VALUES (?, ?, 'waiting', ?, 0, ?)"
CLAIM = "UPDATE messages SET state = 'claimed', worker = 1, token = 5, claimed_at = due_at, deliveries = 1 WHERE id = ?"
BURY = """
    UPDATE messages SET state = 'dead', died_at = due_at, reason = 'exhausted',
        letter = '{"actor": "call", "error": null, "traceback": null}' WHERE id = ?
"""


def make(path: str, messages: Iterable[tuple[str, str, int, bytes]]) -> None:
    """Make a file that holds these messages, with ids from 1 on: their state, queue, due instant and payload.

    What is claimed is so by a process that lives no more.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        con.execute("PRAGMA journal_mode = WAL")
        con.execute("BEGIN")
        for statement in SCHEMA:
            con.execute(statement)
        con.execute("PRAGMA application_id = 1382380625")
        con.execute("PRAGMA user_version = 1")
        con.execute("INSERT INTO workers (file, owner, started_at) VALUES ('jobs.db-worker-gone', 'host:1', 1)")
        for number, (state, queue, due_at, data) in enumerate(messages, 1):
            con.execute(PUT, (number, queue, due_at, data))
            if state != "waiting":
                con.execute(CLAIM if state == "claimed" else BURY, (number,))
        con.execute("COMMIT")
