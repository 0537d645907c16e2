"""Who takes part: every broker under one name, opened the way a user would open it.

A new contestant is one function and one line in `CONTESTANTS`. Each makes an empty broker with its default
middleware, and is given an empty directory, removed afterwards, for what it keeps in files. Its package is
imported at use, so that a benchmark needs nothing but what it compares.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dramatiq
from dramatiq.brokers.stub import StubBroker

Contestant = Callable[[Path], dramatiq.Broker]

#: Give a database and a virtual host of their own, where others use these servers too.
REDIS_URL = os.environ.get("BENCHMARKS_REDIS_URL", "redis://127.0.0.1:6379/15")
RABBITMQ_URL = os.environ.get("BENCHMARKS_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/")


def stub(directory: Path) -> dramatiq.Broker:
    return StubBroker()


def stub_with_retryq(directory: Path) -> dramatiq.Broker:
    from dramatiq_retryq import RetryQueue

    broker = StubBroker()
    broker.add_middleware(RetryQueue())
    return broker


def memory(directory: Path) -> dramatiq.Broker:
    from dramatiq_retryq import MemoryBroker

    return MemoryBroker()


def sqlite(directory: Path) -> dramatiq.Broker:
    from dramatiq_retryq import SQLiteBroker

    return SQLiteBroker(directory / "jobs.db")


def sqlite_full(directory: Path) -> dramatiq.Broker:
    from dramatiq_retryq import SQLiteBroker

    return SQLiteBroker(directory / "jobs.db", synchronous="full")


def dramatiq_sqlite(directory: Path) -> dramatiq.Broker:
    from dramatiq_sqlite import SQLiteBroker  # type: ignore[import-untyped]

    broker: dramatiq.Broker = SQLiteBroker(url=f"sqlite://{directory / 'jobs.db'}")
    return broker


def redis(directory: Path) -> dramatiq.Broker:
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(url=REDIS_URL, namespace=f"benchmarks-{directory.name}")  # type: ignore[no-untyped-call]


def rabbitmq(directory: Path) -> dramatiq.Broker:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    return RabbitmqBroker(url=RABBITMQ_URL)


def rabbitmq_confirmed(directory: Path) -> dramatiq.Broker:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    return RabbitmqBroker(url=RABBITMQ_URL, confirm_delivery=True)


def redis_with_retryq(directory: Path) -> dramatiq.Broker:
    from dramatiq_retryq import broker_from_url

    return broker_from_url(REDIS_URL, namespace=f"benchmarks-{directory.name}")


def rabbitmq_with_retryq(directory: Path) -> dramatiq.Broker:
    from dramatiq_retryq import broker_from_url

    return broker_from_url(RABBITMQ_URL)


CONTESTANTS: dict[str, Contestant] = {
    "stub": stub,
    "stub+retryq": stub_with_retryq,
    "memory": memory,
    "sqlite": sqlite,
    "sqlite-full": sqlite_full,
    "dramatiq-sqlite": dramatiq_sqlite,
    "redis": redis,
    "redis+retryq": redis_with_retryq,
    "rabbitmq": rabbitmq,
    "rabbitmq-confirmed": rabbitmq_confirmed,
    "rabbitmq+retryq": rabbitmq_with_retryq,
}

_NEEDS = {"dramatiq-sqlite": ("dramatiq_sqlite", ""), "redis": ("redis", REDIS_URL), "rabbitmq": ("pika", RABBITMQ_URL)}


def missing(contestant: str) -> str | None:
    """What a contestant lacks here, its package or its server; ``None`` if nothing."""
    package, url = _NEEDS.get(contestant, ("dramatiq", ""))
    if importlib.util.find_spec(package) is None:
        return f"the package {package} is not installed"
    if url:
        address = urlsplit(url)
        try:
            socket.create_connection((address.hostname or "127.0.0.1", address.port or 0), timeout=2).close()
        except OSError as error:
            return f"no server at {address.hostname}:{address.port} ({error.strerror})"
    return None


def clean_up(broker: Any) -> None:
    """Take from a server what a run left there; files go with their directory."""
    if hasattr(broker, "namespace"):
        keys = list(broker.client.scan_iter(f"{broker.namespace}*"))
        if keys:
            broker.client.delete(*keys)
    elif hasattr(broker, "channel"):
        for queue_name in broker.get_declared_queues():
            letters = f"{queue_name}.XQ.letters"
            for name in (queue_name, f"{queue_name}.DQ", f"{queue_name}.XQ", letters, f"{letters}.latest"):
                broker.channel.queue_delete(name)
            broker.channel.exchange_delete(letters)
