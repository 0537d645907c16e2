"""Is it well? What ``/healthz`` answers, and who answers it.

Started by ``RetryQueue(health="127.0.0.1:9292")``: under the ``dramatiq`` command as one process beside the workers,
with an embedded or plain ``Worker`` on threads of its process. :func:`serve` is for everybody else. The same endpoint
answers ``/metrics`` where ``prometheus_client`` is installed.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from dramatiq import Broker, get_logger
from dramatiq.brokers.stub import StubBroker

from . import metrics
from ._dramatiq import command_arguments, exposition_of, extend_exposition, load_application, wait_for_command
from .broker import MemoryBroker
from .endpoint import Address, Endpoint, PortTaken, Reply, parse_address
from .errors import RetryQueueError
from .limits import HealthLimits, HealthReport, judge
from .logs import log
from .monitored import Monitored
from .operations import Operations
from .prometheus_files import is_installed
from .watch import Watch, status_of

__all__ = ["HealthLimits", "HealthReport", "examine", "serve"]

#: How often (s) it is tried again to listen at a port that another program has.
TRY_EVERY = 5.0


def examine(operations: Operations, limits: HealthLimits | None = None) -> HealthReport:
    """Look at a broker, and hold what is there against limits.

    Raises:
        StoreUnavailable: the store cannot be read; whatever else a foreign broker's client raises.
    """
    return judge(status_of(operations), limits or HealthLimits())


def answer(watch: Watch, limits: HealthLimits) -> Reply:
    """What ``/healthz`` answers, within a second."""
    try:
        report = judge(watch.look().status, limits)
    except Exception as error:
        # Only our own words: a client library's may hold the address, and with it the password.
        said = str(error) if isinstance(error, RetryQueueError) else type(error).__name__
        report = HealthReport(problems=(f"the broker cannot be looked at: {said}",))
    body = json.dumps(report.asdict(), indent=2).encode() + b"\n"
    return Reply(status=200 if report.is_ok else 503, body=body, content_type="application/json")


# -- Serving ---------------------------------------------------------------------------------------------------------


def serve(
    operations: Operations,
    address: str | int = "127.0.0.1:9292",
    *,
    limits: HealthLimits | None = None,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Answer ``/healthz`` for a broker, until an exception such as ``KeyboardInterrupt`` ends it.

    ``/metrics`` has the store's gauges, if ``prometheus_client`` is installed; what is counted is with the workers.

    Args:
        operations: the broker's.
        address: ``"host:port"``, ``"[::1]:port"``, or a port, which then is on loopback.
        limits: beyond which it answers 503; none if not given.
        ready: is called with the URL once it is listened at.

    Raises:
        ConfigError: the address makes no sense, or cannot be listened at.
    """
    where = parse_address(address, "health")
    watch = Watch(operations)
    exposition = (lambda: metrics.answer(watch.look, None)) if is_installed() else None
    endpoint = Endpoint(where, _routes(watch, limits or HealthLimits(), exposition), _logger())
    try:
        if ready is not None:
            ready(endpoint.url)
        endpoint.serve()
    finally:
        endpoint.stop()
        watch.stop()


def _routes(
    watch: Watch, limits: HealthLimits, exposition: Callable[[], Reply] | None
) -> dict[str, Callable[[], Reply]]:
    routes = {"/healthz": lambda: answer(watch, limits)}
    if exposition is not None:
        routes["/metrics"] = exposition
    return routes


def _logger() -> logging.Logger:
    return get_logger("dramatiq_retryq", "health")  # type: ignore[no-untyped-call, no-any-return]


class Beside:
    """Serves beside a worker, for as long as it runs. What goes wrong is logged, and the worker goes on.

    Args:
        broker: whose health it is.
        monitored: its middleware, with the limits.
        address: where to listen.
    """

    def __init__(self, broker: Broker, monitored: Monitored, address: Address) -> None:
        self._address = address
        self._watch = Watch(Operations.of(broker))
        limits = monitored.health_limits or HealthLimits()
        self._routes = _routes(self._watch, limits, _exposition(broker, monitored, self._watch))
        self._stopped = threading.Event()
        self._trying: threading.Thread | None = None
        self._endpoint: Endpoint | None = None

    @property
    def url(self) -> str | None:
        """Where it is served; ``None`` as long as another program has the port."""
        return self._endpoint.url if self._endpoint is not None else None

    def start(self) -> None:
        try:
            self._open()
        except PortTaken as taken:
            text = "Health is not served: %s. The workers go on, and it is tried again every %d s."
            log(_logger(), "error", text, taken, TRY_EVERY)
            self._trying = threading.Thread(target=self._try, name="retryq-health", daemon=True)
            self._trying.start()

    def _open(self) -> None:
        self._endpoint = Endpoint(self._address, self._routes, _logger())
        self._endpoint.start()
        log(_logger(), "info", "Health is served at %s/healthz.", self._endpoint.url)

    def _try(self) -> None:
        while not self._stopped.wait(TRY_EVERY):
            try:
                self._open()
                return
            except PortTaken:
                continue

    def stop(self) -> None:
        self._stopped.set()
        if self._trying is not None:
            self._trying.join()
        if self._endpoint is not None:
            self._endpoint.stop()
        self._watch.stop()


def _exposition(broker: Broker, monitored: Monitored, watch: Watch) -> Callable[[], Reply] | None:
    """What answers ``/metrics``; ``None`` if that is not wanted, or another endpoint has all of it."""
    counters = monitored.counters(broker)
    if counters is None:
        return None
    if command_arguments() is None or exposition_of(broker) is None:
        return lambda: metrics.answer(watch.look, counters.directory)
    # Dramatiq's own endpoint has what is counted, and the store's gauges too unless its process sees an empty broker.
    return None if is_shared(broker) else lambda: metrics.answer(watch.look, None)


def is_shared(broker: Broker) -> bool:
    """Whether another process sees the broker's messages."""
    return not isinstance(broker, (MemoryBroker, StubBroker))


def start_beside_worker(broker: Broker, monitored: Monitored, address: Address) -> Beside | None:
    """Serve from within a worker's process; not where the ``dramatiq`` command runs a process for that."""
    if command_arguments() is not None and is_shared(broker):
        return None
    beside = Beside(broker, monitored, address)
    beside.start()
    return beside


def share_exposition(broker: Broker) -> None:
    """Have Dramatiq's own endpoint show the store's gauges too, where its process can see them."""
    if is_installed() and is_shared(broker):
        extend_exposition(broker, metrics.serve_exposition)


def serve_beside_workers() -> int:
    """The process that the ``dramatiq`` command starts beside its workers. Returns its exit code."""
    broker = load_application()
    monitored = next((each for each in broker.middleware if isinstance(each, Monitored)), None)
    if monitored is None or monitored.health is None:
        log(_logger(), "error", "Health is not served: the application, loaded again, has no RetryQueue(health=…).")
        return 1
    beside = Beside(broker, monitored, monitored.health)
    beside.start()
    try:
        wait_for_command()
    finally:
        beside.stop()
    return 0
