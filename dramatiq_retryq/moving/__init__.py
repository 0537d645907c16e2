"""Move what waits from one broker to another: how an application outgrows its broker, and how it comes back.

The story of a batch:

1.  The source hands it over: from now on no worker gets these messages, and no other process either.
2.  The target stores those of them that it has not stored before, and notes that, in one step.
3.  The source drops them, and the target forgets its notes.

The process may be killed between any two of these. What was handed over then stays where it is until the same move is
called again, which first goes on with that batch: the notes say which of it has arrived, even if it has been run since.
RabbitMQ can keep no such notes; there, what was on its way may come twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from dramatiq import Broker, get_logger
from dramatiq.common import q_name

from dramatiq_retryq.broker import MemoryBroker, SQLiteBroker
from dramatiq_retryq.clock import Clock, SystemClock
from dramatiq_retryq.errors import (
    ConfigError,
    LetterTooNew,
    LetterUnreadable,
    MoveInterrupted,
    MoveRefused,
    QueueFull,
)
from dramatiq_retryq.journeys import Journey
from dramatiq_retryq.shelf import check_readable

from .ends import Parcel, Source, Target
from .rabbitmq_end import RabbitmqEnd
from .redis_end import RedisEnd
from .store_end import StoreEnd

__all__ = ["Moved", "check", "give_back", "move"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a move has done so far.

    Attributes:
        messages: how many messages have come over by this call.
        total: how many there were to move when it began.
        resumed: how many of them an earlier call had left on their way.
        letters: how many dead letters have come over.
        left: how many stay at the source, because the target cannot hold them; the log says which and why.
        claimed: how many were held by workers of the source at the end, and so are still there; ``None`` where that
            cannot be known (RabbitMQ).
        repeated: how many of the resumed ones may lie at the target twice: on RabbitMQ, where that cannot be known.
    """

    messages: int = 0
    total: int = 0
    resumed: int = 0
    letters: int = 0
    left: int = 0
    repeated: int = 0
    claimed: int | None = None


def move(
    source: Broker,
    target: Broker,
    *,
    queues: Iterable[str] | None = None,
    batch: int = 500,
    progress: Callable[[Moved], object] | None = None,
    dead_letters: bool = False,
) -> Moved:
    """Move the messages that wait, due or delayed, from one broker to another.

    Ids, arguments, options, attempts and due times stay. What a worker holds at either end is not touched, nor are
    results. Interrupted in whatever way, the same call goes on where it was; until then, up to
    ``batch`` messages are on their way and run nowhere.

    Args:
        source: a ``SQLiteBroker``, ``MemoryBroker``, ``RedisBroker`` or ``RabbitmqBroker``.
        target: another one.
        queues: only these; every queue in which something waits if not given. RabbitMQ cannot be asked for its queues:
            there, those that are declared on the broker.
        batch: how many messages are on their way at once.
        progress: called with what was done so far after each batch; what it raises interrupts the move.
        dead_letters: move the dead letters of these queues too, with their history. They get ids of the target's.

    Returns:
        What was done.

    Raises:
        ConfigError: these two brokers, or an option, make no sense.
        MoveRefused: another move is under way, or was interrupted and led elsewhere. Nothing was moved.
        StoreUnavailable: the file or a server cannot be used. Nothing was moved.
        MoveInterrupted: it broke off on its way; the cause is chained. Call it again.
        QueueFull: the target, a ``MemoryBroker``, is full; what has no room there stays at the source.
    """
    wanted, here, there = _ends(source, target, queues, batch)
    with ExitStack() as holding:
        holding.enter_context(here.held())
        holding.enter_context(there.held())
        return _Move(here, there, batch, progress, dead_letters).run(wanted)


def check(source: Broker, target: Broker, *, queues: Iterable[str] | None = None, batch: int = 500) -> None:
    """See whether :func:`move` could be asked for this, before somebody is asked whether they want it.

    Raises:
        ConfigError: these two brokers, or an option, make no sense.
    """
    _ends(source, target, queues, batch)


