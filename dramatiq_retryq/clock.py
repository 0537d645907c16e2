"""Where the time comes from. Handed in everywhere, so that tests can own it."""

from __future__ import annotations

import math
import threading
import time
from datetime import timedelta
from typing import Any, Protocol

from .errors import ConfigError
from .frozen import freezer, instant_of, stands_still

__all__ = ["MAX_DURATION", "BrokerClock", "Clock", "SystemClock", "VirtualClock", "clock_of", "milliseconds"]

# time.time() is a float: 1767225600.123 * 1000 may come out as …122.9998. Half a microsecond forgives
# that, and is far below the millisecond in which everything here is counted.
_ROUNDING = 0.0005

# In a tuple: freezegun replaces whatever attribute of a module is the real function.
_REAL_TIME = (time.time,)

#: The longest duration that is understood: a thousand years. What is added to an instant stays a small number.
MAX_DURATION = 1_000 * 366 * 86_400_000


class Clock(Protocol):
    """What the package wants of a clock."""

    def now(self) -> int:
        """The present instant in whole milliseconds since the epoch, rounded down."""

    def due_in(self, delay: int) -> int:
        """The first whole millisecond that is at least ``delay`` milliseconds from now; for no delay, now."""

    def sleep(self, delay: int) -> None:
        """Let ``delay`` milliseconds pass on the calling thread."""


class SystemClock:
    """The machine's wall clock.

    ``time.time`` is looked up at each call, so time frozen by freezegun is the time here, on every thread.
    """

    def now(self) -> int:
        read = time.time
        if read is not _REAL_TIME[0]:
            frozen = freezer()
            if frozen is not None:
                return instant_of(frozen)
        return int(read() * 1000 + _ROUNDING)

    def due_in(self, delay: int) -> int:
        if delay <= 0:
            return self.now()
        if time.time is not _REAL_TIME[0]:
            frozen = freezer()
            if frozen is not None:
                return instant_of(frozen, up=True) + delay
        # Rounded up: a floor here made a delayed message run up to a millisecond early.
        return math.ceil(time.time() * 1000 - _ROUNDING) + delay

    def sleep(self, delay: int) -> None:
        time.sleep(delay / 1000)


class BrokerClock(SystemClock):
    """The machine's wall clock as brokers go by it: frozen time that is ticked on by a delay has reached its end."""

    def due_in(self, delay: int) -> int:
        if time.time is not _REAL_TIME[0]:
            frozen = freezer()
            if frozen is not None and stands_still(frozen):
                # Not rounded up: frozen at 0.3 ms and ticked on by 1000 ms, it would not have come to 1001.
                return instant_of(frozen) + max(0, delay)
        return super().due_in(delay)


class VirtualClock:
    """A clock that stands still until it is told to move.

    Args:
        start: the first instant, in milliseconds since the epoch.
    """

    def __init__(self, start: int = 1_767_225_600_000) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> int:
        return self._now

    def due_in(self, delay: int) -> int:
        return self._now + delay

    def sleep(self, delay: int) -> None:
        """Move on by ``delay`` milliseconds, at once."""
        self.advance(delay)

    def advance(self, delay: int | timedelta) -> int:
        """Move on by ``delay`` (milliseconds or a timedelta) and return the new instant."""
        step = milliseconds(delay, "delay")
        with self._lock:
            self._now += step
            return self._now

    def move_to(self, instant: int) -> None:
        """Leap to ``instant``; an instant in the past is taken as a clock that was set back."""
        with self._lock:
            self._now = instant


_SYSTEM_CLOCK = SystemClock()


def clock_of(broker: object) -> Clock:
    """The clock that a broker goes by: its own if it has one, else the machine's."""
    try:
        return broker.clock  # type: ignore[attr-defined, no-any-return]
    except AttributeError:
        return _SYSTEM_CLOCK


def milliseconds(value: Any, what: str) -> int:
    """A duration that a person typed, as whole milliseconds, rounded up.

    Args:
        value: an int or float of milliseconds, or a timedelta; not negative.
        what: how the error calls it, for example ``"actor 'add': min_backoff"``.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, timedelta):
        value = value / timedelta(milliseconds=1)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value == math.inf:
        raise ConfigError(f"{what} is {value!r}: give milliseconds as a whole number, or a datetime.timedelta")
    if value < 0:
        raise ConfigError(f"{what} is {value!r} ms: a duration cannot be negative")
    if value > MAX_DURATION:
        raise ConfigError(f"{what} is more than {MAX_DURATION} ms, which is a thousand years: give less")
    return math.ceil(value)
