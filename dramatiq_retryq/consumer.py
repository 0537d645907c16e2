"""What a worker holds of a queue: the consumer, the messages it hands out, and how it is woken."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from dramatiq import Consumer, Message, MessageProxy

from ._dramatiq import exception_of
from .clock import Clock
from .dead_letters import compose
from .errors import ClaimLost, StoreUnavailable
from .logs import log
from .records import Claim, DeadLetter, decode
from .store import Store

__all__ = ["ClaimedMessage", "GroupingConsumer", "Home", "Line", "StoreConsumer"]


class Home(Protocol):
    """What a consumer wants of its broker."""

    store: Store
    clock: Clock
    logger: logging.Logger
    is_stopping: bool

    def bury(
        self, claim: Claim, letter: DeadLetter, exception: BaseException | None, notice: Message[Any] | None
    ) -> None: ...

    def conclude(self, message: MessageProxy) -> None: ...

    def bury_undecodable(self, claim: Claim, error: BaseException) -> None: ...

    def is_instant(self, message: Message[Any], eta: object) -> bool: ...


#: How many of the worker's idle timeouts a consumer with nothing to do sleeps at a stretch.
IDLE_TIMEOUTS = 5


class ClaimedMessage(MessageProxy):
    """A message and the claim under which a worker has it."""

    def __init__(self, message: Message[Any], claim: Claim, consumer: StoreConsumer) -> None:
        super().__init__(message)
        self.claim = claim
        self.consumer = consumer
        #: Whether the claim came to its end before the worker acked.
        self.settled = False
        # Copied, since the fallback through __getattr__ takes longer than all that is read costs to copy.
        self.options = message.options
        self.actor_name = message.actor_name
        self.queue_name = message.queue_name
        self.message_id = message.message_id

    # Dramatiq 2.0 puts bare messages into its priority queue and compares them; those with the same priority
    # keep the order in which they were handed out.
    def __lt__(self, other: object) -> bool:
        return isinstance(other, ClaimedMessage) and self._order() < other._order()

    def _order(self) -> tuple[int, int, int]:
        return self.claim.token, self.claim.due_at, self.claim.id


class StoreConsumer(Consumer):
    """Hands out what is due, within a window, and sleeps until something is.

    The window is refilled when a quarter of it is free and not for each message that is done: waking this thread costs
    more than the message itself.
    """

    def __init__(self, broker: Home, queue_name: str, line: Line, prefetch: int, timeout: int) -> None:
        self.broker = broker
        self.store = broker.store
        self.clock = broker.clock
        self.queue_name = queue_name
        self.line = line
        self.prefetch = max(1, prefetch)
        self.timeout = timeout
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        #: Claimed, and not yet handed to the worker.
        self.buffer: deque[Claim] = deque()
        #: Handed to the worker and not yet settled, by identity. Worker threads take out what this thread put in,
        #: which needs no lock, since each step on a dict is atomic.
        self.outstanding: dict[int, Claim] = {}
        #: The window is refilled when so many or fewer are outstanding.
        self.low = self.prefetch - max(1, self.prefetch // 4)
        self.bell = Bell()
        #: Until when (ms) this consumer sleeps if its bell is not rung.
        self.wakes_at = math.inf
        #: Whether it sleeps because its window is full, or because nothing is due.
        self.wants_room = False
        self.is_resting = False

    def __next__(self) -> MessageProxy | None:
        while self.buffer or self._refill():
            claim = self.buffer.popleft()
            try:
                message = decode(claim.data)
            except Exception as error:
                try:
                    _insist(lambda claim=claim, error=error: self.broker.bury_undecodable(claim, error))  # type: ignore[misc]
                except BaseException:
                    self.buffer.appendleft(claim)  # it is given back when this consumer is closed
                    raise
                self._tell_joiners()
                continue
            if "eta" in message.options:
                # It is due; the worker, seeing one, would park the message.
                self.broker.is_instant(message, message.options.pop("eta"))
            if message.queue_name != self.queue_name:
                message = message.copy(queue_name=self.queue_name)
            self.outstanding[id(claim)] = claim
            return ClaimedMessage(message, claim, self)
        return None

    def _refill(self) -> bool:
        """Claim what is due; if nothing is, wait for it once. ``False`` if there still is nothing."""
        if self._claim():
            return True
        sleepers = self.line.sleepers
        self.wakes_at = math.inf
        self.wants_room = self.is_resting = True
        sleepers.append(self)
        try:
            # Again, now that others know of this sleeper: something may have come in between.
            if self._claim():
                return True
            seconds = self.timeout / 1000
            if len(self.outstanding) <= self.low:
                next_due = self.store.next_due(self.queue_name)
                if next_due is None:
                    # Longer than the worker asked, or 200 idle queues cost half a percent of a CPU; cut short when a
                    # worker stops. Not where something waits: if time is frozen, moving it on wakes nobody.
                    seconds *= 1 if self.broker.is_stopping else IDLE_TIMEOUTS
                else:
                    self.wakes_at = next_due
                    seconds = min(seconds, max(0, next_due - self.clock.now()) / 1000)
            else:
                self.is_resting = False
                sleepers.remove(self)  # nothing to be woken for but room in its own window
            self._wait(seconds)
        finally:
            self.wants_room = self.is_resting = False
            if self in sleepers:
                sleepers.remove(self)
        return self._claim()

    def _claim(self) -> bool:
        outstanding = len(self.outstanding)
        if outstanding > self.low:
            return False
        room = self.prefetch - outstanding
        claims = self.store.claim(self.queue_name, now=self.clock.now(), limit=room, owner=self.owner)
        if len(claims) == room and self.line.sleepers:
            self.line.wake_another(self)  # there may be more than this consumer could take
        self.buffer.extend(claims)
        return bool(claims)

    def ack(self, message: MessageProxy) -> None:
        claimed: ClaimedMessage = message  # type: ignore[assignment]
        if exception_of(message) is not None:
            self.broker.conclude(message)
            if message.failed:
                return self.nack(message)
        if not claimed.settled:
            try:
                self.store.finish(claimed.claim)
            except ClaimLost as lost:
                log(self.broker.logger, "warning", "Message %s was done, but %s.", message.message_id, lost)
            claimed.settled = True
        claimed.consumer.done(claimed.claim)

    def nack(self, message: MessageProxy) -> None:
        claimed: ClaimedMessage = message  # type: ignore[assignment]
        claim = claimed.claim
        if not claimed.settled:
            letter = message.__dict__.get("dead_letter")
            if letter is None:  # there is no RetryQueue that would have composed it
                letter = compose(message, now=self.clock.now(), letter_id=str(claim.id), data=claim.data)
            exception, notice = exception_of(message), message.__dict__.get("notice")
            _insist(lambda: self.broker.bury(claim, letter, exception, notice))
            claimed.settled = True
        claimed.consumer.done(claim)

    def done(self, claim: Claim) -> None:
        """A worker has settled this claim: there is room for one more."""
        self.outstanding.pop(id(claim), None)
        if self.wants_room and len(self.outstanding) <= self.low:
            self.bell.ring()
        self._tell_joiners()

    def _tell_joiners(self) -> None:
        if self.line.joiners and not self.outstanding and not self.buffer and self.store.is_idle(self.queue_name):
            self.line.notify_joiners()

    def _wait(self, seconds: float) -> None:
        self.bell.wait(seconds)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        claims = [claim for claim in (message.__dict__.get("claim") for message in messages) if claim is not None]
        self._release(claims)

    def close(self) -> None:
        """Give back what was claimed and not handed out. What a worker still runs stays claimed."""
        self._release(list(self.buffer))
        self.buffer.clear()

    def _release(self, claims: list[Claim]) -> None:
        self.store.release(claims, now=self.clock.now())
        for claim in claims:
            self.outstanding.pop(id(claim), None)
        # Also where nothing was released: a wake-up meant for another may have reached this one.
        self.line.wake_another(self)


def _insist(bury: Callable[[], object]) -> None:
    """Bury, three times if need be; a claim that is lost by then lies there already, or another process took it.

    Raises:
        StoreUnavailable: it cannot be done now. Dramatiq's worker tries that again, as it does nothing else: what it
            does not know would stay claimed for ever.
    """
    for is_last in (False, False, True):
        try:
            bury()
            return
        except ClaimLost:
            return
        except StoreUnavailable:
            raise
        except Exception as error:
            if is_last:
                raise StoreUnavailable(f"a message cannot be buried: {type(error).__name__}") from error


class GroupingConsumer(StoreConsumer):
    """A consumer over a store where each commit costs: while there is more to do, acks are committed in groups.

    An ack waits for others no longer than 50 ms, and not at all while nothing else is due. If the process is killed
    meanwhile, its message is delivered again; an orderly stop commits what is left.
    """

    #: Commit when so many acks have come together.
    GROUP = 8
    #: How long (s) an ack may wait for others.
    PATIENCE = 0.05

    def __init__(self, broker: Home, queue_name: str, line: Line, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, line, prefetch, timeout)
        self.acked: deque[Claim] = deque()
        self.is_closed = False
        #: Whether the last acks could not be committed.
        self.is_stuck = False
        # In larger groups than where a claim costs nothing.
        self.low = self.prefetch - max(1, self.prefetch // 2)

    def ack(self, message: MessageProxy) -> None:
        claimed: ClaimedMessage = message  # type: ignore[assignment]
        consumer: GroupingConsumer = claimed.consumer  # type: ignore[assignment]
        if exception_of(message) is not None:
            self.broker.conclude(message)
            if message.failed:
                return self.nack(message)
        if not claimed.settled:
            claimed.settled = True
            consumer.acked.append(claimed.claim)
        consumer.done(claimed.claim)
        if consumer.is_resting or consumer.is_closed or len(consumer.acked) >= self.GROUP:
            consumer.commit_acks()

    def done(self, claim: Claim) -> None:
        self.store.end(claim)
        super().done(claim)

    def commit_acks(self) -> None:
        """Commit the acks that have come together; if that cannot be done now, they are kept."""
        claims: list[Claim] = []
        while self.acked:
            try:
                claims.append(self.acked.popleft())
            except IndexError:  # another thread was faster
                break
        if not claims:
            return
        try:
            lost = self.store.finish_many(claims)
        except BaseException as error:
            self.acked.extendleft(reversed(claims))
            if not isinstance(error, StoreUnavailable):
                raise
            if not self.is_stuck:  # said once, and not every 50 ms for as long as the disk is full
                text = "%d messages are done and could not be acked yet: %s"
                log(self.broker.logger, "warning", text, len(claims), error)
            self.is_stuck = True
            return
        self.is_stuck = False
        for claim in lost:
            text = "Entry %d was done, but its claim was lost: it may run again."
            log(self.broker.logger, "warning", text, claim.id)
        self._tell_joiners()

    def _claim(self) -> bool:
        self.commit_acks()
        return super()._claim()

    def _wait(self, seconds: float) -> None:
        if self.outstanding:
            seconds = min(seconds, self.PATIENCE)
        super()._wait(seconds)
        self.commit_acks()

    def close(self) -> None:
        self.is_closed = True
        self.commit_acks()
        super().close()


class Line:
    """Who waits for what in one queue."""

    __slots__ = ("_condition", "first_death", "joiners", "sleepers")

    def __init__(self) -> None:
        self.sleepers: list[StoreConsumer] = []
        self.joiners = 0
        #: The letter and the exception of the first death that join() has to raise.
        self.first_death: tuple[str, BaseException] | None = None
        self._condition = threading.Condition()

    def wake_one(self) -> None:
        """Something is due now."""
        for sleeper in list(self.sleepers):
            if sleeper.bell.ring():
                return

    def wake_another(self, consumer: StoreConsumer) -> None:
        """Something may be due that ``consumer`` cannot take."""
        for sleeper in list(self.sleepers):
            if sleeper is not consumer and sleeper.bell.ring():
                return

    def wake_before(self, due_at: int) -> None:
        """Something is due at ``due_at``: whoever means to sleep longer must think again."""
        for sleeper in list(self.sleepers):
            if sleeper.wakes_at > due_at:
                sleeper.bell.ring()

    def wake_all(self) -> None:
        for sleeper in list(self.sleepers):
            sleeper.bell.ring()

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition on which :meth:`notify_joiners` is called; ``False`` if the time is over first."""
        with self._condition:
            self.joiners += 1
            try:
                # Not a deadline of our own: time.monotonic() stands still under freezegun, threading's does not.
                return self._condition.wait_for(is_so, None if seconds == math.inf else seconds)
            finally:
                self.joiners -= 1

    def notify_joiners(self) -> None:
        with self._condition:
            self._condition.notify_all()


class Bell:
    """Wakes one thread; rung while nobody waits, it wakes the next one that does."""

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        # A bare lock: an Event or Condition makes a new one for every wait, and with 200 idle queues that is seen.
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> bool:
        """Wake the waiter. ``False`` if the bell was rung already."""
        try:
            self._silent.release()
        except RuntimeError:
            return False
        return True

    def wait(self, seconds: float) -> None:
        self._silent.acquire(timeout=seconds)
