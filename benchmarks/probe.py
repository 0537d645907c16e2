"""What work items need: a count of calls, a running worker, percentiles, the process's memory and threads."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dramatiq

WORKER_THREADS = 8


class Countdown:
    """Counts calls from any thread; holds what passed from :meth:`start` to the last one, by clock and of CPU time.

    The cost of a call is a tenth of a microsecond, so that the actor that makes it is still a no-op.
    """

    def __init__(self, total: int) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._total = total
        self._left = itertools.count(total - 1, -1)
        self._zero = threading.Event()

    def __call__(self) -> None:
        # `next` on a count is one step under the GIL: no lock.
        if next(self._left) == 0:
            self.seconds += time.perf_counter()
            self.cpu_seconds += time.process_time()
            self._zero.set()

    def start(self) -> None:
        self.seconds = -time.perf_counter()
        self.cpu_seconds = -time.process_time()

    def wait(self, seconds: float) -> None:
        """Wait for the last call.

        Raises:
          TimeoutError: If it does not come within `seconds`.
        """
        if not self._zero.wait(seconds):
            raise TimeoutError(f"{next(self._left) + 1} of {self._total} calls still to come after {seconds} s")


@contextmanager
def running_worker(broker: dramatiq.Broker) -> Iterator[dramatiq.Worker]:
    """Run Dramatiq's own worker for as long as the block lasts."""
    worker = dramatiq.Worker(broker, worker_threads=WORKER_THREADS)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def rss_bytes() -> int:
    """The process's resident memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def thread_count() -> int:
    """The process's threads, Python's own and others (Linux)."""
    return len(os.listdir("/proc/self/task"))
