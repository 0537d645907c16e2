"""The tables refuse what no move leads to, whoever writes: a row is waiting, claimed or dead, and wholly so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dramatiq_retryq.records import DeadLetter, ErrorInfo
from dramatiq_retryq.sqlite_store import SQLiteStore

NOW = 1_767_225_600_000


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another program to a file with one entry in each state."""
    path = tmp_path / "jobs.db"
    store = SQLiteStore(path)
    for _ in range(3):
        store.put("default", b"payload", due_at=NOW, now=NOW)
    dead, _ = store.claim("default", now=NOW, limit=2, owner="elsewhere:1")
    error = ErrorInfo(type="ValueError", message="no")
    store.bury(
        dead,
        DeadLetter(
            id=str(dead.id),
            reason="exhausted",
            queue_name="default",
            actor_name="work",
            died_at=NOW,
            error=error,
            data=dead.data,
        ),
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
    assert store.check() == []
    store.close()


def states(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT state FROM messages ORDER BY state")]


# What each state has none of, and what it cannot do without.
FORBIDDEN = [
    *((state, "deliveries = -1") for state in ("waiting", "claimed", "dead")),
    *((state, f"state = '{other}'") for state in ("waiting", "claimed", "dead") for other in ("done", "WAITING", "")),
    *((state, f"{column} = NULL") for state in ("waiting", "dead") for column in ("queue", "due_at", "data")),
    *(("waiting", f"{column} = 1") for column in ("worker", "token", "claimed_at", "died_at", "reason", "letter")),
    *(("claimed", f"{column} = NULL") for column in ("worker", "token", "claimed_at")),
    *(("claimed", f"{column} = 1") for column in ("died_at", "reason", "letter")),
    ("claimed", "held = 'work'"),
    ("claimed", "state = 'waiting'"),
    ("claimed", "state = 'dead'"),
    *(("dead", f"{column} = 1") for column in ("worker", "token", "claimed_at")),
    *(("dead", f"{column} = NULL") for column in ("died_at", "reason", "letter")),
    ("dead", "held = 'work'"),
    ("dead", "state = 'waiting'"),
    ("dead", "state = 'claimed'"),
    ("waiting", "state = 'claimed'"),
    ("waiting", "state = 'dead'"),
]


@pytest.mark.parametrize(("state", "change"), FORBIDDEN)
def test_a_row_cannot_be_changed_into_what_is_no_state(connection: sqlite3.Connection, state: str, change: str) -> None:
    assert states(connection) == ["claimed", "dead", "waiting"]
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"UPDATE messages SET {change} WHERE state = ?", (state,))
    assert states(connection) == ["claimed", "dead", "waiting"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO messages (queue, state, due_at, deliveries, data) VALUES ('default', 'done', 1, 0, x'00')",
        "INSERT INTO messages (queue, state, due_at, deliveries, data) VALUES ('default', 'claimed', 1, 1, x'00')",
        "INSERT INTO messages (queue, state, due_at, deliveries, data) VALUES ('default', 'dead', 1, 1, x'00')",
        "INSERT INTO messages (queue, state, due_at, deliveries, data) VALUES ('default', 'waiting', 1, -1, x'00')",
        "INSERT INTO messages (queue, state, due_at, deliveries, data, worker) "
        "VALUES ('default', 'waiting', 1, 0, x'00', 1)",
        "INSERT INTO pauses (kind, name, since) VALUES ('worker', 'all', 1)",
        "INSERT INTO pauses (kind, name, since) VALUES ('actor', 'work', NULL)",
        "INSERT INTO counted (one, up_to) VALUES (2, 0)",
        "INSERT INTO journey (worker, name, target) VALUES (1, 'move', 'redis://')",
        "INSERT INTO workers (file, owner, started_at) SELECT file, owner, started_at FROM workers",
    ],
)
def test_what_is_no_state_cannot_be_put_there(connection: sqlite3.Connection, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)


def test_there_is_one_journey_at_a_time(connection: sqlite3.Connection) -> None:
    begin = "INSERT INTO journey (worker, name, target) VALUES (-1, 'move', 'redis://')"
    connection.execute(begin)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(begin)
    connection.execute("DELETE FROM journey")
