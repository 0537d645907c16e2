"""The processes that share a SQLite file: this one among them, those that live, and what the dead ones held."""

from __future__ import annotations

import os
import sqlite3
import threading

from . import schema as sql
from .crash import crashed
from .database import Database
from .errors import StoreUnavailable
from .liveness import WorkerFile, dead_worker, living_worker, other_worker_files, remove_worker_file
from .records import DeadLetter
from .sqlite_counts import Counters
from .sqlite_rows import first_id, letter_text
from .status import RunningMessage, WorkerStatus
from .store import NoticeOf
from .tally import Happening

__all__ = ["Workers"]


class Workers:
    """Who works on a file, and what becomes of what they held."""

    def __init__(self, database: Database, counters: Counters) -> None:
        self._db = database
        self._path = database.path
        self._counters = counters
        self._forget()

    def _forget(self) -> None:
        #: The number of this process in the file, and the file that says that it lives; ``None`` until it claims.
        self.own: tuple[int, WorkerFile] | None = None
        self._registering = threading.Lock()
        self._works_since: tuple[str, int] | None = None

    def started(self, owner: str, *, now: int) -> None:
        """This process works from now on."""
        self._works_since = owner, now
        _, file = self.own or self.register(owner, now)
        file.works_since(now)

    def stopped(self) -> None:
        """It no longer does."""
        self._works_since = None
        if self.own is not None:
            self.own[1].works_since(0)

    def statuses(self) -> list[WorkerStatus]:
        """The processes that work and live."""
        found = []
        own = os.path.basename(self.own[1].path) if self.own is not None else None
        for worker, name, owner, started_at in self._db.read(lambda con: con.execute(sql.WORKERS).fetchall()):
            living = living_worker(os.path.join(os.path.dirname(self._path), name), is_own=name == own)
            if living is None:
                continue
            works_since, running = living
            if works_since == 0 and not running:
                continue
            rows = self._db.read(lambda con, worker=worker: con.execute(sql.RUN_BY, (worker,)).fetchall())  # type: ignore[misc]
            found.append(
                WorkerStatus(
                    owner=owner,
                    started_at=works_since or started_at,
                    running=tuple(
                        message
                        for row_id, queue, data, claimed_at in rows
                        if row_id in running
                        and (message := RunningMessage.of(data, queue, running[row_id] or claimed_at)) is not None
                    ),
                )
            )
        return found

    def begin(self, entry_id: int, now: int | None) -> None:
        if self.own is not None:
            self.own[1].begin(entry_id, now)

    def stamp(self, now: int) -> None:
        if self.own is not None:
            self.own[1].stamp(now)

    def end(self, entry_id: int) -> None:
        if self.own is not None:
            self.own[1].end(entry_id)

    def recover(self, *, now: int, max_crashes: int, notice_of: NoticeOf | None) -> list[DeadLetter]:
        """See ``Store.recover``."""
        buried: list[DeadLetter] = []
        rows = self._db.read(lambda con: con.execute(sql.WORKERS).fetchall())
        own = os.path.basename(self.own[1].path) if self.own is not None else None
        for worker, name, owner, _ in rows:
            path = os.path.join(os.path.dirname(self._path), name)
            if name == own:
                continue
            if not name.startswith(f"{os.path.basename(self._path)}-worker-"):
                # A copy of another file, or one that was renamed: whoever held this holds it there and not here.
                buried += self._recover_from(worker, owner, frozenset(), now, max_crashes, notice_of)
                continue
            with dead_worker(path, owner) as running:
                # Whoever has found it dead is the only one who touches what it held, until the block ends.
                if running is not None:
                    buried += self._recover_from(worker, owner, running, now, max_crashes, notice_of)
                    remove_worker_file(path)
        # Left by a process that died between the file and its row, or between the row and the file.
        for path in other_worker_files(self._path, [own or "", *(row[1] for row in rows)]):
            with dead_worker(path, "") as running:
                if running is not None and not self._is_registered(path):
                    remove_worker_file(path)
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
        happened: list[Happening] = []
        held = self._db.read(lambda con: con.execute(sql.HELD_BY, (worker,)).fetchall())
        for row_id, queue, data, deliveries, claimed_at, token in held:
            if row_id not in running:
                moves.append((sql.RELEASE, (row_id, token)))
                continue
            happened.append(("crashed", queue, 1))
            data, letter = crashed(
                row_id,
                queue,
                data,
                claimed_at=claimed_at,
                owner=owner,
                now=now,
                is_last=deliveries >= max_crashes,
            )
            if letter is None:
                moves.append((sql.REDELIVER, (data, row_id, token)))
                continue
            moves.append((sql.BURY, (now, letter.reason, letter_text(letter), data, row_id, token)))
            moves.append((sql.COUNT_OUT_ONE, (queue, row_id)))
            # Asked for before the transaction: it calls other people's hooks, which may want to write themselves.
            notice = notice_of(letter) if notice_of is not None else None
            if notice is not None:
                moves.append((sql.PUT, (first_id(now), notice[0], now, notice[1])))
                happened.append(("sent", notice[0], 1))
            happened.append(("died_crashed", queue, 1))
            buried.append(letter)

        def move(con: sqlite3.Connection) -> None:
            for statement, parameters in moves:
                con.execute(statement, parameters)
            con.execute(sql.UNREGISTER, (worker,))

        self._counters.write(move, now=now, happened=lambda _: happened)
        return buried

    def _is_registered(self, path: str) -> bool:
        name = os.path.basename(path)
        return any(name == row[1] for row in self._db.read(lambda con: con.execute(sql.WORKERS).fetchall()))

    def register(self, owner: str, now: int) -> tuple[int, WorkerFile]:
        """This process among those that live: its number, and the file that says so.

        Raises:
            StoreUnavailable: it cannot be said, so nothing may be claimed.
        """
        with self._registering:
            if self.own is None:
                try:
                    file = WorkerFile(self._path)
                except OSError as error:
                    text = (
                        f"{self._path}: this process cannot say that it lives ({error.strerror}): nothing was claimed"
                    )
                    raise StoreUnavailable(text) from error
                try:
                    row = (os.path.basename(file.path), owner, now)
                    worker = self._db.write(lambda con: con.execute(sql.REGISTER, row).lastrowid or 0)
                except BaseException:
                    file.remove()
                    raise
                if self._works_since is not None:
                    file.works_since(self._works_since[1])
                self.own = (worker, file)
            return self.own

    def leave(self) -> None:
        """This process is no longer among them. What it still holds is left for others to recover."""
        if self.own is not None:
            worker, file = self.own
            self.own = None

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

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's: its claims, and the lock that says that it lives."""
        if self.own is not None:
            self.own[1].abandon()
        self._forget()
