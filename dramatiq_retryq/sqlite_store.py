"""The store in one SQLite file, shared by many processes. Its SQL stands in :mod:`dramatiq_retryq.schema`."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from dramatiq import Message

from . import schema as sql
from .database import Database, Synchronous
from .errors import ClaimLost, ConfigError, LetterNotFound, StoreUnavailable
from .history import append, last_number
from .liveness import WorkerFile, dead_worker, other_worker_files, remove_worker_file
from .records import Attempt, Claim, DeadLetter, Entry, ErrorInfo, QueueCounts
from .store import NoticeOf

__all__ = ["SQLiteStore"]

# An id is the instant of the put, in ms since 2025, with room for 2 ** 20 of them in each; and it is greater than any
# that is there. So later ones are greater, and one that is free again is not given again. AUTOINCREMENT does the same,
# for one more page that is written with each message.
_EPOCH = 1_735_689_600_000
_ID_BITS = 20

#: How many letters are read at a time. A longer read would keep the log from being checkpointed.
_PAGE = 200


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
        self._db = Database(path, sql.MIGRATIONS, synchronous=synchronous)
        self.path = self._db.path
        self._forget()

    def _forget(self) -> None:
        self._registering = threading.Lock()
        self._worker: tuple[int, WorkerFile] | None = None
        self._tokens = itertools.count(1)
        self._data_version: int | None = None

    # -- Moves ---------------------------------------------------------------------------------------------------

    def put(self, queue_name: str, data: bytes, *, due_at: int, now: int, exempt: bool = False) -> int:
        parameters = (_first_id(now), queue_name, due_at, data)
        return self._db.write(lambda con: con.execute(sql.PUT, parameters).lastrowid or 0, single=True)

    def claim(self, queue_name: str, *, now: int, limit: int, owner: str) -> list[Claim]:
        # Looked at first: an update that finds nothing takes the write lock from those who write.
        next_due = self.next_due(queue_name)
        if next_due is None or next_due > now or limit < 1:
            return []
        worker, _ = self._worker or self._register(owner, now)
        token = (worker << 32) + next(self._tokens)
        parameters = (worker, token, now, queue_name, now, limit)
        rows = self._db.write(lambda con: con.execute(sql.CLAIM, parameters).fetchall(), single=True)
        # RETURNING promises no order.
        rows.sort(key=lambda row: (row[2], row[0]))
        return [Claim(row[0], queue_name, row[1], row[2], row[3], now, owner, token) for row in rows]

    def next_due(self, queue_name: str) -> int | None:
        row = self._db.read(lambda con: con.execute(sql.NEXT_DUE, (queue_name,)).fetchone())
        return row[0] if row is not None else None

    def finish(self, claim: Claim) -> None:
        self._settle(claim, sql.FINISH, ())

    def finish_many(self, claims: Iterable[Claim]) -> list[Claim]:
        claims = list(claims)

        def move(con: sqlite3.Connection) -> list[Claim]:
            return [claim for claim in claims if con.execute(sql.FINISH, (claim.id, claim.token)).rowcount == 0]

        return self._db.write(move) if claims else []

    def reschedule(self, claim: Claim, *, data: bytes, due_at: int, now: int) -> None:
        self._settle(claim, sql.RESCHEDULE, (due_at, data))

    def release(self, claims: Iterable[Claim], *, now: int) -> int:
        claims = list(claims)

        def move(con: sqlite3.Connection) -> int:
            return sum(con.execute(sql.RELEASE, (claim.id, claim.token)).rowcount for claim in claims)

        return self._db.write(move) if claims else 0

    def bury(self, claim: Claim, letter: DeadLetter, *, notice: tuple[str, bytes] | None = None) -> int:
        def move(con: sqlite3.Connection) -> int:
            parameters = (letter.died_at, letter.reason, _letter_text(letter), letter.data, claim.id, claim.token)
            if con.execute(sql.BURY, parameters).rowcount == 0:
                raise ClaimLost(claim.id)
            if notice is not None:
                queue_name, data = notice
                con.execute(sql.PUT, (_first_id(letter.died_at), queue_name, letter.died_at, data))
            if self.max_dead_letters is None:
                return 0
            return con.execute(sql.TRIM_BY_COUNT, (self.max_dead_letters,)).rowcount

        return self._db.write(move)

    def revive(self, letter_id: str, *, data: bytes, due_at: int, now: int) -> None:
        self._disturb(letter_id, sql.REVIVE, (due_at, data))

    def discard(self, letter_id: str) -> None:
        self._disturb(letter_id, sql.DISCARD, ())

    def flush(self, queue_name: str) -> int:
        return self._db.write(lambda con: con.execute(sql.FLUSH, (queue_name,)).rowcount)

    def _settle(self, claim: Claim, statement: str, parameters: tuple[object, ...]) -> None:
        def move(con: sqlite3.Connection) -> None:
            if con.execute(statement, (*parameters, claim.id, claim.token)).rowcount == 0:
                raise ClaimLost(claim.id)

        self._db.write(move, single=True)

    def _disturb(self, letter_id: str, statement: str, parameters: tuple[object, ...]) -> None:
        def move(con: sqlite3.Connection) -> None:
            if con.execute(statement, (*parameters, _row_id(letter_id))).rowcount == 0:
                raise LetterNotFound(letter_id)

        self._db.write(move, single=True)

    # -- Looking -------------------------------------------------------------------------------------------------

    def letters(self) -> Iterator[DeadLetter]:
        died_at, row_id = 1 << 62, 1 << 62
        while True:
            after = (died_at, row_id, _PAGE)
            rows = self._db.read(lambda con, after=after: con.execute(sql.LETTERS, after).fetchall())  # type: ignore[misc]
            for row in rows:
                yield _letter(row)
            if len(rows) < _PAGE:
                return
            row_id, died_at = rows[-1][0], rows[-1][2]

    def letter(self, letter_id: str) -> DeadLetter:
        row = self._db.read(lambda con: con.execute(sql.LETTER, (_row_id(letter_id),)).fetchone())
        if row is None:
            raise LetterNotFound(letter_id)
        return _letter(row)

    def counts(self, *, now: int) -> dict[str, QueueCounts]:
        def query(con: sqlite3.Connection) -> tuple[list[Any], dict[str, int], dict[str, int]]:
            con.execute("BEGIN")  # so that the three look at the same instant
            try:
                waiting = con.execute(sql.COUNT_WAITING, (now,)).fetchall()
                return waiting, dict(con.execute(sql.COUNT_CLAIMED)), dict(con.execute(sql.COUNT_DEAD))
            finally:
                con.execute("COMMIT")

        rows, claimed, dead = self._db.read(query)
        waiting = {queue: (due, total, oldest) for queue, due, total, oldest in rows}
        counts = {}
        for queue in dict.fromkeys([*waiting, *claimed, *dead]):
            due, total, oldest = waiting.get(queue, (0, 0, None))
            counts[queue] = QueueCounts(
                due=due,
                later=total - due,
                claimed=claimed.get(queue, 0),
                dead=dead.get(queue, 0),
                oldest_due_at=oldest,
            )
        return counts

    def unfinished(self, queue_name: str) -> int:
        return int(self._db.read(lambda con: con.execute(sql.UNFINISHED, {"queue": queue_name}).fetchone())[0])

    def is_idle(self, queue_name: str) -> bool:
        return bool(self._db.read(lambda con: con.execute(sql.IS_IDLE, {"queue": queue_name}).fetchone())[0])

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        rows = self._db.read(lambda con: con.execute(sql.FIND, (message_id.encode(),)).fetchall())
        for row_id, queue, state, data, due_at, deliveries, claimed_at, owner in rows:
            # The payload may hold the id of another message, as a pipeline's does.
            try:
                if Message.decode(data).message_id != message_id:
                    continue
            except Exception:
                continue
            if state == "dead":
                return self.letter(str(row_id))
            return Entry(
                id=row_id,
                queue_name=queue,
                state=state,
                data=data,
                due_at=due_at,
                deliveries=deliveries,
                claimed_at=claimed_at,
                owner=owner,
            )
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

    def check(self) -> list[str]:
        def query(con: sqlite3.Connection) -> list[str]:
            findings = [str(row[0]) for row in con.execute("PRAGMA integrity_check") if row[0] != "ok"]
            findings += [
                f"entry {row[0]} is claimed by a worker that is not registered" for row in con.execute(sql.ORPHANS)
            ]
            return findings

        try:
            return self._db.read(query)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.DatabaseError) and "malformed" in str(error.__cause__):
                return [str(error)]
            raise

    # -- Workers -------------------------------------------------------------------------------------------------

    def begin(self, claim: Claim) -> None:
        """The message of this claim is being run from now on: if the process dies, it is a suspect."""
        if self._worker is not None:
            self._worker[1].begin(claim.id)

    def end(self, claim: Claim) -> None:
        """The message of this claim was run."""
        if self._worker is not None:
            self._worker[1].end(claim.id)

    def recover(self, *, now: int, max_crashes: int, notice_of: NoticeOf | None = None) -> list[DeadLetter]:
        buried: list[DeadLetter] = []
        rows = self._db.read(lambda con: con.execute(sql.WORKERS).fetchall())
        own = os.path.basename(self._worker[1].path) if self._worker is not None else None
        for worker, name, owner in rows:
            path = os.path.join(os.path.dirname(self.path), name)
            if name == own:
                continue
            if not name.startswith(f"{os.path.basename(self.path)}-worker-"):
                # A copy of another file, or one that was renamed: whoever held this holds it there and not here.
                buried += self._recover_from(worker, owner, frozenset(), now, max_crashes, notice_of)
                continue
            with dead_worker(path, owner) as running:
                # Whoever has found it dead is the only one who touches what it held, until the block ends.
                if running is not None:
                    buried += self._recover_from(worker, owner, running, now, max_crashes, notice_of)
                    remove_worker_file(path)
        # Left by a process that died between the file and its row, or between the row and the file.
        for path in other_worker_files(self.path, [own or "", *(name for _, name, _ in rows)]):
            with dead_worker(path, "") as running:
                if running is not None and not self._is_registered(path):
                    remove_worker_file(path)
        if self.max_letter_age is not None:
            oldest = now - self.max_letter_age
            self._db.write(lambda con: con.execute(sql.TRIM_BY_AGE, (oldest,)), single=True)
        return buried

    def _recover_from(
        self,
        worker: int,
        owner: str,
        running: frozenset[int],
        now: int,
        max_crashes: int,
        notice_of: NoticeOf | None,
    ) -> list[DeadLetter]:
        moves: list[tuple[str, tuple[object, ...]]] = []
        buried = []
        held = self._db.read(lambda con: con.execute(sql.HELD_BY, (worker,)).fetchall())
        for row_id, queue, data, deliveries, claimed_at, token in held:
            if row_id not in running:
                moves.append((sql.RELEASE, (row_id, token)))
                continue
            error = ErrorInfo(
                type="WorkerCrashed", message=f"the worker process {owner} died while running this message"
            )
            is_last = deliveries >= max_crashes
            actor_name, data = _with_crash(data, error, owner, claimed_at, now, is_last=is_last)
            if not is_last:
                moves.append((sql.REDELIVER, (data, row_id, token)))
                continue
            letter = DeadLetter(
                id=str(row_id),
                reason="crashed",
                queue_name=queue,
                actor_name=actor_name,
                died_at=now,
                error=error,
                data=data,
            )
            moves.append((sql.BURY, (now, letter.reason, _letter_text(letter), data, row_id, token)))
            # Asked for before the transaction: it calls other people's hooks, which may want to write themselves.
            notice = notice_of(letter) if notice_of is not None else None
            if notice is not None:
                moves.append((sql.PUT, (_first_id(now), notice[0], now, notice[1])))
            buried.append(letter)

        def move(con: sqlite3.Connection) -> None:
            for statement, parameters in moves:
                con.execute(statement, parameters)
            con.execute(sql.UNREGISTER, (worker,))

        self._db.write(move)
        return buried

    def _is_registered(self, path: str) -> bool:
        name = os.path.basename(path)
        return any(name == row[1] for row in self._db.read(lambda con: con.execute(sql.WORKERS).fetchall()))

    def _register(self, owner: str, now: int) -> tuple[int, WorkerFile]:
        with self._registering:
            if self._worker is None:
                try:
                    file = WorkerFile(self.path)
                except OSError as error:
                    text = f"{self.path}: this process cannot say that it lives ({error.strerror}): nothing was claimed"
                    raise StoreUnavailable(text) from error
                try:
                    row = (os.path.basename(file.path), owner, now)
                    worker = self._db.write(lambda con: con.execute(sql.REGISTER, row).lastrowid or 0)
                except BaseException:
                    file.remove()
                    raise
                self._worker = (worker, file)
            return self._worker

    def close(self) -> None:
        """Close the file. Claims that are still held are left for other processes to recover."""
        if self._worker is not None:
            worker, file = self._worker
            self._worker = None

            def move(con: sqlite3.Connection) -> bool:
                if con.execute(sql.HELD_BY, (worker,)).fetchone() is not None:
                    return False
                con.execute(sql.UNREGISTER, (worker,))
                return True

            is_free = False
            try:
                is_free = self._db.write(move)
            except StoreUnavailable:
                pass  # the row stays, and whoever finds its process dead clears up
            finally:
                if is_free:
                    file.remove()
                else:
                    file.abandon()
        self._db.close()

    # -- Fork ----------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's: its claims, and the lock that says that it lives."""
        if self._worker is not None:
            self._worker[1].abandon()
        self._forget()


