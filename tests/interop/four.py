"""The four brokers by name, for the tests of this folder and for the scripts that they run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dramatiq import Broker, Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, Retries, default_middleware

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker, run_worker
from tests.integration.conftest import forget_rabbitmq

#: The checkout.
ROOT = Path(__file__).parents[2]
#: How long (s) a test waits for something to come about.
PATIENCE = 30

KINDS = ("memory", "sqlite", "redis", "rabbitmq")
#: The ones that more than one process can use.
SHARED = ("sqlite", "redis", "rabbitmq")


def url(kind: str, directory: str | os.PathLike[str]) -> str:
    """The URL of a broker of this kind. Those of the servers are set by the fixtures, for scripts as well."""
    return {
        "memory": "memory://",
        "sqlite": f"sqlite:///{os.path.join(directory, 'jobs.db')}",
        "redis": os.environ.get("RETRYQ_TEST_REDIS", ""),
        "rabbitmq": os.environ.get("RETRYQ_TEST_RABBITMQ", ""),
    }[kind]


def middleware(*, retry_queue: RetryQueue | None = None, more: tuple[Middleware, ...] = ()) -> list[Middleware]:
    """Dramatiq's default middleware, with RetryQueue in the place of Retries."""
    own = retry_queue if retry_queue is not None else RetryQueue(backoff=[0])
    found = [own if cls is Retries else cls() for cls in default_middleware]
    return [*(m for m in found if type(m).__name__ != "Prometheus"), *more]


def make(kind: str, name: str, directory: str, **options: Any) -> Broker:
    """A broker of this kind.

    Args:
        kind: one of KINDS.
        name: a name that nothing else on the servers has.
        directory: where files may lie.
        options: for the broker's constructor.
    """
    options.setdefault("middleware", middleware())
    makers: dict[str, Callable[[], Broker]] = {
        "memory": lambda: MemoryBroker(**options),
        "sqlite": lambda: SQLiteBroker(os.path.join(directory, "jobs.db"), **options),
        "redis": lambda: RedisBroker(url=url(kind, directory), namespace=name, **options),
        "rabbitmq": lambda: RabbitmqBroker(url=url(kind, directory), confirm_delivery=True, **options),
    }
    return makers[kind]()


def clear(broker: Any, name: str = "") -> None:
    """Take away what a broker left on its server; in a namespace of all, what has this name in it."""
    if isinstance(broker, RedisBroker):
        for key in broker.client.scan_iter(f"{broker.namespace}*{name}*", count=1_000):
            broker.client.delete(key)
    elif isinstance(broker, RabbitmqBroker):
        for queue in broker.get_declared_queues():
            forget_rabbitmq(url("rabbitmq", ""), {queue})


def running(broker: Broker) -> AbstractContextManager[Worker]:
    """A worker with one thread."""
    if isinstance(broker, RabbitmqBroker):
        # A consumer of Dramatiq 2.0 that comes before its queue stumbles, and leaves its connection open.
        for queue in broker.get_declared_queues():
            broker.declare_queue(queue, ensure=True)
    return run_worker(broker, threads=1, worker_timeout=50)


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        pause.wait(0.01)
