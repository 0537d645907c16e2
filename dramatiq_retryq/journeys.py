"""The contract between a move from one broker to another and a store of this package at either end of it.

A *journey* is one such move, from its beginning until everything has come over, however often it is interrupted. It has
a name that both ends write down, so that whoever goes on with it knows what has been done.

1.  What has departed is claimed: no worker gets it, and it outlives the process that took it.
2.  Departing takes what waits, due or not, in due order, and nothing that a worker holds.
3.  What has departed and was not settled is found again by ``departed``.
4.  An arrival is stored once for each key of a journey, in one move with the note of the key.
5.  A note is there until it is forgotten, also when the message it stands for is done.
6.  One move at a time holds a store.
7.  What is moved counts neither as sent nor as succeeded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .records import Claim, DeadLetter

__all__ = ["OWNER", "Arrival", "Journey", "Journeys"]

#: Who holds what is on its way, for people.
OWNER = "a move to another broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """A move that has begun and not ended."""

    name: str
    #: Where it leads, for people.
    target: str


class Arrival(NamedTuple):
    """What is to be stored once."""

    key: str
    queue_name: str
    data: bytes
    due_at: int


class Journeys(Protocol):
    """What a store can do for a move; giving back is its ``release``."""

    def held(self) -> AbstractContextManager[None]:
        """Keep other moves away for as long as the block lasts, or the process.

        Raises:
            MoveRefused: another move is under way.
        """

    def waiting(self) -> dict[str, int]:
        """How many entries wait, by queue."""

    def current(self) -> Journey | None:
        """The journey that leads away from here and has not ended."""

    def begin(self, journey: Journey) -> None:
        """Note a journey that leads away from here."""

    def depart(self, queue_name: str, *, limit: int, now: int) -> Sequence[Claim]:
        """Waiting → claimed by the journey: up to ``limit`` entries, earliest due first, due or not."""

    def departed(self) -> Sequence[Claim]:
        """What is claimed by the journey."""

    def settle(self, claims: Iterable[Claim]) -> None:
        """Claimed → gone, and counted as no success: they have come over."""

    def end(self) -> None:
        """The journey that led away from here has ended."""

    def expect(self, name: str) -> None:
        """Note a journey that leads here."""

    def knows(self, name: str) -> bool:
        """Whether a journey of this name leads here."""

    def arrive(self, name: str, arrivals: Iterable[Arrival], *, now: int) -> int:
        """Nothing → waiting, for those whose key is not noted yet. Returns how many those were.

        Raises:
            QueueFull: there is no room for all; those that were stored are noted.
        """

    def lay(self, name: str, key: str, letter: DeadLetter) -> None:
        """Nothing → dead, if this key is not noted yet; under an id of this store, and beyond ``max_dead_letters``."""

    def arrived(self, name: str, keys: Collection[str]) -> set[str]:
        """Which of these keys are noted."""

    def forget(self, name: str, keys: Collection[str] | None = None) -> None:
        """Take back the notes of these keys, or of the whole journey."""
