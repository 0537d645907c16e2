"""One failed attempt: steps 3 to 6 of the story that :mod:`dramatiq_retryq.middleware` tells."""

from __future__ import annotations

import functools
import os
import random
import socket
from collections.abc import Callable
from typing import Any, Protocol

from dramatiq import ActorNotFound, Broker, MessageProxy, Retry
from dramatiq.middleware import Shutdown

from ._dramatiq import plain_message
from .clock import Clock
from .errors import Snooze
from .history import Redact, append, describe, last_number, short_traceback
from .options import actor_name_of, retries_of
from .policy import Settings, decide
from .records import Attempt, Decision, Reason, RetryIn

__all__ = ["Failure", "Handler", "who"]


class Handler(Protocol):
    """What a failure wants of the middleware that handles it."""

    redact: Redact | None
    rng: random.Random

    def clock_of(self, broker: Broker) -> Clock: ...

    def settings_of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]: ...

    def persist(self, broker: Broker, store: Callable[[], object]) -> None: ...

    def log(self, level: str, text: str, *args: object, **kwargs: Any) -> None: ...


class Failure:
    """One failed attempt, from the exception to the retry that is stored or the reason to die."""

    def __init__(
        self,
        handler: Handler,
        broker: Broker,
        message: MessageProxy,
        error: BaseException,
        started_at: int | None,
    ) -> None:
        self.handler = handler
        self.broker = broker
        self.message = message
        self.error = error
        self.clock = handler.clock_of(broker)
        self.now = self.clock.now()
        self.started_at = self.now if started_at is None else started_at
        self.options = dict(message.options)
        #: Why the message dies, once that is decided.
        self.reason: Reason | None = None
        self._stored = False

    def handle(self) -> None:
        """Decide, and carry it out. The message is marked as failed unless a retry is really stored."""
        settings, problem = self.handler.settings_of(self.broker, self.message)
        written = self.options.get("attempts")
        decision = decide(
            self.error,
            settings,
            retries=retries_of(self.options),
            previous=_previous_delay(written),
            sent_at=self.message.message_timestamp,
            now=self.now,
            rng=self.handler.rng,
        )
        self._write(decision)
        if isinstance(decision, RetryIn):
            self._retry(decision)
            self._log_retry(decision, settings)
        else:
            self.reason = decision.reason
            if decision.reason == "exhausted":
                self._tell_exhausted(settings)
        problem = problem or decision.problem
        if problem:
            self.handler.log("error", "While handling a failure of %s: %s.", who(self.message), problem)

    def handle_again(self) -> None:
        """After an interrupt somewhere in :meth:`handle`: do what is not done yet."""
        if self._stored:
            self.message.failed = False
        elif self.reason is None:
            self.message.options.clear()
            self.message.options.update(self.options)
            self.handle()

    def _write(self, decision: Decision) -> None:
        """Write the attempt into the message's options, as history and in the three fields that Dramatiq has."""
        options = self.message.options
        if isinstance(decision, RetryIn) and not decision.uses_attempt:
            if isinstance(self.error, Snooze):
                snoozes = options.get("snoozes", 0)
                options["snoozes"] = (snoozes if isinstance(snoozes, int) else 0) + 1
            return
        info = describe(self.error, self.handler.redact)
        append(
            options,
            Attempt(
                n=last_number(options) + 1,
                started_at=self.started_at,
                duration=max(0, self.now - self.started_at),
                error=info.type,
                message=info.message,
                place=info.place,
                delay=decision.delay if isinstance(decision, RetryIn) else None,
                worker=_worker_name(),
            ),
        )
        if isinstance(decision, RetryIn) or decision.reason != "rejected":
            options["retries"] = retries_of(options) + 1
            options["traceback"] = short_traceback(self.error, info)
            options["requeue_timestamp"] = self.now

    def _retry(self, decision: RetryIn) -> None:
        self.handler.persist(self.broker, functools.partial(self._store, decision.delay))
        self.message.failed = False

    def _store(self, delay: int) -> None:
        reschedule = getattr(self.broker, "reschedule", None)
        if reschedule is not None and "claim" in self.message.__dict__:
            reschedule(self.message, delay=delay)
        else:
            # No delay rather than one of 0: that would go through the delay queue and a worker's memory.
            self.broker.enqueue(plain_message(self.message).copy(), delay=delay or None)
        self._stored = True

    def _log_retry(self, decision: RetryIn, settings: Settings) -> None:
        expected = isinstance(self.error, (Retry, Shutdown))
        info = describe(self.error, self.handler.redact)
        attempt = retries_of(self.options) + 1
        self.handler.log(
            "info" if expected else "warning",
            "Attempt %d of %s of actor %s failed (message %s): %s. Next in %d ms.",
            attempt,
            settings.limit if settings.limit is not None else "any",
            self.message.actor_name,
            self.message.message_id,
            info,
            decision.delay,
            extra={
                "actor": self.message.actor_name,
                "message_id": self.message.message_id,
                "attempt": attempt,
                "limit": settings.limit,
                "delay": decision.delay,
                "error": str(info),
            },
        )

    def _tell_exhausted(self, settings: Settings) -> None:
        actor = self.broker.actors.get(self.message.actor_name)
        name = self.message.options.get("on_retry_exhausted")
        if name is None and actor is not None:
            name = actor.options.get("on_retry_exhausted")
        name = actor_name_of(name)
        if name is None:
            return
        try:
            message = self.broker.get_actor(name).message(
                self.message.asdict(),
                {"retries": retries_of(self.options), "max_retries": settings.max_retries},
            )
            self.handler.persist(self.broker, lambda: self.broker.enqueue(message))
        except Exception as raised:
            self.handler.log(
                "error",
                "%s is exhausted, and the actor %r could not be told: %s.",
                who(self.message),
                name,
                f"{type(raised).__name__}: no such actor"
                if isinstance(raised, ActorNotFound)
                else type(raised).__name__,
            )


def _previous_delay(attempts: Any) -> int | None:
    try:
        delay = attempts[-1]["delay"]
    except (TypeError, KeyError, IndexError):
        return None
    return delay if isinstance(delay, int) else None


def who(message: MessageProxy) -> str:
    return f"message {message.message_id} of actor {message.actor_name}"


def _worker_name() -> str:
    return f"{_hostname()}:{os.getpid()}"


@functools.cache
def _hostname() -> str:
    return socket.gethostname()
