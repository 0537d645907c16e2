"""Sends and runs messages on one thread, on a clock that stands still: `one_thread.py memory|sqlite NUMBER`.

For `benchmarks.against --instructions`, which counts what the processor does: what threads and the time of day add
would differ from run to run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from queue import PriorityQueue
from typing import Any

import dramatiq
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.clock import VirtualClock


def work_off(broker: dramatiq.Broker, number: int) -> None:
    """Process so many messages, as Dramatiq's worker does."""
    queue: PriorityQueue[Any] = PriorityQueue()
    consumer = ConsumerThread(broker=broker, queue_name="default", prefetch=16, work_queue=queue, worker_timeout=0)
    consumer.consumer = broker.consume("default", prefetch=16, timeout=0)
    worker = WorkerThread(broker=broker, consumers={"default": consumer}, work_queue=queue, worker_timeout=0)
    while number:
        message = next(consumer.consumer)  # type: ignore[call-overload]
        if message is not None:
            consumer.handle_message(message)
            item = queue.get_nowait()
            worker.process_message(item[1] if isinstance(item, tuple) else item.message)
            number -= 1
    consumer.consumer.close()


def main() -> None:
    kind, number = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as directory:
        clock = VirtualClock()
        broker = SQLiteBroker(f"{directory}/jobs.db", clock=clock) if kind == "sqlite" else MemoryBroker(clock=clock)

        @dramatiq.actor(broker=broker)
        def noop(number: int) -> None: ...

        for n in range(number):
            noop.send(n)
        work_off(broker, number)
    os._exit(0)  # so that what is done at an exit is not counted


if __name__ == "__main__":
    main()
