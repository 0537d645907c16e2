"""Which message the current thread or task is working on, and since when."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple, Protocol

from dramatiq import Broker, MessageProxy

from .clock import SystemClock
from .options import retries_of
from .policy import Settings
from .records import CurrentAttempt, read_attempts

__all__ = ["RUNNING", "Running", "Watcher", "current_attempt", "is_handled_quietly", "started_at"]


class Watcher(Protocol):
    """What is wanted of the middleware that watches a run."""

    log_every_attempt: bool

    def settings_of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]: ...


class Running(NamedTuple):
    """What is known of a message that is being run."""

    watcher: Watcher
    broker: Broker
    message: MessageProxy
    started_at: int


RUNNING: ContextVar[Running | None] = ContextVar("dramatiq_retryq_running", default=None)

_SYSTEM_CLOCK = SystemClock()


def current_attempt() -> CurrentAttempt:
    """Which attempt this is; for use inside an actor, async ones too.

    Outside of a worker, as when a test calls the actor's function directly, it is a first attempt without a limit.
    """
    running = RUNNING.get()
    if running is None:
        return CurrentAttempt(number=1, limit=None, previous=(), first_started_at=_SYSTEM_CLOCK.now())
    settings, _ = running.watcher.settings_of(running.broker, running.message)
    previous = read_attempts(running.message.options)
    return CurrentAttempt(
        number=retries_of(running.message.options) + 1,
        limit=settings.limit,
        previous=previous,
        first_started_at=previous[0].started_at if previous else running.started_at,
    )


def started_at() -> int | None:
    """Since when (ms since the epoch) the current message is being run."""
    running = RUNNING.get()
    return running.started_at if running is not None else None


def is_handled_quietly(message: MessageProxy) -> bool:
    """Whether the worker is to say nothing of this message's failure: ``RetryQueue`` does."""
    running = RUNNING.get()
    return running is not None and running.message is message and not running.watcher.log_every_attempt
