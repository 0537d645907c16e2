"""Real servers: those that run on this machine, or the tests' own; without either the tests are skipped.

With ``RETRYQ_REQUIRE_SERVERS=1`` a missing server is a failure. The servers may be shared with others, so every test
has a namespace and queue names of its own, and takes away what it leaves there.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Worker
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import DeadLetters, RetryQueue, broker_from_url
from dramatiq_retryq.broker import StoreBroker
from tests.integration import servers

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis that may be shared: use the namespace of :func:`name`."""
    pytest.importorskip("redis")
    with servers.shared_redis() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """The URL of a RabbitMQ that may be shared: use queue names that begin with :func:`name`."""
    pytest.importorskip("pika")
    with servers.shared_rabbitmq() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_of_its_own(rabbitmq_url: str) -> Iterator[str]:
    """The URL of a virtual host that nobody else uses, for tests that name their queues as they like."""
    with servers.virtual_host(rabbitmq_url) as url:
        yield url


@pytest.fixture
def name() -> str:
    """A name that nobody else uses: a namespace, the beginning of a queue's name."""
    return f"rq-{uuid.uuid4().hex[:10]}-{next(_numbers)}"


@pytest.fixture
def global_broker() -> Iterator[Callable[[Broker], None]]:
    """Sets the global broker for the length of a test."""
    previous = dramatiq.broker.global_broker
    yield dramatiq.set_broker
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


MakeBroker = Callable[..., Any]


@pytest.fixture(autouse=True)
def a_consumer_restarts_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not 3 s after it lost its connection."""
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.05)
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05)


@pytest.fixture(autouse=True)
def replays_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay is no enqueue, of which a middleware would hear."""
    revive = DeadLetters._revive

    def counted(letters: DeadLetters, *args: Any) -> int:
        replayed = revive(letters, *args)
        for middleware in getattr(letters._shelf, "_broker", dramatiq.Broker([])).middleware:
            if isinstance(middleware, Ledger) and type(letters._shelf).__name__ != "StubShelf":
                middleware._count(replayed)
        return replayed

    monkeypatch.setattr(DeadLetters, "_revive", counted)


class Ledger(dramatiq.Middleware):
    """Counts what is on its way: sent, and neither acked nor rejected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0

    def _count(self, step: int) -> None:
        with self._lock:
            self.open += step

    def after_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        self._count(1)

    def after_ack(self, broker: Broker, message: Any) -> None:
        self._count(-1)

    after_nack = after_ack


@contextlib.contextmanager
def running(broker: Broker, *, threads: int = 2) -> Iterator[Worker]:
    """Dramatiq's own worker, stopped at the end."""
    worker = Worker(broker, worker_threads=threads, worker_timeout=10)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=20_000)


def finish(broker: Broker, *, threads: int = 2) -> None:
    """Run a worker until nothing is on its way."""
    (ledger,) = (m for m in broker.middleware if isinstance(m, Ledger))

    def is_idle() -> bool:
        if isinstance(broker, StoreBroker):
            return not any(counts.waiting or counts.claimed for counts in broker.counts().values())
        return ledger.open <= 0

    with running(broker, threads=threads):
        servers.wait_until(is_idle, 20, what="all messages to be done")


def forget_redis(url: str, namespace: str) -> None:
    """Take everything of a namespace out of Redis."""
    import redis

    with contextlib.closing(redis.Redis.from_url(url)) as client:
        keys = list(client.scan_iter(f"{namespace}:*", count=1000))
        for start in range(0, len(keys), 500):
            client.delete(*keys[start : start + 500])


def forget_rabbitmq(url: str, queue_names: set[str]) -> None:
    """Delete these queues, and everything that belongs to them."""
    import pika

    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        for queue_name in queue_names:
            for suffix in ("", ".DQ", ".XQ", ".XQ.letters", ".XQ.letters.latest"):
                channel.queue_delete(queue_name + suffix)
            channel.exchange_delete(queue_name + ".XQ.letters")


@pytest.fixture
def make_redis(redis_url: str, name: str, global_broker: Callable[[Broker], None]) -> Iterator[MakeBroker]:
    """Makes RedisBrokers in a namespace of the test's own: ``make_redis(max_retries=1)``, with RetryQueue's options."""
    made: list[Any] = []

    def make(*, broker: dict[str, Any] | None = None, url: str | None = None, **options: Any) -> Any:
        retry_queue = RetryQueue(**options)
        settings = {"namespace": name, **(broker or {})}
        made.append(broker_from_url(url or redis_url, retry_queue=retry_queue, **settings))
        made[-1].add_middleware(Ledger())
        global_broker(made[-1])
        return made[-1]

    yield make
    for broker in made:
        broker.close()
        broker.client.connection_pool.disconnect()  # older clients leave a pool open that was made of a URL
    forget_redis(redis_url, name)


@pytest.fixture
def make_rabbitmq(rabbitmq_url: str, name: str, global_broker: Callable[[Broker], None]) -> Iterator[MakeBroker]:
    """Makes RabbitmqBrokers: ``make_rabbitmq(max_retries=1)``. Queue names must begin with :func:`name`."""
    made: list[Any] = []

    def make(*, broker: dict[str, Any] | None = None, url: str | None = None, **options: Any) -> Any:
        retry_queue = RetryQueue(**options)
        made.append(broker_from_url(url or rabbitmq_url, retry_queue=retry_queue, **(broker or {})))
        made[-1].add_middleware(Ledger())
        global_broker(made[-1])
        return made[-1]

    yield make
    queue_names: set[str] = set()
    for broker in made:
        queue_names |= broker.get_declared_queues()
        broker.close()
    forget_rabbitmq(rabbitmq_url, {queue_name for queue_name in queue_names if queue_name.startswith(name)})


@pytest.fixture(params=["redis", "rabbitmq"])
def make(request: pytest.FixtureRequest) -> MakeBroker:
    """Makes brokers of either kind."""
    made: MakeBroker = request.getfixturevalue(f"make_{request.param}")
    return made


@pytest.fixture(params=["memory", "sqlite", "stub", "redis", "rabbitmq"])
def make_any(
    request: pytest.FixtureRequest, tmp_path: Path, global_broker: Callable[[Broker], None]
) -> Iterator[MakeBroker]:
    """Makes brokers of every kind that keeps dead letters: ``make_any(max_retries=1)``."""
    kind: str = request.param
    made: list[Any] = []

    def make(**options: Any) -> Any:
        if kind in ("redis", "rabbitmq"):
            return request.getfixturevalue(f"make_{kind}")(**options)
        retry_queue = RetryQueue(**options)
        if kind == "stub":
            broker: Any = StubBroker()
            broker.add_middleware(retry_queue)
        else:
            url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/jobs.db"
            broker = broker_from_url(url, retry_queue=retry_queue)
        broker.add_middleware(Ledger())
        made.append(broker)
        global_broker(broker)
        return broker

    yield make
    for broker in made:
        if kind != "stub":
            assert broker.check() == []
        broker.close()
