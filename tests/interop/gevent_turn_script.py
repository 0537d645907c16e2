"""Two databases on one file, in one process that gevent has patched, while a program of its own holds SQLite's lock."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sqlite3  # noqa: E402
from contextlib import closing  # noqa: E402

import dramatiq  # noqa: E402
import gevent  # noqa: E402

from dramatiq_retryq import SQLiteBroker, SQLiteResultBackend  # noqa: E402

with closing(SQLiteBroker("jobs.db")) as broker, closing(SQLiteResultBackend("jobs.db")) as results:

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    message = work.message()
    with closing(sqlite3.connect("jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # The first has its turn and waits for the lock; the second waits for its turn.
        waiting = [gevent.spawn(broker.enqueue, message), gevent.spawn(results.store_result, message, 7, 60_000)]
        gevent.sleep(0.05)
        print([greenlet.ready() for greenlet in waiting])
        other.execute("COMMIT")
        gevent.joinall(waiting, raise_error=True)
    print(broker.counts()["default"].waiting, results.get_result(message))
