"""Runs what is due on a broker of this package, one message at a time, on the caller's thread.

Each message goes through Dramatiq's own worker and all middleware, see ``_dramatiq_worker.py``. What is seen on the way
is told to a :class:`Witness`.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from dramatiq import Actor, Message, MessageProxy
from dramatiq.middleware import Shutdown, TimeLimit, TimeLimitExceeded

from ._dramatiq import plain_message
from ._dramatiq_worker import HandDriven
from .alarm import Alarm
from .clock import MAX_DURATION
from .consumer import ClaimedMessage
from .crash import crashed
from .dead_letters import is_as_sent
from .errors import Snooze
from .faults import Fault, ProcessDied
from .grouping import GroupingConsumer
from .kit_clock import KitClock
from .middleware import RetryQueue
from .options import retries_of
from .records import DeadLetter
from .shelf import DueAt, Renew
from .store_broker import StoreBroker
from .substitute import substitute
from .this_process import this_process
from .timeline import Run, RunOutcome, Sent

__all__ = ["DEFAULT_MAX_CRASHES", "Drain", "Witness"]

#: After how many crashes a message is dead, where the application's broker does not say.
DEFAULT_MAX_CRASHES = 3

#: Dramatiq's own time limit, in ms, is left to whoever bounds the test: no test waits that long.
_LONG = 600_000


class Witness(Protocol):
    """Is told of what happens, as it happens."""

    def saw_sent(self, sent: Sent) -> None: ...

    def saw_run(self, run: Run) -> None: ...


class _Current:
    """The run that is going on."""

    def __init__(self, message: ClaimedMessage, started_at: int, at: int) -> None:
        self.message = message
        self.n = retries_of(message.options) + 1
        self.started_at = started_at
        self.at = at
        self.exception: BaseException | None = None
        self.is_skipped = self.has_crashed = self.was_struck = False
        #: Whether the actor's own code is being run, or was and its outcome is being seen to.
        self.is_in_actor = True
        #: The delay (ms) with which it was stored again.
        self.delay: int | None = None
        self.letter: DeadLetter | None = None


class Drain:
    """The engine of the testing kit.

    Args:
        broker: whose messages are run.
        clock: its clock.
        witness: is told of what happens.
        max_crashes: after how many crashes a message is dead.
    """

    def __init__(
        self, broker: StoreBroker, clock: KitClock, witness: Witness, *, max_crashes: int = DEFAULT_MAX_CRASHES
    ) -> None:
        self.broker = broker
        self.clock = clock
        self.current: _Current | None = None
        self.faults: dict[str, deque[Fault]] = {}
        #: What the next attempts to store something raise.
        self.refusals: deque[BaseException] = deque()
        self._witness = witness
        self._max_crashes = max_crashes
        self._crashes: dict[int, int] = {}
        self._buried: list[DeadLetter] = []
        self._alarm = Alarm()
        self._driven = HandDriven(broker)
        self._stack = ExitStack()
        self._listen()

    def close(self) -> None:
        """Stop listening; the middleware hears of a worker's shutdown if it heard of a boot."""
        try:
            self._driven.close()
        finally:
            self._stack.close()

    # -- Running -------------------------------------------------------------------------------------------------

    def next_due(self) -> tuple[int, str] | None:
        """When the next message is due (ms since the epoch), and its queue; ``None`` if none waits.

        Of several that are due at the same instant it is the one that was sent first. Those of a paused queue are due
        once it is resumed.
        """
        store, paused = self.broker.store, self.broker.paused.queues
        first: tuple[tuple[int, int], str] | None = None
        for queue_name in self.broker.queues:
            if queue_name in paused:
                continue
            head = store.head(queue_name)
            if head is not None and (first is None or head < first[0]):
                first = head, queue_name
        return (first[0][0], first[1]) if first is not None else None

    def run(self, queue_name: str, due_at: int) -> list[Run]:
        """Leap to an instant and run the message of a queue that is due then.

        Returns:
            The run; none if somebody else took the message, and more than one where some could not be decoded.
        """
        self.clock.move_to(due_at)
        self._buried.clear()
        message: Any = next(self._driven.consumer(queue_name))
        runs = [self._undecodable(letter) for letter in self._buried]
        if message is not None:
            runs.append(self._run(queue_name, message))
        for run in runs:
            self._witness.saw_run(run)
        return runs

    def sleep(self, delay: int) -> None:
        """Let time pass in the midst of an actor, within its time limit.

        Raises:
            TimeLimitExceeded: the time limit was over first.
        """
        current = self.current
        deadline = self._deadline(current) if current is not None and current.is_in_actor else None
        if deadline is not None and self.clock.now() + delay >= deadline:
            self.clock.move_to(deadline)
            raise TimeLimitExceeded
        self.clock.advance(delay)

    def _deadline(self, current: _Current) -> int | None:
        limit = self._time_limit(current.message)
        return current.started_at + int(limit) if limit is not None else None

    def _time_limit(self, message: ClaimedMessage) -> float | None:
        """The time limit (ms) of what is being run; ``None`` if there is none, or it is none that one could count."""
        actor = self.broker.actors.get(message.actor_name)
        for middleware in self.broker.middleware:
            if isinstance(middleware, TimeLimit) and actor is not None:
                limit = message.options.get("time_limit") or actor.options.get("time_limit", middleware.time_limit)
                return limit if isinstance(limit, (int, float)) and limit < MAX_DURATION else None
        return None

    def settle(self) -> None:
        """Commit what a broker keeps back to commit it together."""
        for queue_name in self.broker.queues:
            consumer = self._driven.consumer(queue_name)
            if isinstance(consumer, GroupingConsumer):
                consumer.commit_acks()

    def _run(self, queue_name: str, message: ClaimedMessage) -> Run:
        self.current = current = _Current(message, *self.clock.read())
        args, kwargs = self._arguments(message)
        limit = self._time_limit(message)
        begin = functools.partial(self._alarm.set, limit) if limit is not None and limit < _LONG else None
        try:
            self._driven.process(queue_name, message, begin)
            if current.has_crashed:
                self._crash(current)
        finally:
            self._alarm.clear()
            self.current = None
        outcome = _outcome_of(current)
        if outcome != "crashed":
            self._crashes.pop(message.claim.id, None)
        return Run(
            actor_name=message.actor_name,
            message_id=message.message_id,
            queue_name=message.queue_name,
            args=args,
            kwargs=kwargs,
            n=current.n,
            started_at=current.started_at,
            at=current.at,
            duration=max(0, self.clock.now() - current.started_at),
            outcome=outcome,
            exception=current.exception,
            delay=current.delay,
            reason=current.letter.reason if current.letter is not None else None,
        )

    @staticmethod
    def _arguments(message: ClaimedMessage) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those that the actor is given, as they are before it can change them."""
        plain = plain_message(message)
        if is_as_sent(plain):
            return plain.args, plain.kwargs
        again: Message[Any] = Message.decode(message.claim.data)
        return again.args, again.kwargs

    def _undecodable(self, letter: DeadLetter) -> Run:
        now = self.clock.now()
        return Run(
            actor_name="(undecodable)",
            message_id=letter.id,
            queue_name=letter.queue_name,
            args=(),
            kwargs={},
            n=1,
            started_at=now,
            at=self.clock.passed(),
            duration=0,
            outcome="died",
            reason=letter.reason,
        )

    # -- Faults --------------------------------------------------------------------------------------------------

    def add_faults(self, actor: Actor[..., Any], faults: list[Fault]) -> None:
        """Let the next runs of an actor go wrong, one after the other."""
        name = actor.actor_name
        waiting = self.faults.get(name)
        if waiting is not None:
            waiting.extend(faults)
            return
        pending = self.faults[name] = deque(faults)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            current = self.current
            # Once a run, and not where the test or the actor itself calls the function.
            if not pending or current is None or current.was_struck or current.message.actor_name != name:
                return function(*args, **kwargs)
            current.was_struck = True
            fault = pending.popleft()
            if fault.at_end:
                function(*args, **kwargs)
            return fault.strike()

        function = substitute(self._stack, actor, "fn", faulty)

    def _crash(self, current: _Current) -> None:
        """What the next worker does with a message whose worker died while running it; see ``Store.recover``."""
        message, claim, now = current.message, current.message.claim, self.clock.now()
        self._driven.abandon(message)
        for middleware in self.broker.middleware:
            if isinstance(middleware, RetryQueue):
                middleware.after_skip_message(self.broker, message)
        crashes = self._crashes[claim.id] = self._crashes.get(claim.id, 0) + 1
        data, letter = crashed(
            claim.id,
            claim.queue_name,
            claim.data,
            claimed_at=claim.claimed_at,
            owner=this_process(),
            now=now,
            is_last=crashes >= self._max_crashes,
        )
        if letter is not None:
            self.broker.bury_unrun(claim, letter, None, message.options)
        else:
            self.broker.store.reschedule(claim, data=data, due_at=claim.due_at, now=now, outcome="crashed")
        message.settled = True
        message.consumer.done(claim)

    # -- Listening -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        stack, broker = self._stack, self.broker

        def emit_after(signal: str, *args: Any, **kwargs: Any) -> None:
            current = self.current
            if current is not None and signal in ("process_message", "skip_message"):
                self._alarm.clear()
                exception = kwargs.get("exception")
                if type(exception) is ProcessDied:
                    current.has_crashed = True
                    # Set before the worker acks. Nobody is told: there is no process that could.
                    current.message.__dict__["retryq_abandoned"] = True
                    return
                current.is_in_actor = False
                current.exception = exception
                current.is_skipped = signal == "skip_message"
            emit(signal, *args, **kwargs)
            if signal == "enqueue":
                self._saw_enqueued(args[0])

        def bury(claim: Any, letter: DeadLetter, exception: Any, notice: Any) -> None:
            bury_it(claim, letter, exception, notice)
            self._buried.append(letter)
            if self.current is not None:
                self.current.letter = letter

        def enqueue(message: Message[Any], *, delay: Any = None) -> Message[Any]:
            self._refuse()
            stored: Message[Any] = store(message, delay=delay)
            return stored

        def reschedule(message: MessageProxy, **how: Any) -> None:
            self._refuse()
            move(message, **how)

        def revive(wanted: Sequence[DeadLetter], renew: Renew, *, due_at: DueAt, now: int) -> Sequence[str]:
            revived: Sequence[str] = revive_all(wanted, renew, due_at=due_at, now=now)
            letters = {letter.id: letter for letter in wanted}
            for n, letter_id in enumerate(revived):
                message = letters[letter_id].message
                if message is not None:
                    at, delay = self.clock.passed(), max(0, due_at(n) - now)
                    self._witness.saw_sent(Sent(message=message, sent_at=now, at=at, delay=delay, is_replay=True))
            return revived

        emit = substitute(stack, broker, "emit_after", emit_after)
        bury_it = substitute(stack, broker, "bury", bury)
        store = substitute(stack, broker, "enqueue", enqueue)
        move = substitute(stack, broker, "reschedule", reschedule)
        revive_all = substitute(stack, broker.dead_letters._shelf, "revive", revive)

    def _refuse(self) -> None:
        if self.refusals:
            raise self.refusals.popleft()

    def _saw_enqueued(self, message: Message[Any]) -> None:
        current = self.current
        now, at = self.clock.read()
        eta = message.options.get("eta")
        delay = max(0, eta - now) if isinstance(eta, int) else 0
        if current is not None and current.message.message_id == message.message_id and current.exception is not None:
            current.delay = delay
        else:
            self._witness.saw_sent(Sent(message=_as_it_is(message), sent_at=now, at=at, delay=delay))


def _as_it_is(message: Message[Any]) -> Message[Any]:
    """The message with arguments of its own: what sent it may go on to change the list that it sent."""
    if is_as_sent(message):
        return message
    try:
        # Not decoded again: a test compares with what it sent, and JSON makes a list of a tuple.
        return message.copy(args=copy.deepcopy(message.args), kwargs=copy.deepcopy(message.kwargs))
    except Exception:
        return message  # what cannot be copied, with an encoder that can do more than JSON


def _outcome_of(current: _Current) -> RunOutcome:
    if current.letter is not None:
        return "died"
    if current.has_crashed:
        return "crashed"
    if current.is_skipped:
        return "skipped"
    if current.exception is None:
        return "succeeded"
    if current.delay is None:
        return "dropped"
    # Not isinstance(): it asks the error for its __class__, which may raise.
    kind = type(current.exception)
    if issubclass(kind, Snooze):
        return "snoozed"
    return "interrupted" if issubclass(kind, Shutdown) else "retried"
