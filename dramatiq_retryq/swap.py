"""A broker in the place of another one, for the length of a test."""

from __future__ import annotations

import importlib
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dramatiq.broker
from dramatiq import Actor, Broker, Worker
from dramatiq.common import q_name
from dramatiq.middleware import GroupCallbacks, Middleware, Retries, default_middleware
from dramatiq.results import Results

from .backends import SQLiteRateLimiterBackend, SQLiteResultBackend
from .broker import MemoryBroker
from .clock import Clock
from .counting import Counting
from .errors import ConfigError, KitError
from .middleware import RetryQueue
from .store_broker import StoreBroker
from .substitute import substitute

__all__ = ["find_broker", "swapped"]

_lock = threading.Lock()
#: Actors that were declared during a swap, by a module that the test imported, where the application has no broker that
#: they could go back to. The next swap of that kind takes them in.
_homeless: dict[str, Actor[..., Any]] = {}


def find_broker(where: Broker | str | None) -> Broker | None:
    """The application's broker: the global one, or the one that is named.

    Args:
        where: a broker; ``"package.module:name"``, where the name may be that of a function that returns it; or
            ``None`` for the global one, if there is one.

    Raises:
        ConfigError: it names no broker.
    """
    if where is None:
        # Not get_broker(): where there is none, that makes one for RabbitMQ.
        return dramatiq.broker.global_broker
    if isinstance(where, Broker):
        return where
    if not isinstance(where, str) or not where:
        raise ConfigError(f"the broker is {where!r}: give a broker, or where it is as 'package.module:name'")
    module_name, _, name = where.partition(":") if ":" in where else where.rpartition(".")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the broker {where!r} cannot be had ({type(error).__name__}: {error}): say where it is as "
            "'package.module:name'"
        ) from error
    if not isinstance(found, Broker) and callable(found):
        found = found()
    if not isinstance(found, Broker):
        raise ConfigError(f"{where!r} is {found!r}: that is no broker")
    return found


