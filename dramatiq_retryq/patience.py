"""How long one waits for a lock that another process holds: a worker for long, and a person not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["USUAL", "patience", "waiting_at_most"]

#: Seconds. A worker would rather wait than fail.
USUAL = 60.0

_patience: ContextVar[float] = ContextVar("retryq_patience", default=USUAL)


def patience() -> float:
    """How long (s) what is opened now waits for a lock, unless it is told otherwise."""
    return _patience.get()


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """For all files that are opened within: somebody sits there and wants to know."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)
