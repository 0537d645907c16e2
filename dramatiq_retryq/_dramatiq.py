"""The one place that knows what Dramatiq does not promise.

``tests/unit/test_dramatiq_internals.py`` fails with a sentence for each of these that a new Dramatiq changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dramatiq import Message, MessageProxy

__all__ = ["WORKER_LOGGER", "exception_of", "is_attempt_error", "plain_message", "silence_attempt_errors"]

#: The logger on which Dramatiq's worker reports every failed attempt, before any middleware hears of it.
WORKER_LOGGER = "dramatiq.worker.WorkerThread"
_ATTEMPT_ERROR = "Failed to process message %s with unhandled exception."


def exception_of(message: MessageProxy) -> BaseException | None:
    """What the worker stuffed into this message, if anything."""
    # .__dict__, since Dramatiq 2.0 deletes the attribute where later ones set it to None.
    exception: BaseException | None = message.__dict__.get("_exception")
    return exception


def plain_message(message: Message[Any] | MessageProxy) -> Message[Any]:
    """The message itself, without the proxy that a consumer wrapped it in."""
    if isinstance(message, MessageProxy):
        return message._message
    return message


def is_attempt_error(record: logging.LogRecord) -> MessageProxy | None:
    """The message whose failed attempt this log record reports; ``None`` for any other record."""
    if record.msg == _ATTEMPT_ERROR and isinstance(record.args, tuple) and record.args:
        message = record.args[0]
        return message if isinstance(message, MessageProxy) else None
    return None


class _Silence(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.is_handled: Callable[[MessageProxy], bool] | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        message = is_attempt_error(record)
        return message is None or self.is_handled is None or not self.is_handled(message)


_silence = _Silence()


def silence_attempt_errors(is_handled: Callable[[MessageProxy], bool]) -> None:
    """Drop the worker's own report of a failed attempt where ``is_handled`` says that somebody else reports it."""
    _silence.is_handled = is_handled
    logging.getLogger(WORKER_LOGGER).addFilter(_silence)  # a filter that is there already is not added twice
