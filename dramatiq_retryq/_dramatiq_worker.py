"""Dramatiq's own worker without its threads: what they do, done on the caller's thread, and by the time it is told.

Like ``_dramatiq.py``, which the production path needs and this it does not, it knows what Dramatiq does not promise;
``tests/unit/test_dramatiq_internals.py`` fails with a sentence for what a new Dramatiq changes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from dramatiq import Broker, Consumer, MessageProxy, Worker
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread
from dramatiq.middleware import (
    AsyncIO,
    CurrentMessage,
    Interrupt,
    Middleware,
    MiddlewareError,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.worker import ConsumerThread, WorkerThread

from ._dramatiq import AttemptLogger

__all__ = ["HandDriven", "TimeSource", "time_of_dramatiq"]


class TimeSource(Protocol):
    """What Dramatiq is to take for the time."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep_seconds(self, seconds: float) -> None: ...


#: Where Dramatiq reads the machine's clock in a way that matters to a message: its timestamp, its age, when a result or
#: a rate limit expires, and how long somebody waits for one. By module and the attribute that is the module ``time``.
_READERS = (
    "dramatiq.composition",
    "dramatiq.message",
    "dramatiq.middleware.retries",
    "dramatiq.rate_limits.backends.stub",
    "dramatiq.rate_limits.bucket",
    "dramatiq.rate_limits.window",
    "dramatiq.results.backend",
    "dramatiq.results.backends.stub",
    "dramatiq.worker",
)


class _Time:
    """Stands in for the module ``time``; what a test does not own is the real thing."""

    def __init__(self, source: TimeSource) -> None:
        self.time = source.time
        self.monotonic = source.monotonic
        self.sleep = source.sleep_seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def time_of_dramatiq(source: TimeSource) -> Iterator[Callable[[], None]]:
    """Let Dramatiq's own code go by ``source``; yields a function that sees to modules imported since.

    Only names within Dramatiq's modules change: everybody else, the actors too, has the time as before.
    """
    stand_in = _Time(source)

    def take_over() -> None:
        for name in _READERS:
            module: Any = sys.modules.get(name)
            if module is not None and module.time is not stand_in:
                module.time = stand_in
        common: Any = sys.modules["dramatiq.common"]  # behind current_millis(), by which ages are counted
        common.time = stand_in.time

    take_over()
    try:
        yield take_over
    finally:
        # Not what was there before: if that was frozen time, it may have thawed since.
        for name in _READERS:
            module: Any = sys.modules.get(name)
            if module is not None:
                module.time = time
        common: Any = sys.modules["dramatiq.common"]
        common.time = time.time


class _Hand:
    """Takes the place of the queue between a consumer's thread and a worker's."""

    def __init__(self) -> None:
        self.item: Any = None

    def put(self, item: Any) -> None:
        self.item = item

    def task_done(self) -> None: ...

    def take(self) -> MessageProxy | None:
        item, self.item = self.item, None
        if item is None:
            return None
        # Dramatiq 2.0 puts a tuple, later ones an object of their own.
        message: MessageProxy = item[1] if isinstance(item, tuple) else item.message
        return message


class _Consumer(ConsumerThread):
    """A consumer's thread that is never started."""

    def post_process_message(self, message: MessageProxy) -> None:
        if not message.__dict__.get("retryq_abandoned"):  # a dead process acks nothing
            super().post_process_message(message)


