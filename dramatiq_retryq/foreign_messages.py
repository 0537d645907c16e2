"""What ``RetryQueue`` does about messages on brokers that are not this package's own, beyond what it does on all."""

from __future__ import annotations

from typing import Any

from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import SkipMessage

from .crash import CRASH_LOOP
from .errors import RetryQueueError
from .handler import Handler, who
from .history import append, describe, last_number
from .hops import HOP_OPTION, reaching
from .records import Attempt, DeadLetter
from .side import Side, is_supported, side_of

__all__ = ["ForeignMessages"]


class ForeignMessages:
    """Long delays in hops, dead letters laid down before the message is rejected, and runs that kill their worker."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def side_of(self, broker: Broker) -> Side | None:
        """What is kept beside a broker of Dramatiq's; ``None`` for our own, and for those that nobody knows."""
        side: Side | None = broker.__dict__.get("_retryq_side")
        if side is None and is_supported(broker):
            side = side_of(broker)
        # Here and not where it is made: somebody may have looked at its letters before.
        if side is not None and self._handler.max_letter_age is not None:
            side.shelf.max_age = self._handler.max_letter_age
        return side

    # -- Dead letters --------------------------------------------------------------------------------------------

    def lay_down(self, broker: Broker, message: MessageProxy, letter: DeadLetter) -> None:
        """Store a letter before its message is rejected; if that cannot be done, the broker's own copy must do."""
        side = self.side_of(broker)
        if side is None:
            return
        # Where the retry could not be stored, that was waited for already.
        timeout = 0 if letter.reason == "unschedulable" else self._handler.store_timeout
        try:
            self._handler.persist(broker, lambda: side.shelf.add(letter), timeout)
        except Exception as raised:
            self._handler.log(
                "error",
                "The dead letter of message %s of actor %s could not be stored: %s. The message is rejected into the "
                "broker's own dead-letter queue, without its last error.",
                letter.message_id,
                letter.actor_name,
                self._said(raised),
            )
            message.__dict__["retryq_not_laid_down"] = True

    def lay_down_late(self, broker: Broker, message: MessageProxy) -> None:
        """Once more, since the worker tries to reject the message again: the server may be back."""
        side = self.side_of(broker)
        if side is not None and "retryq_not_laid_down" in message.__dict__:
            try:
                side.shelf.add(message.__dict__["dead_letter"])
                del message.__dict__["retryq_not_laid_down"]
            except Exception:
                pass  # it was said already

    # -- Long delays ---------------------------------------------------------------------------------------------

    def make_hop(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Let a message that is due too far off arrive early, on its first hop."""
        side = self.side_of(broker)
        eta = message.options.get("eta")
        if side is not None and side.longest_delay is not None and isinstance(eta, int):
            message.options.update(reaching(eta, eta - delay, side.longest_delay))

    def put_off(self, broker: Broker, side: Side, message: MessageProxy) -> None:
        """Send a message that has come early, since its broker can do no longer delay, on its next hop.

        Raises:
            SkipMessage: it is not to be run now.
        """
        clock = self._handler.clock_of(broker)
        delay = message.options.pop(HOP_OPTION) - clock.now()
        if delay <= 0:
            return
        message.fail()
        message.__dict__["retryq_reason"] = "unschedulable"
        try:
            self._handler.persist(broker, lambda: side.reschedule(message, delay=delay))
        except Exception as raised:
            message.options["eta"] = clock.now() + delay
            text = "%s is due in %d ms, and could not be put off: %s."
            self._handler.log("error", text, who(message), delay, self._said(raised))
        else:
            message.failed = False
        message.__dict__["retryq_quiet"] = True
        raise SkipMessage

    # -- Crash loops ---------------------------------------------------------------------------------------------

    def begin(self, broker: Broker, side: Side, message: MessageProxy) -> None:
        """Count the run of a message that may have killed its worker before; too many, and it dies.

        Raises:
            SkipMessage: it is not to be run any more.
        """
        max_crashes = self._handler.max_crashes
        if max_crashes is None:
            return
        try:
            begun = side.begin(message)
        except Exception as raised:
            self._handler.log("warning", "Runs of %s could not be counted: %s.", who(message), self._said(raised))
            return
        message.__dict__["retryq_begun"] = side
        # The first death was not counted: which of the messages that a worker had it was running, nobody knows. Runs
        # are counted from the second on.
        if begun < max(1, max_crashes - 1):
            return
        append(
            message.options,
            Attempt(
                n=last_number(message.options) + 1,
                started_at=self._handler.clock_of(broker).now(),
                duration=0,
                error=CRASH_LOOP.type,
                message=CRASH_LOOP.message,
            ),
        )
        message.fail()
        message.__dict__.update(retryq_reason="crashed", retryq_quiet=True)
        raise SkipMessage

    def end(self, message: MessageProxy) -> None:
        """The run of such a message has ended."""
        side: Side = message.__dict__.pop("retryq_begun")
        try:
            side.end(message)
        except Exception as raised:
            text = "The end of a run of %s could not be noted: %s."
            self._handler.log("warning", text, who(message), self._said(raised))

    def _said(self, raised: Exception) -> str:
        """What is logged of an error: of other people's the class only, since they quote what they were given."""
        if not isinstance(raised, RetryQueueError):
            return type(raised).__name__
        return describe(raised, self._handler.redact).message
