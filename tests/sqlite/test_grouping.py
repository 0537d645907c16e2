"""Moves that come together are committed together, and none of them does the others any harm."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dramatiq_retryq import database
from dramatiq_retryq.database import Database
from dramatiq_retryq.errors import ClaimLost, StoreUnavailable

TABLE = (("CREATE TABLE numbers (number INTEGER NOT NULL UNIQUE)",),)
PATIENCE = 30

Move = Callable[[sqlite3.Connection], Any]


class Interrupt(BaseException):
    """As Dramatiq raises it in a thread, at any line."""


class Queue(deque[Any]):
    """The moves that wait, counted as they come in."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Semaphore(0)

    def append(self, move: Any) -> None:
        super().append(move)
        self.came.release()


class Connection(sqlite3.Connection):
    """Raises once what is put into ``after_commit``, when it has committed."""

    after_commit: BaseException | None = None

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        cursor = super().execute(sql, *args)
        if sql == "COMMIT" and self.after_commit is not None:
            error, self.after_commit = self.after_commit, None
            raise error
        return cursor


class Group:
    """A database to which several threads write at once, while a slow move holds them all up."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, TABLE)
        self.queue = self.database._waiting = Queue()
        assert self.database._writer is not None
        self.writer = self.database._writer
        self.transactions = 0
        self.writer.set_trace_callback(self._trace)

    def _trace(self, statement: str) -> None:
        self.transactions += statement.startswith("BEGIN")

    def write(self, *moves: Move) -> list[Any]:
        """What each of these moves, written by a thread of its own, returned or raised. They all wait in this order."""
        outcomes: list[Any] = [None] * len(moves)
        entered, go_on = threading.Event(), threading.Event()

        def slow(con: sqlite3.Connection) -> None:
            entered.set()
            assert go_on.wait(PATIENCE)

        def run(index: int, move: Move) -> None:
            try:
                outcomes[index] = self.database.write(move)
            except BaseException as error:
                outcomes[index] = error

        threads = [threading.Thread(target=self.database.write, args=(slow,))]
        threads[0].start()
        assert self.queue.came.acquire(timeout=PATIENCE)
        assert entered.wait(PATIENCE)
        for index, move in enumerate(moves):
            threads.append(threading.Thread(target=run, args=(index, move)))
            threads[-1].start()
            assert self.queue.came.acquire(timeout=PATIENCE)
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return outcomes

    def numbers(self) -> list[int]:
        """What is stored, as another process sees it."""
        connection = sqlite3.connect(self.database.path)
        try:
            return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY rowid")]
        finally:
            connection.close()


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
    group = Group(tmp_path / "jobs.db")
    yield group
    # Whatever happened before, the next move is made.
    group.database.write(insert(1_000))
    assert group.numbers().count(1_000) == 1
    assert not group.queue
    group.database.close()


def insert(number: int) -> Move:
    def move(con: sqlite3.Connection) -> int:
        con.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return move


def raising(error: BaseException, *, times: int = 1_000) -> Move:
    """A move that raises so many times, and stores 99 after that."""
    left = [error] * times

    def move(con: sqlite3.Connection) -> Any:
        if left:
            raise left.pop()
        return insert(99)(con)

    return move


def test_moves_that_come_while_one_is_made_are_committed_in_one_transaction(group: Group) -> None:
    assert group.write(*[insert(n) for n in range(8)]) == list(range(8))
    assert group.transactions == 2
    assert group.numbers() == list(range(8))


def test_a_move_that_comes_alone_is_a_transaction_of_its_own(group: Group) -> None:
    for n in range(3):
        group.database.write(insert(n))
    assert group.transactions == 3


def test_a_single_statement_that_comes_alone_needs_no_begin(group: Group) -> None:
    assert group.database.write(insert(1), single=True) == 1
    assert group.transactions == 0
    assert group.numbers() == [1]


def test_a_group_has_a_bound_and_the_rest_come_in_the_next(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_GROUP", 3)
    assert group.write(*[insert(n) for n in range(8)]) == list(range(8))
    assert sorted(group.numbers()) == list(range(8))
    assert 3 <= group.transactions <= 1 + 8


def test_a_move_that_finds_its_claim_lost_is_told_so_and_the_others_are_made_in_the_same_transaction(
    group: Group,
) -> None:
    lost = ClaimLost(7)
    assert group.write(insert(1), raising(lost), insert(2)) == [1, lost, 2]
    assert group.numbers() == [1, 2]
    assert group.transactions == 2


@pytest.mark.parametrize("place", range(3))
def test_a_move_that_breaks_a_constraint_fails_alone_and_the_others_are_made_once(group: Group, place: int) -> None:
    moves = [insert(1), insert(2)]
    moves.insert(place, insert(None))  # type: ignore[arg-type]
    outcomes = group.write(*moves)
    refused = outcomes.pop(place)
    assert isinstance(refused, StoreUnavailable)
    assert "NOT NULL constraint failed" in str(refused)
    assert outcomes == [1, 2]
    assert group.numbers() == [1, 2]


@pytest.mark.parametrize("place", range(3))
def test_a_move_that_raises_anything_raises_that_and_the_others_are_made_once(group: Group, place: int) -> None:
    error = ValueError("no")
    moves = [insert(1), insert(2)]
    moves.insert(place, raising(error))
    outcomes = group.write(*moves)
    assert outcomes.pop(place) is error
    assert outcomes == [1, 2]
    assert group.numbers() == [1, 2]


def test_what_a_move_that_fails_had_already_written_is_not_stored(group: Group) -> None:
    def half(con: sqlite3.Connection) -> None:
        insert(50)(con)
        raise ValueError("no")

    group.write(insert(1), half, insert(2))
    assert group.numbers() == [1, 2]


def test_an_interrupt_in_the_midst_of_a_group_reaches_one_thread_and_every_other_move_is_made_once(
    group: Group,
) -> None:
    interrupt = Interrupt()
    # Whichever thread makes the group's moves is interrupted at the second of them, once.
    outcomes = group.write(insert(1), raising(interrupt, times=1), insert(2), insert(3))
    assert outcomes.count(interrupt) == 1
    expected = [1, 99, 2, 3]
    interrupted = expected.pop(outcomes.index(interrupt))
    assert [outcome for outcome in outcomes if outcome is not interrupt] == expected
    assert sorted(group.numbers()) == sorted(expected)
    assert interrupted not in group.numbers()


def test_an_interrupt_right_after_the_commit_reaches_one_thread_and_no_move_is_made_twice(group: Group) -> None:
    interrupt = Interrupt()

    def prepare(con: sqlite3.Connection) -> int:
        con.after_commit = interrupt  # type: ignore[attr-defined]
        return insert(0)(con)

    outcomes = group.write(prepare, insert(1), insert(2))
    assert outcomes.count(interrupt) == 1
    assert [outcome for outcome in outcomes if outcome is not interrupt] == [
        n for n in range(3) if outcomes[n] is not interrupt
    ]
    assert group.numbers() == [0, 1, 2]


def test_an_interrupted_move_that_comes_alone_is_not_stored(group: Group) -> None:
    def move(con: sqlite3.Connection) -> None:
        insert(1)(con)
        raise Interrupt

    with pytest.raises(Interrupt):
        group.database.write(move)
    assert group.numbers() == []


def test_after_it_was_closed_it_neither_reads_nor_writes(group: Group) -> None:
    path = group.database.path
    other = Database(path, TABLE)
    other.close()
    other.close()
    for act in (
        lambda: other.write(insert(1)),
        lambda: other.write(insert(1), single=True),
        lambda: other.read(lambda con: con.execute("SELECT 1").fetchone()),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            act()
        assert str(caught.value) == f"{path}: the broker was closed"
    assert group.numbers() == []
