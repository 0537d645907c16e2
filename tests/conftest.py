from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from queue import PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import MemoryBroker
from dramatiq_retryq.broker import StoreBroker
from dramatiq_retryq.clock import VirtualClock


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """What a test starts it also stops. Dramatiq's TimeLimit thread runs for as long as the process."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and "TimeoutManager" not in type(t).__name__]
    for thread in left:
        thread.join(timeout=5)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


@pytest.fixture
def broker(clock: VirtualClock) -> Iterator[MemoryBroker]:
    """A memory broker on a virtual clock, as the global broker."""
    previous = dramatiq.broker.global_broker
    broker = MemoryBroker(clock=clock)
    dramatiq.set_broker(broker)
    yield broker
    assert broker.check() == []
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


@pytest.fixture
def drain(clock: VirtualClock) -> Callable[..., int]:
    """Run everything a broker of ours has, in due order, on the test's own thread, leaping from due to due.

    ``drain(broker)`` returns how many messages were processed; ``until`` (ms since the epoch) is where it stops.
    """

    def drain(broker: StoreBroker, *, until: int | None = None, limit: int = 10_000) -> int:
        work: PriorityQueue[Any] = PriorityQueue()
        consumers: dict[str, ConsumerThread] = {}
        worker = WorkerThread(broker=broker, consumers=consumers, work_queue=work, worker_timeout=0)
        processed = 0
        while processed < limit:
            for name in broker.get_declared_queues() - consumers.keys():
                thread = ConsumerThread(broker=broker, queue_name=name, prefetch=1, work_queue=work, worker_timeout=0)
                thread.consumer = broker.consume(name, prefetch=1, timeout=0)
                consumers[name] = thread
            due = {name: broker.store.next_due(name) for name in consumers}
            waiting = {name: at for name, at in due.items() if at is not None}
            if not waiting:
                return processed
            name = min(waiting, key=lambda name: waiting[name])
            if until is not None and waiting[name] > until:
                return processed
            clock.move_to(max(clock.now(), waiting[name]))
            message = next(consumers[name].consumer)  # type: ignore[call-overload]
            if message is None:
                continue  # it could not be decoded
            consumers[name].handle_message(message)
            if work.qsize():
                item = work.get_nowait()
                worker.process_message(item[1] if isinstance(item, tuple) else item.message)
            processed += 1
        raise AssertionError(f"{limit} messages were processed and there are more")

    return drain
