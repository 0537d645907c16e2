"""One failed attempt: steps 3 to 5 of the story that :mod:`dramatiq_retryq.middleware` tells."""

from __future__ import annotations

import functools
from typing import Any

from dramatiq import ActorNotFound, Broker, Message, MessageProxy, Retry
from dramatiq.middleware import Shutdown

from ._dramatiq import plain_message
from .errors import ClaimLost, Snooze
from .handler import Handler, who
from .history import append, describe, last_number, short_traceback
from .logs import one_line
from .options import actor_name_of, retries_of
from .policy import Settings, decide
from .records import Attempt, Decision, ErrorInfo, RetryIn
from .this_process import this_process

__all__ = ["Failure"]


class Failure:
    """One failed attempt, from the exception to the retry that is stored or the reason to die."""

    def __init__(
        self,
        handler: Handler,
        broker: Broker,
        message: MessageProxy,
        error: BaseException,
    ) -> None:
        self.handler = handler
        self.broker = broker
        self.message = message
        self.error = error
        self.options = dict(message.options)
        #: What was decided and carried out; ``None`` until then.
        self.settled: Decision | None = None
        self._info: ErrorInfo | None = None

    def handle(self, started_at: int | None) -> None:
        """Decide, and carry it out; the message is marked as failed unless a retry is really stored.

        Called again after an interrupt, it does what is not done yet.

        Args:
            started_at: when the attempt started, in ms since the epoch; now, if that is not known.
        """
        if self.settled is not None:
            return
        message, options = self.message, dict(self.options)
        now = self.handler.clock_of(self.broker).now()
        settings, problem = self.handler.settings_of(self.broker, message)
        decision = decide(
            self.error,
            settings,
            retries=retries_of(options),
            previous=_previous_delay(options.get("attempts")),
            sent_at=message.message_timestamp,
            now=now,
            rng=self.handler.rng,
        )
        self._write(options, decision, now if started_at is None else started_at, now)
        message.options.clear()
        message.options.update(options)
        if isinstance(decision, RetryIn):
            self.handler.persist(self.broker, functools.partial(self._store, decision))
            self.settled, message.failed = decision, False
            self._log_retry(decision, settings)
        else:
            message.__dict__["retryq_reason"] = decision.reason
            if decision.reason == "exhausted":
                self._tell_exhausted(settings)
            self.settled = decision
        problem = problem or decision.problem
        if problem:
            self.handler.log("error", "While handling a failure of %s: %s.", who(message), problem)

    def _write(self, options: dict[str, Any], decision: Decision, started_at: int, now: int) -> None:
        """Write the attempt into the message's options, as history and in the three fields that Dramatiq has."""
        if isinstance(decision, RetryIn) and not decision.uses_attempt:
            if issubclass(type(self.error), Snooze):
                snoozes = options.get("snoozes", 0)
                options["snoozes"] = (snoozes if isinstance(snoozes, int) else 0) + 1
            return
        info = self._info = describe(self.error, self.handler.redact)
        append(
            options,
            Attempt(
                n=last_number(options) + 1,
                started_at=started_at,
                duration=max(0, now - started_at),
                error=info.type,
                message=info.message,
                place=info.place,
                delay=decision.delay if isinstance(decision, RetryIn) else None,
                worker=this_process(),
            ),
        )
        if isinstance(decision, RetryIn) or decision.reason != "rejected":
            options["retries"] = retries_of(options) + 1
            options["traceback"] = short_traceback(self.error, info)
            options["requeue_timestamp"] = now

    def _store(self, decision: RetryIn) -> None:
        delay = decision.delay
        reschedule = getattr(self.broker, "reschedule", None)
        if reschedule is not None and "claim" in self.message.__dict__:
            try:
                reschedule(self.message, delay=delay, outcome="retried" if decision.uses_attempt else "snoozed")
            except ClaimLost:
                # Moved by an earlier call that raised after it had written, or recovered by another process that took
                # this one for dead: either way it waits, and is no longer this worker's to bury.
                self.message.__dict__["settled"] = True
            return
        side = self.handler.side_of(self.broker)
        if side is not None:
            side.reschedule(self.message, delay=delay)
        else:
            # No delay rather than one of 0: that would go through the delay queue and a worker's memory.
            self.broker.enqueue(plain_message(self.message).copy(), delay=delay or None)

    def _log_retry(self, decision: RetryIn, settings: Settings) -> None:
        expected = issubclass(type(self.error), (Retry, Shutdown))
        error = one_line(str(self._info or describe(self.error, self.handler.redact)))
        attempt = retries_of(self.options) + 1
        text = "Attempt %d of %s of actor %s failed (message %s): %s. Next in %d ms."
        if not decision.uses_attempt:
            text = "Attempt %d of %s of actor %s was put off (message %s): %s. Again in %d ms."
        self.handler.log(
            "info" if expected else "warning",
            text,
            attempt,
            settings.limit if settings.limit is not None else "any",
            self.message.actor_name,
            self.message.message_id,
            error,
            decision.delay,
            extra={
                "actor": self.message.actor_name,
                "message_id": self.message.message_id,
                "attempt": attempt,
                "limit": settings.limit,
                "delay": decision.delay,
                "error": error,
            },
        )

    def _as_sent(self) -> Message[Any]:
        """The message with the arguments that it was sent: the actor may have changed the list that it was given."""
        claim = self.message.__dict__.get("claim")
        return plain_message(self.message) if claim is None else Message.decode(claim.data)

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
                {**self._as_sent().asdict(), "options": self.message.options},
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
    if attempts is None:
        return None
    try:
        delay = attempts[-1]["delay"]
    except (TypeError, KeyError, IndexError):
        return None
    return delay if isinstance(delay, int) else None
