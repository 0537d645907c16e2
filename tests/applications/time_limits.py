"""Actors that take too long or come too late, after Dramatiq's examples `time_limit` and `long_running`."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import TimeLimitExceeded

broker = StubBroker()
log: list[str] = []


def compute() -> None:
    raise NotImplementedError("takes its time")


@dramatiq.actor(broker=broker, time_limit=5_000, max_age=3_600_000, max_retries=3)
def long_running() -> None:
    try:
        compute()
    except TimeLimitExceeded:
        log.append("cleaned up")
        raise
    log.append("done")
