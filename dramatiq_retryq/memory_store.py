"""The store of one process: gone when the process is."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence

from .errors import ClaimLost, MessageNotFound, QueueFull
from .memory_entries import Copied, entries_of, entry_of
from .memory_letters import MemoryLetters
from .memory_queue import Held, MemoryQueue, Numbers, Waiting
from .records import Claim, DeadLetter, Entry, QueueCounts, Reason, State, entry_number, is_message
from .status import MINUTE, Minute, Paused, RunningMessage, WorkerStatus
from .store import NoticeOf, Outcome
from .tally import Tally, minutes_of

__all__ = ["MemoryStore"]

_END_OF_TIME = 1 << 62


class MemoryStore:
    """A :class:`~dramatiq_retryq.store.Store` in memory.

    Payloads are kept as the encoded bytes: they cost a third of what the objects would, cannot be changed behind the
    store's back, and a message that cannot be encoded fails at ``send``, as on every other broker.

    Args:
        max_messages: how many entries may wait or be claimed; ``None`` for no bound.
        max_dead_letters: how many dead letters are kept; ``None`` for no bound.
    """

    def __init__(self, *, max_messages: int | None = None, max_dead_letters: int | None = 10_000) -> None:
        self.max_messages = max_messages
        self.max_dead_letters = max_dead_letters
        self.clear()

    def clear(self) -> None:
        """Forget everything, locks included: what the child of a fork does with its parent's messages."""
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)
        self._queues: dict[str, MemoryQueue] = {}
        self._dead = MemoryLetters()
        self._paused: dict[str, dict[str, int]] = {"queue": {}, "actor": {}}
        self._tally = Tally()
        #: The instants of the minute that the queues count in.
        self._minute = range(0)
        self._worker: tuple[str, int] | None = None
        self._running: dict[int, tuple[Claim, int]] = {}

    def put(
        self, queue_name: str, data: bytes, *, due_at: int, now: int, exempt: bool = False, sent: bool = True
    ) -> int:
        """See the contract; what was not ``sent`` here but moved here is not counted."""
        with self._lock:
            if self.max_messages is not None and not exempt and self._alive() >= self.max_messages:
                raise QueueFull(queue_name, self.max_messages)
            entry_id = next(self._ids)
            queue = self._queue(queue_name)
            queue.add((due_at, entry_id, data, 0), now)
            if sent:
                if now not in self._minute:
                    self._turn_to(now)
                queue.sent += 1
            return entry_id

    def claim(self, queue_name: str, *, now: int, limit: int, owner: str) -> list[Claim]:
        claims: list[Claim] = []
        with self._lock:
            if now not in self._minute:
                self._turn_to(now)
            queue = self._queues.get(queue_name)
            while queue is not None and len(claims) < limit:
                entry = queue.take(now)
                if entry is None:
                    break
                claims.append(self._claimed(queue_name, queue, entry, now, owner))
        return claims

    def _claimed(self, queue_name: str, queue: MemoryQueue, entry: Waiting, now: int, owner: str) -> Claim:
        due_at, entry_id, data, deliveries = entry
        claim = Claim(entry_id, queue_name, data, due_at, deliveries + 1, now, owner, next(self._tokens))
        queue.claims[entry_id] = claim
        return claim

    def depart(self, queue_name: str, *, now: int, limit: int, owner: str) -> list[Claim]:
        """Like ``claim``, but due or not, and held or not: for a move to another broker."""
        claims: list[Claim] = []
        with self._lock:
            queue = self._queues.get(queue_name)
            while queue is not None and len(claims) < limit and len(queue):
                entry = queue.take(_END_OF_TIME)
                if entry is None:
                    entry = min(held.entry for held in queue.held.values())
                    del queue.held[entry[1]]
                claims.append(self._claimed(queue_name, queue, entry, now, owner))
        return claims

    def lay(self, letter: DeadLetter) -> None:
        """Nothing → dead, under an id of this store: a letter that has come over from another broker."""
        with self._lock:
            self._dead.add_in_order(dataclasses.replace(letter, id=str(next(self._ids))))

    def drop(self, claims: Iterable[Claim]) -> None:
        """Claimed → gone, and counted as no success: what has come over to another broker."""
        with self._lock:
            for claim in claims:
                try:
                    del self._holder(claim).claims[claim.id]
                except ClaimLost:
                    continue

    def claims(self) -> dict[int, Claim]:
        """All claims that are held, by the entry's id."""
        with self._lock:
            return {entry_id: claim for queue in self._queues.values() for entry_id, claim in queue.claims.items()}

    def next_due(self, queue_name: str) -> int | None:
        head = self.head(queue_name)
        return head[0] if head is not None else None

    def head(self, queue_name: str) -> tuple[int, int] | None:
        with self._lock:
            queue = self._queues.get(queue_name)
            head = queue.head() if queue is not None else None
            return head[:2] if head is not None else None

    def finish(self, claim: Claim, *, now: int | None = None) -> None:
        with self._lock:
            queue = self._holder(claim)
            del queue.claims[claim.id]
            if now is not None and now not in self._minute:
                self._turn_to(now)
            queue.done += 1

    def finish_many(self, claims: Iterable[Claim], *, now: int | None = None) -> list[Claim]:
        lost = []
        for claim in claims:
            try:
                self.finish(claim, now=now)
            except ClaimLost:
                lost.append(claim)
        return lost

    def reschedule(self, claim: Claim, *, data: bytes, due_at: int, now: int, outcome: Outcome = "retried") -> None:
        with self._lock:
            self._holder(claim).take_back(claim, (due_at, claim.id, data, 0), now)
            self._tally.add(outcome, claim.queue_name, now)

    def release(self, claims: Iterable[Claim], *, now: int) -> int:
        released = 0
        with self._lock:
            for claim in claims:
                try:
                    queue = self._holder(claim)
                except ClaimLost:
                    continue
                queue.take_back(claim, (claim.due_at, claim.id, claim.data, claim.deliveries - 1), now)
                released += 1
        return released

    def bury(self, claim: Claim, letter: DeadLetter, *, notice: tuple[str, bytes] | None = None) -> int:
        with self._lock:
            queue = self._holder(claim)
            # First there, then gone: a time limit may interrupt the thread in between.
            self._dead.add(letter)
            del queue.claims[claim.id]
            self._tally.add(f"died_{letter.reason}", claim.queue_name, letter.died_at)
            if notice is not None:
                name, data = notice
                self._tally.add("sent", name, letter.died_at)
                self._queue(name).add((letter.died_at, next(self._ids), data, 0), letter.died_at)
            return self._dead.trim(self.max_dead_letters)

    def revive(self, letter_id: str, *, data: bytes, due_at: int, now: int) -> None:
        with self._lock:
            letter = self._dead.get(letter_id)
            self._queue(letter.queue_name).add((due_at, int(letter_id), data, 0), now)
            self._dead.remove(letter_id)

    def discard(self, letter_id: str) -> None:
        with self._lock:
            self._dead.remove(letter_id)

    def letters(self) -> Iterator[DeadLetter]:
        with self._lock:
            letters = self._dead.all()
        return reversed(letters)

    def letter(self, letter_id: str) -> DeadLetter:
        with self._lock:
            return self._dead.get(letter_id)

    def counts(self, *, now: int) -> dict[str, QueueCounts]:
        with self._lock:
            alive = {name: queue.numbers(now) for name, queue in self._queues.items()}
            dead = self._dead.by_queue()
        # Counted outside the lock: a million waiting messages must not stop the workers meanwhile.
        return {
            name: numbers.counts(now, dead.get(name, 0))
            for name in dict.fromkeys([*alive, *dead])
            if (numbers := alive.get(name, Numbers())).waiting or numbers.claimed or name in dead
        }

    def dead_by_reason(self) -> dict[Reason, int]:
        with self._lock:
            return self._dead.by_reason()

    def unfinished(self, queue_name: str) -> int:
        with self._lock:
            queue = self._queues.get(queue_name)
            return len(queue) + len(queue.claims) if queue is not None else 0

    def is_idle(self, queue_name: str, *, paused: bool = False) -> bool:
        with self._lock:
            queue = self._queues.get(queue_name)
            return queue is None or not (queue.claims or (not paused and (queue.line or queue.heap)))

    def move(self, entry_id: str, *, due_at: int, now: int) -> str:
        with self._lock:
            name, queue, entry = self._waiting(entry_id)
            moved = (due_at, *entry[1:])
            held = queue.held.get(entry[1])
            if held is not None:
                queue.held[entry[1]] = held._replace(entry=moved)
            else:
                # First there, then gone: a time limit may interrupt the thread in between.
                queue.add(moved, now)
                queue.drop(entry)
            return name

    def cancel(self, entry_id: str) -> str:
        with self._lock:
            name, queue, entry = self._waiting(entry_id)
            queue.drop(entry)
            return name

    def pause(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        kind, name = ("queue", queue_name) if queue_name is not None else ("actor", actor_name or "")
        with self._lock:
            self._paused[kind].setdefault(name, now)

    def resume(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        kind, name = ("queue", queue_name) if queue_name is not None else ("actor", actor_name or "")
        with self._lock:
            self._paused[kind].pop(name, None)
            if kind == "queue":
                return
            for queue in self._queues.values():
                for held in [held for held in queue.held.values() if held.actor_name == name]:
                    queue.add(held.entry, now)
                    del queue.held[held.entry[1]]

    def paused(self) -> Paused:
        with self._lock:
            return Paused.since_when(queues=self._paused["queue"], actors=self._paused["actor"])

    def hold(self, claims: Iterable[Claim], actor_name: str, *, now: int) -> int:
        claims = list(claims)
        held = 0
        with self._lock:
            if actor_name in self._paused["actor"]:
                for claim in claims:
                    try:
                        queue = self._holder(claim)
                    except ClaimLost:
                        continue
                    entry = (claim.due_at, claim.id, claim.data, claim.deliveries - 1)
                    queue.held[claim.id] = Held(actor_name, entry)
                    del queue.claims[claim.id]
                    held += 1
                return held
        self.release(claims, now=now)
        return 0

    def minutes(self, *, since_at: int, now: int) -> list[Minute]:
        with self._lock:
            self._count_minute()
            rows = list(self._tally.rows())
        return minutes_of(rows, since_at=since_at)

    def keep_counts(self, *, now: int) -> None:
        """They are kept."""

    def worker_started(self, owner: str, *, now: int) -> None:
        self._worker = owner, now

    def worker_stopped(self) -> None:
        self._worker = None

    def workers(self) -> list[WorkerStatus]:
        worker = self._worker
        if worker is None:
            return []
        running = (RunningMessage.of(claim.data, claim.queue_name, at) for claim, at in list(self._running.values()))
        return [
            WorkerStatus(
                owner=worker[0],
                started_at=worker[1],
                running=tuple(message for message in running if message is not None),
            )
        ]

    # Without the lock: each step on a dict is atomic.

    def begin(self, claim: Claim, *, now: int | None = None) -> None:
        self._running[claim.id] = claim, claim.claimed_at if now is None else now

    def end(self, claim: Claim) -> None:
        self._running.pop(claim.id, None)

    def recover(self, *, now: int, max_crashes: int, notice_of: NoticeOf | None = None) -> list[DeadLetter]:
        """Nothing: those who hold claims die with this process."""
        return []

    def changed(self) -> bool:
        """Never: there is no other process."""
        return False

    def entry(self, entry_id: str) -> Entry | None:
        number = entry_number(entry_id)
        with self._lock:
            for name, queue in self._queues.items():
                if number in queue.claims:
                    return entry_of(name, queue.claims[number])
                if number in queue.held:
                    return entry_of(name, queue.held[number])
                entry = queue.look_for(number) if number is not None else None
                if entry is not None:
                    return entry_of(name, entry)
        return None

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        with self._lock:
            copied = [Copied.of(queue) for queue in self._queues.values() if queue_name in (None, queue.name)]
        return entries_of(copied, state=state, after=after, containing=containing)

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        for entry in self.entries():
            if is_message(entry.data, message_id):
                return entry
        with self._lock:
            dead = self._dead.all()
        return next((letter for letter in dead if is_message(letter.data, message_id)), None)

    def flush(self, queue_name: str) -> int:
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is None:
                return 0
            dropped = len(queue)
            queue.line.clear()
            queue.heap.clear()
            queue.held.clear()
            return dropped

    def check(self) -> list[str]:
        findings: list[str] = []
        with self._lock:
            ids = self._dead.ids()
            for queue in self._queues.values():
                ids += queue.ids()
                findings += queue.check(self._paused["actor"])
            if len(ids) != len(set(ids)):
                findings.append("an entry is in two states at once")
            return findings + self._dead.check()

    def close(self) -> None:
        """Nothing to let go of; what is stored stays, until the process ends."""

    def _turn_to(self, now: int) -> None:
        """Begin to count in another minute; the lock is held."""
        self._count_minute()
        start = now - now % MINUTE
        self._minute = range(start, start + MINUTE)

    def _count_minute(self) -> None:
        for name, queue in self._queues.items():
            if queue.sent:
                self._tally.add("sent", name, self._minute.start, queue.sent)
            if queue.done:
                self._tally.add("succeeded", name, self._minute.start, queue.done)
            queue.sent = queue.done = 0

    def _queue(self, name: str) -> MemoryQueue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = MemoryQueue(name)
        return queue

    def _alive(self) -> int:
        """Waiting and claimed together: what ``max_messages`` bounds."""
        return sum(len(queue) + len(queue.claims) for queue in self._queues.values())

    def _holder(self, claim: Claim) -> MemoryQueue:
        """The queue in which a claim is held; the lock is."""
        queue = self._queues.get(claim.queue_name)
        if queue is None or queue.claims.get(claim.id) is not claim:
            raise ClaimLost(claim.id)
        self._running.pop(claim.id, None)  # whatever becomes of it now
        return queue

    def _waiting(self, entry_id: str) -> tuple[str, MemoryQueue, Waiting]:
        """An entry that waits, and where; the lock is held."""
        number = entry_number(entry_id)
        for name, queue in self._queues.items():
            entry = queue.look_for(number) if number is not None else None
            if entry is not None:
                return name, queue, entry
        raise MessageNotFound(entry_id)
