"""The numbers of a file with much in it: right, and found without looking at all of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dramatiq_retryq import schema, sqlite_counts
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.sqlite_store import SQLiteStore
from dramatiq_retryq.status import Rates

NOW = 1_767_225_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    assert store.check() == []
    store.close()


def put(store: SQLiteStore, count: int = 1, *, due_at: int = NOW, now: int = NOW, queue: str = "default") -> None:
    for _ in range(count):
        store.put(queue, b"payload", due_at=due_at, now=now)


def rates(store: SQLiteStore) -> Rates:
    return Rates.sum(minute.rates for minute in store.minutes(since_at=0, now=NOW))


@pytest.mark.parametrize("due", [0, 1, 5, 12, 19, 20])
@pytest.mark.parametrize("kept", [False, True])
def test_what_is_due_is_counted_from_the_smaller_side(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, due: int, kept: bool
) -> None:
    monkeypatch.setattr(sqlite_counts, "_BOTH_SIDES", 3)
    put(store, due)
    put(store, 20 - due, due_at=NOW + 1)
    if kept:
        store.keep_counts(now=NOW + 5_000)
    counts = store.counts(now=NOW)["default"]
    assert (counts.due, counts.later) == (due, 20 - due)


def test_what_the_totals_do_not_know_of_yet_is_counted(store: SQLiteStore) -> None:
    put(store, 3)
    store.keep_counts(now=NOW + 5_000)
    put(store, 4, now=NOW + 5_001)
    assert store.counts(now=NOW)["default"].waiting == 7
    assert store.unfinished("default") == 7


def test_many_that_the_totals_do_not_know_of_are_taken_in_by_who_counts_them(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_counts, "_MANY", 5)
    put(store, 3)
    with closing(sqlite3.connect(path)) as con:
        con.executemany(
            "INSERT INTO messages (queue, state, due_at, deliveries, data) VALUES ('other', 'waiting', 0, 0, x'')",
            [()] * 9,
        )
        con.commit()
    assert store.counts(now=NOW)["other"].due == 9
    with closing(sqlite3.connect(path)) as con:
        assert dict(con.execute(schema.TOTALS).fetchall())["other"] == 9
        assert con.execute(schema.UNCOUNTED).fetchall() == []


def test_check_finds_and_mends_totals_that_another_program_made_wrong(store: SQLiteStore, path: Path) -> None:
    put(store, 3)
    store.keep_counts(now=NOW + 5_000)
    with closing(sqlite3.connect(path)) as con:
        con.execute("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)")
        con.commit()
    assert store.counts(now=NOW)["default"].waiting == 3
    assert store.check() == [
        "queue 'default': 2 entries wait or are claimed, and 3 were counted: they are counted anew"
    ]
    assert store.check() == []
    assert store.counts(now=NOW)["default"].waiting == 2


def test_check_finds_what_another_program_deleted_of_what_was_set_aside(store: SQLiteStore, path: Path) -> None:
    put(store, 2)
    store.pause(actor_name="add", now=NOW)
    [first, _] = claims = store.claim("default", now=NOW, limit=2, owner="host:1")
    store.hold(claims, "add", now=NOW)
    with closing(sqlite3.connect(path)) as con:
        con.execute("DELETE FROM messages WHERE id = ?", (first.id,))
        con.commit()
    assert f"entry {first.id} is set aside in one place and not in the other" in store.check()
    assert store.check() == []
    assert store.counts(now=NOW)["default"].held == 1


def test_an_id_that_the_totals_know_is_not_given_again_when_the_clock_is_set_back(store: SQLiteStore) -> None:
    put(store, 3)
    store.keep_counts(now=NOW + 5_000)
    store.finish_many(store.claim("default", now=NOW, limit=3, owner="host:1"), now=NOW + 5_000)
    put(store, 2, now=NOW - 60_000)
    assert store.counts(now=NOW)["default"].due == 2
    assert len(store.claim("default", now=NOW, limit=1, owner="host:1")) == 1
    assert store.counts(now=NOW)["default"].due == 1


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (schema.CLAIM, (1, 1, NOW, "default", NOW, 1)),
        (schema.HEAD, ("default",)),
        (schema.IS_IDLE, {"queue": "default", "waiting": 1}),
        (schema.LAST, ("default",)),
        (schema.COUNT_DUE, ("default", NOW)),
        (schema.COUNT_LATER, ("default", NOW)),
        (schema.WAITING_PAGE[0], ("default", 0, 0, 1)),
        (schema.WAITING_PAGE[1], ("default", 0, 1)),
        (schema.HELD_PAGE[0], ("add", "default", 0, 0, 1)),
        (schema.HELD_PAGE[1], ("add", "default", 0, 1)),
        (schema.LET_GO, ("add", 1)),
        (schema.HELD_FOR, ()),
        (schema.UNCOUNTED, ()),
        (schema.SAMPLE, (1,)),
        (schema.MOVE, (NOW, 1)),
        (schema.CANCEL, (1,)),
        (schema.MINUTES, (NOW,)),
    ],
)
def test_no_statement_looks_at_every_message_nor_sorts_them(
    store: SQLiteStore, path: Path, statement: str, parameters: Any
) -> None:
    with closing(sqlite3.connect(path)) as con:
        plan = [row[3] for row in con.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    # Reading along an index of its own in order is no look at everything.
    scans = [step for step in plan if step.startswith(("SCAN messages", "USE TEMP B-TREE FOR ORDER"))]
    # What is claimed is never much.
    assert [step for step in scans if "COVERING INDEX" not in step and "INDEX claimed" not in step] == []


def test_a_page_of_many_that_are_due_at_once_is_found_without_those_before_it(store: SQLiteStore) -> None:
    put(store, 5_000)
    [*_, last] = store.entries()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    store._db.read(lambda con: con.set_progress_handler(step, 100))
    assert len(list(store.entries(after=(NOW, last.id - 10)))) == 10
    assert steps < 100
    store._db.read(lambda con: con.set_progress_handler(None, 100))


# -- Counters by minute ----------------------------------------------------------------------------------------------


def test_counters_are_written_with_the_first_commit_and_then_once_a_second(store: SQLiteStore, path: Path) -> None:
    def written() -> int:
        with closing(sqlite3.connect(path)) as con:
            return int(con.execute("SELECT coalesce(sum(times), 0) FROM minutes").fetchone()[0])

    put(store, now=NOW)
    assert written() == 1
    put(store, 5, now=NOW + 999)
    assert written() == 1
    put(store, now=NOW + 1_000)
    assert written() == 7


def test_what_was_counted_and_not_written_is_written_at_the_end(store: SQLiteStore, path: Path) -> None:
    other = SQLiteStore(path)
    put(other, 5)
    other.close()
    assert rates(store).sent == 5


def test_who_looks_sees_what_others_in_the_same_process_have_not_written_yet(store: SQLiteStore, path: Path) -> None:
    other = SQLiteStore(path)
    put(other, 5)
    assert rates(store).sent == 5
    other.close()
    assert rates(store).sent == 5


def test_a_count_that_could_not_be_written_is_written_later_and_once(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 3)
    add = sqlite_counts._add_minutes

    def disk_full(*args: Any) -> None:
        add(*args)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_counts, "_add_minutes", disk_full)
    with pytest.raises(StoreUnavailable, match="full"):
        put(store, now=NOW + 2_000)
    monkeypatch.undo()
    put(store, now=NOW + 4_000)
    assert rates(store).sent == 4
    assert store.counts(now=NOW)["default"].waiting == 4


def test_a_file_in_which_a_day_of_minutes_was_written_keeps_no_more(store: SQLiteStore, path: Path) -> None:
    for minute in range(0, 48 * 60, 30):
        put(store, now=NOW + minute * 60_000)
    with closing(sqlite3.connect(path)) as con:
        assert con.execute("SELECT count(*) FROM minutes").fetchone() == (48,)


def test_the_child_of_a_fork_counts_nothing_of_its_parent(store: SQLiteStore) -> None:
    put(store, 5)
    store._counters.forget()
    store.keep_counts(now=NOW + 5_000)
    assert rates(store).sent == 1


def test_threads_that_send_at_once_are_all_counted(store: SQLiteStore) -> None:
    threads = [threading.Thread(target=put, args=(store, 50)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rates(store).sent == 200
