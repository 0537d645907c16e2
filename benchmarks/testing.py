"""The testing kit against StubBroker with a worker: `python -m benchmarks.testing --rounds 5`.

Each figure is of a process of its own, the two in turn. Log records are made and go nowhere, or are formatted as under
pytest, which captures them (`--logs text`).
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import MemoryBroker
from dramatiq_retryq.testing import swap_broker

MESSAGES, FAILURES = 1_000, 3
DAY = 86_400_000


def seven_days() -> list[float]:
    """Milliseconds for a message that fails 20 times, 15 s to 7 d apart, and dies."""
    broker = MemoryBroker()

    @dramatiq.actor(broker=broker, max_retries=20, min_backoff=15_000, max_backoff=7 * DAY)
    def work() -> None:
        raise ConnectionError("refused")

    times = []
    for _ in range(5):
        with swap_broker(broker) as retryq:
            work.send()
            threads, start = threading.active_count(), time.perf_counter()
            outcome = retryq.drain()
            times.append((time.perf_counter() - start) * 1000)
            assert (outcome.retried, outcome.died, threading.active_count()) == (20, 1, threads)
    return [median(times)]


def kit() -> list[float]:
    """Attempts/s in drain(), and the CPU time of each in µs."""
    with swap_broker(MemoryBroker()) as retryq:
        fail = _failing(0)
        for n in range(MESSAGES):
            fail.send(n)
        start = time.perf_counter(), time.process_time()
        outcome = retryq.drain()
        figures = _figures(*start)
    assert (outcome.succeeded, outcome.retried) == (MESSAGES, MESSAGES * FAILURES)
    return figures


def stub() -> list[float]:
    """The same of StubBroker with a worker of Dramatiq's usual eight threads."""
    broker = StubBroker()
    dramatiq.set_broker(broker)
    fail = _failing(0)
    for n in range(MESSAGES):
        fail.send(n)
    worker = dramatiq.Worker(broker, worker_timeout=100)
    start = time.perf_counter(), time.process_time()
    worker.start()
    broker.join("default")
    worker.join()
    figures = _figures(*start)
    worker.stop()
    return figures


def _figures(start: float, cpu_start: float) -> list[float]:
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    attempts = MESSAGES * (FAILURES + 1)
    return [attempts / seconds, cpu_seconds / attempts * 1e6]


def _failing(backoff: int) -> dramatiq.Actor[..., Any]:
    seen: Counter[int] = Counter()
    lock = threading.Lock()

    @dramatiq.actor(max_retries=FAILURES, min_backoff=backoff, max_backoff=backoff)
    def fail(n: int) -> None:
        with lock:
            seen[n] += 1
            again = seen[n] <= FAILURES
        if again:
            raise ConnectionError("refused")

    return fail


def fixture() -> list[float]:
    """Milliseconds for a swap in which nothing is sent, of an application with 50 actors on 5 queues."""
    broker = MemoryBroker()
    for n in range(50):
        dramatiq.actor(print, actor_name=f"actor_{n}", queue_name=f"queue_{n % 5}", broker=broker)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        with swap_broker(broker):
            pass
        times.append((time.perf_counter() - start) * 1000)
    return [median(times)]


ITEMS: dict[str, Callable[[], list[float]]] = {"seven_days": seven_days, "kit": kit, "stub": stub, "fixture": fixture}


def run(item: str, logs: str) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.testing", "--one", item, "--logs", logs]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    figures: list[float] = json.loads(done.stdout)
    return figures


def spread(figures: Sequence[float]) -> str:
    return f"{median(figures):.3g} ({min(figures):.3g} – {max(figures):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--logs", choices=("none", "text"), default="none")
    parser.add_argument("--one", choices=tuple(ITEMS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        handler = logging.NullHandler() if args.logs == "none" else logging.StreamHandler(io.StringIO())
        logging.basicConfig(handlers=[handler])
        print(json.dumps(ITEMS[args.one]()))
        return
    of: dict[str, list[list[float]]] = {item: [] for item in ITEMS}
    for _ in range(args.rounds):
        for item in ITEMS:
            of[item].append(run(item, args.logs))
    (days,), (swaps,) = zip(*of["seven_days"], strict=True), zip(*of["fixture"], strict=True)
    (ours, our_cpu), (theirs, their_cpu) = zip(*of["kit"], strict=True), zip(*of["stub"], strict=True)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    cpu_ratios = [mine / other for mine, other in zip(our_cpu, their_cpu, strict=True)]
    rows = [
        ("20 failures over 7 days and a death, ms", "–", spread(days), "–", "< 10", median(days) < 10),
        ("1000 messages, 3 failures each, attempts/s", spread(theirs), spread(ours), spread(ratios), "≥ 3 ×", None),
        ("– CPU time of each, µs", spread(their_cpu), spread(our_cpu), spread(cpu_ratios), "", ""),
        ("a swap in which nothing is sent, 50 actors, ms", "–", spread(swaps), "–", "< 1", median(swaps) < 1),
    ]
    print(f"| logs: {args.logs} | stub | kit | ratio | wanted | |\n| --- | --- | --- | --- | --- | --- |")
    for title, stubs, kits, ratio, wanted, met in rows:
        is_met = median(ratios) >= 3 if met is None else met
        verdict = is_met if isinstance(is_met, str) else "met" if is_met else "**missed**"
        print(f"| {title} | {stubs} | {kits} | {ratio} | {wanted} | {verdict} |")


if __name__ == "__main__":
    main()