class _LoopOnThisThread(EventLoopThread):
    """Runs async actors on the thread that asks, in place of Dramatiq's thread for them."""

    _thread: EventLoopThread | None = None

    def run_coroutine(self, coro: Awaitable[Any]) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._run(asyncio.ensure_future(coro, loop=self.loop))
        # The test itself is async: one thread cannot run two loops, one within the other.
        if self._thread is None:
            self._thread = EventLoopThread(self.logger)
            self._thread.start(timeout=5)
        return self._thread.run_coroutine(coro)

    def _run(self, task: asyncio.Future[Any]) -> Any:
        try:
            return self.loop.run_until_complete(task)
        except Interrupt:
            if not task.done():
                # It struck the loop and not the actor, which is cancelled as by Dramatiq, and has as long to clean up.
                task.cancel()
                self.loop.run_until_complete(asyncio.wait({task}, timeout=1))
            raise

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.stop()  # type: ignore[no-untyped-call]
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class HandDriven:
    """A worker of one thread that has no thread: a message is processed when it is told to.

    The middleware hears of a worker's boot before the first message and of its shutdown at the end, but not of a
    process: there is none, and what is set up for one are threads and ports.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._hand = _Hand()
        self._consumers: dict[str, ConsumerThread] = {}
        hand: Any = self._hand
        self._thread = WorkerThread(broker=broker, consumers=self._consumers, work_queue=hand, worker_timeout=0)
        self._thread.logger = AttemptLogger(self._thread.logger)
        self._worker: Worker | None = None
        self._loop: _LoopOnThisThread | None = None
        self._loop_before: EventLoopThread | None = None

    def consumer(self, queue_name: str) -> Consumer:
        """What hands out the messages of a queue."""
        thread = self._consumers.get(queue_name)
        if thread is None:
            hand: Any = self._hand
            thread = _Consumer(broker=self.broker, queue_name=queue_name, prefetch=1, work_queue=hand, worker_timeout=0)
            thread.consumer = self.broker.consume(queue_name, prefetch=1, timeout=0)
            self._consumers[queue_name] = thread
        assert thread.consumer is not None
        return thread.consumer

    def process(self, queue_name: str, message: MessageProxy, begin: Callable[[], object] | None = None) -> None:
        """Do with a message what a worker does with it, from its arrival to the ack.

        Args:
            queue_name: where it was.
            message: as the consumer gave it.
            begin: called once the worker is about to see to what is raised.
        """
        if self._worker is None:
            self._boot()
        self._consumers[queue_name].handle_message(message)
        taken = self._hand.take()
        if taken is not None:  # else its actor is unknown, and it is dead
            if begin is not None:
                begin()
            self._thread.process_message(taken)

    def abandon(self, message: MessageProxy) -> None:
        """Forget a message in the midst of it, as the death of the process would."""
        message.__dict__["retryq_abandoned"] = True
        # What is bound to the thread would have died with it; here it is the test's, which must not be interrupted.
        for middleware in self.broker.middleware:
            if isinstance(middleware, (CurrentMessage, ShutdownNotifications, TimeLimit)):
                middleware.after_process_message(self.broker, message)  # type: ignore[no-untyped-call]

    def _boot(self) -> None:
        self._worker = worker = Worker(self.broker, worker_threads=1)
        self._tell("before_worker_boot", worker)
        self._tell("after_worker_boot", worker)
        self._tell("after_worker_thread_boot", self._thread)

    def close(self) -> None:
        """Give back what was fetched, and tell the middleware that the worker stops."""
        if self._worker is not None:
            self._tell("before_worker_thread_shutdown", self._thread)
            self._tell("before_worker_shutdown", self._worker)
        for thread in self._consumers.values():
            thread.close()
        self._consumers.clear()
        if self._worker is not None:
            self._tell("after_worker_shutdown", self._worker)
        self._worker = None

    def _tell(self, hook: str, *args: Any) -> None:
        # Not through the broker: what a broker of this package does itself then is to start threads.
        middlewares = [*self.broker.middleware]
        for middleware in middlewares if hook.startswith("before_") else reversed(middlewares):
            if type(middleware) is AsyncIO:
                self._tell_asyncio(middleware, hook)
            elif getattr(type(middleware), hook, None) is not getattr(Middleware, hook, None):
                try:
                    getattr(middleware, hook)(self.broker, *args)
                except MiddlewareError:
                    if hook.startswith("before_"):
                        raise
                    self.broker.logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)
                except Exception:
                    self.broker.logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)

    def _tell_asyncio(self, middleware: AsyncIO, hook: str) -> None:
        if hook == "before_worker_boot":
            self._loop_before = get_event_loop_thread()
            self._loop = _LoopOnThisThread(middleware.logger)
            set_event_loop_thread(self._loop)
        elif hook == "after_worker_shutdown" and self._loop is not None:
            set_event_loop_thread(self._loop_before)
            self._loop.stop()
            self._loop = None
