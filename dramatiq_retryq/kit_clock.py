"""The clock of the testing kit: virtual, or the one that freezegun has stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from .clock import VirtualClock, milliseconds
from .frozen import freezer, instant_of, move, stands_still

__all__ = ["KitClock"]


class KitClock:
    """A clock that stands still until it is told to move; within ``freeze_time``, the time that is frozen there.

    Which of the two it is, is found out at each look: a test may enter ``freeze_time`` long after the kit was set up,
    and leave it before.

    Args:
        virtual: the clock outside of ``freeze_time``.
    """

    def __init__(self, virtual: VirtualClock) -> None:
        self._virtual = virtual
        #: What it means that somebody sleeps on the test's own thread; by default the clock moves on, and that is all.
        self.on_sleep: Callable[[int], object] = self.advance
        self._monotonic = time.monotonic()
        self._passed = 0
        self._frozen = freezer()
        self._seen = self.now()

    def now(self) -> int:
        frozen = freezer()
        return self._virtual.now() if frozen is None else instant_of(frozen)

    def due_in(self, delay: int) -> int:
        frozen = freezer()
        if frozen is None:
            return self._virtual.due_in(delay)
        return instant_of(frozen, up=delay > 0 and not stands_still(frozen)) + max(0, delay)

    def sleep(self, delay: int) -> None:
        """Let ``delay`` milliseconds pass, at once."""
        self.on_sleep(delay)

    def advance(self, delay: int | timedelta) -> int:
        """Move on by ``delay`` (milliseconds or a timedelta) and return the new instant. Nothing is run."""
        return self.move_to(self.now() + milliseconds(delay, "delay"))

    def move_to(self, instant: int) -> int:
        """Leap to ``instant`` (ms since the epoch) and return the new one; an instant that is past changes nothing."""
        now, _ = self.read()
        if instant <= now:
            return now
        frozen = freezer()
        if frozen is None:
            self._virtual.move_to(instant)
        else:
            move(frozen, instant)
        return instant

    def read(self) -> tuple[int, int]:
        """The present instant, and how many milliseconds have passed."""
        frozen = freezer()
        now = self._virtual.now() if frozen is None else instant_of(frozen)
        if frozen is self._frozen:
            self._passed += now - self._seen
        self._frozen, self._seen = frozen, now
        return now, self._passed

    def passed(self) -> int:
        """How many milliseconds have passed, whoever moved the clock.

        Entering ``freeze_time``, or leaving it, is no time that passes.
        """
        return self.read()[1]

    # -- As the module ``time`` ----------------------------------------------------------------------------------

    def time(self) -> float:
        return (self.now() + 0.25) / 1000  # a quarter: times 1000 and cut off, it is the same number again

    def monotonic(self) -> float:
        return self._monotonic + self.passed() / 1000

    def sleep_seconds(self, seconds: float) -> None:
        self.sleep(max(0, round(seconds * 1000)))
