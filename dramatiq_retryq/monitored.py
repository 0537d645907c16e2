"""A middleware that is watched: its counters, and the endpoint that is there for as long as a worker runs."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from dramatiq import Broker, Worker, get_logger
from dramatiq.middleware import Middleware

from ._dramatiq import exposition_of
from .counting import Counting
from .errors import ConfigError
from .limits import HealthLimits

if TYPE_CHECKING:
    from .endpoint import Address
    from .health import Beside
    from .prometheus_files import Counters

__all__ = ["Monitored"]


class Monitored(Middleware):
    """What ``RetryQueue`` does for those who watch it.

    Args:
        health: where ``/healthz`` is served; see ``RetryQueue``.
        health_limits: beyond which it answers 503.
        metrics: whether to count for Prometheus.

    Raises:
        ConfigError: a value makes no sense.
        MissingExtra: ``metrics=True`` without ``prometheus_client``.
    """

    def __init__(self, *, health: str | int | None, health_limits: HealthLimits | None, metrics: bool | None) -> None:
        self.logger: logging.Logger = get_logger("dramatiq_retryq", type(self))  # type: ignore[no-untyped-call]
        if health_limits is not None and not isinstance(health_limits, HealthLimits):
            raise ConfigError(f"RetryQueue: health_limits is {health_limits!r}: give a HealthLimits(…)")
        if metrics is not None and not isinstance(metrics, bool):
            raise ConfigError(f"RetryQueue: metrics is {metrics!r}: give True or False, or None to have it decided")
        #: Where ``/healthz`` is to be served.
        self.health: Address | None = None
        if health is not None:
            from .endpoint import parse_address  # with it comes http.server, which takes as long as all the rest

            self.health = parse_address(health, "RetryQueue: health")
        self.health_limits = health_limits
        self.counting = Counting(metrics, is_served=health is not None, logger=self.logger)
        self._broker: Callable[[], Broker | None] = lambda: None
        self._beside: Beside | None = None
        self._workers = 0
        self._booting = threading.Lock()
        _monitored.add(self)

    @property
    def broker(self) -> Broker | None:
        """The broker that this is on, once it has shown itself."""
        return self._broker()

    def seen(self, broker: Broker) -> None:
        """This broker has this middleware."""
        self._broker = weakref.ref(broker)

    def counters(self, broker: Broker) -> Counters | None:
        """Where it is counted for Prometheus; ``None`` if it is not."""
        return self.counting.counters(broker)

    @property
    def health_url(self) -> str | None:
        """Where this process serves ``/healthz``, as ``http://127.0.0.1:9292``; ``None`` if it does not."""
        beside = self._beside
        return beside.url if beside is not None else None

    # -- The dramatiq command ------------------------------------------------------------------------------------

    def after_process_boot(self, broker: Broker) -> None:
        self.seen(broker)
        if self.counting.is_on and exposition_of(broker) is not None:
            from .health import share_exposition

            share_exposition(broker)

    @property
    def forks(self) -> list[Callable[[], int]]:
        """What the ``dramatiq`` command is to run beside its workers, once."""
        broker = self.broker
        if self.health is None or broker is None:
            return []
        from .health import is_shared, serve_beside_workers

        return [serve_beside_workers] if is_shared(broker) else []

    # -- A worker in this process --------------------------------------------------------------------------------

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self.counting.prepare(broker)

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        with self._booting:
            self._workers += 1
            if self.health is not None and self._beside is None:
                from .health import start_beside_worker

                self._beside = start_beside_worker(broker, self, self.health)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        # Not before: how long the last messages take is what somebody may want to know.
        with self._booting:
            self._workers = max(0, self._workers - 1)
            beside = self._beside
            if self._workers == 0 and beside is not None:
                self._beside = None
                beside.stop()

    def _after_fork(self) -> None:
        # What is served is served by the parent.
        self._beside, self._workers, self._booting = None, 0, threading.Lock()


_monitored: weakref.WeakSet[Monitored] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for monitored in list(_monitored):
        monitored._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
