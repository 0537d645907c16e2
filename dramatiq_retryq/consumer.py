"""What a worker holds of a queue: the consumer, and the messages that it hands out."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from dramatiq import Consumer, Message, MessageProxy, Retry
from dramatiq.middleware import Interrupt

from ._dramatiq import exception_of
from .clock import Clock
from .dead_letters import compose
from .due import is_instant
from .errors import ClaimLost, StoreUnavailable
from .frozen import freezer
from .line import Bell, Line
from .logs import log
from .records import Claim, DeadLetter, decode
from .status import Paused
from .store import Store
from .this_process import this_process

__all__ = ["ClaimedMessage", "Home", "SetAside", "StoreConsumer"]


class Home(Protocol):
    """What a consumer wants of its broker."""

    store: Store
    clock: Clock
    logger: logging.Logger
    is_stopping: bool
    paused: Paused
    is_pausing: bool

    def refresh_pauses(self) -> None: ...

    def bury(
        self, claim: Claim, letter: DeadLetter, exception: BaseException | None, notice: Message[Any] | None
    ) -> None: ...

    def conclude(self, message: MessageProxy) -> None: ...

    def bury_undecodable(self, claim: Claim, error: BaseException) -> None: ...


#: How many of the worker's idle timeouts a consumer with nothing to do sleeps at a stretch.
IDLE_TIMEOUTS = 5


#: How often (s) a consumer looks for what is due while freezegun has stopped time: moving it on wakes nobody.
FROZEN_LOOK_EVERY = 0.01


# A Retry, which Dramatiq's worker does not log as an error.
class SetAside(Retry):
    """Raised in the place of running a message whose queue or actor is paused: it waits again, as if never fetched."""


class ClaimedMessage(MessageProxy):
    """A message and the claim under which a worker has it."""

    def __init__(self, message: Message[Any], claim: Claim, consumer: StoreConsumer) -> None:
        super().__init__(message)
        self.claim = claim
        self.consumer = consumer
        #: Whether the claim came to its end before the worker acked.
        self.settled = False
        #: Whether that is so because it was set aside, unrun.
        self.set_aside = False
        # Copied, since the fallback through __getattr__ takes longer than all that is read costs to copy.
        self.options = message.options
        self.args = message.args
        self.kwargs = message.kwargs
        self.actor_name = message.actor_name
        self.queue_name = message.queue_name
        self.message_id = message.message_id

    # Dramatiq 2.0 puts bare messages into its priority queue and compares them; those with the same priority
    # keep the order in which they were handed out.
    def __lt__(self, other: object) -> bool:
        return isinstance(other, ClaimedMessage) and self._order() < other._order()

    def _order(self) -> tuple[int, int, int]:
        return self.claim.token, self.claim.due_at, self.claim.id

    def give_back(self, paused: Paused) -> bool:
        """Put the message back if it is paused; ``False`` if it is not."""
        claim, consumer = self.claim, self.consumer
        if claim.queue_name in paused.queues:
            consumer.store.release([claim], now=consumer.clock.now())
        elif self.actor_name in paused.actors:
            consumer.store.hold([claim], self.actor_name, now=consumer.clock.now())
        else:
            return False
        self.settled = self.set_aside = True
        return True


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
        #: Whether its worker is being stopped: nothing more is claimed.
        self.is_leaving = False

    def __next__(self) -> MessageProxy | None:
        if self.broker.is_pausing and self.is_paused and self.buffer:
            self.empty_buffer()
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
            if self.broker.is_pausing and message.actor_name in self.broker.paused.actors:
                self._set_aside(claim, message.actor_name)
                continue
            if "eta" in message.options:
                # It is due; the worker, seeing one, would park the message.
                is_instant(message, message.options.pop("eta"), self.broker.logger)
            if message.queue_name != self.queue_name:
                message = message.copy(queue_name=self.queue_name)
            self.outstanding[id(claim)] = claim
            return ClaimedMessage(message, claim, self)
        return None

    @property
    def is_paused(self) -> bool:
        return self.queue_name in self.broker.paused.queues

    def _set_aside(self, claim: Claim, actor_name: str) -> None:
        """Set aside a message of a paused actor, and what else of that actor was claimed, in one move."""
        others = [other for other in self.buffer if _actor_of(other) == actor_name]
        try:
            held = self.store.hold([claim, *others], actor_name, now=self.clock.now())
        except BaseException:
            self.buffer.appendleft(claim)  # it is given back when this consumer is closed
            raise
        gone = {id(other) for other in others}
        self.buffer = deque(other for other in self.buffer if id(other) not in gone)
        if held <= len(others):
            self.broker.refresh_pauses()  # resumed, perhaps, and nobody looks on this process's behalf
        self._tell_joiners()

    def _refill(self) -> bool:
        """Claim what is due; if nothing is, wait for it once. ``False`` if there still is nothing."""
        if self._claim():
            return True
        if self.is_leaving:
            self.line.wake_another(self)  # the last to wake this one may have meant somebody who can take it
            self._wait(self.timeout / 1000)
            return False
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
                next_due = None if self.is_paused else self.store.next_due(self.queue_name)
                if next_due is None:
                    # Longer than the worker asked, or 200 idle queues cost half a percent of a CPU; cut short when a
                    # worker stops. Not where something waits: the clock may be set.
                    seconds *= 1 if self.broker.is_stopping else IDLE_TIMEOUTS
                else:
                    self.wakes_at = next_due
                    seconds = min(seconds, max(0, next_due - self.clock.now()) / 1000)
                    if freezer() is not None:
                        seconds = min(seconds, FROZEN_LOOK_EVERY)
            else:
                self.is_resting = False
                sleepers.remove(self)  # nothing to be woken for but room in its own window
            self._wait(seconds)
        finally:
            self.wants_room = self.is_resting = False
            if self in sleepers:
                sleepers.remove(self)
        # Also where there is room for a few only: its worker is busy for longer, and of what it has fetched by then it
        # takes the first in priority.
        return self._claim(low=self.prefetch - 1)

    def leave(self) -> None:
        """Claim nothing more: the worker is being stopped.

        Its threads still take what they are given within their timeout. So an actor that was interrupted by the
        shutdown would be begun again by the same worker, and nobody would tell it a second time.
        """
        self.is_leaving = True
        self.bell.ring()

    def _claim(self, low: int | None = None) -> bool:
        outstanding, low = len(self.outstanding), self.low if low is None else low
        if outstanding > low or self.is_leaving or (self.broker.is_pausing and self.is_paused):
            return False
        room = self.prefetch - outstanding
        claims = self.store.claim(self.queue_name, now=self.clock.now(), limit=room, owner=this_process())
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
        if not self.line.joiners or self.outstanding or self.buffer:
            return
        if self.store.is_idle(self.queue_name, paused=self.is_paused):
            self.line.notify_joiners()

    def _wait(self, seconds: float) -> None:
        self.bell.wait(seconds)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        claims = [claim for claim in (message.__dict__.get("claim") for message in messages) if claim is not None]
        self._release(claims)

    def close(self) -> None:
        """Give back what was claimed and not handed out. What a worker still runs stays claimed."""
        self.empty_buffer()

    def empty_buffer(self) -> None:
        self._release(list(self.buffer))
        self.buffer.clear()

    def _release(self, claims: list[Claim]) -> None:
        # In the child of a fork, where a worker is stopped that was the parent's, they are the parent's too.
        own = [claim for claim in claims if claim.owner == this_process()]
        self.store.release(own, now=self.clock.now())
        for claim in claims:
            self.outstanding.pop(id(claim), None)
        # Also where nothing was released: a wake-up meant for another may have reached this one.
        self.line.wake_another(self)


def _actor_of(claim: Claim) -> str | None:
    try:
        return decode(claim.data).actor_name
    except Exception:
        return None


def _insist(bury: Callable[[], object]) -> None:
    """Bury, three times if need be; a claim that is lost by then lies there already, or another process took it.

    A time limit or a shutdown that comes now is too late.

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
        except (Exception, Interrupt) as error:
            if is_last:
                raise StoreUnavailable(f"a message cannot be buried: {type(error).__name__}") from error
