"""The brokers: within one process, or in a file that many processes share."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from dramatiq import Consumer, Message, MessageProxy
from dramatiq.middleware import Middleware

from .clock import Clock, milliseconds
from .consumer import ClaimedMessage, StoreConsumer
from .database import Synchronous
from .errors import ConfigError, StoreUnavailable
from .grouping import GroupingConsumer
from .logs import log
from .memory_journeys import MemoryJourneys
from .memory_store import MemoryStore
from .middleware import RetryQueue
from .records import DeadLetter
from .sqlite_store import SQLiteStore
from .store_broker import StoreBroker

__all__ = ["MemoryBroker", "SQLiteBroker", "StoreBroker"]


class MemoryBroker(StoreBroker):
    """A broker within one process: what is in it is gone when the process is.

    Args:
        middleware: as for every Dramatiq broker; by default Dramatiq's own, with ``RetryQueue()`` in the place of
            ``Retries``.
        max_messages: how many messages may wait or be worked on; ``send()`` raises ``QueueFull`` beyond. Retries and
            dead letters are exempt, since their place is taken already.
        max_dead_letters: how many dead letters are kept; the oldest is dropped beyond, with a warning.
        retry_queue: a ``RetryQueue`` of yours in the default middleware: ``retry_queue=RetryQueue(max_retries=5)``.
        clock: where the time comes from.
        fail_fast_default: what :meth:`join` does about dead messages unless it is told.
    """

    def __init__(
        self,
        middleware: list[Middleware] | None = None,
        *,
        max_messages: int | None = None,
        max_dead_letters: int | None = 10_000,
        retry_queue: RetryQueue | None = None,
        clock: Clock | None = None,
        fail_fast_default: bool = True,
    ) -> None:
        for name, value in (("max_messages", max_messages), ("max_dead_letters", max_dead_letters)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"MemoryBroker: {name} is {value!r}: give a whole number of 1 or more, or None")
        self._memory = MemoryStore(max_messages=max_messages, max_dead_letters=max_dead_letters)
        #: What is known of moves to and from other brokers; see :mod:`dramatiq_retryq.moving`.
        self.journeys = MemoryJourneys(self._memory)
        self._consumed = False
        #: Whether its messages are meant to be lost, as those of a test are.
        self.is_left_alone = False
        self._in_place = threading.local()
        if max_messages is not None:
            # Here and not as a method: only a bounded broker is to pay for it.
            self.emit_after = self._emit_after_in_place  # type: ignore[method-assign]
        super().__init__(
            self._memory, middleware, retry_queue=retry_queue, clock=clock, fail_fast_default=fail_fast_default
        )
        _memory_brokers.add(self)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        consumer = super().consume(queue_name, prefetch, timeout)
        self._consumed = True
        return consumer

    def _before_process_message(self, message: MessageProxy, *args: Any) -> None:
        if isinstance(message, ClaimedMessage):
            # RetryQueue has looked at the clock already.
            self._memory.begin(message.claim, now=message.__dict__.get("started_at") or self.clock.now())

    def _emit_after_in_place(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Let what the middleware sends for a message that was run have its place: the next step of a pipeline, a
        callback. Refused, it would be lost, since Dramatiq swallows what a hook raises.
        """
        self._in_place.is_exempt = signal == "process_message"
        try:
            super().emit_after(signal, *args, **kwargs)
        finally:
            self._in_place.is_exempt = False

    def _is_exempt(self, message: Message[Any]) -> bool:
        return super()._is_exempt(message) or getattr(self._in_place, "is_exempt", False)

    def _after_process_boot(self, *args: Any) -> None:
        # The dramatiq command's workers are its first children; the second one speaks for all.
        if multiprocessing.current_process().name == "Process-2":
            self.logger.warning(
                "A MemoryBroker runs in several worker processes. Each has messages of its own, and none sees what "
                "another process sends: run the command with --processes 1 and send from within it, embed the worker "
                "with run_worker(), or use SQLiteBroker."
            )

    def _warn_of_loss(self) -> None:
        left = sum(count.waiting for count in self.counts().values())
        if left and not self._consumed and not self.is_left_alone:
            self.logger.warning(
                "This process ends with %d messages in a MemoryBroker that no worker ever consumed: they are lost. "
                "Run a worker in this process with run_worker(), or use SQLiteBroker, where other processes see them.",
                left,
            )

    def _after_fork(self) -> None:
        # The messages are the parent's, which still has them; run here too they would be doubled.
        self._memory.clear()
        self._consumed = False
        super()._after_fork()


