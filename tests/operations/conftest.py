"""The brokers that an operator looks at, all on a virtual clock where they are ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.store_broker import StoreBroker

#: How long (s) a test waits for something that is about to happen.
PATIENCE = 20


@pytest.fixture(params=["memory", "sqlite"])
def ours(request: pytest.FixtureRequest, clock: VirtualClock, tmp_path: Path) -> Iterator[StoreBroker]:
    """Each of our brokers, with an actor ``add`` that fails while its argument says so."""
    retry_queue = RetryQueue(max_retries=2, jitter="none")
    broker: StoreBroker = (
        MemoryBroker(clock=clock, retry_queue=retry_queue)
        if request.param == "memory"
        else SQLiteBroker(tmp_path / "jobs.db", clock=clock, retry_queue=retry_queue)
    )

    @dramatiq.actor(broker=broker)
    def add(fails: bool = False) -> None:
        if fails:
            raise ValueError("it fails")

    @dramatiq.actor(broker=broker, queue_name="other")
    def subtract() -> None:
        raise RuntimeError("never")

    yield broker
    assert broker.check() == []
    broker.close()


@pytest.fixture
def operations(ours: StoreBroker) -> Operations:
    return Operations.of(ours)


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], None]:
    """Waits until something is so, for what gives no sign of itself."""

    def until(is_so: Callable[[], Any]) -> None:
        pause = threading.Event()
        for _ in range(PATIENCE * 1000):
            if is_so():
                return
            pause.wait(0.001)
        raise AssertionError("it did not come about")

    return until