@contextmanager
def swapped(
    old: Broker | None,
    new: StoreBroker | None = None,
    *,
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> Iterator[StoreBroker]:
    """Let everything that was sent to ``old`` go to ``new`` while the block lasts; no server is connected to.

    Args:
        old: the application's broker; ``None`` if it has none.
        new: a broker of this package; a ``MemoryBroker`` if not given.
        clock: what ``new`` and the application's middleware are to take for the time.
        rng: the dice of the application's ``RetryQueue``.

    Raises:
        KitError: a swap is on already.
        ConfigError: ``new`` is no broker of this package.
    """
    if new is not None and not isinstance(new, StoreBroker):
        raise ConfigError(
            f"{type(new).__name__} cannot be swapped in: give a MemoryBroker or a SQLiteBroker, or none for a fresh one"
        )
    if not _lock.acquire(blocking=False):
        raise KitError(
            "a broker is swapped already, and two swaps at once would put back each other's: leave the first one "
            "before the next, and have only one of the fixtures retryq and memory_broker in a test"
        )
    try:
        with ExitStack() as stack:
            swap = _Swap(stack, old, new)
            if clock is not None:
                swap.set_clock(clock)
            if rng is not None:
                swap.set_dice(rng)
            yield swap.new
    finally:
        _lock.release()


class _Swap:
    """What is changed, each with the way back on the stack."""

    def __init__(self, stack: ExitStack, old: Broker | None, new: StoreBroker | None) -> None:
        self._stack = stack
        self._old = old
        self._given = new
        self._is_ours = new is None
        self._keep_unwatched()
        if new is None:
            new = MemoryBroker(_middleware_of(old) if old is not None else None)
            stack.callback(self._retire)
        self.new: StoreBroker = new
        if old is new:
            self._keep_from_servers()
            self._set_global()
            return
        if old is not None:
            if not self._is_ours:
                substitute(stack, new, "middleware", _merged(_middleware_of(old, new), new))
            substitute(stack, new, "actor_options", new.actor_options | old.actor_options)
        self._keep_from_servers()
        self._take_actors()
        self._set_global()
        if old is not None:
            self._redirect(old)

    # -- Actors --------------------------------------------------------------------------------------------------

    def _take_actors(self) -> None:
        old, new = self._old, self.new
        before = dict(new.actors)
        taken = dict(old.actors) if old is not None else dict(_homeless)
        if old is not None:
            for queue_name in old.get_declared_queues():
                new.declare_queue(q_name(queue_name))

        def give_back() -> None:
            for name, actor in list(new.actors.items()):
                if name in before and before[name] is actor:
                    continue
                if name in taken and taken[name] is actor:
                    if actor.broker is new and old is not None:
                        actor.broker = old
                elif not _is_local(actor):  # of a module that was imported by the test: the application's own
                    if old is None:
                        _homeless[name] = actor
                        continue
                    actor.broker = old
                    if name not in old.actors:
                        old.declare_actor(actor)
                elif old is not None and old.actors.get(name) is actor:
                    del old.actors[name]
                if not self._is_ours:
                    del new.actors[name]
            new.actors.update(before)

        self._stack.callback(give_back)
        for name, actor in taken.items():
            self._take(name, actor)

    def _take(self, name: str, actor: Actor[..., Any]) -> None:
        actor.broker = self.new
        self.new.declare_queue(actor.queue_name)
        # Not declared anew: the middleware has heard of it, and these are the same objects.
        self.new.actors[name] = actor

    def _set_global(self) -> None:
        # Also where the application has another one as such: what a test declares or composes is meant for this.
        was = dramatiq.broker.global_broker

        def put_back() -> None:
            # A test that sets another one has it taken back, unless there was none: then a module that the test
            # imported has made the application's own.
            if was is not None or dramatiq.broker.global_broker is self.new:
                dramatiq.broker.global_broker = was

        dramatiq.broker.global_broker = self.new
        self._stack.callback(put_back)

    # -- The old broker, which modules hold by name ------------------------------------------------------------------

    def _redirect(self, old: Broker) -> None:
        stack, new = self._stack, self.new

        def declare_actor(actor: Actor[..., Any]) -> None:
            declare(actor)
            self._take(actor.actor_name, actor)

        declare = substitute(stack, old, "declare_actor", declare_actor)
        # Looked up at each call: what drives the new broker may take these over.
        substitute(stack, old, "enqueue", lambda message, **options: new.enqueue(message, **options))
        substitute(stack, old, "join", lambda queue_name, **options: new.join(queue_name, **options))
        substitute(stack, old, "flush", lambda queue_name: new.flush(queue_name))
        substitute(stack, old, "flush_all", lambda: new.flush_all())
        if isinstance(old, StoreBroker):
            # So that lookup(), counts(), dead_letters and queues, which an application may ask, answer for the new.
            for name in ("store", "clock", "queues", "_lines", "_dead_letters"):
                substitute(stack, old, name, getattr(new, name))

    def _retire(self) -> None:
        new = self.new

        def enqueue(message: Any, **options: Any) -> Any:
            raise KitError(
                f"actor {message.actor_name!r} was declared in a test that is over, and so is its broker: declare the "
                "actor in the test that sends to it, or in a module"
            )

        new.enqueue = enqueue  # type: ignore[method-assign]
        assert isinstance(new, MemoryBroker)
        new.is_left_alone = True
        new.close()

    def _keep_from_servers(self) -> None:
        """Let Dramatiq's own middleware keep in memory what it would keep in a Redis or Memcached server."""
        for middleware in self.new.middleware:
            if isinstance(middleware, Results) and _is_of_server(middleware.backend, "dramatiq.results.backends"):
                # Imported here, where some of them are in use: Dramatiq 2.0 warns of those whose client is missing.
                from dramatiq.results.backends.stub import StubBackend as ResultsInMemory

                backend = ResultsInMemory(encoder=middleware.backend.encoder)
                backend.results = {}  # the class's own is shared by all of them
                substitute(self._stack, middleware, "backend", backend)
            elif isinstance(middleware, GroupCallbacks) and _is_of_server(
                middleware.rate_limiter_backend, "dramatiq.rate_limits.backends"
            ):
                from dramatiq.rate_limits.backends.stub import StubBackend as LimitsInMemory

                limits = LimitsInMemory()  # type: ignore[no-untyped-call]
                substitute(self._stack, middleware, "rate_limiter_backend", limits)

    def _keep_unwatched(self) -> None:
        """Let no test serve the application's health, or count for its metrics."""
        # First of all: a middleware takes note of the broker that it is given to.
        for middleware in [m for broker in (self._old, self._given) if broker is not None for m in broker.middleware]:
            if isinstance(middleware, RetryQueue):
                counting = Counting(False, is_served=False, logger=middleware.logger)
                for name, value in (("health", None), ("counting", counting), ("_broker", middleware._broker)):
                    substitute(self._stack, middleware, name, value)

    # -- Time and dice -------------------------------------------------------------------------------------------

    def set_clock(self, clock: Clock) -> None:
        stack, new = self._stack, self.new
        timed: list[tuple[Any, str]] = [(new, "clock"), (new._dead_letters, "_clock")]
        timed += [(view, "_clock") for view in new.queues.values()]
        if isinstance(self._old, StoreBroker) and self._old is not new:
            timed.append((self._old, "clock"))
        for middleware in new.middleware:
            if isinstance(middleware, RetryQueue) and middleware.clock is not None:
                timed.append((middleware, "clock"))
            backend = getattr(middleware, "backend", None) if isinstance(middleware, Results) else None
            if isinstance(middleware, GroupCallbacks):
                backend = middleware.rate_limiter_backend
            if isinstance(backend, (SQLiteResultBackend, SQLiteRateLimiterBackend)):
                timed.append((backend, "clock"))
        for owner, name in timed:
            substitute(stack, owner, name, clock)

    def set_dice(self, rng: random.Random) -> None:
        for middleware in self.new.middleware:
            if isinstance(middleware, RetryQueue):
                substitute(self._stack, middleware, "rng", rng)


def _middleware_of(old: Broker, new: Broker | None = None) -> list[Middleware]:
    """The application's own middleware in its order, with a ``RetryQueue`` where it has ``Retries``.

    An application that has neither does not retry, and so it is in the test.
    """
    found: list[Middleware] = []
    has_retry_queue = any(isinstance(middleware, RetryQueue) for middleware in old.middleware)
    for middleware in old.middleware:
        if isinstance(getattr(middleware, "worker", None), Worker):
            continue  # put there by a worker that runs, to start its consumers
        if isinstance(middleware, Retries):
            if has_retry_queue:
                continue
            has_retry_queue = True
            given = next((m for m in new.middleware if isinstance(m, RetryQueue)), None) if new is not None else None
            middleware = given if given is not None else _retry_queue_like(middleware)
        found.append(middleware)
    return found


def _retry_queue_like(retries: Retries) -> RetryQueue:
    """A ``RetryQueue`` that waits as long, and as often, as the application's ``Retries`` does."""
    return RetryQueue(
        max_retries=retries.max_retries,
        min_backoff=retries.min_backoff,
        max_backoff=max(retries.min_backoff, retries.max_backoff),
        jitter="proportional",
        retry_when=retries.retry_when,
    )


def _merged(application: list[Middleware], new: Broker) -> list[Middleware]:
    """The application's middleware, and what ``new`` has beyond Dramatiq's default."""
    known = (*default_middleware, RetryQueue, *map(type, application))
    return [*application, *(m for m in new.middleware if type(m) not in known)]


def _is_of_server(backend: Any, package: str) -> bool:
    servers = (f"{package}.redis", f"{package}.memcached")
    return any(cls.__module__ in servers for cls in type(backend).__mro__)


def _is_local(actor: Actor[..., Any]) -> bool:
    """Whether an actor was declared within a function, as tests do."""
    function = actor.fn if hasattr(actor.fn, "__qualname__") else type(actor.fn)
    return "<locals>" in function.__qualname__
