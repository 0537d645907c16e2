"""The testing kit on one broker: runs its messages, moves its clock, lets things go wrong."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal

import dramatiq.broker
from dramatiq import Actor, Broker
from dramatiq.middleware import Interrupt
from dramatiq.results import ResultMissing, Results, ResultTimeout
from dramatiq.results.backend import DEFAULT_TIMEOUT

from ._dramatiq_worker import time_of_dramatiq
from .clock import milliseconds
from .drain import DEFAULT_MAX_CRASHES, Drain
from .errors import ConfigError, KitError, Runaway, UnknownActor
from .faults import Fault, count_of, maker_of, unavailable
from .kit_clock import KitClock
from .recording import ActorOrName, Record
from .records import DeadLetter
from .store_broker import StoreBroker
from .substitute import substitute
from .timeline import Outcome, Run, call_text, duration_text

__all__ = ["Kit", "Leftovers"]

#: How many messages one call runs at the most, unless it is told.
DEFAULT_LIMIT = 10_000

Leftovers = Literal["warn", "error", "ignore"]


class Kit(Record):
    """A broker under test: its clock, its messages, and what became of them. Made by ``swap_broker()``.

    Where an actor is asked for, its name will do.

    Attributes:
        broker: the broker under test.
        clock: its clock; standing still unless it is moved, and inside ``freeze_time`` the frozen one.
        raise_errors: whether what actors raise is raised by ``drain`` and the like, unless they are told.
        on_leftovers: what is done at the end about messages that were sent and forgotten; see ``swap_broker()``.
    """

    def __init__(
        self,
        broker: StoreBroker,
        clock: KitClock,
        *,
        replaced: Broker | None = None,
        raise_errors: bool = False,
        on_leftovers: Leftovers = "warn",
    ) -> None:
        super().__init__(broker, clock, replaced)
        self.raise_errors = raise_errors
        self.on_leftovers: Leftovers = on_leftovers
        self._stack = ExitStack()
        self._home = threading.get_ident()
        self._thread: int | None = None
        self._see_to_time: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Kit: {len(self.waiting())} messages wait, {Outcome.of(self.runs(), self._passed())}>"

    def __enter__(self) -> Kit:
        max_crashes = getattr(self._replaced, "max_crashes", None) or getattr(self.broker, "max_crashes", None)
        with ExitStack() as stack:
            self._see_to_time = stack.enter_context(time_of_dramatiq(self.clock))
            self._drain = Drain(self.broker, self.clock, self, max_crashes=max_crashes or DEFAULT_MAX_CRASHES)
            stack.callback(self._drain.close)
            substitute(stack, self.clock, "on_sleep", self._sleep)
            self._global = dramatiq.broker.global_broker
            self._join = substitute(stack, self.broker, "join", self._drain_and_join)
            self._one = substitute(stack, self.broker.dead_letters, "one", self._one_letter)
            for middleware in self.broker.middleware:
                if isinstance(middleware, Results):
                    self._await_results_of(middleware.backend, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # -- Running -------------------------------------------------------------------------------------------------

    def drain(
        self,
        until: int | timedelta | datetime | Callable[[], object] | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        raise_errors: bool | None = None,
    ) -> Outcome:
        """Run everything, in the order in which it is due, leaping from one due instant to the next.

        Args:
            until: where to stop: after that time (ms or a timedelta), at that instant (a datetime), or once a function
                returns something true. The clock stands there if more is due later, else where nothing was left.
            limit: how many messages may be run.
            raise_errors: raise the first error of an actor, with its traceback, once what it leads to is stored;
                :attr:`raise_errors` if not given.

        Returns:
            What came of it, in numbers.

        Raises:
            Runaway: so many messages were run as ``limit`` allows, and there are more.
            KitError: this was called from inside an actor, or after the test.
        """
        deadline: int | None = None
        stop: Callable[[], object] | None = None
        if isinstance(until, datetime):
            deadline = int(until.timestamp() * 1000)
        elif until is not None and callable(until):
            stop = until
        elif until is not None:
            deadline = self.clock.now() + milliseconds(until, "drain: until")
        outcome = self._run("drain()", deadline, stop, limit, raise_errors)
        if deadline is not None and self._drain.next_due() is not None:
            self.clock.move_to(deadline)
            outcome = Outcome.of(outcome.runs, self._passed() - self._passed_before)
        return outcome

    def advance(
        self,
        delay: int | timedelta | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        raise_errors: bool | None = None,
        **parts: float,
    ) -> Outcome:
        """Move the clock on by ``delay`` (ms or a timedelta), and run what comes due on the way, each at its instant.

        ``advance(hours=1, minutes=30)`` takes what a timedelta does. Returns, raises and takes the rest of the
        arguments as :meth:`drain` does.
        """
        deadline = self.clock.now() + milliseconds(_one_duration(delay, parts), "advance: delay")
        outcome = self._run("advance()", deadline, None, limit, raise_errors)
        self.clock.move_to(deadline)
        return Outcome.of(outcome.runs, self._passed() - self._passed_before)

    def run_next(self, *, raise_errors: bool | None = None) -> Run | None:
        """Run the next message, leaping to the instant at which it is due. ``None`` if none waits.

        Raises:
            KitError: as :meth:`drain`.
        """
        outcome = self._run("run_next()", None, None, None, raise_errors)
        return outcome.runs[-1] if outcome.runs else None

    def _run(
        self,
        what: str,
        deadline: int | None,
        stop: Callable[[], object] | None,
        limit: int | None,
        raise_errors: bool | None,
    ) -> Outcome:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ConfigError(f"{what}: limit is {limit!r}: give a whole number of 1 or more")
        raise_errors = self.raise_errors if raise_errors is None else raise_errors
        runs: list[Run] = []
        with self._running(what):
            self._passed_before = self._passed()
            try:
                while stop is None or not stop():
                    due = self._drain.next_due()
                    if due is None or (deadline is not None and due[0] > deadline):
                        break
                    if limit is not None and len(runs) >= limit:
                        raise Runaway(self._runaway(what, runs))
                    made = self._drain.run(due[1], due[0])
                    runs += made
                    for run in made:
                        _raise_error_of(run, raise_errors)
                    if limit is None and made:
                        break
            finally:
                self._drain.settle()
                self._forget_leftovers()
        return Outcome.of(runs, self._passed() - self._passed_before)

    @contextmanager
    def _running(self, what: str) -> Iterator[None]:
        if self.is_over:
            raise KitError(f"{what} was called after the test was over, and the broker given back")
        if self._thread is not None:
            if self._thread == threading.get_ident():
                raise KitError(
                    f"{what} was called from inside an actor, or from a hook, which is being run by one already: what "
                    "the actor sends is run after it; move the clock alone with clock.advance()"
                )
            raise KitError(f"{what} is called from two threads at once: messages are run one after the other")
        self._check_global_broker()
        self._thread = threading.get_ident()
        self._see_to_time()
        # What is there already is left out of the garbage collector's rounds, which would take a fifth of the time.
        is_frozen = gc.get_freeze_count() > 0
        if not is_frozen:
            gc.freeze()
        try:
            yield
        finally:
            self._thread = None
            if not is_frozen:
                gc.unfreeze()

    def _check_global_broker(self) -> None:
        now = dramatiq.broker.global_broker
        if now is None or now is self._global:
            return
        others = [actor.actor_name for actor in now.actors.values() if actor.broker is now]
        if others:
            raise KitError(
                f"a {type(now).__name__} was made the global broker after the swap, with actors that send to it and "
                f"not to the broker under test ({', '.join(others[:5])}): import the module that makes it before the "
                "test begins, at the head of the test's file or of conftest.py"
            )

    def _runaway(self, what: str, runs: Sequence[Run]) -> str:
        waiting = sum(count.waiting for count in self.broker.counts().values())
        by_actor = ", ".join(
            f"{name} {count} times" for name, count in Counter(r.actor_name for r in runs).most_common(3)
        )
        last = runs[-1]
        return (
            f"{what} has run {len(runs)} messages within {duration_text(self._passed() - self._passed_before)} and "
            f"there are more ({waiting} waiting): {by_actor}. The last was "
            f"{call_text(last.actor_name, last.args, last.kwargs)}. Does a message send itself again, or is it retried "
            "without end? Stop sooner with until=…, or allow more with limit=…"
        )

    # -- Time ----------------------------------------------------------------------------------------------------

    def _sleep(self, delay: int) -> None:
        if threading.get_ident() not in (self._home, self._thread):
            time.sleep(delay / 1000)  # a worker's thread, of another broker: none of this concerns it
        elif self._thread is None and not self.is_over:
            self.advance(delay)  # somebody waits, on the test's own thread, for what a worker would do meanwhile
        else:
            self._drain.sleep(delay)

    # -- Faults --------------------------------------------------------------------------------------------------

    def fail_next(
        self,
        actor: ActorOrName,
        n: int = 1,
        error: BaseException | type[BaseException] | Callable[[], BaseException] = RuntimeError,
    ) -> None:
        """Let the next ``n`` runs of an actor raise ``error`` in place of doing anything.

        Args:
            actor: the actor.
            n: how many runs, 1 or more; of whichever messages come first.
            error: an exception, its class, or a function that makes one.
        """
        self._drain.add_faults(self._actor(actor), [Fault(maker_of(error)) for _ in range(count_of(n, "fail_next"))])

    def crash_during(self, actor: ActorOrName, n: int = 1, *, at: Literal["start", "end"] = "start") -> None:
        """Let the process die during the next ``n`` runs of an actor, as if by ``kill -9``.

        No middleware hears of it and nothing is acked: the message waits again, with the crash in its history, and is
        dead, reason ``crashed``, after as many of them as the application's ``SQLiteBroker`` allows, else 3.

        Args:
            actor: the actor.
            n: how many runs.
            at: ``"start"``, before the actor has done anything; ``"end"``, when all is done and not yet acked, so that
                it will be done twice.
        """
        if at not in ("start", "end"):
            raise ConfigError(f"crash_during: at is {at!r}: give 'start' or 'end'")
        faults = [Fault(None, at_end=at == "end") for _ in range(count_of(n, "crash_during"))]
        self._drain.add_faults(self._actor(actor), faults)

    def refuse_enqueue(
        self,
        n: int = 1,
        error: BaseException | type[BaseException] | Callable[[], BaseException] | None = None,
    ) -> None:
        """Let the broker refuse the next ``n`` times that something is to be stored: a message, or a retry.

        Args:
            n: how many times.
            error: what it raises; ``StoreUnavailable``, which is also what Dramatiq calls a lost connection, if not
                given.
        """
        make = maker_of(error) if error is not None else unavailable
        self._drain.refusals.extend(make() for _ in range(count_of(n, "refuse_enqueue")))

    # -- Actors --------------------------------------------------------------------------------------------------

    def _actor(self, actor: ActorOrName) -> Actor[..., Any]:
        name = self._name(actor)
        found = self.broker.actors.get(name or "")
        if found is None:
            raise UnknownActor(self._unknown(str(name)))
        return found

    # -- Letters -------------------------------------------------------------------------------------------------

    def _one_letter(self, **filters: Any) -> DeadLetter:
        try:
            letter: DeadLetter = self._one(**filters)
        except LookupError as error:
            letters = self.dead_letters.list(limit=6)
            shown = [f"{letter.actor_name} ({letter.reason}, {letter.error})" for letter in letters[:5]]
            there = f"; there lie {', '.join(shown)}{' and more' if len(letters) > 5 else ''}" if shown else ""
            raise LookupError(f"{error}{there}") from None
        return letter

    # -- Those who wait ------------------------------------------------------------------------------------------

    def _drain_and_join(self, queue_name: str, **options: Any) -> None:
        if self._thread is None:
            self.drain()
        self._join(queue_name, **options)

    def _await_results_of(self, backend: Any, stack: ExitStack) -> None:
        """Let ``get_result(block=True)`` run what is due until the result is there: no worker will."""

        def get_result(message: Any, *, block: bool = False, timeout: int | None = None) -> Any:
            deadline = self.clock.now() + (DEFAULT_TIMEOUT if timeout is None else timeout)
            while True:
                try:
                    return get(message, block=False)
                except ResultMissing:
                    if not block:
                        raise
                if self._thread is not None:
                    raise _timeout(
                        f"{call_text(message.actor_name, message.args, message.kwargs)} has no result yet, and the "
                        "actor that waits for it is being run: in a test messages are run one after the other"
                    )
                due = self._drain.next_due()
                if due is None or due[0] > deadline:
                    self.clock.move_to(deadline)
                    raise _timeout(
                        f"{call_text(message.actor_name, message.args, message.kwargs)} has no result, and nothing "
                        f"more is due in time. What happened:\n{self.timeline()}"
                    )
                self.run_next()

        get = substitute(stack, backend, "get_result", get_result)


#: What a failing actor may raise. Other exceptions are meant for the test, in whose thread the actor is run.
_OF_ACTORS = (Exception, Interrupt, SystemExit, GeneratorExit, asyncio.CancelledError)


def _raise_error_of(run: Run, raise_errors: bool) -> None:
    error = run.exception
    if error is None:
        return
    # Not isinstance(): it asks the error for its __class__, which may raise.
    is_of_actors = issubclass(type(error), _OF_ACTORS)
    # The test is to be ended (Ctrl-C, pytest.fail(), a timeout), or it uses the kit in a way that cannot be.
    if raise_errors or not is_of_actors or issubclass(type(error), KitError):
        raise error


def _one_duration(delay: int | timedelta | None, parts: dict[str, float]) -> Any:
    if (delay is None) != bool(parts):
        raise ConfigError(
            f"advance: delay is {delay!r} and {', '.join(parts) or 'nothing'} is given by name: give one of them, as "
            "advance(90_000), advance(timedelta(seconds=90)) or advance(minutes=1, seconds=30)"
        )
    if delay is not None:
        return delay
    try:
        return timedelta(**parts)
    except (TypeError, OverflowError, ValueError) as error:
        raise ConfigError(f"advance: {parts!r} is no duration ({error}): give what a timedelta takes") from error


def _timeout(text: str) -> ResultTimeout:
    return ResultTimeout(text)  # type: ignore[no-untyped-call]
