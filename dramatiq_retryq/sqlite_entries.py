"""What a SQLite file lists, a page at a time."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import schema as sql
from . import sqlite_counts as numbers
from .database import Database
from .records import DeadLetter, Entry, State
from .sqlite_rows import entry_of, has_parts, letter_of

__all__ = ["entries_in", "letters_in"]

#: How many letters or entries are read at a time. A longer read would keep the log from being checkpointed.
_PAGE = 200


def letters_in(db: Database) -> Iterator[DeadLetter]:
    """The dead letters, newest first."""
    died_at, row_id = 1 << 62, 1 << 62
    while True:
        after = (died_at, row_id, _PAGE)
        rows = db.read(lambda con, after=after: con.execute(sql.LETTERS, after).fetchall())  # type: ignore[misc]
        for row in rows:
            yield letter_of(row)
        if len(rows) < _PAGE:
            return
        row_id, died_at = rows[-1][0], rows[-1][2]


def entries_in(
    db: Database,
    *,
    queue_name: str | None,
    state: State | None,
    after: tuple[int, int] | None,
    containing: Sequence[bytes],
) -> Iterator[Entry]:
    """What waits or is claimed; see ``Store.entries``."""
    after = (-1 << 62, 0) if after is None else after
    found: list[Iterable[Entry]] = []
    if state != "waiting":
        rows = db.read(lambda con: con.execute(sql.CLAIMED_ENTRIES, after).fetchall())
        found.append(entry_of(row) for row in rows if queue_name in (None, row[1]) and has_parts(row, containing))
    if state != "claimed":
        queues, held = db.read(numbers.places)
        for queue in queues:
            if queue_name in (None, queue):
                found.append(_pages(db, sql.WAITING_PAGE, (queue,), after, containing))
        for actor, queue in held:
            if queue_name in (None, queue):
                found.append(_pages(db, sql.HELD_PAGE, (actor, queue), after, containing))
    return heapq.merge(*found, key=lambda entry: (entry.due_at, entry.id))


def _pages(
    db: Database, page: tuple[str, str], where: tuple[str, ...], after: tuple[int, int], containing: Sequence[bytes]
) -> Iterator[Entry]:
    same_instant, later_instant = page

    def query(con: sqlite3.Connection) -> list[Any]:
        due_at, row_id = after
        rows = con.execute(same_instant, (*where, due_at, row_id, _PAGE)).fetchall()
        return rows + con.execute(later_instant, (*where, due_at, _PAGE - len(rows))).fetchall()

    while True:
        rows = db.read(query)
        for row in rows:
            if has_parts(row, containing):
                yield entry_of(row)
        if len(rows) < _PAGE:
            return
        after = rows[-1][4], rows[-1][0]
