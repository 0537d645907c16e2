"""Moves 10,000 messages of 250 bytes, half of them delayed, from broker to broker: ``python -m benchmarks.moving``.

Needs a Redis and a RabbitMQ on this machine; what it sends there lies under names of its own and is taken away.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dramatiq import Message
from dramatiq.common import dq_name, xq_name

from dramatiq_retryq import RetryQueue, broker_from_url
from dramatiq_retryq.moving import move

MESSAGES = 10_000
ROUNDS = 3
PAIRS = (
    ("sqlite", "redis"),
    ("redis", "sqlite"),
    ("sqlite", "rabbitmq"),
    ("rabbitmq", "sqlite"),
    ("sqlite", "sqlite"),
    ("memory", "sqlite"),
)


def main() -> None:
    print("| from | to | messages/s |\n| --- | --- | --- |")
    for source, target in PAIRS:
        rates = sorted(rate(source, target) for _ in range(ROUNDS))
        print(
            f"| {source} | {target} | {statistics.median(rates):,.0f} ({rates[0]:,.0f} – {rates[-1]:,.0f}) |",
            flush=True,
        )


def rate(source_kind: str, target_kind: str) -> float:
    """Messages a second."""
    queue = f"retryq-benchmark-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as directory:
        source, forget_source = made(source_kind, queue, f"{directory}/a.db", "a")
        target, forget_target = made(target_kind, queue, f"{directory}/b.db", "b")
        for number in range(MESSAGES):
            message = Message(queue_name=queue, actor_name="work", args=(number, "x" * 80), kwargs={}, options={})
            source.enqueue(message, delay=3_600_000 if number % 2 else None)
        started = time.perf_counter()
        done = move(source, target)
        seconds = time.perf_counter() - started
        assert done.messages == MESSAGES
        for broker, forget in ((source, forget_source), (target, forget_target)):
            forget()
            broker.close()
        return MESSAGES / seconds


def made(kind: str, queue: str, path: str, where: str) -> tuple[Any, Callable[[], object]]:
    """A broker, and what takes away all that it leaves on a server."""
    if kind == "redis":
        redis_url = os.environ.get("RETRYQ_TEST_REDIS", "redis://127.0.0.1:6379/0")
        broker: Any = broker_from_url(redis_url, retry_queue=RetryQueue(), namespace=f"{queue}-{where}")
        broker.declare_queue(queue)
        return broker, lambda: broker.client.delete(*broker.client.scan_iter(f"{queue}-{where}:*"))
    url = {
        "memory": "memory://",
        "sqlite": f"sqlite:///{path}",
        "rabbitmq": os.environ.get("RETRYQ_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672/%2F"),
    }[kind]
    broker = broker_from_url(url)
    broker.declare_queue(queue)
    if kind != "rabbitmq":
        return broker, lambda: None
    names = (queue, dq_name(queue), xq_name(queue))
    return broker, lambda: [broker.channel.queue_delete(name) for name in names]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
