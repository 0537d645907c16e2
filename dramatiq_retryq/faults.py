"""What a test lets go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq import Retry

from .errors import ConfigError, StoreUnavailable

__all__ = ["Fault", "ProcessDied", "count_of", "maker_of", "unavailable"]


class ProcessDied(Retry):
    """Raised where a process dies in the midst of an actor. A ``Retry``, which Dramatiq's worker does not log."""


class Fault:
    """What is to go wrong with the next run of an actor.

    Args:
        error: what is raised in place of running the actor; ``None`` for the death of the process.
        at_end: let the actor do its work first.
    """

    def __init__(self, error: Callable[[], BaseException] | None, *, at_end: bool = False) -> None:
        self.error = error
        self.at_end = at_end

    def strike(self) -> None:
        raise ProcessDied("the process died") if self.error is None else self.error()


def maker_of(error: Any) -> Callable[[], BaseException]:
    """A function that makes what is to be raised, out of an exception, its class, or such a function.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(error, BaseException):
        # Without the traceback of the time before: the same object is raised again and again.
        return lambda: error.with_traceback(None)
    if not callable(error):
        raise ConfigError(f"error is {error!r}: give an exception, its class, or a function that makes one")

    def make() -> BaseException:
        try:
            made: object = error()
        except TypeError:
            if not isinstance(error, type):
                raise
            of_class: Any = error
            made = of_class("asked for by the test")
        if not isinstance(made, BaseException):
            raise ConfigError(f"error is {error!r}, which makes {made!r}: that is no exception")
        return made

    make()  # said here, and not in the midst of an actor
    return make


def unavailable() -> BaseException:
    """What is raised by a broker that cannot store anything now."""
    return StoreUnavailable("the broker refuses this, since refuse_enqueue() asked for it")


def count_of(n: Any, what: str) -> int:
    """How often something is to go wrong.

    Raises:
        ConfigError: it is no whole number of 1 or more.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"{what}: n is {n!r}: give a whole number of 1 or more")
    return n
