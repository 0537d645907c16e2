"""The tables of a SQLite file, by version."""

from __future__ import annotations

__all__ = ["MIGRATIONS"]

# The CHECK holds the state machine: each state has the columns it needs, and no others.
_VERSION_1 = (
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

#: The statements that lead from each version of the schema to the next; the version is the file's ``user_version``.
MIGRATIONS = (_VERSION_1,)
