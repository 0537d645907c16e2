"""Moves from and to the memory store: what is noted dies with the process, as all the rest does."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from .errors import MoveRefused
from .journeys import OWNER, Arrival, Journey
from .memory_store import MemoryStore
from .records import Claim, DeadLetter

__all__ = ["MemoryJourneys"]


class MemoryJourneys:
    """:class:`~dramatiq_retryq.journeys.Journeys` of a memory store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._holding = threading.Lock()
        self._current: Journey | None = None
        self._claims: dict[int, Claim] = {}
        self._notes: dict[str, set[str]] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        if not self._holding.acquire(blocking=False):
            raise MoveRefused("this MemoryBroker is being moved by another thread: wait until that has ended")
        try:
            yield
        finally:
            self._holding.release()

    def waiting(self) -> dict[str, int]:
        return {name: count.waiting for name, count in self._store.counts(now=0).items() if count.waiting}

    def current(self) -> Journey | None:
        return self._current

    def begin(self, journey: Journey) -> None:
        self._current = journey

    def depart(self, queue_name: str, *, limit: int, now: int) -> list[Claim]:
        claims = self._store.depart(queue_name, now=now, limit=limit, owner=OWNER)
        self._claims.update((claim.id, claim) for claim in claims)
        return claims

    def departed(self) -> list[Claim]:
        held = self._store.claims()
        self._claims = {claim.id: claim for claim in self._claims.values() if held.get(claim.id) is claim}
        return list(self._claims.values())

    def settle(self, claims: Iterable[Claim]) -> None:
        self._store.drop(claims)

    def end(self) -> None:
        self._current = None
        self._claims.clear()

    def expect(self, name: str) -> None:
        self._notes.setdefault(name, set())

    def knows(self, name: str) -> bool:
        return name in self._notes

    def arrive(self, name: str, arrivals: Iterable[Arrival], *, now: int) -> int:
        notes, stored = self._notes[name], 0
        for key, queue_name, data, due_at in arrivals:
            if key not in notes:
                self._store.put(queue_name, data, due_at=due_at, now=now, sent=False)
                notes.add(key)
                stored += 1
        return stored

    def lay(self, name: str, key: str, letter: DeadLetter) -> None:
        if key not in self._notes[name]:
            self._store.lay(letter)
            self._notes[name].add(key)

    def arrived(self, name: str, keys: Collection[str]) -> set[str]:
        return self._notes.get(name, set()).intersection(keys)

    def forget(self, name: str, keys: Collection[str] | None = None) -> None:
        if keys is None:
            self._notes.pop(name, None)
        else:
            self._notes.get(name, set()).difference_update(keys)
