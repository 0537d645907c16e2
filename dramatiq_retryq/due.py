"""When a message is due that is not due at once: by the delay it is sent with, or the eta it carries."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import Any

from dramatiq import Message

from ._dramatiq import plain_message
from .clock import Clock, milliseconds
from .logs import log

__all__ = ["LAST_INSTANT", "delayed", "is_instant"]

#: No eta is later than this: the year 9999, in ms since the epoch.
LAST_INSTANT = 253_402_300_800_000


def delayed(
    message: Message[Any], queue_name: str, delay: Any, clock: Clock, logger: logging.Logger
) -> tuple[Message[Any], int | None, int]:
    """A copy of the message with the instant at which it is due, the delay in ms, and that instant."""
    if delay is not None:
        if _is_negative(delay):
            delay = 0
        delay = milliseconds(delay, f"message to actor {message.actor_name!r}: delay")
        due_at = clock.due_in(delay)
    else:
        eta: Any = message.options.get("eta")
        due_at = math.ceil(eta) if is_instant(message, eta, logger) else clock.now()
    copy = plain_message(message).copy(queue_name=queue_name, options={"eta": due_at})
    return copy, delay, due_at


def is_instant(message: Message[Any], eta: object, logger: logging.Logger) -> bool:
    """Whether an eta is one. What is not is due now, as in Dramatiq's worker."""
    if isinstance(eta, (int, float)) and abs(eta) < LAST_INSTANT:
        return True
    if eta is not None:
        text = "Invalid eta value for message %r: %.100r. It is due now."
        log(logger, "warning", text, message.message_id, eta)
    return False


def _is_negative(delay: object) -> bool:
    if isinstance(delay, timedelta):
        return delay < timedelta(0)
    return isinstance(delay, (int, float)) and not isinstance(delay, bool) and delay < 0
