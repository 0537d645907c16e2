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
16. ``next_due`` is the due instant of the first waiting entry that is not held, due or not; ``head`` has its id too.
17. ``counts``, ``find``, ``entry`` and ``entries`` change nothing.
18. Flush drops what waits in that queue and nothing else; what is claimed stays claimed.
19. ``max_messages`` bounds waiting and claimed entries together; a put beyond it raises ``QueueFull`` and stores
    nothing, while reschedule, release, revive and a put that is ``exempt`` always have their place.
20. ``max_dead_letters`` bounds the letters; a burial beyond it drops the oldest.
21. A notice that comes with a burial is waiting once the letter lies, and not if the burial failed.
22. ``check`` on a sane store finds nothing.
23. ``entries`` are those that wait or are claimed, in the order of their due instant, then of their arrival, behind
    the place that was given.
24. A moved entry is the same entry, with its payload, waiting until another instant.
25. A cancelled entry is gone.
26. Only what waits is moved or cancelled, once; all else raises ``MessageNotFound`` and changes nothing.
27. A pause lasts until it is resumed; pausing again does not change since when.
28. An entry that was set aside waits and is held: it is never claimed, and that delivery is not counted.
29. Only what is claimed, for an actor that is paused, is set aside.
30. When its actor is resumed, what is held for it waits at its old place.
31. What happened is counted once, in its minute and queue, and kept for 24 hours.
32. A worker is listed from its start to its stop, with the claims that were begun and not ended, and since when.
33. ``dead_by_reason`` has each letter that lies there once, under its reason, and changes nothing.

A queue that is paused is handed out all the same to who asks: not to ask is the consumers' part.

All instants are whole milliseconds since the epoch and are handed in: a store reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

from .records import Claim, DeadLetter, Entry, QueueCounts, Reason, State
from .status import Minute, Paused, WorkerStatus

__all__ = ["NoticeOf", "Outcome", "Store"]

#: What a rescheduling counts as: an attempt that failed, or a run that was put off and used no attempt.
Outcome = Literal["retried", "snoozed", "crashed"]


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

    def head(self, queue_name: str) -> tuple[int, int] | None:
        """The due instant and the id of that entry: what queues compare by."""

    def finish(self, claim: Claim, *, now: int | None = None) -> None:
        """Claimed → gone.

        Args:
            claim: what is done.
            now: when it was done, for the counters; if not given, about the last instant that the store was told.

        Raises:
            ClaimLost: the claim is no longer held.
        """

    def finish_many(self, claims: Iterable[Claim], *, now: int | None = None) -> Sequence[Claim]:
        """Claimed → gone, for each of them. Returns the ones that were no longer held."""

    def reschedule(self, claim: Claim, *, data: bytes, due_at: int, now: int, outcome: Outcome = "retried") -> None:
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

    def dead_by_reason(self) -> dict[Reason, int]:
        """How many letters there are for each reason. Reasons without any are left out."""

    def unfinished(self, queue_name: str) -> int:
        """How many entries of this queue are waiting or claimed."""

    def is_idle(self, queue_name: str, *, paused: bool = False) -> bool:
        """Whether nothing of this queue is claimed, nor waits without being held.

        Args:
            queue_name: the queue.
            paused: whether the queue is: what waits does not count then.
        """

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        """The entry or letter of the message with this id; a look over everything, for people."""

    def entry(self, entry_id: str) -> Entry | None:
        """The entry with this id, if it waits or is claimed."""

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        """What waits or is claimed. What comes or goes meanwhile may or may not be in it.

        Args:
            queue_name: this queue only.
            state: this state only.
            after: the due instant and the id behind which it begins; neither has to be there.
            containing: only those with each of these somewhere in their payload.
        """

    def move(self, entry_id: str, *, due_at: int, now: int) -> str:
        """Waiting → waiting until ``due_at``. Returns the queue.

        Raises:
            MessageNotFound: it does not wait (any more).
        """

    def cancel(self, entry_id: str) -> str:
        """Waiting → gone. Returns the queue.

        Raises:
            MessageNotFound: it does not wait (any more).
        """

    def pause(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        """From ``now`` on this queue, or this actor, is paused."""

    def resume(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        """It no longer is. Held → waiting, for all that is held for this actor."""

    def paused(self) -> Paused:
        """What is paused."""

    def hold(self, claims: Iterable[Claim], actor_name: str, *, now: int) -> int:
        """Claimed → waiting and held, as if never claimed. Returns how many were.

        Where this actor is not paused, they are released. Claims no longer held are passed over.
        """

    def minutes(self, *, since_at: int, now: int) -> Sequence[Minute]:
        """What happened in the minutes that reach beyond an instant, oldest first, then by queue."""

    def keep_counts(self, *, now: int) -> None:
        """Store what was counted and is not stored yet; called now and then, above all when there is nothing to do."""

    def worker_started(self, owner: str, *, now: int) -> None:
        """This process works from now on."""

    def worker_stopped(self) -> None:
        """It no longer does."""

    def workers(self) -> Sequence[WorkerStatus]:
        """The processes that work and live."""

    def begin(self, claim: Claim, *, now: int | None = None) -> None:
        """The message of this claim is being run from now on; cheap, since it is called for every message.

        Args:
            claim: what is being run.
            now: since when; since it was claimed if not given.
        """

    def end(self, claim: Claim) -> None:
        """The message of this claim was run. What settles a claim may say so by itself."""

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
