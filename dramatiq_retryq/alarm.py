"""What ends an actor that runs on and on in a test: a timer of the operating system, in the place of a thread."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from dramatiq.middleware import TimeLimitExceeded

__all__ = ["Alarm"]


class Alarm:
    """Raises ``TimeLimitExceeded`` in the midst of what is being run, once so much real time is over.

    Only on the main thread, which is where Python handles signals, and where tests are run. A timer that somebody else
    has set, as pytest-timeout does, goes on: it rings when it would have.
    """

    def __init__(self) -> None:
        self._may_ring = False
        self._is_ours = False
        self._seconds = 0.0
        #: When the other timer would ring (s from the start), and how often after that.
        self._other = (0.0, 0.0)
        self._handler: Any = None

    def set(self, limit: float) -> None:
        """Ring in ``limit`` milliseconds, unless another timer does before."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            return
        self._seconds = max(1, limit) / 1000
        self._other = signal.getitimer(signal.ITIMER_REAL)
        if 0 < self._other[0] <= self._seconds or signal.getsignal(signal.SIGALRM) is None:
            return
        self._handler = signal.signal(signal.SIGALRM, self._ring)
        self._is_ours = self._may_ring = True
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def clear(self) -> None:
        """Do not ring any more. Has no effect if it was not set."""
        self._may_ring = False
        if not self._is_ours:
            return
        self._is_ours = False
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        rings_in, interval = self._other
        if rings_in:
            # What has passed is told by our own timer: the clock may be frozen. Not 0, which would turn it off.
            signal.setitimer(signal.ITIMER_REAL, max(0.000_001, rings_in - (self._seconds - left)), interval)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        if self._may_ring:  # else it was on its way when the actor ended
            self._may_ring = False
            raise TimeLimitExceeded
