"""A file of an older version opens, and everything in it is there."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from dramatiq import Message

from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.schema import MIGRATIONS
from dramatiq_retryq.sqlite_store import SQLiteStore

NOW = 1_767_225_600_000
MESSAGES = [
    ("waiting", "default", NOW + 5),
    ("waiting", "default", NOW),
    ("waiting", "other", NOW),
    ("claimed", "default", NOW - 1),
    ("dead", "other", NOW - 2),
]


def payload(number: int, queue: str) -> bytes:
    return Message(
        queue_name=queue,
        actor_name="call",
        args=(),
        kwargs={},
        options={},
        message_id=f"m-{number}",
        message_timestamp=NOW,
    ).encode()


@pytest.fixture
def version_1() -> ModuleType:
    spec = importlib.util.spec_from_file_location("version_1", Path(__file__).with_name("version_1.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path: Path, version_1: ModuleType) -> Path:
    path = tmp_path / "jobs.db"
    version_1.make(
        str(path),
        [(state, queue, due_at, payload(n, queue)) for n, (state, queue, due_at) in enumerate(MESSAGES, 1)],
    )
    return path


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as con:
        return int(con.execute("PRAGMA user_version").fetchone()[0])


def test_a_file_of_version_1_has_all_its_messages_once_it_was_opened(path: Path) -> None:
    store = SQLiteStore(path)
    assert version_of(path) == len(MIGRATIONS) == 3
    assert [(entry.id, entry.queue_name, entry.data) for entry in store.entries(state="waiting")] == [
        (number, queue, payload(number, queue)) for number, queue in ((2, "default"), (3, "other"), (1, "default"))
    ]
    assert [letter.message_id for letter in store.letters()] == ["m-5"]
    assert store.check() == []
    store.close()


def test_the_counts_of_a_file_of_version_1_are_right_and_stay_so(path: Path) -> None:
    store = SQLiteStore(path)
    counts = store.counts(now=NOW)
    assert (counts["default"].due, counts["default"].later, counts["default"].claimed) == (1, 1, 1)
    assert (counts["other"].due, counts["other"].dead) == (1, 1)
    store.put("default", b"new", due_at=NOW, now=NOW)
    claims = store.claim("default", now=NOW, limit=10, owner="host:2")
    assert len(claims) == 2
    store.finish_many(claims)
    assert store.counts(now=NOW)["default"].waiting == 1
    assert store.check() == []
    store.close()


def test_what_a_process_of_version_1_held_when_it_died_is_recovered(path: Path) -> None:
    store = SQLiteStore(path)
    store.recover(now=NOW, max_crashes=3)
    assert [claim.id for claim in store.claim("default", now=NOW, limit=10, owner="host:2")] == [4, 2]
    store.close()


def test_several_that_open_a_file_of_version_1_at_once_migrate_it_once(path: Path) -> None:
    stores = [SQLiteStore(path) for _ in range(3)]
    for store in stores:
        assert len(list(store.entries())) == 4
        store.close()


def test_a_file_of_version_1_in_which_something_is_in_the_way_is_left_as_it_was(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute("CREATE TABLE minutes (x)")
        con.commit()
    with pytest.raises(Exception, match="minutes already exists"):
        SQLiteStore(path)
    assert version_of(path) == 1
    with closing(sqlite3.connect(path)) as con:
        assert con.execute("SELECT count(*) FROM messages").fetchone() == (5,)
        assert list(con.execute("SELECT name FROM sqlite_master WHERE name = 'pauses'")) == []


def test_a_file_of_a_later_version_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as con:
        con.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(ConfigError, match="newer dramatiq_retryq"):
        SQLiteStore(path)
    assert version_of(path) == len(MIGRATIONS) + 1