class SQLiteBroker(StoreBroker):
    """A broker in one file: for many processes on one machine, without a server.

    Nothing is lost when any process is killed at any instant: what it was running is waiting again within seconds, at
    once where a worker starts, and a retry, a death or a replay is one transaction.

    Args:
        path: the file; made if it is not there, readable by its owner only. Its directory must be on a local disk.
        middleware: as for every Dramatiq broker; by default Dramatiq's own, with ``RetryQueue()`` in the place of
            ``Retries``.
        synchronous: ``"normal"`` survives the death of any process; the last moments may be lost when the machine
            loses power. ``"full"`` survives that too, and waits for the disk at each commit.
        max_crashes: how often a worker process may die while running a message before the message is a dead letter,
            reason ``crashed``.
        max_dead_letters: how many dead letters are kept, the oldest being dropped beyond; ``None`` for all.
        max_letter_age: how long dead letters are kept, in ms or as a timedelta; ``None`` for ever.
        retry_queue: a ``RetryQueue`` of yours in the default middleware: ``retry_queue=RetryQueue(max_retries=5)``.
        clock: where the time comes from.
        fail_fast_default: what :meth:`join` does about dead messages unless it is told.

    Raises:
        ConfigError: a value makes no sense, or the file belongs to another program or a newer version of this one.
        StoreUnavailable: the file cannot be opened.
    """

    _consumer_class = GroupingConsumer

    _join_every = 0.05
    #: How long (s) a message that another process sent may lie unnoticed while a worker idles.
    _LOOK_EVERY = 0.025
    #: After how many such looks it is seen whether processes have died: every 2 s.
    _RECOVER_EVERY = 80
    #: After how many the counters are written, if no commit has taken them along.
    _KEEP_EVERY = 40

    def __init__(
        self,
        path: str | os.PathLike[str],
        middleware: list[Middleware] | None = None,
        *,
        synchronous: Synchronous = "normal",
        max_crashes: int = 3,
        max_dead_letters: int | None = None,
        max_letter_age: int | timedelta | None = None,
        retry_queue: RetryQueue | None = None,
        clock: Clock | None = None,
        fail_fast_default: bool = True,
    ) -> None:
        for name, value in (("max_crashes", max_crashes), ("max_dead_letters", max_dead_letters)):
            if value is None and name == "max_dead_letters":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"SQLiteBroker: {name} is {value!r}: give a whole number of 1 or more")
        if max_letter_age is not None:
            max_letter_age = milliseconds(max_letter_age, "SQLiteBroker: max_letter_age")
        self.max_crashes = max_crashes
        self.file = self._file = SQLiteStore(
            path, synchronous=synchronous, max_dead_letters=max_dead_letters, max_letter_age=max_letter_age
        )
        self._watcher: _Watcher | None = None
        self._consumers: weakref.WeakSet[StoreConsumer] = weakref.WeakSet()
        super().__init__(
            self._file, middleware, retry_queue=retry_queue, clock=clock, fail_fast_default=fail_fast_default
        )
        _sqlite_brokers.add(self)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        consumer = super().consume(queue_name, prefetch, timeout)
        if isinstance(consumer, StoreConsumer):
            self._consumers.add(consumer)
        return consumer

    def _before_worker_boot(self, *args: Any) -> None:
        super()._before_worker_boot()
        self._recover()
        if self._watcher is None:
            self._watcher = _Watcher(self._look, self._LOOK_EVERY, self.logger)

    def _after_worker_shutdown(self, *args: Any) -> None:
        super()._after_worker_shutdown()
        if self._workers == 0 and self._watcher is not None:
            self._watcher.stop()
            self._watcher = None

    def _before_process_message(self, message: MessageProxy, *args: Any) -> None:
        if isinstance(message, ClaimedMessage):
            self._file.begin(message.claim)

    def _look(self, times: int) -> None:
        """What another process may have done meanwhile: sent something, paused something, or died."""
        if times % self._RECOVER_EVERY == 0:
            self._recover()
        self._file.stamp(now=self.clock.now())
        if times % self._KEEP_EVERY == 0:
            self._file.keep_counts(now=self.clock.now())
        if not self._file.changed():
            return
        self.refresh_pauses()
        for queue_name, line in list(self._lines.items()):
            if line.sleepers:
                next_due = self._file.next_due(queue_name)
                if next_due is not None:
                    line.wake_before(next_due)
            if line.joiners:
                line.notify_joiners()

    def _recover(self) -> None:
        notices: list[Message[Any]] = []

        def notice_of(letter: DeadLetter) -> tuple[str, bytes] | None:
            retry_queue, message = self._retry_queue(), letter.message
            if retry_queue is None:
                return None
            notice = retry_queue.deaths.notice(self, letter, message.options if message is not None else {})
            stored = self._encoded_notice(letter, notice) if notice is not None else None
            if stored is not None and notice is not None:
                notices.append(notice)
            return stored

        for letter in self._file.recover(now=self.clock.now(), max_crashes=self.max_crashes, notice_of=notice_of):
            self._report(letter)
        for notice in notices:
            self._wake(notice.queue_name, self.clock.now())
            self.emit_after("enqueue", notice, None)

    def _commit_acks(self) -> None:
        for consumer in list(self._consumers):
            if isinstance(consumer, GroupingConsumer):
                consumer.commit_acks()

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the file while it is in use: one that opens, and lacks nothing of this instant.

        Args:
            path: a file that does not exist yet.

        Raises:
            ConfigError: it exists.
            StoreUnavailable: it cannot be written.
        """
        self._file.backup(path)

    def close(self) -> None:
        """Commit what is done, and close the file. Other processes are not concerned."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        self._commit_acks()
        super().close()

    def _after_fork(self) -> None:
        self._file.after_fork_in_child()
        self._watcher = None
        for consumer in self._consumers:
            if isinstance(consumer, GroupingConsumer):
                consumer.acked.clear()
        self._consumers = weakref.WeakSet()
        super()._after_fork()


