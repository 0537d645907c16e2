"""The child of a worker's process: what the parent has claimed stays the parent's."""

from __future__ import annotations

import os
import sys
from typing import Any

from .consumer import ClaimedMessage
from .logs import log
from .signals import SignallingBroker
from .this_process import this_process

__all__ = ["leave_to_parent"]

_LEFT = "Actor %s was left in a child that it had forked, and the child ends: end it yourself, with os._exit()."


def leave_to_parent(broker: SignallingBroker) -> None:
    """End this process, the child of a fork, once it leaves the actor that forked it.

    It would go on as a copy of the worker: settle the message that the parent still runs, and run what the parent has
    fetched.
    """
    emit_after = broker.emit_after

    def emit_after_unless_parents(signal: str, *args: Any, **kwargs: Any) -> None:
        message = args[0] if args else None
        if isinstance(message, ClaimedMessage) and message.claim.owner != this_process():
            _end(broker, message, kwargs.get("exception"))
        emit_after(signal, *args, **kwargs)

    broker.emit_after = emit_after_unless_parents  # type: ignore[method-assign]


def _end(broker: SignallingBroker, message: ClaimedMessage, error: BaseException | None) -> None:
    """End as a process of its own would that returns, raises, or exits."""
    code: Any = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if error.code is not None else 0
    else:
        log(broker.logger, "error", _LEFT, message.actor_name, exc_info=error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # closed, or none at all
    os._exit(code & 0xFF if isinstance(code, int) else 1)
