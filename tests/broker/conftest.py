"""Memory brokers on the machine's clock, and helpers to run them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Worker

import dramatiq_retryq
from dramatiq_retryq import MemoryBroker

#: How long (s) a test waits for something that is about to happen.
PATIENCE = 20


@pytest.fixture
def real() -> Iterator[MemoryBroker]:
    """A memory broker on the machine's clock, as the global broker."""
    previous = dramatiq.broker.global_broker
    broker = MemoryBroker()
    dramatiq.set_broker(broker)
    yield broker
    assert broker.check() == []
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


@pytest.fixture
def running() -> Callable[..., AbstractContextManager[Worker]]:
    """Runs Dramatiq's own worker for as long as a with block lasts: ``running(broker, threads=1, timeout=5)``."""

    @contextmanager
    def running(
        broker: Broker, *, threads: int = 2, timeout: int = 5, queues: set[str] | None = None
    ) -> Iterator[Worker]:
        worker = Worker(broker, worker_threads=threads, worker_timeout=timeout, queues=queues)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop(timeout=PATIENCE * 1000)
        assert not [thread for thread in (*worker.workers, *worker.consumers.values()) if thread.is_alive()]

    return running


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], None]:
    """Waits until something is so, for what gives no sign of itself."""

    def until(is_so: Callable[[], Any]) -> None:
        pause = threading.Event()
        for _ in range(PATIENCE * 1000):  # no deadline: time may be frozen
            if is_so():
                return
            pause.wait(0.001)
        raise AssertionError("it did not come about")

    return until


class Sleeper(threading.Thread):
    """A thread that asks a consumer for its next message, again and again until it has one."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(daemon=True)
        self.consumer = consumer
        self.message: Any = None
        self.is_stopped = False
        self.start()

    def run(self) -> None:
        while self.message is None and not self.is_stopped:
            self.message = next(self.consumer)

    def got(self) -> Any:
        """What it got; waits for it."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the consumer still sleeps"
        return self.message


@pytest.fixture
def asleep(until: Callable[[Callable[[], Any]], None]) -> Callable[..., Sleeper]:
    """Puts a consumer to sleep in a thread of its own, and returns once it sleeps."""

    def asleep(broker: MemoryBroker, queue_name: str = "default", **options: Any) -> Sleeper:
        sleepers = broker._lines[queue_name].sleepers
        before = len(sleepers)
        sleeper = Sleeper(broker.consume(queue_name, **{"timeout": 3 * PATIENCE * 1000, **options}))
        until(lambda: len(sleepers) > before)
        return sleeper

    return asleep


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts a Python process with the program given, that finds the package under test."""
    started: list[subprocess.Popen[str]] = []

    def python(program: str) -> subprocess.Popen[str]:
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(program))
        root = Path(dramatiq_retryq.__file__).parent.parent
        process = subprocess.Popen(
            [sys.executable, "-u", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        started.append(process)
        return process

    yield python  # type: ignore[misc]
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
