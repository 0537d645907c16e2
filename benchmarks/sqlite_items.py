"""Work items of several processes: the `dramatiq` command, a kill, waking; and what the file weighs and grows to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dramatiq

from . import sharing
from .probe import Countdown, percentile, running_worker

SENT = 10_000
HELD = 200
HELD_S = 0.05
#: How long to wait for what a killed worker held.
PATIENCE_S = 30.0
STORED = 20_000
WAKINGS = 150
GROWN_TO = 200_000
BACKLOG = 2_000
ROOT = Path(__file__).parent.parent


def command(broker: dramatiq.Broker) -> dict[str, float]:
    """The `dramatiq` command, 2 processes of 4 threads, while another process sends 10,000 messages."""
    app = _app()
    with _workers(processes=2, threads=4):
        for number in range(100):
            app.note.send(number)
        _wait_for(lambda: _lines() >= 100, 60)
        time.sleep(1)  # Both processes are up.
        started_at = time.perf_counter()
        sender = subprocess.Popen([sys.executable, "-m", "benchmarks.app", str(SENT)], cwd=ROOT)
        imported = _wait_for(lambda: _lines() > 100, 60)
        _wait_for(lambda: _lines() >= SENT + 100, 120)
        sender.wait()
        return {"per_second": SENT / (time.perf_counter() - imported), "with_start_s": time.perf_counter() - started_at}


def killed(broker: dramatiq.Broker) -> dict[str, float]:
    """A worker process is killed in mid-work and another one started: what of 200 messages is missing, and how long."""
    app = _app()
    for number in range(HELD):
        app.work.send(number, HELD_S)
    with _workers(processes=1, threads=4) as first:
        _wait_for(lambda: _lines() >= HELD // 5, 60)
        os.killpg(first.pid, signal.SIGKILL)
    killed_at = time.perf_counter()
    with _workers(processes=1, threads=4):
        running_at = _wait_for(lambda: _lines() > HELD // 5 + 4, 60)
        try:
            done_at = _wait_for(lambda: len(set(_read())) == HELD, PATIENCE_S)
        except TimeoutError:
            done_at = None
    done = _read()
    figures: dict[str, float] = {"missing": HELD - len(set(done)), "twice": len(done) - len(set(done))}
    if done_at is not None:
        figures |= {"seconds": done_at - running_at, "since_kill_s": done_at - killed_at}
    return figures


def stored_bytes(broker: Any) -> dict[str, float]:
    """What the file, or Redis's memory, holds for each waiting message."""

    @dramatiq.actor(broker=broker)
    def noop(number: int) -> None:
        pass

    for number in range(STORED):
        noop.send(number)
    if hasattr(broker, "namespace"):
        keys = broker.client.scan_iter(f"{broker.namespace}*")
        return {"bytes": sum(broker.client.memory_usage(key, samples=0) or 0 for key in keys) / STORED}
    body = len(noop.message(STORED).encode())
    broker.close()
    return {"bytes": sum(size for _, size in _files()) / STORED, "body_bytes": body}


def waking(broker: dramatiq.Broker) -> dict[str, float]:
    """A worker process idles; now and then a message comes from this process, and now and then a retry is due."""
    app = _app()
    dice = random.Random(1)
    with _workers(processes=1, threads=4):
        app.wake.send(time.time() * 1_000)
        _wait_for(lambda: _lines() >= 1, 60)
        time.sleep(1)
        for _ in range(WAKINGS):
            app.wake.send(time.time() * 1_000)
            time.sleep(dice.uniform(0.03, 0.09))
        _wait_for(lambda: _lines() >= WAKINGS + 1, 30)
        for number in range(WAKINGS):
            app.fail_once.send(number)
            time.sleep(dice.uniform(0.03, 0.09))
        _wait_for(lambda: _lines() >= 2 * WAKINGS + 1, 30)
    lines = [line.split() for line in _read()[1:]]
    woken = [float(value) for what, value in lines if what == "woken"]
    late = [float(value) for what, value in lines if what == "late"]
    return {
        "p50_ms": percentile(woken, 50),
        "p99_ms": percentile(woken, 99),
        "retry_p50_ms": percentile(late, 50),
        "retry_p99_ms": percentile(late, 99),
    }


def growth(broker: dramatiq.Broker) -> dict[str, float]:
    """The files while 200,000 messages are sent and done, with no more than 2000 waiting."""
    done = Countdown(GROWN_TO)
    finished = 0

    @dramatiq.actor(broker=broker)
    def noop(number: int) -> None:
        nonlocal finished
        finished += 1  # Perhaps one short now and then: it bounds the backlog, no more.
        done()

    early = largest = log = 0
    done.start()
    with running_worker(broker):
        for number in range(GROWN_TO):
            noop.send(number)
            if number % 500 == 0:
                sizes = dict(_files())
                largest = max(largest, sum(sizes.values()))
                log = max(log, sizes.get("jobs.db-wal", 0))
                while number - finished > BACKLOG:
                    time.sleep(0.001)
            if number == GROWN_TO // 10:
                early = dict(_files()).get("jobs.db", 0)
        done.wait(120)
    late = dict(_files())["jobs.db"]
    broker.close()
    return {
        "early_kb": early / 1_000,
        "late_kb": late / 1_000,
        "log_kb": log / 1_000,
        "largest_kb": largest / 1_000,
        "closed_kb": sum(size for _, size in _files()) / 1_000,
        "per_second": GROWN_TO / done.seconds,
    }


def fairness(broker: dramatiq.Broker) -> dict[str, float]:
    """See :func:`benchmarks.sharing.fairness`."""
    return sharing.fairness(_level())


def grouped_commits(broker: dramatiq.Broker) -> dict[str, float]:
    """See :func:`benchmarks.sharing.grouped_commits`."""
    return sharing.grouped_commits()


def _level() -> Any:
    return "full" if os.environ["BENCHMARKS_CONTESTANT"] == "sqlite-full" else "normal"


def _app() -> Any:
    from . import app

    return app


@contextmanager
def _workers(*, processes: int, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """The `dramatiq` command for as long as the block lasts, in a process group of its own."""
    options = ["--processes", str(processes), "--threads", str(threads), "--worker-shutdown-timeout", "1000"]
    workers = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "benchmarks.app", *options],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield workers
    finally:
        workers.terminate()
        try:
            workers.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(workers.pid, signal.SIGKILL)
            workers.wait()


def _journal() -> Path:
    return Path(os.environ["BENCHMARKS_DIRECTORY"], "journal")


def _read() -> list[str]:
    return _journal().read_text().splitlines()


def _lines() -> int:
    return _journal().read_bytes().count(b"\n")


def _wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for something that other processes do; returns when it was seen."""
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.005)
    return time.perf_counter()


def _files() -> Iterator[tuple[str, int]]:
    for path in Path(os.environ["BENCHMARKS_DIRECTORY"]).glob("jobs.db*"):
        if "-worker-" not in path.name:
            yield path.name, path.stat().st_size