def _with_crash(
    data: bytes, error: ErrorInfo, owner: str, claimed_at: int, now: int, *, is_last: bool
) -> tuple[str | None, bytes]:
    """The actor's name, and the payload with the crash written into its history."""
    try:
        message = Message.decode(data)
        append(
            message.options,
            Attempt(
                n=last_number(message.options) + 1,
                started_at=claimed_at,
                duration=max(0, now - claimed_at),
                error=error.type,
                message=error.message,
                delay=None if is_last else 0,
                worker=owner,
            ),
        )
        return message.actor_name, message.encode()
    except Exception:
        return None, data  # it cannot be decoded: that is found out when it is delivered


def _first_id(now: int) -> int:
    """The least id that an entry put at ``now`` may have."""
    return max(1, now - _EPOCH << _ID_BITS)


def _row_id(letter_id: str) -> int:
    # As it was written and no other spelling, nor more than SQLite can count.
    if not re.fullmatch(r"[1-9][0-9]{0,18}", letter_id, re.ASCII):
        raise LetterNotFound(letter_id)
    return min(int(letter_id), (1 << 63) - 1)


def _letter_text(letter: DeadLetter) -> str:
    error = letter.error
    return json.dumps(
        {
            "actor": letter.actor_name,
            "error": [error.type, error.message, error.place] if error is not None else None,
            "traceback": letter.traceback,
        }
    )


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    row_id, queue, died_at, reason, text, data = row
    fields = json.loads(text)
    error = fields["error"]
    return DeadLetter(
        id=str(row_id),
        reason=reason,
        queue_name=queue,
        actor_name=fields["actor"],
        died_at=died_at,
        error=ErrorInfo(type=error[0], message=error[1], place=error[2]) if error is not None else None,
        traceback=fields["traceback"],
        data=data,
    )
