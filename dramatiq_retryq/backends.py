"""Results and rate limits in a SQLite file, for processes that share no server either.

Of Dramatiq's own backends only those of Redis and Memcached reach across processes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.encoder import Encoder
from dramatiq.rate_limits.backend import RateLimiterBackend
from dramatiq.results import ResultBackend, ResultMissing, ResultTimeout
from dramatiq.results.backend import DEFAULT_TIMEOUT, Missing

from . import schema as sql
from .clock import Clock, SystemClock
from .database import Database, Synchronous

__all__ = ["SQLiteRateLimiterBackend", "SQLiteResultBackend"]

#: How often (ms) somebody who waits for a result or an event looks for it.
_LOOK_EVERY = 10


class SQLiteResultBackend(ResultBackend):
    """A Dramatiq result backend in a SQLite file: ``add_middleware(Results(backend=SQLiteResultBackend(path)))``.

    Results live for their ``result_ttl`` and are cleared away as new ones come in.

    Args:
        path: the file, the broker's or one of its own; made if it is not there.
        namespace: a prefix for the keys.
        encoder: how results are encoded; Dramatiq's own encoder if not given.
        synchronous: as for ``SQLiteBroker``.
        clock: where the time comes from.

    Raises:
        ConfigError: the path makes no sense, or the file belongs to something else.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        namespace: str = "dramatiq-results",
        encoder: Encoder | None = None,
        synchronous: Synchronous = "normal",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(namespace=namespace, encoder=encoder)
        self.clock: Clock = clock if clock is not None else SystemClock()
        self._db = Database(path, sql.MIGRATIONS, synchronous=synchronous)

    def get_result(self, message: Any, *, block: bool = False, timeout: int | None = None) -> Any:
        """The result of a message; see Dramatiq's ``ResultBackend``.

        Args:
            message: the message.
            block: wait for it.
            timeout: how long, in ms; 10 seconds if not given.

        Raises:
            ResultMissing: it is not there, and ``block`` is false.
            ResultTimeout: it did not come in time.
            ResultFailure: the message died.
        """
        key = self.build_message_key(message)
        left = DEFAULT_TIMEOUT if timeout is None else timeout
        while (found := self._get(key)) is Missing:
            if not block:
                raise ResultMissing(message)  # type: ignore[no-untyped-call]
            if left <= 0:
                raise ResultTimeout(message)  # type: ignore[no-untyped-call]
            self.clock.sleep(min(_LOOK_EVERY, left))
            left -= _LOOK_EVERY
        return self.unwrap_result(found)  # type: ignore[no-untyped-call]

    def _get(self, message_key: str) -> Any:
        now = self.clock.now()
        row = self._db.read(lambda con: con.execute(sql.GET_RESULT, (message_key, now)).fetchone())
        return Missing if row is None else self.encoder.decode(row[0])

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        data, now = self.encoder.encode(result), self.clock.now()

        def move(con: sqlite3.Connection) -> None:
            con.execute(sql.EXPIRE_RESULTS, (now,))
            con.execute(sql.STORE_RESULT, (message_key, data, now + ttl))

        self._db.write(move)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class SQLiteRateLimiterBackend(RateLimiterBackend):
    """A Dramatiq rate limiter backend in a SQLite file: for rate limiters, barriers and group callbacks.

    Args:
        path: the file, the broker's or one of its own; made if it is not there.
        synchronous: as for ``SQLiteBroker``.
        clock: where the time comes from.

    Raises:
        ConfigError: the path makes no sense, or the file belongs to something else.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, synchronous: Synchronous = "normal", clock: Clock | None = None
    ) -> None:
        self.clock: Clock = clock if clock is not None else SystemClock()
        self._db = Database(path, sql.MIGRATIONS, synchronous=synchronous)

    def add(self, key: str, value: int, ttl: int) -> bool:
        return self._change(key, ttl, lambda con, old: value if old is None else None)

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        return self._change(key, ttl, lambda con, old: _within((old or 0) + amount, maximum=maximum))

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        return self._change(key, ttl, lambda con, old: _within((old or 0) - amount, minimum=minimum))

    def incr_and_sum(self, key: str, keys: Callable[[], Iterable[str]], amount: int, maximum: int, ttl: int) -> bool:
        def change(con: sqlite3.Connection, old: int | None) -> int | None:
            now = self.clock.now()
            rows = (con.execute(sql.GET_LIMIT, (name, now)).fetchone() for name in keys())
            total = amount + sum(row[0] for row in rows if row is not None)
            return None if total > maximum else _within((old or 0) + amount, maximum=maximum)

        return self._change(key, ttl, change)

    def wait(self, key: str, timeout: int) -> bool:
        before = self._get(key)
        left = timeout
        while left > 0:
            self.clock.sleep(min(_LOOK_EVERY, left))
            left -= _LOOK_EVERY
            now = self._get(key)
            if now is not None and now != before:
                return True
        return False

    def wait_notify(self, key: str, ttl: int) -> None:
        self._change(key, ttl, lambda con, old: (old or 0) + 1)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _get(self, key: str) -> int | None:
        now = self.clock.now()
        row = self._db.read(lambda con: con.execute(sql.GET_LIMIT, (key, now)).fetchone())
        return row[0] if row is not None else None

    def _change(self, key: str, ttl: int, change: Callable[[sqlite3.Connection, int | None], int | None]) -> bool:
        """Put what ``change`` makes of the present value in its place; ``False`` if it makes ``None``."""
        now = self.clock.now()

        def move(con: sqlite3.Connection) -> bool:
            con.execute(sql.EXPIRE_LIMITS, (now,))
            row = con.execute(sql.GET_LIMIT, (key, now)).fetchone()
            value = change(con, row[0] if row is not None else None)
            if value is None:
                return False
            con.execute(sql.STORE_LIMIT, (key, value, now + ttl))
            return True

        return self._db.write(move)


def _within(value: int, *, minimum: int | None = None, maximum: int | None = None) -> int | None:
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        return None
    return value
