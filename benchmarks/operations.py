"""What an operator waits for on a file with a million messages: `python -m benchmarks.operations`."""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from werkzeug.test import Client

from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.metrics import Collector
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.web import RetryQueueWeb

PAYLOAD = (
    b'{"queue_name":"default","actor_name":"add","args":[1,2],"kwargs":{},"options":{},"message_id":"%036d",'
    b'"message_timestamp":1767225600000}'
)
LETTER = '{"actor": "add", "error": ["ValueError", "it fails", "app.py:3 in add"], "traceback": "%s"}' % ("x" * 800)


def fill(path: Path, waiting: int, dead: int, due: int) -> None:
    """Write the messages straight into the file: `due` of those that wait are due now, the others in an hour."""
    now = int(time.time() * 1000)
    rows = ((n, now - 60_000 if n <= due else now + 3_600_000, PAYLOAD % n) for n in range(1, waiting + 1))
    letters = ((waiting + n, now, PAYLOAD % n, now - n, LETTER) for n in range(1, dead + 1))
    with closing(sqlite3.connect(path)) as con:
        con.executemany(
            "INSERT INTO messages (id, queue, state, due_at, deliveries, data)"
            " VALUES (?, 'default', 'waiting', ?, 0, ?)",
            rows,
        )
        con.executemany(
            "INSERT INTO messages (id, queue, state, due_at, deliveries, data, died_at, reason, letter)"
            " VALUES (?, 'default', 'dead', ?, 0, ?, ?, 'exhausted', ?)",
            letters,
        )
        con.commit()


def timed(what: str, ask: Callable[[], object], runs: int) -> None:
    first, *rest = [_run(ask) for _ in range(runs + 1)]
    walls, cpus = [wall for wall, _ in rest], [cpu for _, cpu in rest]
    print(f"| {what} | {first[0]:.1f} | {median(walls):.1f} | {max(walls):.1f} | {median(cpus):.1f} |")


def _run(ask: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    ask()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--dead", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    print("| ms | first | median | greatest | CPU |\n| --- | --- | --- | --- | --- |")
    for title, due in (("all due", args.waiting), ("half of them due", args.waiting // 2)):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "jobs.db"
            SQLiteBroker(path).close()
            fill(path, args.waiting, args.dead, due)
            broker = SQLiteBroker(path)
            broker.declare_queue("default")
            operations = Operations.of(broker)
            timed(f"status, {title}", operations.status, args.runs)
            page = Client(RetryQueueWeb(broker))
            timed(f"the page's overview, {title}", lambda p=page: p.get("/").data, args.runs)  # type: ignore[misc]
            registry = CollectorRegistry()
            registry.register(Collector(broker))
            timed(f"a scrape, {title}", lambda r=registry: generate_latest(r), args.runs)  # type: ignore[misc]
            timed("a page of 100 pending", lambda o=operations: list(o.pending(limit=100)), args.runs)  # type: ignore[misc]
            timed("a page of an actor's", lambda o=operations: list(o.pending(actor="add", limit=100)), args.runs)  # type: ignore[misc]
            timed("all of them for an actor that has none", lambda o=operations: list(o.pending(actor="nobody")), 1)  # type: ignore[misc]
            broker.close()


if __name__ == "__main__":
    main()
