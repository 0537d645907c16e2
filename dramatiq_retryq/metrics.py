"""Metrics for Prometheus: what lies in the store, read when it is scraped, and what the middleware has counted.

The table is in ``docs/metrics.md``. Needs the extra ``prometheus``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dramatiq import Broker, get_logger

from ._dramatiq import exposition_of, load_application, serve_plain_exposition, wait_for_command
from .endpoint import Address, Endpoint, Reply
from .errors import MissingExtra, RetryQueueError
from .limits import oldest_due_age
from .logs import log
from .monitored import Monitored
from .operations import Operations
from .prometheus_files import is_installed
from .records import REASONS, Reason
from .status import Status
from .watch import Reading, Watch, read

__all__ = ["GAUGES", "Collector", "Gauge"]

#: How long (s) a scrape waits for the store; Prometheus itself gives up after 10.
PATIENCE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """Something that is read when it is scraped."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


STORE_UP = Gauge(name="retryq_store_up", help="Whether the broker could be looked at for this scrape: 1 or 0.")
MESSAGES = Gauge(
    name="retryq_messages",
    help="Messages by queue and state: due, later, claimed, dead.",
    labels=("queue_name", "state"),
)
OLDEST_DUE_AGE = Gauge(
    name="retryq_oldest_due_age_seconds",
    help="For how long the oldest message that is due has been; 0 if none is.",
    labels=("queue_name",),
)
QUEUE_PAUSED = Gauge(name="retryq_queue_paused", help="Whether the queue is paused: 1 or 0.", labels=("queue_name",))
DEAD_LETTERS = Gauge(name="retryq_dead_letters", help="Dead letters by reason.", labels=("reason",))
WORKERS = Gauge(name="retryq_workers", help="Worker processes that live.")
GAUGES = (STORE_UP, MESSAGES, OLDEST_DUE_AGE, QUEUE_PAUSED, DEAD_LETTERS, WORKERS)


class Collector:
    """All of this package's metrics, for a registry of one's own: ``REGISTRY.register(Collector(broker))``.

    For an application that exposes its metrics itself and runs a worker in its process. What the broker cannot tell
    is left out.

    Args:
        broker: the broker.

    Raises:
        MissingExtra: ``prometheus_client`` is not installed.
    """

    def __init__(self, broker: Broker) -> None:
        if not is_installed():
            raise MissingExtra("prometheus")
        self._operations = Operations.of(broker)
        self._broker = broker

    def describe(self) -> list[Any]:
        """Nothing: a registry then does not collect to find out the names."""
        return []

    def collect(self) -> Iterator[Any]:
        monitored = next((each for each in self._broker.middleware if isinstance(each, Monitored)), None)
        counters = monitored.counters(self._broker) if monitored is not None else None
        yield from _collect(lambda: read(self._operations), counters.directory if counters is not None else None)


def _collect(look: Callable[[], Reading], directory: str | None) -> Iterator[Any]:
    from prometheus_client.multiprocess import MultiProcessCollector

    try:
        reading = look()
    except Exception as error:
        # Only our own words: a client library's may hold the address, and with it the password.
        said = str(error) if isinstance(error, RetryQueueError) else type(error).__name__
        log(_logger(), "warning", "The broker could not be looked at for a scrape: %s.", said)
        yield _family(STORE_UP, [((), 0)])
    else:
        if reading.status is not None:
            yield _family(STORE_UP, [((), 1)])
            yield from _gauges(reading.status, reading.reasons)
    if directory is not None:
        yield from MultiProcessCollector(None, path=directory).collect()


def _gauges(status: Status, reasons: Mapping[Reason, int] | None) -> Iterator[Any]:
    states = ("due", "later", "claimed", "dead")
    yield _family(
        MESSAGES,
        [((queue.name, state), getattr(queue, state)) for queue in status.queues for state in states],
    )
    ages = [((queue.name,), oldest_due_age(queue, status.now)) for queue in status.queues]
    yield _family(OLDEST_DUE_AGE, [(labels, None if age is None else age / 1000) for labels, age in ages])
    yield _family(QUEUE_PAUSED, [((queue.name,), int(queue.paused)) for queue in status.queues])
    if reasons is not None:
        yield _family(DEAD_LETTERS, [((reason,), reasons.get(reason, 0)) for reason in REASONS])
    if status.workers is not None:
        yield _family(WORKERS, [((), len(status.workers))])


def _family(gauge: Gauge, samples: list[tuple[tuple[str, ...], float | None]]) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
    for labels, value in samples:
        if value is not None:  # nobody can tell
            family.add_metric(labels, value)
    return family


class _Fixed:
    """A collector of what is at hand already."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


def answer(look: Callable[[float], Reading], directory: str | None) -> Reply:
    """What ``/metrics`` answers.

    Args:
        look: reads the broker, for so many seconds at the most.
        directory: where the middleware counts; ``None`` for the gauges alone.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Fixed([*_collect(lambda: look(PATIENCE), directory)]))
    return Reply(status=200, body=generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def serve_exposition() -> int:
    """What the ``dramatiq`` command runs in place of its own exposition server, so that the gauges are there too.

    It answers at the same address, whatever the path, with all that Dramatiq's own would. Returns its exit code.
    """
    try:
        broker = load_application()
        exposition = exposition_of(broker)
        watch = Watch(Operations.of(broker))
        if exposition is None:
            raise LookupError("the application, loaded again, has no Prometheus middleware")
    except Exception:
        _logger().exception("Dramatiq's exposition server is without the metrics of the store.")
        return serve_plain_exposition()
    address = Address(exposition.host, exposition.port)
    endpoint = Endpoint(address, {"*": lambda: answer(watch.look, exposition.directory)}, _logger())
    endpoint.start()
    try:
        wait_for_command()
    finally:
        endpoint.stop()
        watch.stop()
    return 0


def _logger() -> logging.Logger:
    return get_logger("dramatiq_retryq", "metrics")  # type: ignore[no-untyped-call, no-any-return]
