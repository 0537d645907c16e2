"""A message dies: step 6 of the story that :mod:`dramatiq_retryq.middleware` tells.

Its dead letter is composed, the dead-letter actor is told, and the death is counted and logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dramatiq import ActorNotFound, Broker, Message, MessageProxy, Retry

from ._dramatiq import exception_of
from .crash import CRASH_LOOP
from .dead_letters import LETTER_OPTION, compose
from .handler import Handler
from .history import last_number
from .logs import one_line
from .options import actor_name_of, max_age_of, throws_of
from .records import DeadLetter, Reason

__all__ = ["Deaths"]


class Deaths:
    """What the middleware does when a message dies. Nothing here raises but :meth:`compose`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def compose(self, broker: Broker, message: MessageProxy) -> DeadLetter:
        """The dead letter of a message that is about to be rejected."""
        now = self._handler.clock_of(broker).now()
        reason: Reason | None = message.__dict__.get("retryq_reason")
        if reason is None:
            actor = broker.actors.get(message.actor_name)
            max_age = max_age_of(broker, actor.options if actor is not None else {}, message.options)
            if max_age and now - message.message_timestamp >= max_age:
                reason = "expired"
        claim = message.__dict__.get("claim")
        side = self._handler.side_of(broker) if claim is None else None
        letter_id = str(claim.id) if claim is not None else side.letter_id(message) if side is not None else None
        letter = compose(
            message,
            now=now,
            reason=reason,
            letter_id=letter_id,
            data=claim.data if claim is not None else None,
            redact=self._handler.redact,
        )
        if "retryq_quiet" in message.__dict__:  # nothing was raised but what makes the worker skip the message
            letter = dataclasses.replace(letter, error=CRASH_LOOP if reason == "crashed" else None, traceback=None)
        return letter

    def notice(self, broker: Broker, letter: DeadLetter, options: Mapping[str, Any]) -> Message[Any] | None:
        """The message that tells the dead-letter actor of a letter; ``None`` if there is nobody to tell.

        Args:
            broker: where the actor is declared.
            letter: what it is told.
            options: those of the dead message.
        """
        if LETTER_OPTION in options:
            return None
        actor = broker.actors.get(letter.actor_name or "")
        target = options.get("dead_letter_actor")
        if target is None and actor is not None:
            target = actor.options.get("dead_letter_actor")
        target = actor_name_of(target) or self._handler.dead_letter_actor
        if target is None or target == letter.actor_name:
            return None
        try:
            message: Message[Any] = broker.get_actor(target).message(letter.asdict())
            return message.copy(options={LETTER_OPTION: letter.id})
        except Exception as raised:
            self.report_untold(letter, target, raised)
            return None

    def tell(self, broker: Broker, letter: DeadLetter, options: Mapping[str, Any]) -> None:
        """Send the notice of a letter, if there is somebody to tell."""
        message = self.notice(broker, letter, options)
        if message is None:
            return
        # Where the retry could not be stored, that was waited for already.
        timeout = 0 if letter.reason == "unschedulable" else None
        try:
            self._handler.persist(broker, lambda: broker.enqueue(message), timeout)
        except Exception as raised:
            self.report_untold(letter, message.actor_name, raised)

    def report_untold(self, letter: DeadLetter, actor_name: str, error: Exception) -> None:
        """Log that a dead-letter actor could not be told."""
        self._handler.log(
            "error",
            "The dead letter of message %s of actor %s could not be sent to the dead-letter actor %r: %s.",
            letter.message_id,
            letter.actor_name,
            actor_name,
            "no such actor is declared" if isinstance(error, ActorNotFound) else type(error).__name__,
        )

    def report_rejected(self, broker: Broker, message: MessageProxy, letter: DeadLetter) -> None:
        """Count and log the death of a message that the worker has rejected."""
        # What only made the worker skip the message is no error of its own.
        exception = exception_of(message) if "retryq_quiet" not in message.__dict__ else None
        actor = broker.actors.get(message.actor_name)
        throws = throws_of(message.options, actor.options if actor is not None else {})
        expected = bool(throws) and issubclass(type(exception), throws)
        if expected:
            self._handler.log("info", "Aborting message %r.", message.message_id)
        self.report(letter, exception, message, expected=expected)

    def report(
        self,
        letter: DeadLetter,
        exception: BaseException | None = None,
        dead: Message[Any] | MessageProxy | None = None,
        *,
        expected: bool = False,
    ) -> None:
        """Count a death and log it: one ERROR with the traceback.

        An actor's ``throws`` are ``expected`` and an INFO, and a ``dramatiq.Retry`` that has no attempt left is a
        WARNING, both without a traceback: neither is ever logged as an error, here as in Dramatiq. Whoever has the
        ``dead`` message at hand gives it, and the letter's is not decoded.
        """
        handler = self._handler
        handler.counting.died(handler.broker, letter)
        if dead is None:
            dead = letter.message  # once: each look decodes it
        message_id = dead.message_id if dead is not None else None
        last = last_number(dead.options) if dead is not None else 0
        error = one_line(str(letter.error)) if letter.error is not None else None
        fields = {
            "actor": letter.actor_name,
            "message_id": message_id,
            "reason": letter.reason,
            "attempt": last or None,
            "error": error,
        }
        text = "Message %s of actor %s is dead (%s)"
        args: list[object] = [message_id, letter.actor_name, letter.reason]
        if error is not None:
            text += " after %d attempt(s): %s"
            args += [last, error]
        level = "error"
        if expected:
            level = "info"
        elif issubclass(type(exception), Retry):
            level = "warning"
        if level != "error":
            handler.log(level, text + ".", *args, extra=fields)
        elif handler.redact is None:
            handler.log(level, text + ".", *args, extra=fields, exc_info=exception)
        else:
            # exc_info would print the traceback as it is, secrets and all.
            handler.log(level, text + ".\n%s", *args, letter.traceback or "", extra=fields)
