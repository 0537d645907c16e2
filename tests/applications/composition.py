"""Pages are fetched and their words counted, after Dramatiq's example `composition`: RabbitMQ, results in Redis."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as RedisLimits
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RabbitmqBroker(url="amqp://127.0.0.1:1")
broker.add_middleware(Results(backend=RedisBackend(url="redis://127.0.0.1:1/0")))
broker.add_middleware(GroupCallbacks(RedisLimits(url="redis://127.0.0.1:1/0")))


def download(url: str) -> str:
    raise NotImplementedError("the network")


@dramatiq.actor(broker=broker, max_retries=2)
def fetch(url: str) -> str:
    return download(url)


@dramatiq.actor(broker=broker, store_results=True)
def count_words(page: str) -> int:
    return len(page.split())


@dramatiq.actor(broker=broker)
def report(urls: list[str]) -> None:
    reports.append(urls)


reports: list[list[str]] = []


def count(urls: list[str]) -> list[int]:
    """How many words each page has; waits for it."""
    jobs = dramatiq.group([fetch.message(url) | count_words.message() for url in urls], broker=broker)
    jobs.add_completion_callback(report.message(urls))
    return list(jobs.run().get_results(block=True))
