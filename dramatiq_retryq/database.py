"""One SQLite file, shared with other threads and processes: opened with care, written in groups.

There are two connections for each process, one that writes and one that reads, each behind a lock, and not one for
each thread. SQLite has one writer at a time anyway: threads that queue in memory wait in turn, where connections of
their own would wait by polling, and whoever gets the turn commits for all that queued meanwhile.
"""

from __future__ import annotations

import functools
import os
import random
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from .database_file import checked_path, create, inode_of
from .errors import ConfigError, RetryQueueError, StoreUnavailable
from .patience import patience as usual_patience
from .turn import Turn

__all__ = ["Database", "Synchronous"]

T = TypeVar("T")

Synchronous = Literal["normal", "full"]

#: "RetQ": what marks a file as ours in ``PRAGMA application_id``.
APPLICATION_ID = 0x52657451
#: How many moves one transaction carries at the most.
MAX_GROUP = 256


class _Write(Generic[T]):
    """A move that waits for its commit."""

    __slots__ = ("done", "error", "move", "result")

    def __init__(self, move: Callable[[sqlite3.Connection], T]) -> None:
        self.move = move
        self.done = False
        self.error: Exception | None = None
        self.result: T | None = None


class Database:
    """A SQLite file in WAL mode.

    Args:
        path: the file; made if it is not there, readable by its owner only.
        migrations: the statements that lead from each version of the schema to the next.
        synchronous: ``"normal"`` (the last moments may be lost with the machine's power) or ``"full"``.
        patience: how many seconds to wait for a lock that somebody else holds; the usual time if not given.
        sleep: how time passes while waiting.
        rng: the dice, for waiting.

    Raises:
        ConfigError: the path or a value makes no sense, or the file belongs to something else.
        StoreUnavailable: the file cannot be opened or read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        migrations: tuple[tuple[str, ...], ...],
        *,
        synchronous: Synchronous = "normal",
        patience: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        if synchronous not in ("normal", "full"):
            raise ConfigError(f'synchronous is {synchronous!r}: give "normal" or "full"')
        self.path = checked_path(path)
        self._migrations = migrations
        self._synchronous = synchronous
        self._patience = usual_patience() if patience is None else patience
        self._sleep = sleep
        self._rng = rng if rng is not None else random.Random()
        self._closed = False
        #: Which file it is: the one that was opened first, and no other that may come in its place.
        self._inode: tuple[int, int] | None = None
        self._writer: sqlite3.Connection | None
        self._reader: sqlite3.Connection | None
        self._forget()
        try:
            create(self.path)
            self._open_writer()
        except sqlite3.Error as error:
            raise self._explained(error) from error
        _databases.add(self)

    # -- Writing and reading -------------------------------------------------------------------------------------

    def write(self, move: Callable[[sqlite3.Connection], T], *, single: bool = False) -> T:
        """Carry out a move and commit it, perhaps together with those of other threads.

        Args:
            move: executes its statements on the connection. An error of this package that it raises is its own
                result, after which nothing may be changed; everything else rolls back the transaction.
            single: it executes one statement only, which is a transaction by itself.

        Raises:
            StoreUnavailable: it could not be committed; nothing of it was stored.
        """
        # Nobody else is at it: by far the most common case, and half the price.
        if single and self._writing.acquire(blocking=False):
            try:
                if self._writer is not None and not self._waiting:
                    return self._write_alone(self._writer, move)
            finally:
                self._writing.release()
        task = _Write(move)
        self._waiting.append(task)
        with self._writing:
            # Whoever came here before may have committed this one too.
            if not task.done:
                self._commit_group(task)
        if task.error is not None:
            raise task.error
        return task.result  # type: ignore[return-value]

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query that changes nothing.

        Raises:
            StoreUnavailable: it could not be run.
        """
        with self._reading:
            try:
                connection = self._reader
                if connection is None:
                    self._check_open()
                    self._check_file()
                    connection = self._reader = self._connect()
                return self._patiently(lambda: query(connection))
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def _write_alone(self, connection: sqlite3.Connection, move: Callable[[sqlite3.Connection], T]) -> T:
        self._check_file()
        self._turn.take()
        try:
            try:
                return move(connection)
            except sqlite3.OperationalError as error:
                if not _is_locked(error):
                    raise
            return self._patiently(lambda: move(connection))
        except sqlite3.Error as error:
            raise self._explained(error) from error
        finally:
            self._turn.end()

    def _commit_group(self, own: _Write[Any]) -> None:
        tasks: list[_Write[Any]] = []
        while self._waiting and len(tasks) < MAX_GROUP:
            tasks.append(self._waiting.popleft())
        if own not in tasks:  # the group was full before its turn
            self._waiting.remove(own)
            tasks.append(own)
        try:
            self._commit(tasks)
        except RetryQueueError as error:  # the transaction could not begin
            for task in tasks:
                task.error, task.done = error, True
        except Exception:
            # One of them does harm, or they are too many for the disk that is left: each for itself.
            for task in tasks:
                try:
                    self._commit([task])
                except Exception as raised:
                    task.error = self._explained(raised) if isinstance(raised, sqlite3.Error) else raised
                    task.done = True
        finally:
            # After an interrupt: the others' moves are still to be made.
            self._waiting.extendleft(task for task in reversed(tasks) if not task.done and task is not own)

    def _commit(self, tasks: list[_Write[Any]]) -> None:
        """All of these moves in one transaction. Either they are done at the end, or nothing was stored."""
        connection = self._writer
        self._check_file()
        if connection is None:
            self._check_open()
            connection = self._open_writer()
        self._turn.take()
        try:
            self._commit_in_turn(connection, tasks)
        finally:
            self._turn.end()

    def _commit_in_turn(self, connection: sqlite3.Connection, tasks: list[_Write[Any]]) -> None:
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            for task in tasks:
                try:
                    task.result = task.move(connection)
                except RetryQueueError as error:
                    task.error = error
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
                for task in tasks:
                    task.error = task.result = None
                raise
            # Interrupted between the commit and the next line: it is stored.
            for task in tasks:
                task.done = True
            raise
        for task in tasks:
            task.done = True

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it; while another process holds the lock, wait.

        SQLite's own waiting lets one of three writers starve: it sleeps longer the longer it has waited, and those
        that came later are faster. Short waits of random length share evenly.
        """
        waited = 0.0
        while True:
            try:
                return act()
            except sqlite3.OperationalError as error:
                if not _is_locked(error):
                    raise
                if waited >= self._patience:
                    raise StoreUnavailable(
                        f"{self.path}: another process has held the database's lock for {waited:.0f} s: nothing was "
                        "stored; see which one does with 'fuser' or 'lsof', and let it finish"
                    ) from error
            # Whoever holds it for a quarter of a second is no fellow writer but a backup.
            if waited < 0.25:
                pause = self._rng.uniform(0.0002, 0.001)
            else:
                pause = 0.005
                self._turn.end()  # so that the others' patience runs too
            self._sleep(pause)
            waited += pause

    # -- Opening and closing -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close both connections. Closing twice is no error."""
        with self._writing, self._reading:
            self._closed = True
            self._close_connections()

    def _before_fork(self) -> None:
        """Close the connections: SQLite's own knowledge of its locks must not get into the child."""
        self._writing.acquire()
        self._reading.acquire()
        self._close_connections()

    def _after_fork_in_parent(self) -> None:
        """Go on; what was closed is opened again when it is needed."""
        self._reading.release()
        self._writing.release()

    def _after_fork_in_child(self) -> None:
        """Start afresh: the threads that held or wanted the locks are not in this process."""
        self._forget()

    def _forget(self) -> None:
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._waiting: deque[_Write[Any]] = deque()
        self._writer = self._reader = None
        self._turn = Turn(f"{self.path}-turn", self._sleep, self._rng, self._patience)

    def _close_connections(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None
        self._turn.close()

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: the file is there. One that SQLite made itself, in the place of one that was deleted, would be empty
        # and for all to read.
        uri = f"file:{quote(self.path)}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        # Waited for too: whoever closes the last connection of a process holds everybody off for a moment.
        try:
            self._patiently(lambda: connection.execute(f"PRAGMA synchronous = {self._synchronous}"))
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            version = self._patiently(lambda: self._checked_version(connection))
            self._patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
            # Four times SQLite's own: the pages that each message touches are written back less often.
            self._patiently(lambda: connection.execute("PRAGMA wal_autocheckpoint = 4000").fetchone())
            # What a burst made the log grow to is given back to the disk at the next checkpoint.
            self._patiently(lambda: connection.execute("PRAGMA journal_size_limit = 16777216").fetchone())
            if version < len(self._migrations):
                self._migrate(connection)
            if self._inode is None:
                self._inode = inode_of(self.path)
            self._turn.open()
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _checked_version(self, connection: sqlite3.Connection) -> int:
        """The version of the file's schema. Reads only, so that a file which is not for us is left as it is."""
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION_ID and (tables or version):
            raise ConfigError(f"{self.path} is a SQLite database of another program: give a file of its own")
        if version > len(self._migrations):
            raise ConfigError(
                f"{self.path} was written by a newer dramatiq_retryq (schema {version}, this one knows "
                f"{len(self._migrations)}): upgrade the package; the file was left untouched"
            )
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            # Again, now that nobody else can be at it.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            for statements in self._migrations[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self.path}: the broker was closed")

    def _check_file(self) -> None:
        # A file that was deleted can be written to, and then everything is gone with the last process.
        try:
            found = os.stat(self.path)
            if (found.st_ino, found.st_dev) == self._inode:
                return
        except OSError:
            pass
        raise StoreUnavailable(
            f"{self.path} was deleted or replaced while in use: nothing was stored; put the file back, or restart "
            "every process that uses it"
        )

    def _explained(self, error: sqlite3.Error) -> StoreUnavailable:
        text = str(error)
        for part, advice in _ADVICE:
            if part in text:
                return StoreUnavailable(f"{self.path}: {text}: {advice}")
        return StoreUnavailable(f"{self.path}: {text}")


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _each(act: Callable[[Database], None]) -> None:
    for database in sorted(_databases, key=id):
        act(database)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=functools.partial(_each, Database._before_fork),
        after_in_parent=functools.partial(_each, Database._after_fork_in_parent),
        after_in_child=functools.partial(_each, Database._after_fork_in_child),
    )

_ADVICE = (
    ("is full", "free some space on the disk; nothing was stored"),
    ("readonly", "give the process the right to write the file and its directory; nothing was stored"),
    (
        "malformed",
        "the file is damaged: stop all workers, keep a copy, and restore a backup",
    ),
    ("not a database", "this is some other kind of file: give another path"),
    ("unable to open", "check that the directory exists and may be written to"),
    ("disk I/O error", "check the disk; nothing was stored"),
    ("no such table", "the file was emptied or replaced: restore a backup"),
)


def _is_locked(error: sqlite3.OperationalError) -> bool:
    return "locked" in str(error) or "busy" in str(error)
