"""Moves from and to a SQLite file, which notes what has departed and what has arrived."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from . import schema as sql
from .database import Database
from .errors import MoveRefused, StoreUnavailable
from .journeys import OWNER, Arrival, Journey
from .records import Claim, DeadLetter
from .sqlite_counts import count_out
from .sqlite_rows import first_id, letter_text

__all__ = ["SQLiteJourneys"]


class SQLiteJourneys:
    """:class:`~dramatiq_retryq.journeys.Journeys` of a file."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @contextmanager
    def held(self) -> Iterator[None]:
        path = f"{self._db.path}-move"
        fd = _locked(path)
        try:
            yield
        finally:
            # First gone, then free: whoever opened it meanwhile finds that it has no name any more.
            os.unlink(path)
            os.close(fd)

    def waiting(self) -> dict[str, int]:
        return dict(self._db.read(lambda con: con.execute(sql.COUNT_MOVABLE).fetchall()))

    def current(self) -> Journey | None:
        row = self._db.read(lambda con: con.execute(sql.JOURNEY).fetchone())
        return None if row is None else Journey(name=row[0], target=row[1])

    def begin(self, journey: Journey) -> None:
        self._db.write(lambda con: con.execute(sql.BEGIN_JOURNEY, (journey.name, journey.target)), single=True)

    def depart(self, queue_name: str, *, limit: int, now: int) -> list[Claim]:
        # Of this call only: nobody else's claim on an entry that was given back has the same.
        token = -secrets.randbits(62)
        parameters = (token, now, queue_name, limit)
        rows = self._db.write(lambda con: con.execute(sql.DEPART, parameters).fetchall(), single=True)
        rows.sort(key=lambda row: (row[2], row[0]))
        return [Claim(row[0], queue_name, row[1], row[2], row[3], now, OWNER, token) for row in rows]

    def departed(self) -> list[Claim]:
        rows = self._db.read(lambda con: con.execute(sql.DEPARTED).fetchall())
        return [
            Claim(row_id, queue, data, due_at, deliveries, claimed_at, OWNER, token)
            for row_id, queue, data, due_at, deliveries, claimed_at, token in rows
        ]

    def settle(self, claims: Iterable[Claim]) -> None:
        claims = list(claims)

        def move(con: sqlite3.Connection) -> None:
            gone = [claim for claim in claims if con.execute(sql.FINISH, (claim.id, claim.token)).rowcount]
            count_out(con, gone)

        self._db.write(move)

    def end(self) -> None:
        self._db.write(lambda con: con.execute(sql.END_JOURNEY), single=True)

    def expect(self, name: str) -> None:
        self._db.write(lambda con: con.execute(sql.NOTE, (name, "")), single=True)

    def knows(self, name: str) -> bool:
        return bool(self.arrived(name, [""]))

    def arrive(self, name: str, arrivals: Iterable[Arrival], *, now: int) -> int:
        arrivals, first = list(arrivals), first_id(now)

        def move(con: sqlite3.Connection) -> int:
            stored = 0
            for key, queue_name, data, due_at in arrivals:
                if con.execute(sql.NOTE, (name, key)).rowcount:
                    con.execute(sql.PUT, (first, queue_name, due_at, data))
                    stored += 1
            return stored

        return self._db.write(move)

    def lay(self, name: str, key: str, letter: DeadLetter) -> None:
        row = (first_id(letter.died_at), letter.queue_name, letter.died_at, letter.data)
        died = (letter.died_at, letter.reason, letter_text(letter))

        def move(con: sqlite3.Connection) -> None:
            if con.execute(sql.NOTE, (name, key)).rowcount:
                con.execute(sql.LAY, (*row, *died))

        self._db.write(move)

    def arrived(self, name: str, keys: Collection[str]) -> set[str]:
        def query(con: sqlite3.Connection) -> set[str]:
            return {key for key in keys if con.execute(sql.IS_NOTED, (name, key)).fetchone() is not None}

        return self._db.read(query)

    def forget(self, name: str, keys: Collection[str] | None = None) -> None:
        def move(con: sqlite3.Connection) -> None:
            if keys is None:
                con.execute(sql.FORGET_JOURNEY, (name,))
            else:
                con.executemany(sql.FORGET, [(name, key) for key in keys])

        self._db.write(move)


def _locked(path: str) -> int:
    """A descriptor of this file, locked: the system drops the lock with the process, however it ends."""
    while True:
        try:
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be made ({error.strerror}): nothing was moved") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd
        except BlockingIOError:
            os.close(fd)
            raise MoveRefused(
                f"{path.removesuffix('-move')} is at one end of another move: wait until that has ended"
            ) from None
        os.close(fd)
