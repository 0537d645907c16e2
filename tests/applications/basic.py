"""An actor that may fail in ways that help or do not, after Dramatiq's example `basic`: Redis, and plain Retries."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url="redis://127.0.0.1:1/0")


class Unusable(Exception):
    """No retry will help."""


def should_retry(retries: int, error: BaseException) -> bool:
    return not isinstance(error, Unusable) and retries < 3


@dramatiq.actor(broker=broker, queue_name="math", retry_when=should_retry)
def divide(x: int, y: int) -> None:
    if y < 0:
        raise Unusable(f"{y} is negative")
    quotients.append(x / y)


quotients: list[float] = []
