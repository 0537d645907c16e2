"""Who waits for what in a queue, and how they are woken: sleeping consumers, and those who wait for its end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["Bell", "Line", "Sleeper"]


class Sleeper(Protocol):
    """A consumer, as far as it sleeps."""

    bell: Bell
    #: Until when (ms) it sleeps if its bell is not rung.
    wakes_at: float


class Line:
    """Who waits for what in one queue."""

    __slots__ = ("_condition", "first_death", "joiners", "sleepers")

    def __init__(self) -> None:
        self.sleepers: list[Sleeper] = []
        self.joiners = 0
        #: The letter and the exception of the first death that join() has to raise.
        self.first_death: tuple[str, BaseException] | None = None
        self._condition = threading.Condition()

    def wake_one(self) -> None:
        """Something is due now."""
        for sleeper in list(self.sleepers):
            if sleeper.bell.ring():
                return

    def wake_another(self, consumer: Sleeper) -> None:
        """Something may be due that ``consumer`` cannot take."""
        for sleeper in list(self.sleepers):
            if sleeper is not consumer and sleeper.bell.ring():
                return

    def wake_before(self, due_at: int) -> None:
        """Something is due at ``due_at``: whoever means to sleep longer must think again."""
        for sleeper in list(self.sleepers):
            if sleeper.wakes_at > due_at:
                sleeper.bell.ring()

    def wake_all(self) -> None:
        for sleeper in list(self.sleepers):
            sleeper.bell.ring()

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition on which :meth:`notify_joiners` is called; ``False`` if the time is over first."""
        with self._condition:
            self.joiners += 1
            try:
                # Not a deadline of our own: time.monotonic() stands still under freezegun, threading's does not.
                return self._condition.wait_for(is_so, None if seconds == math.inf else seconds)
            finally:
                self.joiners -= 1

    def notify_joiners(self) -> None:
        with self._condition:
            self._condition.notify_all()


class Bell:
    """Wakes one thread; rung while nobody waits, it wakes the next one that does."""

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        # A bare lock: an Event or Condition makes a new one for every wait, and with 200 idle queues that is seen.
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> bool:
        """Wake the waiter. ``False`` if the bell was rung already."""
        try:
            self._silent.release()
        except RuntimeError:
            return False
        return True

    def wait(self, seconds: float) -> None:
        self._silent.acquire(timeout=seconds)
