"""The contract between a broker and the place where its messages lie.

An entry is ``waiting``, ``claimed`` or ``dead``; each move below names the state it starts from and the state it
ends in, and changes nothing else. The sentences are numbered, and each is a test of its own in ``tests/contract``,
run against every store.

1.  An entry that was put is handed out once, until it is released, rescheduled, revived or recovered.
2.  Claim takes entries in the order of their due instant, then of their arrival.
3.  Claim never takes an entry that is not due, nor more than ``limit``, nor one of another queue.
4.  Work that is far off never holds back work that is due.
5.  A claim gives exactly the bytes that were put.
6.  A move on a claim that is no longer held raises ``ClaimLost`` and changes nothing.
7.  A finished entry is gone.
8.  A rescheduled entry is the same entry: its id stays, its payload and due instant are new, it was never gone and
    never there twice.
9.  A released entry is waiting at its old place, and that delivery is not counted.
10. Deliveries count from 1 after a put, a reschedule and a revival.
11. A buried entry is a dead letter with the id of the entry, and is never claimed.
12. Letters are listed newest first.
13. A letter is revived by one caller only; the others get ``LetterNotFound``.
14. A revived entry is waiting with the payload it was given.
15. A discarded letter is gone.
16. ``next_due`` is the due instant of the first waiting entry, due or not.
17. ``counts`` and ``find`` change nothing.
18. Flush drops what waits in that queue and nothing else; what is claimed stays claimed.
19. ``max_messages`` bounds waiting and claimed entries together; a put beyond it raises ``QueueFull`` and stores
    nothing, while reschedule, release, revive and a put that is ``exempt`` always have their place.
20. ``max_dead_letters`` bounds the letters; a burial beyond it drops the oldest.
21. A notice that comes with a burial is waiting once the letter lies, and not if the burial failed.
22. ``check`` on a sane store finds nothing.

All instants are whole milliseconds since the epoch and are handed in: a store reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from .records import Claim, DeadLetter, Entry, QueueCounts

__all__ = ["NoticeOf", "Store"]


#: Gives a queue and a payload that tell of a letter, or ``None``.
NoticeOf = Callable[[DeadLetter], "tuple[str, bytes] | None"]


class Store(Protocol):
    """Where messages lie. Every method may be called from any thread; each move is atomic."""

    def put(self, queue_name: str, data: bytes, *, due_at: int, now: int, exempt: bool = False) -> int:
        """Nothing → waiting. Returns the entry's id.

        Args:
            exempt: store it even if ``max_messages`` are there: it tells of one that gave up its place.

        Raises:
            QueueFull: ``max_messages`` are there already; nothing was stored.
        """

    def claim(self, queue_name: str, *, now: int, limit: int, owner: str) -> Sequence[Claim]:
        """Waiting → claimed: up to ``limit`` entries that are due at ``now``, earliest due first."""

    def next_due(self, queue_name: str) -> int | None:
        """The due instant of the first entry that waits in this queue; ``None`` if none waits."""

    def finish(self, claim: Claim) -> None:
        """Claimed → gone.

        Raises:
            ClaimLost: the claim is no longer held.
        """

    def finish_many(self, claims: Iterable[Claim]) -> Sequence[Claim]:
        """Claimed → gone, for each of them. Returns the ones that were no longer held."""

    def reschedule(self, claim: Claim, *, data: bytes, due_at: int, now: int) -> None:
        """Claimed → waiting until ``due_at`` with a new payload, in one move.

        Raises:
            ClaimLost: the claim is no longer held.
        """

    def release(self, claims: Iterable[Claim], *, now: int) -> int:
        """Claimed → waiting, as if never claimed. Claims no longer held are passed over. Returns how many were."""

    def bury(self, claim: Claim, letter: DeadLetter, *, notice: tuple[str, bytes] | None = None) -> int:
        """Claimed → dead. Returns how many old letters were dropped to make room.

        Args:
            claim: what is buried.
            letter: what lies there then.
            notice: a queue and a payload that are put there in the same move, due at once; always has its place.

        Raises:
            ClaimLost: the claim is no longer held.
        """

    def revive(self, letter_id: str, *, data: bytes, due_at: int, now: int) -> None:
        """Dead → waiting until ``due_at``, with the payload given.

        Raises:
            LetterNotFound: it is not among the dead (any more).
        """

    def discard(self, letter_id: str) -> None:
        """Dead → gone.

        Raises:
            LetterNotFound: it is not among the dead (any more).
        """

    def letters(self) -> Iterator[DeadLetter]:
        """The dead letters, newest first. What dies or is revived meanwhile may or may not be among them."""

    def letter(self, letter_id: str) -> DeadLetter:
        """One dead letter.

        Raises:
            LetterNotFound: it is not among the dead (any more).
        """

    def counts(self, *, now: int) -> dict[str, QueueCounts]:
        """How many entries of each queue are in which state. Queues without any are left out."""

    def unfinished(self, queue_name: str) -> int:
        """How many entries of this queue are waiting or claimed."""

    def is_idle(self, queue_name: str) -> bool:
        """Whether nothing of this queue is waiting or claimed."""

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        """The entry or letter of the message with this id; a look over everything, for people."""

    def begin(self, claim: Claim) -> None:
        """The message of this claim is being run from now on; cheap, since it is called for every message."""

    def end(self, claim: Claim) -> None:
        """The message of this claim was run."""

    def recover(self, *, now: int, max_crashes: int, notice_of: NoticeOf | None = None) -> Sequence[DeadLetter]:
        """Claimed → waiting or dead, for what processes held that are no more.

        What a process was running when it died has one crash more in its history, and is dead after ``max_crashes`` of
        them; what it had only fetched waits as before.

        Args:
            now: the present instant.
            max_crashes: how many crashes are too many.
            notice_of: gives the notice that is stored with a burial; see :meth:`bury`.

        Returns:
            The letters of those that are dead now.
        """

    def changed(self) -> bool:
        """Whether another process may have written since this was asked last."""

    def flush(self, queue_name: str) -> int:
        """Waiting → gone, for all of this queue. Returns how many there were."""

    def check(self) -> list[str]:
        """Verify every invariant; a sentence for each that is broken. An empty list is good news."""

    def close(self) -> None:
        """Let go of everything that the store holds open. Closing twice is no error."""
