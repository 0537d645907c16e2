"""The brokers: within one process, or in a file that many processes share."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import weakref
from collections.abc import Callable

from dramatiq import Consumer
from dramatiq.middleware import Middleware

from .clock import Clock
from .consumer import Line
from .errors import ConfigError
from .memory_store import MemoryStore
from .store_broker import StoreBroker

__all__ = ["MemoryBroker", "StoreBroker"]


class MemoryBroker(StoreBroker):
    """A broker within one process: what is in it is gone when the process is.

    Args:
        middleware: as for every Dramatiq broker; by default Dramatiq's own, with ``RetryQueue()`` in the place of
            ``Retries``.
        max_messages: how many messages may wait or be worked on; ``send()`` raises ``QueueFull`` beyond. Retries and
            dead letters are exempt, since their place is taken already.
        max_dead_letters: how many dead letters are kept; the oldest is dropped beyond, with a warning.
        clock: where the time comes from.
        fail_fast_default: what :meth:`join` does about dead messages unless it is told.
    """

    def __init__(
        self,
        middleware: list[Middleware] | None = None,
        *,
        max_messages: int | None = None,
        max_dead_letters: int | None = 10_000,
        clock: Clock | None = None,
        fail_fast_default: bool = True,
    ) -> None:
        for name, value in (("max_messages", max_messages), ("max_dead_letters", max_dead_letters)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"MemoryBroker: {name} is {value!r}: give a whole number of 1 or more, or None")
        self._memory = MemoryStore(max_messages=max_messages, max_dead_letters=max_dead_letters)
        self._consumed = False
        super().__init__(self._memory, middleware, clock=clock, fail_fast_default=fail_fast_default)
        _memory_brokers.add(self)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        consumer = super().consume(queue_name, prefetch, timeout)
        self._consumed = True
        return consumer

    def _after_process_boot(self) -> None:
        # The dramatiq command's workers are its first children; the second one speaks for all.
        if multiprocessing.current_process().name == "Process-2":
            self.logger.warning(
                "A MemoryBroker runs in several worker processes. Each has messages of its own, and none sees what "
                "another process sends: run the command with --processes 1 and send from within it, embed the worker "
                "with run_worker(), or use SQLiteBroker."
            )

    def _warn_of_loss(self) -> None:
        left = sum(count.waiting for count in self.counts().values())
        if left and not self._consumed:
            self.logger.warning(
                "This process ends with %d messages in a MemoryBroker that no worker ever consumed: they are lost. "
                "Run a worker in this process with run_worker(), or use SQLiteBroker, where other processes see them.",
                left,
            )

    def _after_fork(self) -> None:
        # The messages are the parent's, which still has them; run here too they would be doubled.
        self._memory.clear()
        self._consumed = False
        for name in self._lines:
            self._lines[name] = Line()


_memory_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()


def _each_memory_broker(act: Callable[[MemoryBroker], None]) -> None:
    for broker in list(_memory_brokers):
        act(broker)


atexit.register(_each_memory_broker, MemoryBroker._warn_of_loss)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=functools.partial(_each_memory_broker, MemoryBroker._after_fork))
