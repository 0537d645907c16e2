"""Dramatiq's interface over a :class:`~dramatiq_retryq.store.Store`: what the brokers of this package share.

The store keeps the order of time, and only what is due is handed out. So these brokers declare no delay queues, and
a message that waits does so in the store and not in a worker's memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dramatiq import Consumer, Message, MessageProxy, QueueJoinTimeout, QueueNotFound
from dramatiq.common import q_name
from dramatiq.middleware import Middleware, Retries, default_middleware

from ._dramatiq import consumers_of, exception_of, plain_message
from .clock import BrokerClock, Clock
from .consumer import ClaimedMessage, StoreConsumer
from .dead_letters import LETTER_OPTION, DeadLetters, is_as_sent, undecodable
from .due import delayed
from .errors import ConfigError, LetterNotFound, MessageDied, StoreUnavailable
from .forked import leave_to_parent
from .line import Line
from .logs import log
from .middleware import RetryQueue
from .pausing import PausingBroker
from .payload import encoded, encoded_without_eta
from .queue_view import QueueView
from .records import Claim, DeadLetter, QueueCounts, Whereabouts
from .store import Outcome, Store
from .this_process import this_process

__all__ = ["StoreBroker"]

_DROPPED = "The oldest dead letters (%d) were dropped: there is no room for more. Replay or discard some."


class StoreBroker(PausingBroker):
    """What the brokers of this package have in common: all of Dramatiq's ``Broker``, over a store.

    Args:
        store: where the messages lie.
        middleware: as for every Dramatiq broker; by default Dramatiq's own, with ``RetryQueue()`` in the place of
            ``Retries``.
        retry_queue: a ``RetryQueue`` of yours in the default middleware.
        clock: where the time comes from.
        fail_fast_default: what :meth:`join` does about dead messages unless it is told.
    """

    _consumer_class: type[StoreConsumer] = StoreConsumer
    #: How often (s) join() looks for itself, and does not wait to be told.
    _join_every = math.inf

    def __init__(
        self,
        store: Store,
        middleware: list[Middleware] | None = None,
        *,
        retry_queue: RetryQueue | None = None,
        clock: Clock | None = None,
        fail_fast_default: bool = True,
    ) -> None:
        self.clock: Clock = clock if clock is not None else BrokerClock()
        self.fail_fast_default = fail_fast_default
        #: Whether a worker is being stopped: its consumers must not sleep for long.
        self.is_stopping = False
        self._workers = 0
        if retry_queue is not None and not isinstance(retry_queue, RetryQueue):
            raise ConfigError(
                f"{type(self).__name__}: retry_queue is {retry_queue!r}: give an instance, as in "
                "retry_queue=RetryQueue(max_retries=5)"
            )
        if middleware is None:
            own = RetryQueue() if retry_queue is None else retry_queue
            middleware = [own if cls is Retries else cls() for cls in default_middleware]
        elif retry_queue is not None:
            raise ConfigError(
                f"{type(self).__name__}: middleware and retry_queue cannot be given together: put yours into the list"
            )
        super().__init__(store, middleware)
        self.queues: dict[str, QueueView] = {}
        self._dead_letters = DeadLetters(store, self.clock, self._wake)

    # -- Middleware ----------------------------------------------------------------------------------------------

    def add_middleware(
        self,
        middleware: Middleware,
        *,
        before: type[Middleware] | None = None,
        after: type[Middleware] | None = None,
    ) -> None:
        """Add a middleware; see Dramatiq. ``Retries`` and ``RetryQueue`` exclude each other: the latter stays.

        Raises:
            ConfigError: a second ``RetryQueue``.
        """
        if isinstance(middleware, RetryQueue) and any(isinstance(m, RetryQueue) for m in self.middleware):
            raise ConfigError(
                f"{type(self).__name__} has a RetryQueue already, and each would retry every message: make the broker "
                f"with yours, {type(self).__name__}(…, retry_queue=RetryQueue(…))"
            )
        # Where somebody names Retries as the place, its successor is meant.
        if not any(isinstance(m, Retries) for m in self.middleware):
            before = RetryQueue if before is Retries else before
            after = RetryQueue if after is Retries else after
        super().add_middleware(middleware, before=before, after=after)
        for retry_queue in self.middleware:
            if isinstance(retry_queue, RetryQueue):
                retry_queue.take_place(self)
                break

    def conclude(self, message: MessageProxy) -> None:
        """Tell the middleware of a failure of which Dramatiq's worker did not tell them; it stumbled, and acks.

        A log handler that raises, or an error that raises when asked for its class, throws it off its way.
        """
        if "retryq_heard" not in message.__dict__ and self._retry_queue() is not None:
            self.emit_after("process_message", message, exception=exception_of(message))

    def _before_worker_boot(self, *args: Any) -> None:
        self.is_stopping = False
        self.refresh_pauses()
        self._workers += 1
        if self._workers == 1:
            try:
                self.store.worker_started(this_process(), now=self.clock.now())
            except StoreUnavailable:
                pass  # it is listed once it can claim something

    def _before_worker_shutdown(self, worker: object) -> None:
        self.is_stopping = True
        for consumer in consumers_of(worker):
            if isinstance(consumer, StoreConsumer):
                consumer.leave()
        for line in self._lines.values():
            line.wake_all()

    def _after_worker_shutdown(self, *args: Any) -> None:
        self._workers = max(0, self._workers - 1)
        if self._workers == 0:
            self.store.worker_stopped()
            try:
                self.store.keep_counts(now=self.clock.now())
            except StoreUnavailable:
                pass  # they are written with the next commit
        # Held for join() only, and with them every frame they came through.
        for line in self._lines.values():
            line.first_death = None

    # -- Queues --------------------------------------------------------------------------------------------------

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue. Has no effect if it is declared already."""
        queue_name = q_name(queue_name)
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self._lines[queue_name] = Line()
            self.queues[queue_name] = QueueView(self.store, self.clock, self._wake, queue_name)
            self.emit_after("declare_queue", queue_name)

    def _declared(self, queue_name: str) -> str:
        if queue_name in self.queues:
            return queue_name
        canonical = q_name(queue_name)  # a message from another broker may name its delay queue
        if canonical not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        return canonical

    def enqueue(self, message: Message[Any], *, delay: Any = None) -> Message[Any]:
        """Store a message.

        Args:
            message: one with ``options["eta"]`` (ms since the epoch) is due at that instant.
            delay: the least time until it is due, in ms or as a timedelta; what is negative is due now.

        Returns:
            The message; a copy with ``options["eta"]`` if it has to wait.

        Raises:
            QueueNotFound: its queue was not declared.
            QueueFull: the broker holds ``max_messages`` already.
            EncodeError: it cannot be encoded.
            ConfigError: ``delay`` is no duration.
        """
        queue_name = self._declared(message.queue_name)
        if delay is None and "eta" not in message.options and queue_name == message.queue_name:
            self.emit_before("enqueue", message, delay)
            data = encoded(message)
            now = due_at = self.clock.now()
        else:
            message, delay, due_at = delayed(message, queue_name, delay, self.clock, self.logger)
            self.emit_before("enqueue", message, delay)
            data = encoded_without_eta(message)
            now = self.clock.now()
        self.store.put(queue_name, data, due_at=due_at, now=now, exempt=self._is_exempt(message))
        line = self._lines[queue_name]
        if line.sleepers:
            if due_at <= now:
                line.wake_one()
            else:
                line.wake_before(due_at)
        self.emit_after("enqueue", message, delay)
        return message

    def _is_exempt(self, message: Message[Any]) -> bool:
        """Whether a message has its place in a full broker: it is there for one that gave its own up."""
        return LETTER_OPTION in message.options

    def reschedule(self, message: MessageProxy, *, delay: int, outcome: Outcome = "retried") -> None:
        """Move a message that a worker holds back to waiting, as it is now, in one move.

        To other middleware it looks like an enqueue with that delay. The worker's ack that follows does nothing.

        Args:
            message: as the consumer gave it.
            delay: milliseconds until it is due.
            outcome: what it counts as.

        Raises:
            ClaimLost: the message is no longer held.
            EncodeError: it cannot be encoded.
        """
        claimed: ClaimedMessage = message  # type: ignore[assignment]
        claim = claimed.claim
        due_at = self.clock.due_in(delay)
        # The arguments as they were sent: an actor may have changed the list that it was given.
        copy = plain_message(message)
        if not is_as_sent(copy):
            copy = Message.decode(claim.data)
        # Not copy.copy(): dataclasses.replace takes as long as decoding.
        copy = Message(
            claim.queue_name,
            copy.actor_name,
            copy.args,
            copy.kwargs,
            {**copy.options, **message.options, "eta": due_at},
            copy.message_id,
            copy.message_timestamp,
        )
        self.emit_before("enqueue", copy, delay)
        data, now = encoded_without_eta(copy), self.clock.now()
        self.store.reschedule(claim, data=data, due_at=due_at, now=now, outcome=outcome)
        claimed.settled = True
        self._wake(claim.queue_name, due_at)
        self.emit_after("enqueue", copy, delay)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        """A consumer of one queue.

        Args:
            queue_name: a declared queue.
            prefetch: how many messages it holds at the most, those being worked on included.
            timeout: how long it idles before it returns ``None``, in ms.

        Raises:
            QueueNotFound: the queue was not declared.
        """
        queue_name = self._declared(queue_name)
        self.refresh_pauses()
        return self._consumer_class(self, queue_name, self._lines[queue_name], prefetch, timeout)

    def flush(self, queue_name: str) -> None:
        """Drop what waits in a queue. What is being worked on and what is dead stays."""
        queue_name = self._declared(queue_name)
        self.store.flush(queue_name)
        self._lines[queue_name].notify_joiners()

    def flush_all(self) -> None:
        """Drop what waits in any queue, and every dead letter."""
        for queue_name in self.queues:
            self.flush(queue_name)
            self._lines[queue_name].first_death = None
        self.dead_letters.discard_all()

    def join(self, queue_name: str, *, timeout: int | None = None, fail_fast: bool | None = None) -> None:
        """Wait until nothing of a queue waits or is being worked on; for tests.

        What cannot run because its queue or its actor is paused is not waited for.

        Args:
            queue_name: a declared queue.
            timeout: how long to wait at the most, in ms.
            fail_fast: raise the error of the first message of this queue that lies dead, once the queue is empty;
                ``fail_fast_default`` if not given.

        Raises:
            QueueNotFound: the queue was not declared.
            QueueJoinTimeout: the time is over.
        """
        queue_name = self._declared(queue_name)
        line = self._lines[queue_name]
        seconds, waited = (timeout / 1000 if timeout else math.inf), 0.0
        self.refresh_pauses()
        while not line.wait_until(lambda: self._is_idle(queue_name), min(self._join_every, seconds - waited)):
            waited += self._join_every
            if waited >= seconds:
                raise QueueJoinTimeout(f"timed out after {seconds:.02f} seconds")  # type: ignore[no-untyped-call]
        if self.fail_fast_default if fail_fast is None else fail_fast:
            self._raise_first_death(queue_name, line)

    def _is_idle(self, queue_name: str) -> bool:
        return self.store.is_idle(queue_name, paused=queue_name in self.paused.queues)

    def _raise_first_death(self, queue_name: str, line: Line) -> None:
        if line.first_death is not None and self._is_dead(line.first_death[0]):
            raise line.first_death[1] from None
        letters = self.dead_letters.list(queue=queue_name)
        if letters:
            letter = letters[-1]
            raise MessageDied(f"message {letter.message_id} of actor {letter.actor_name} died: {letter.reason}")

    # -- Looking -------------------------------------------------------------------------------------------------

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: see, replay and discard them."""
        return self._dead_letters

    def lookup(self, message_id: str) -> Whereabouts:
        """Where a message is now. Looks at everything there is: for people, not for a hot path.

        Raises:
            ConfigError: ``message_id`` is no text; a message, perhaps, in the place of its id.
        """
        if not isinstance(message_id, str):
            raise ConfigError(f"lookup: message_id is a {type(message_id).__name__}: give its message_id, a text")
        return Whereabouts.of(message_id, self.store.find(message_id))

    def counts(self) -> dict[str, QueueCounts]:
        """By queue: how many are due, wait for later, are being worked on, are dead; and the oldest due instant."""
        counts = self.store.counts(now=self.clock.now())
        return {name: counts.get(name, QueueCounts()) for name in dict.fromkeys([*self.queues, *counts])}

    def check(self) -> list[str]:
        """Verify every invariant of the store; a sentence for each that is broken."""
        return self.store.check()

    def _after_fork(self) -> None:
        """In the child of a fork: no worker runs here, and nobody waits."""
        if self._workers:
            leave_to_parent(self)
        self._workers = 0
        for name in self._lines:
            self._lines[name] = Line()

    def close(self) -> None:
        """Wake whoever waits, and let go of the store."""
        for line in self._lines.values():
            line.wake_all()
        self.store.close()

    # -- For the consumers ---------------------------------------------------------------------------------------

    def wake(self, queue_name: str, due_at: int) -> None:
        """Something is due in this queue at ``due_at`` that this broker's own ``enqueue`` did not store."""
        self._wake(queue_name, due_at)

    def _wake(self, queue_name: str, due_at: int) -> None:
        line = self._lines.get(queue_name)
        if line is not None and line.sleepers:
            line.wake_before(due_at)

    def waiting_changed(self, queue_name: str, due_at: int | None = None) -> None:
        """Something that waits was moved or dropped: tell who sleeps until it is due, or waits for the end of it."""
        if due_at is not None:
            self._wake(queue_name, due_at)
        line = self._lines.get(queue_name)
        if line is not None and line.joiners:
            line.notify_joiners()

    def bury(
        self,
        claim: Claim,
        letter: DeadLetter,
        exception: BaseException | None,
        notice: Message[Any] | None,
    ) -> None:
        """Move what a worker holds to the dead letters, and the notice of it to its queue, in one move."""
        line = self._lines[claim.queue_name]
        stored = self._encoded_notice(letter, notice) if notice is not None else None
        dropped = self.store.bury(claim, letter, notice=stored)
        if stored is not None:
            self._wake(stored[0], letter.died_at)
            self.emit_after("enqueue", notice, None)
        if exception is not None and (line.first_death is None or not self._is_dead(line.first_death[0])):
            line.first_death = (letter.id, exception)
        if dropped:
            log(self.logger, "warning", _DROPPED, dropped)

    def _encoded_notice(self, letter: DeadLetter, notice: Message[Any]) -> tuple[str, bytes] | None:
        try:
            queue_name = self._declared(notice.queue_name)
            self.emit_before("enqueue", notice, None)
            return queue_name, encoded(notice)
        except Exception as error:
            retry_queue = self._retry_queue()
            if retry_queue is not None:
                retry_queue.deaths.report_untold(letter, notice.actor_name, error)
            return None

    def _is_dead(self, letter_id: str) -> bool:
        try:
            self.store.letter(letter_id)
        except LetterNotFound:
            return False
        return True

    def bury_undecodable(self, claim: Claim, error: BaseException) -> None:
        self.bury_unrun(claim, undecodable(claim, error, now=self.clock.now()), error, {})

    def bury_unrun(
        self, claim: Claim, letter: DeadLetter, error: BaseException | None, options: Mapping[str, Any]
    ) -> None:
        """Bury, tell and report a death of which no worker's nack tells; ``options`` are the message's."""
        retry_queue = self._retry_queue()
        notice = retry_queue.deaths.notice(self, letter, options) if retry_queue is not None else None
        self.bury(claim, letter, error, notice)
        self._report(letter)

    def _retry_queue(self) -> RetryQueue | None:
        return next((middleware for middleware in self.middleware if isinstance(middleware, RetryQueue)), None)

    def _report(self, letter: DeadLetter) -> None:
        """Log a death that no worker's nack reports."""
        retry_queue = self._retry_queue()
        if retry_queue is not None:
            retry_queue.deaths.report(letter)
        else:
            text = "A message of queue %r is dead (%s): letter %s."
            log(self.logger, "error", text, letter.queue_name, letter.reason, letter.id)
