"""Whose turn it is to write a file that several processes write."""

from __future__ import annotations

import fcntl
import math
import os
import random
from collections.abc import Callable

from dramatiq.middleware.threading import is_gevent_active

from .patience import USUAL

__all__ = ["Turn"]


class Turn:
    """The lock of a file beside the database.

    Args:
        path: the file; made if it is not there. Where that cannot be done, nobody waits for a turn.
        sleep: how time passes while waiting, for those who may not wait in the kernel.
        rng: the dice, for that.
        patience: after how many seconds to do without it, where that is less than usual: a process that was stopped
            in the middle keeps it.
    """

    def __init__(self, path: str, sleep: Callable[[float], None], rng: random.Random, patience: float = USUAL) -> None:
        self._path = path
        self._sleep = sleep
        self._rng = rng
        self._is_gevent: bool = is_gevent_active()  # type: ignore[no-untyped-call]
        self._patience = patience if patience < USUAL else math.inf
        self._descriptor: int | None = None

    def open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            self._descriptor = None  # fair it is without it too, only slower

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def take(self) -> None:
        """Queue with the writers of other processes: the kernel wakes them one after another.

        Whoever polls for SQLite's own lock finds it taken again and again while others write flat out, above all where
        each commit waits for the disk. This lock decides who is next and nothing else: without it all stays safe.
        """
        if self._descriptor is None:
            return
        if not self._is_gevent and self._patience == math.inf:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            return
        # A greenlet that waits in the kernel stops all of them, the one that has the turn too: it may be another
        # database on the same file, a result backend for example, that waits for SQLite's lock just now.
        waited = 0.0
        while waited < self._patience:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pause = self._rng.uniform(0.0002, 0.001)
                self._sleep(pause)
                waited += pause

    def end(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