def give_back(source: Broker, target: Broker | None = None, *, queues: Iterable[str] | None = None) -> int:
    """Put what an interrupted move left on its way back to where it came from, for those who will not go on with it.

    Args:
        source: the broker that it left.
        target: the broker that it was on its way to. What has arrived there is not put back. Without it, and on
            RabbitMQ, up to a batch of messages may be at both.
        queues: see :func:`move`.

    Returns:
        How many are waiting at the source again.

    Raises:
        MoveRefused: another move is under way, or the interrupted one led elsewhere.
    """
    wanted = None if queues is None else sorted({q_name(name) for name in queues})
    here = _end_of(source, wanted)
    with ExitStack() as holding:
        holding.enter_context(here.held())
        there = None if target is None else _end_of(target, wanted)
        if there is not None:
            holding.enter_context(there.held())
        journey = here.journey()
        if journey is None:
            return 0
        parcels = here.on_the_way()
        if there is not None:
            _check_way(journey, there)
            arrived = there.arrived(journey.name, [parcel.key for parcel in parcels]) or set()
            here.settle([parcel for parcel in parcels if parcel.key in arrived])
            parcels = [parcel for parcel in parcels if parcel.key not in arrived]
        here.give_back(parcels)
        here.end()
        if there is not None:
            there.forget(journey.name)
        return len(parcels)


class _Move:
    """One call of :func:`move`."""

    def __init__(
        self,
        source: Source,
        target: Target,
        batch: int,
        progress: Callable[[Moved], object] | None,
        dead_letters: bool,
    ) -> None:
        self.logger = get_logger("dramatiq_retryq", "move")  # type: ignore[no-untyped-call]
        self.source = source
        self.target = target
        self.batch = batch
        self.progress = progress
        self.dead_letters = dead_letters
        self.done = Moved()
        self.left: list[Parcel] = []
        self.under_way: list[Parcel] = []

    def run(self, wanted: Collection[str] | None) -> Moved:
        journey = self._begun()
        try:
            rest = self.source.on_the_way()
            waiting = self.source.queues()
            names = sorted(waiting.keys() if wanted is None else waiting.keys() & set(wanted))
            self.done = replace(self.done, total=len(rest) + sum(waiting[name] for name in names))
            self._resume(journey, rest)
            for name in names:
                while parcels := self.source.take(name, self.batch):
                    self._carry(journey, parcels)
            self.source.give_back(self.left)
            if self.dead_letters:
                self._carry_letters(journey, wanted)
            self.source.end()
            self.target.forget(journey)
            return replace(self.done, claimed=self.source.claimed())
        except ConfigError:
            raise
        except QueueFull:
            self._retreat(journey)
            raise
        except Exception as error:
            raise MoveInterrupted(
                f"the move to {self.target.name} broke off after {self.done.messages} of {self.done.total} messages "
                f"({type(error).__name__}: {error}). Nothing is lost: move again to go on with it; up to {self.batch} "
                "messages are on their way and run nowhere until then, or until dramatiq_retryq.moving.give_back()"
            ) from error

    def _begun(self) -> str:
        """The name of the journey: the one that was interrupted, or else a new one."""
        journey = self.source.journey()
        if journey is not None:
            _check_way(journey, self.target)
            return journey.name
        journey = Journey(name=uuid.uuid4().hex, target=self.target.name)
        # First there: an interrupted journey that its target knows nothing of would be taken for one to elsewhere.
        self.target.expect(journey.name)
        self.source.begin(journey)
        return journey.name

    def _resume(self, journey: str, parcels: Sequence[Parcel]) -> None:
        if not parcels:
            return
        self.logger.info("Going on with an interrupted move: %d messages are on their way.", len(parcels))
        known = self.target.arrived(journey, [parcel.key for parcel in parcels])
        self.done = replace(self.done, resumed=len(parcels), repeated=len(parcels) if known is None else 0)
        if known is None:
            text = "These messages may lie at %s twice, since the last move was killed: %s"
            self.logger.warning(text, self.target.name, ", ".join(str(parcel.message_id) for parcel in parcels))
        self._carry(journey, parcels)

    def _carry(self, journey: str, parcels: Sequence[Parcel]) -> None:
        """Steps 2 and 3 of the story."""
        self.under_way = carried = []
        for parcel in parcels:
            reason = self.target.refuses(parcel)
            if reason is None:
                carried.append(parcel)
            else:
                self.left.append(parcel)
                self.logger.warning(
                    "A message of queue %r stays where it is (%s): %s.", parcel.queue_name, parcel.key, reason
                )
        self.target.put(journey, carried)
        self.source.settle(carried)
        self.target.forget(journey, [parcel.key for parcel in carried])
        self._tell(messages=self.done.messages + len(carried), left=len(self.left))

    def _carry_letters(self, journey: str, wanted: Collection[str] | None) -> None:
        """Oldest first: each is laid down there before it goes from here."""
        letters = [letter for letter in self.source.letters() if wanted is None or letter.queue_name in wanted]
        letters.reverse()
        for start in range(0, len(letters), self.batch):
            carried = []
            for letter in letters[start : start + self.batch]:
                try:
                    check_readable(letter)
                    carried.append(letter)
                except (LetterTooNew, LetterUnreadable) as error:
                    self.done = replace(self.done, left=self.done.left + 1)
                    self.logger.warning("Not moved: %s", error)
            self.target.lay(journey, carried)
            self.source.discard(carried)
            self._tell(letters=self.done.letters + len(carried))

    def _tell(self, **done: int) -> None:
        self.done = replace(self.done, **done)
        if self.progress is not None:
            self.progress(self.done)

    def _retreat(self, journey: str) -> None:
        """The target is full: what came over stays there, what did not goes back."""
        arrived = self.target.arrived(journey, [parcel.key for parcel in self.under_way]) or set()
        self.source.settle([parcel for parcel in self.under_way if parcel.key in arrived])
        self.source.give_back([*self.left, *(parcel for parcel in self.under_way if parcel.key not in arrived)])
        self.source.end()
        self.target.forget(journey)


