"""Counts for Prometheus what the middleware sees, where that is wanted, and never at a message's cost."""

from __future__ import annotations

import logging

from dramatiq import Broker, MessageProxy
from dramatiq.common import q_name
from dramatiq.middleware import Interrupt

from ._dramatiq import exposition_of
from .clock import Clock
from .errors import MissingExtra, Snooze
from .logs import log
from .prometheus_files import UNKNOWN, Counters, Outcome, family_directory, is_installed
from .records import DeadLetter, Decision, Die, RetryIn

__all__ = ["Counting"]


class Counting:
    """Counts attempts, retries and deaths. Nothing here raises, except at the start.

    Args:
        wanted: ``True``, ``False``, or ``None``: where something serves it and ``prometheus_client`` is installed.
        is_served: whether an endpoint of ours will serve it.
        logger: hears once if it does not work.

    Raises:
        MissingExtra: it is wanted, and ``prometheus_client`` is not installed.
    """

    def __init__(self, wanted: bool | None, *, is_served: bool, logger: logging.Logger) -> None:
        if wanted and not is_installed():
            raise MissingExtra("prometheus")
        self._wanted = wanted
        self._is_served = is_served
        self._logger = logger
        self._counters: Counters | None = None
        self._has_complained = False
        #: ``False`` once it is known that nothing is counted; until then it may be.
        self.is_on = wanted is not False

    def counters(self, broker: Broker) -> Counters | None:
        """Where it is counted; ``None`` if it is not."""
        if self._counters is None and self.is_on:
            try:
                self._counters = self._open(broker)
            except Interrupt:
                return None  # it is found out the next time
            except Exception as error:
                self._complain(error)
            self.is_on = self._counters is not None
        return self._counters

    def _open(self, broker: Broker) -> Counters | None:
        # Dramatiq's own endpoint knows one directory, and shows what lies there.
        exposition = exposition_of(broker)
        if not self._wanted and exposition is None and not (self._is_served and is_installed()):
            return None
        return Counters(exposition.directory if exposition is not None else family_directory())

    def prepare(self, broker: Broker) -> None:
        """Show every actor's counters as 0, before anything happens."""
        counters = self.counters(broker)
        if counters is not None:
            try:
                for actor in list(broker.actors.values()):
                    counters.prepare(actor.queue_name, actor.actor_name)
            except (Exception, Interrupt) as error:
                self._complain(error)

    def attempted(
        self,
        broker: Broker,
        message: MessageProxy,
        clock: Clock,
        started_at: int | None,
        decision: Decision | None = None,
        error: BaseException | None = None,
    ) -> None:
        """An attempt ended.

        Args:
            broker: the broker.
            message: as the worker has it.
            clock: tells the time now.
            started_at: when it started; if that is not known, now.
            decision: what became of it if it failed; ``None`` if that could not be settled.
            error: what it raised.
        """
        counters = self._counters or self.counters(broker)
        if counters is None:
            return
        try:
            duration = max(0, clock.now() - started_at) if started_at is not None else 0
            queue_name, actor_name = _labels(broker, message.queue_name, message.actor_name)
            outcome = _outcome(message, decision, error)
            counters.attempted(queue_name, actor_name, outcome, duration)
            if outcome == "retried" and isinstance(decision, RetryIn):
                counters.retried(queue_name, actor_name, decision.delay)
        except (Exception, Interrupt) as problem:
            self._complain(problem)

    def died(self, broker: Broker | None, letter: DeadLetter) -> None:
        """A message died."""
        counters = self.counters(broker) if broker is not None else None
        if broker is None or counters is None:
            return
        try:
            counters.died(*_labels(broker, letter.queue_name, letter.actor_name), letter.reason)
        except (Exception, Interrupt) as error:
            self._complain(error)

    def _complain(self, error: BaseException) -> None:
        # An interrupt is of an attempt that is over. Raised out of here, it would be taken for one of the actor's.
        if self._has_complained or isinstance(error, Interrupt):
            return
        self._has_complained = True
        said = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__
        log(self._logger, "error", "Metrics are not, or not fully, counted: %s.", said)


def _outcome(message: MessageProxy, decision: Decision | None, error: BaseException | None) -> Outcome:
    if decision is None or isinstance(decision, Die):
        return "died" if error is not None or message.failed else "succeeded"
    if decision.uses_attempt:
        return "retried"
    return "snoozed" if issubclass(type(error), Snooze) else "interrupted"


def _labels(broker: Broker, queue_name: str, actor_name: str | None) -> tuple[str, str]:
    """The labels of a message: names that this process knows, of which there are not many."""
    queue_name = q_name(queue_name)
    return (
        queue_name if queue_name in broker.queues else UNKNOWN,
        actor_name if actor_name is not None and actor_name in broker.actors else UNKNOWN,
    )
