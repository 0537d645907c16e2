"""What a worker with nothing to do costs."""

from __future__ import annotations

import time

import dramatiq

from .probe import running_worker, thread_count

QUEUES = 200
WATCHED_S = 10.0


def many_queues(broker: dramatiq.Broker) -> dict[str, float]:
    """A worker on 200 empty queues: its share of one CPU, and its threads."""
    return _watch(broker, QUEUES)


def twenty_queues(broker: dramatiq.Broker) -> dict[str, float]:
    """The same with 20."""
    return _watch(broker, 20)


def _watch(broker: dramatiq.Broker, queues: int) -> dict[str, float]:
    for number in range(queues):
        declare = dramatiq.actor(broker=broker, actor_name=f"noop_{number}", queue_name=f"queue_{number}")
        declare(_noop)
    with running_worker(broker):
        time.sleep(2)  # The threads have started.
        cpu, clock = time.process_time(), time.perf_counter()
        time.sleep(WATCHED_S)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        return {"cpu_percent": 100 * cpu / clock, "threads": thread_count()}


def _noop() -> None:
    pass
