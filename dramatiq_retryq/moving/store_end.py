"""A broker of this package at one end of a move."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager

from dramatiq_retryq.broker import MemoryBroker, SQLiteBroker
from dramatiq_retryq.errors import LetterNotFound
from dramatiq_retryq.journeys import Arrival, Journey, Journeys
from dramatiq_retryq.records import Claim, DeadLetter
from dramatiq_retryq.sqlite_journeys import SQLiteJourneys

from .ends import Parcel

__all__ = ["StoreEnd"]


class StoreEnd:
    """A ``MemoryBroker`` or ``SQLiteBroker`` as source and target."""

    def __init__(self, broker: MemoryBroker | SQLiteBroker) -> None:
        self._broker = broker
        self._store = broker.store
        self._journeys: Journeys
        if isinstance(broker, SQLiteBroker):
            self._journeys = SQLiteJourneys(broker.file.database)
            self.name = f"the file {broker.file.path}"
        else:
            self._journeys = broker.journeys
            self.name = f"a MemoryBroker ({id(broker):#x})"

    def held(self) -> AbstractContextManager[None]:
        return self._journeys.held()

    # -- Source --------------------------------------------------------------------------------------------------

    def queues(self) -> dict[str, int]:
        return self._journeys.waiting()

    def claimed(self) -> int:
        counts = self._store.counts(now=self._broker.clock.now()).values()
        return sum(count.claimed for count in counts) - len(self._journeys.departed())

    def journey(self) -> Journey | None:
        return self._journeys.current()

    def begin(self, journey: Journey) -> None:
        self._journeys.begin(journey)

    def on_the_way(self) -> list[Parcel]:
        return [_parcel(claim) for claim in self._journeys.departed()]

    def take(self, queue_name: str, limit: int) -> list[Parcel]:
        claims = self._journeys.depart(queue_name, limit=limit, now=self._broker.clock.now())
        return [_parcel(claim) for claim in claims]

    def settle(self, parcels: Sequence[Parcel]) -> None:
        self._journeys.settle([parcel.handle for parcel in parcels])

    def give_back(self, parcels: Sequence[Parcel]) -> None:
        self._store.release([parcel.handle for parcel in parcels], now=self._broker.clock.now())
        self._wake(parcels)

    def letters(self) -> Iterable[DeadLetter]:
        return self._broker.dead_letters

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            try:
                self._broker.dead_letters.discard(letter)
            except LetterNotFound:
                continue

    def end(self) -> None:
        self._journeys.end()

    # -- Target --------------------------------------------------------------------------------------------------

    def refuses(self, parcel: Parcel) -> str | None:
        return None

    def expect(self, journey: str) -> None:
        self._journeys.expect(journey)

    def knows(self, journey: str) -> bool:
        return self._journeys.knows(journey)

    def put(self, journey: str, parcels: Sequence[Parcel]) -> None:
        now = self._broker.clock.now()
        arrivals = [
            Arrival(parcel.key, parcel.queue_name, parcel.data, now if parcel.due_at is None else parcel.due_at)
            for parcel in parcels
        ]
        try:
            self._journeys.arrive(journey, arrivals, now=now)
        finally:
            self._wake(parcels)

    def lay(self, journey: str, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._journeys.lay(journey, f"letter {letter.id}", letter)

    def arrived(self, journey: str, keys: Collection[str]) -> set[str]:
        return self._journeys.arrived(journey, keys)

    def forget(self, journey: str, keys: Collection[str] | None = None) -> None:
        self._journeys.forget(journey, keys)

    def _wake(self, parcels: Sequence[Parcel]) -> None:
        first: dict[str, int] = {}
        for parcel in parcels:
            due_at = 0 if parcel.due_at is None else parcel.due_at
            first[parcel.queue_name] = min(due_at, first.get(parcel.queue_name, due_at))
        for queue_name, due_at in first.items():
            self._broker.wake(queue_name, due_at)


def _parcel(claim: Claim) -> Parcel:
    return Parcel(key=str(claim.id), queue_name=claim.queue_name, data=claim.data, due_at=claim.due_at, handle=claim)
