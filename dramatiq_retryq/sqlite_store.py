"""The store in one SQLite file, shared by many processes. Its SQL stands in :mod:`dramatiq_retryq.schema`."""

from __future__ import annotations

import itertools
import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from . import schema as sql
from . import sqlite_counts as numbers
from .database import Database, Synchronous
from .errors import ClaimLost, ConfigError, LetterNotFound, MessageNotFound, StoreUnavailable
from .records import (
    Claim,
    DeadLetter,
    Entry,
    QueueCounts,
    Reason,
    State,
    entry_number,
    is_message,
    known_reason,
    spellings,
)
from .sqlite_counts import Counters
from .sqlite_entries import entries_in, letters_in
from .sqlite_pauses import Pauses
from .sqlite_rows import entry_of, first_id, is_torn, letter_of, letter_text
from .sqlite_workers import Workers
from .status import Minute, Paused, WorkerStatus
from .store import NoticeOf, Outcome

__all__ = ["SQLiteStore"]

_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()


class SQLiteStore:
    """A :class:`~dramatiq_retryq.store.Store` in a SQLite file.

    Args:
        path: the file; made if it is not there.
        synchronous: ``"normal"``: survives a crash of any process, the machine's last moments may be lost with its
            power. ``"full"``: survives that too.
        max_dead_letters: how many dead letters are kept; ``None`` for no bound.
        max_letter_age: how long dead letters are kept, in milliseconds; ``None`` for ever.

    Raises:
        ConfigError: see :class:`~dramatiq_retryq.database.Database`.
        StoreUnavailable: likewise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "normal",
        max_dead_letters: int | None = None,
        max_letter_age: int | None = None,
    ) -> None:
        self.max_dead_letters = max_dead_letters
        self.max_letter_age = max_letter_age
        self.database = self._db = Database(path, sql.MIGRATIONS, synchronous=synchronous)
        self.path = self._db.path
        self._counters = Counters(self._db)
        self._workers = Workers(self._db, self._counters)
        self._pauses = Pauses(self._db)
        self._forget()
        try:
            numbers.catch_up(self._db)
        except BaseException:
            self._db.close()
            raise
        _stores.add(self)

    def _forget(self) -> None:
        self._tokens = itertools.count(1)
        self._data_version: int | None = None

    # -- Moves ---------------------------------------------------------------------------------------------------

    def put(self, queue_name: str, data: bytes, *, due_at: int, now: int, exempt: bool = False) -> int:
        parameters = (first_id(now), queue_name, due_at, data)

        def move(con: sqlite3.Connection) -> int:
            return con.execute(sql.PUT, parameters).lastrowid or 0

        counters = self._counters
        if counters.is_due(now):
            return counters.write(move, now=now, happened=lambda _: (("sent", queue_name, 1),))
        entry_id = self._db.write(move, single=True)
        counters.sent.append(queue_name)
        return entry_id

    def claim(self, queue_name: str, *, now: int, limit: int, owner: str) -> list[Claim]:
        # Looked at first: an update that finds nothing takes the write lock from those who write.
        next_due = self.next_due(queue_name)
        if next_due is None or next_due > now or limit < 1:
            return []
        worker, _ = self._workers.own or self._workers.register(owner, now)
        token = (worker << 32) + next(self._tokens)
        parameters = (worker, token, now, queue_name, now, limit)
        rows = self._db.write(lambda con: con.execute(sql.CLAIM, parameters).fetchall(), single=True)
        # RETURNING promises no order.
        rows.sort(key=lambda row: (row[2], row[0]))
        return [Claim(row[0], queue_name, row[1], row[2], row[3], now, owner, token) for row in rows]

    def next_due(self, queue_name: str) -> int | None:
        head = self.head(queue_name)
        return head[0] if head is not None else None

    def head(self, queue_name: str) -> tuple[int, int] | None:
        head: tuple[int, int] | None = self._db.read(lambda con: con.execute(sql.HEAD, (queue_name,)).fetchone())
        return head

    def finish(self, claim: Claim, *, now: int | None = None) -> None:
        if self.finish_many([claim], now=now):
            raise ClaimLost(claim.id)

    def finish_many(self, claims: Iterable[Claim], *, now: int | None = None) -> list[Claim]:
        claims = list(claims)
        if not claims:
            return []

        def move(con: sqlite3.Connection) -> list[Claim]:
            lost = [claim for claim in claims if con.execute(sql.FINISH, (claim.id, claim.token)).rowcount == 0]
            numbers.count_out(con, claims if not lost else [claim for claim in claims if claim not in lost])
            return lost

        def done(lost: list[Claim]) -> list[str]:
            return [claim.queue_name for claim in claims if not lost or claim not in lost]

        counters, now = self._counters, claims[0].claimed_at if now is None else now
        if counters.is_due(now):
            return counters.write(
                move, now=now, happened=lambda lost: [("succeeded", queue_name, 1) for queue_name in done(lost)]
            )
        lost = self._db.write(move)
        counters.done.extend(done(lost))
        return lost

    def reschedule(self, claim: Claim, *, data: bytes, due_at: int, now: int, outcome: Outcome = "retried") -> None:
        def move(con: sqlite3.Connection) -> None:
            if con.execute(sql.RESCHEDULE, (due_at, data, claim.id, claim.token)).rowcount == 0:
                raise ClaimLost(claim.id)

        happened = ((outcome, claim.queue_name, 1),)
        self._counters.write(move, now=now, happened=lambda _: happened, single=True)

    def release(self, claims: Iterable[Claim], *, now: int) -> int:
        claims = list(claims)

        def move(con: sqlite3.Connection) -> int:
            return sum(con.execute(sql.RELEASE, (claim.id, claim.token)).rowcount for claim in claims)

        return self._db.write(move) if claims else 0

    def bury(self, claim: Claim, letter: DeadLetter, *, notice: tuple[str, bytes] | None = None) -> int:
        def move(con: sqlite3.Connection) -> int:
            parameters = (letter.died_at, letter.reason, letter_text(letter), letter.data, claim.id, claim.token)
            if con.execute(sql.BURY, parameters).rowcount == 0:
                raise ClaimLost(claim.id)
            numbers.count_out(con, [claim])
            if notice is not None:
                queue_name, data = notice
                con.execute(sql.PUT, (first_id(letter.died_at), queue_name, letter.died_at, data))
            if self.max_dead_letters is None:
                return 0
            return con.execute(sql.TRIM_BY_COUNT, (self.max_dead_letters,)).rowcount

        happened = [(f"died_{letter.reason}", claim.queue_name, 1)]
        if notice is not None:
            happened.append(("sent", notice[0], 1))
        return self._counters.write(move, now=letter.died_at, happened=lambda _: happened)

    def revive(self, letter_id: str, *, data: bytes, due_at: int, now: int) -> None:
        row_id = entry_number(letter_id)

        def move(con: sqlite3.Connection) -> None:
            if con.execute(sql.REVIVE, (due_at, data, row_id)).rowcount == 0:
                raise LetterNotFound(letter_id)
            con.execute(sql.COUNT_IN_ONE, (row_id,))

        self._db.write(move)

    def discard(self, letter_id: str) -> None:
        row_id = entry_number(letter_id)

        def move(con: sqlite3.Connection) -> None:
            if con.execute(sql.DISCARD, (row_id,)).rowcount == 0:
                raise LetterNotFound(letter_id)

        self._db.write(move, single=True)

    def flush(self, queue_name: str) -> int:
        def move(con: sqlite3.Connection) -> int:
            numbers.count_on(con)  # so that all that goes is in the total
            dropped = con.execute(sql.FLUSH, {"queue": queue_name}).rowcount
            con.execute(sql.FLUSH_SET_ASIDE, {"queue": queue_name})
            con.execute(sql.COUNT_OUT_WAITING, {"queue": queue_name})
            return dropped

        return self._db.write(move)

    def move(self, entry_id: str, *, due_at: int, now: int) -> str:
        row_id = entry_number(entry_id)

        def move(con: sqlite3.Connection) -> str:
            queue_name = _queue_of(con.execute(sql.MOVE, (due_at, row_id)), entry_id)
            con.execute(sql.MOVE_SET_ASIDE, (due_at, row_id))
            return queue_name

        return self._db.write(move)

    def cancel(self, entry_id: str) -> str:
        row_id = entry_number(entry_id)

        def move(con: sqlite3.Connection) -> str:
            queue_name = _queue_of(con.execute(sql.CANCEL, (row_id,)), entry_id)
            con.execute(sql.CANCEL_SET_ASIDE, (row_id,))
            con.execute(sql.COUNT_OUT_ONE, (queue_name, row_id))
            return queue_name

        return self._db.write(move)

    # -- Looking -------------------------------------------------------------------------------------------------

    def letters(self) -> Iterator[DeadLetter]:
        return letters_in(self._db)

    def letter(self, letter_id: str) -> DeadLetter:
        row = self._db.read(lambda con: con.execute(sql.LETTER, (entry_number(letter_id),)).fetchone())
        if row is None:
            raise LetterNotFound(letter_id)
        return letter_of(row)

    def counts(self, *, now: int) -> dict[str, QueueCounts]:
        return numbers.counts(self._db, now=now)

    def dead_by_reason(self) -> dict[Reason, int]:
        found: dict[Reason, int] = {}
        for reason, count in self._db.read(lambda con: con.execute(sql.COUNT_REASONS).fetchall()):
            found[known_reason(reason)] = found.get(known_reason(reason), 0) + count
        return found

    def unfinished(self, queue_name: str) -> int:
        return numbers.unfinished(self._db, queue_name)

    def is_idle(self, queue_name: str, *, paused: bool = False) -> bool:
        parameters = {"queue": queue_name, "waiting": not paused}
        return bool(self._db.read(lambda con: con.execute(sql.IS_IDLE, parameters).fetchone())[0])

    def entry(self, entry_id: str) -> Entry | None:
        row_id = entry_number(entry_id)
        row = self._db.read(lambda con: con.execute(sql.ENTRY, (row_id,)).fetchone())
        return entry_of(row) if row is not None else None

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        return entries_in(self._db, queue_name=queue_name, state=state, after=after, containing=containing)

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        def query(con: sqlite3.Connection) -> list[Any]:
            return [row for spelling in spellings(message_id) for row in con.execute(sql.FIND, (spelling,))]

        for row in self._db.read(query):
            # The payload may hold the id of another message, as a pipeline's does.
            if is_message(row[3], message_id):
                return self.letter(str(row[0])) if row[2] == "dead" else entry_of(row)
        return None

    def changed(self) -> bool:
        """Whether anybody has written since this was asked last; for those who wait for other processes."""
        version = int(self._db.read(lambda con: con.execute("PRAGMA data_version").fetchone())[0])
        changed = version != self._data_version
        self._data_version = version
        return changed

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the file to ``path``, which must not exist; see ``SQLiteBroker.backup``."""
        target = os.path.abspath(os.fspath(path))
        if os.path.exists(target):
            raise ConfigError(f"{target} exists already: give the path of a file that does not")
        self._db.read(lambda con: con.execute("VACUUM INTO ?", (target,)))
        os.chmod(target, 0o600)
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            # Whoever holds something holds it in the original, and will not settle it here.
            copy.execute(sql.RELEASE_ALL)
            copy.execute(sql.UNREGISTER_ALL)
            copy.execute(sql.END_JOURNEY)

    def check(self) -> list[str]:
        def query(con: sqlite3.Connection) -> tuple[list[str], list[str], list[str]]:
            con.execute("BEGIN")  # so that all of them look at the same instant
            try:
                findings = [str(row[0]) for row in con.execute("PRAGMA integrity_check") if row[0] != "ok"]
                findings += [
                    f"entry {row[0]} is claimed by a worker that is not registered" for row in con.execute(sql.ORPHANS)
                ]
                torn = [
                    f"dead letter {row_id}: what was kept of its error cannot be read"
                    for row_id, text in con.execute(sql.LETTER_TEXTS)
                    if is_torn(text)
                ]
                return findings, numbers.check(con), torn
            finally:
                con.execute("COMMIT")

        try:
            findings, miscounted, torn = self._db.read(query)
            if miscounted and not findings:
                self._db.write(numbers.count_anew)
            return findings + miscounted + torn
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.DatabaseError) and "malformed" in str(error.__cause__):
                return [str(error)]
            raise

    # -- Pauses --------------------------------------------------------------------------------------------------

    def pause(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        self._pauses.pause(queue_name, actor_name, now)

    def resume(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        self._pauses.resume(queue_name, actor_name)

    def paused(self) -> Paused:
        return self._pauses.paused()

    def hold(self, claims: Iterable[Claim], actor_name: str, *, now: int) -> int:
        return self._pauses.hold(list(claims), actor_name)

    # -- Counters ------------------------------------------------------------------------------------------------

    def minutes(self, *, since_at: int, now: int) -> list[Minute]:
        # What others in this process have counted and not written yet; of other processes it comes within a second.
        for store in list(_stores):
            if store.path == self.path:
                try:
                    store._counters.keep(now=now, at_once=True)
                except StoreUnavailable:
                    continue  # closed, or it cannot be written now
        return self._counters.minutes(since_at=since_at)

    def keep_counts(self, *, now: int) -> None:
        self._counters.keep(now=now)

    # -- Workers -------------------------------------------------------------------------------------------------

    def worker_started(self, owner: str, *, now: int) -> None:
        self._workers.started(owner, now=now)

    def worker_stopped(self) -> None:
        self._workers.stopped()

    def workers(self) -> list[WorkerStatus]:
        return self._workers.statuses()

    def begin(self, claim: Claim, *, now: int | None = None) -> None:
        """The message of this claim is being run from now on: if the process dies, it is a suspect."""
        self._workers.begin(claim.id, now)

    def stamp(self, *, now: int) -> None:
        """Note down since when what was begun without saying so is run: since now, or little longer."""
        self._workers.stamp(now)

    def end(self, claim: Claim) -> None:
        """The message of this claim was run."""
        self._workers.end(claim.id)

    def recover(self, *, now: int, max_crashes: int, notice_of: NoticeOf | None = None) -> list[DeadLetter]:
        buried = self._workers.recover(now=now, max_crashes=max_crashes, notice_of=notice_of)
        if self.max_letter_age is not None:
            oldest = now - self.max_letter_age
            self._db.write(lambda con: con.execute(sql.TRIM_BY_AGE, (oldest,)), single=True)
        self._pauses.let_go()
        return buried

    def close(self) -> None:
        """Close the file. Claims that are still held are left for other processes to recover."""
        try:
            self._counters.keep_last()
        except StoreUnavailable:
            pass
        self._workers.leave()
        self._db.close()

    # -- Fork ----------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's: its claims, and the lock that says that it lives."""
        self._workers.after_fork_in_child()
        self._counters.forget()
        self._forget()


def _queue_of(cursor: sqlite3.Cursor, entry_id: str) -> str:
    """The queue that a move returned."""
    rows = cursor.fetchall()
    if not rows:
        raise MessageNotFound(entry_id)
    return str(rows[0][0])
