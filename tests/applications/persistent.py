"""Long work that is interrupted by a deploy and goes on where it was, after Dramatiq's example `persistent`."""

from __future__ import annotations

import time

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Shutdown

from dramatiq_retryq import RetryQueue

broker = StubBroker()
broker.add_middleware(RetryQueue())
done: dict[str, int] = {}


@dramatiq.actor(broker=broker, time_limit=float("inf"), notify_shutdown=True, max_retries=0)
def work_through(name: str, steps: int) -> None:
    step = done.get(name, 0)
    try:
        while step < steps:
            time.sleep(0.1)
            step += 1
    except Shutdown:
        done[name] = step
        raise  # RetryQueue has it delivered again, which uses up no attempt
    done[name] = step