class _Watcher:
    """Looks at something, again and again, on a thread of its own."""

    def __init__(self, look: Callable[[int], None], seconds: float, logger: logging.Logger) -> None:
        self._look = look
        self._seconds = seconds
        self._logger = logger
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retryq-watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        times, said = 0, ""
        while not self._stopped.wait(self._seconds):
            times += 1
            try:
                self._look(times)
            except StoreUnavailable:
                continue  # the consumers say so; here it is enough to try again
            except Exception as error:  # a log handler, a redact function: whatever it is, others must be seen still
                if type(error).__name__ != said:
                    said = type(error).__name__
                    log(self._logger, "error", "Looking at what other processes did failed: %s.", said)

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


_sqlite_brokers: weakref.WeakSet[SQLiteBroker] = weakref.WeakSet()
_memory_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for memory_broker in list(_memory_brokers):
        memory_broker._after_fork()
    for sqlite_broker in list(_sqlite_brokers):
        sqlite_broker._after_fork()


def _at_exit() -> None:
    for memory_broker in list(_memory_brokers):
        memory_broker._warn_of_loss()
    for sqlite_broker in list(_sqlite_brokers):
        try:
            sqlite_broker.close()
        except StoreUnavailable:
            continue  # what was done and could not be acked will be delivered again


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
