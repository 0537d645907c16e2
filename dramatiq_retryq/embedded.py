"""A worker inside one's own process: a web application, a script, a notebook."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from dramatiq import Broker, Worker, get_broker

from .clock import milliseconds
from .errors import ConfigError

__all__ = ["run_worker"]

_booted: weakref.WeakSet[Broker] = weakref.WeakSet()
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_booted.clear)  # the child is a process of its own


@contextmanager
def run_worker(
    broker: Broker | None = None,
    *,
    threads: int = 4,
    queues: Iterable[str] | None = None,
    stop_timeout: int | timedelta = 600_000,
    worker_timeout: int | timedelta = 250,
) -> Iterator[Worker]:
    """Run Dramatiq's own ``Worker`` in this process for as long as the ``with`` block lasts.

    At the end of the block, at the interpreter's exit and at SIGTERM the worker is stopped: what is being worked on is
    finished, what was fetched and not begun is put back and waits in the broker as before. SIGTERM is listened to
    only from the main thread. A handler that was there before is called, while the worker stops; without one, the block
    ends with ``SystemExit(143)``.

    Args:
        broker: the broker; the global one if not given.
        threads: how many messages are worked on at once.
        queues: only these queues; all of them if not given.
        stop_timeout: how long to wait at the end for what is being worked on, in ms or as a timedelta.
        worker_timeout: how often idle threads look up, and so how long stopping takes at the least, likewise.

    Yields:
        The worker.

    Raises:
        ConfigError: ``broker`` is none, ``threads`` is no whole number of 1 or more, or a queue was not declared.
        Exception: whatever a middleware refuses the start with; everything that was started is stopped first.
    """
    broker = get_broker() if broker is None else broker
    if not isinstance(broker, Broker):
        raise ConfigError(
            f"run_worker: broker is {broker!r}: give a Dramatiq broker, or leave it out for the global one"
        )
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"run_worker: threads is {threads!r}: give a whole number of 1 or more")
    if queues is not None and not isinstance(queues, str):
        queues = set(queues)
        if not queues:
            raise ConfigError("run_worker: queues is empty: name at least one queue, or leave it out for all of them")
    if isinstance(queues, str):
        raise ConfigError(f"run_worker: queues is {queues!r}: give a list of queue names, as [{queues!r}]")
    wanted = None if queues is None else set(queues)
    unknown = sorted((wanted or set()) - broker.get_declared_queues())
    if unknown:
        raise ConfigError(
            f"run_worker: queues has {', '.join(map(repr, unknown))}, which this broker does not know: declare an "
            "actor on it first, or correct the name"
        )
    timeout = milliseconds(stop_timeout, "run_worker: stop_timeout")
    worker = Worker(
        broker,
        queues=wanted,
        worker_threads=threads,
        worker_timeout=milliseconds(worker_timeout, "run_worker: worker_timeout"),
    )
    stop = _Once(worker, timeout)
    _boot_process(broker)
    try:
        worker.start()
    except BaseException:
        stop()
        raise
    atexit.register(stop)
    try:
        with _stopping_at_sigterm(stop):
            yield worker
    finally:
        atexit.unregister(stop)
        stop()


def _boot_process(broker: Broker) -> None:
    """Tell the middleware that this process has started, once for each broker: TimeLimit starts its thread then."""
    with _lock:
        if broker in _booted:
            return
        _booted.add(broker)
    broker.emit_after("process_boot")


class _Once:
    """Stops a worker, the first time it is called; whoever calls later waits until it has stopped."""

    def __init__(self, worker: Worker, timeout: int) -> None:
        self._worker = worker
        self._timeout = timeout
        self._lock = threading.RLock()
        self._stopped = False

    def __call__(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._worker.stop(timeout=self._timeout)
            _forget(self._worker)


def _forget(worker: Worker) -> None:
    """Take out of the middleware what ``Worker.start`` added: a stopped worker would go on starting consumers."""
    broker = worker.broker
    broker.middleware = [m for m in broker.middleware if getattr(m, "worker", None) is not worker]


@contextmanager
def _stopping_at_sigterm(stop: _Once) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous = signal.getsignal(signal.SIGTERM)

    def terminate(signum: int, frame: FrameType | None) -> Any:
        # The handler runs in the midst of whatever the main thread does, which may hold a lock that the worker's
        # threads need to stop: nothing is waited for here.
        if callable(previous):
            threading.Thread(target=stop, name="retryq-stop").start()
            return previous(signum, frame)
        # As without a handler, but through the interpreter, so that what stands in finally and atexit is run: the end
        # of the block stops the worker.
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        # None: a handler that was not set from Python and cannot be set again.
        if signal.getsignal(signal.SIGTERM) is terminate and previous is not None:
            signal.signal(signal.SIGTERM, previous)