def _check_way(journey: Journey, target: Target) -> None:
    if not target.knows(journey.name):
        raise MoveRefused(
            f"a move to {journey.target} was interrupted, and {target.name} knows nothing of it: move there again to "
            "end it, or call dramatiq_retryq.moving.give_back(source) to put back what was on its way"
        )


def _ends(
    source: Broker, target: Broker, queues: Iterable[str] | None, batch: int
) -> tuple[list[str] | None, Any, Any]:
    wanted = _checked(source, target, queues, batch)
    here, there = _end_of(source, wanted), _end_of(target, wanted)
    if here.name == there.name:
        raise ConfigError(f"move: source and target are the same place, {here.name}: give two")
    return wanted, here, there


def _checked(source: Broker, target: Broker, queues: Iterable[str] | None, batch: int) -> list[str] | None:
    if source is target:
        raise ConfigError("move: source and target are the same broker: give two")
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 5_000:
        raise ConfigError(f"move: batch is {batch!r}: give a whole number from 1 to 5000")
    if isinstance(queues, str):
        raise ConfigError(f"move: queues is {queues!r}: give a list of queue names, as [{queues!r}]")
    return None if queues is None else sorted({q_name(name) for name in queues})


def _end_of(broker: Broker, queues: Collection[str] | None) -> Any:
    if isinstance(broker, (MemoryBroker, SQLiteBroker)):
        return StoreEnd(broker)
    clock: Clock = SystemClock()
    # By their names: importing the classes would need their clients.
    kinds = {cls.__module__ for cls in type(broker).__mro__}
    if "dramatiq.brokers.redis" in kinds:
        return RedisEnd(broker, clock)
    if "dramatiq.brokers.rabbitmq" in kinds:
        return RabbitmqEnd(broker, clock, broker.get_declared_queues() if queues is None else queues)
    raise ConfigError(
        f"move: {type(broker).__name__} is a broker of which this package does not know where it keeps its messages: "
        "give a SQLiteBroker, MemoryBroker, RedisBroker or RabbitmqBroker"
    )
