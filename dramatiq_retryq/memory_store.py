"""The store of one process: gone when the process is."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from dramatiq import Message

from .errors import ClaimLost, LetterNotFound, QueueFull
from .records import Claim, DeadLetter, Entry, QueueCounts
from .store import NoticeOf

__all__ = ["MemoryStore"]


# An entry that waits: due instant, id, payload, deliveries. It compares by due instant, then by id, which is the
# order of arrival. A plain tuple and no record: the garbage collector stops looking at plain tuples of plain values,
# and with a million records each of its full runs would hold up what is due by tens of milliseconds.
_Waiting = tuple[int, int, bytes, int]


class _Queue:
    """What waits in one queue.

    Most messages are due as they arrive, and then arrival is the order already: they stand in ``line``, a sorted run
    at whose ends adding and taking is cheap. All others lie in ``heap``. The first of the queue is the lesser of the
    two heads.
    """

    __slots__ = ("claims", "heap", "line")

    def __init__(self) -> None:
        self.line: deque[_Waiting] = deque()
        self.heap: list[_Waiting] = []
        self.claims: dict[int, Claim] = {}

    def add(self, entry: _Waiting, now: int) -> None:
        line = self.line
        if entry[0] <= now:
            if not line or line[-1] < entry:
                line.append(entry)
                return
            if entry < line[0]:
                line.appendleft(entry)
                return
        heappush(self.heap, entry)

    def take_back(self, claim: Claim, entry: _Waiting, now: int) -> None:
        """Add an entry in the place of a claim on it; both or neither, also if a time limit interrupts the thread."""
        try:
            self.add(entry, now)
        except BaseException:
            if entry in self.line or entry in self.heap:
                self.claims.pop(claim.id, None)
            raise
        del self.claims[claim.id]

    def take(self, now: int) -> _Waiting | None:
        line, heap = self.line, self.heap
        if line and not (heap and heap[0] < line[0]):
            return line.popleft() if line[0][0] <= now else None
        if heap and heap[0][0] <= now:
            return heappop(heap)
        return None

    def next_due(self) -> int | None:
        if self.line and self.heap:
            return min(self.line[0][0], self.heap[0][0])
        first = self.line or self.heap
        return first[0][0] if first else None

    def waiting(self) -> list[_Waiting]:
        return [*self.line, *self.heap]

    def __len__(self) -> int:
        return len(self.line) + len(self.heap)


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
        self._queues: dict[str, _Queue] = {}
        self._dead: dict[str, DeadLetter] = {}

    def put(self, queue_name: str, data: bytes, *, due_at: int, now: int, exempt: bool = False) -> int:
        with self._lock:
            if self.max_messages is not None and not exempt and self._alive() >= self.max_messages:
                raise QueueFull(queue_name, self.max_messages)
            entry_id = next(self._ids)
            self._queue(queue_name).add((due_at, entry_id, data, 0), now)
            return entry_id

    def claim(self, queue_name: str, *, now: int, limit: int, owner: str) -> list[Claim]:
        claims: list[Claim] = []
        with self._lock:
            queue = self._queues.get(queue_name)
            while queue is not None and len(claims) < limit:
                entry = queue.take(now)
                if entry is None:
                    break
                due_at, entry_id, data, deliveries = entry
                claim = Claim(entry_id, queue_name, data, due_at, deliveries + 1, now, owner, next(self._tokens))
                queue.claims[entry_id] = claim
                claims.append(claim)
        return claims

    def next_due(self, queue_name: str) -> int | None:
        with self._lock:
            queue = self._queues.get(queue_name)
            return queue.next_due() if queue is not None else None

    def finish(self, claim: Claim) -> None:
        with self._lock:
            del self._holder(claim).claims[claim.id]

    def finish_many(self, claims: Iterable[Claim]) -> list[Claim]:
        lost = []
        for claim in claims:
            try:
                self.finish(claim)
            except ClaimLost:
                lost.append(claim)
        return lost

    def reschedule(self, claim: Claim, *, data: bytes, due_at: int, now: int) -> None:
        with self._lock:
            self._holder(claim).take_back(claim, (due_at, claim.id, data, 0), now)

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
        dropped = 0
        with self._lock:
            queue = self._holder(claim)
            # First there, then gone: a time limit may interrupt the thread in between.
            self._dead[letter.id] = letter
            del queue.claims[claim.id]
            if notice is not None:
                name, data = notice
                self._queue(name).add((letter.died_at, next(self._ids), data, 0), letter.died_at)
            while self.max_dead_letters is not None and len(self._dead) > self.max_dead_letters:
                del self._dead[next(iter(self._dead))]
                dropped += 1
        return dropped

    def revive(self, letter_id: str, *, data: bytes, due_at: int, now: int) -> None:
        with self._lock:
            letter = self._lying(letter_id)
            self._queue(letter.queue_name).add((due_at, int(letter_id), data, 0), now)
            del self._dead[letter_id]

    def discard(self, letter_id: str) -> None:
        with self._lock:
            self._lying(letter_id)
            del self._dead[letter_id]

    def letters(self) -> Iterator[DeadLetter]:
        with self._lock:
            letters = list(self._dead.values())
        return reversed(letters)

    def letter(self, letter_id: str) -> DeadLetter:
        with self._lock:
            return self._lying(letter_id)

    def counts(self, *, now: int) -> dict[str, QueueCounts]:
        with self._lock:
            waiting = {name: (queue.waiting(), len(queue.claims)) for name, queue in self._queues.items()}
            dead: dict[str, int] = {}
            for letter in self._dead.values():
                dead[letter.queue_name] = dead.get(letter.queue_name, 0) + 1
        # Counted outside the lock: a million waiting messages must not stop the workers meanwhile.
        counts = {}
        for name in dict.fromkeys([*waiting, *dead]):
            entries, claimed = waiting.get(name, ((), 0))
            due = sum(1 for entry in entries if entry[0] <= now)
            if entries or claimed or name in dead:
                counts[name] = QueueCounts(
                    due=due,
                    later=len(entries) - due,
                    claimed=claimed,
                    dead=dead.get(name, 0),
                    oldest_due_at=min((entry[0] for entry in entries), default=None),
                )
        return counts

    def unfinished(self, queue_name: str) -> int:
        with self._lock:
            queue = self._queues.get(queue_name)
            return len(queue) + len(queue.claims) if queue is not None else 0

    def is_idle(self, queue_name: str) -> bool:
        return self.unfinished(queue_name) == 0

    def begin(self, claim: Claim) -> None:
        """Nothing to note down: whoever could read it dies with this process."""

    def end(self, claim: Claim) -> None:
        """Likewise."""

    def recover(self, *, now: int, max_crashes: int, notice_of: NoticeOf | None = None) -> list[DeadLetter]:
        """Nothing: those who hold claims die with this process."""
        return []

    def changed(self) -> bool:
        """Never: there is no other process."""
        return False

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        with self._lock:
            waiting = [(name, queue.waiting()) for name, queue in self._queues.items()]
            claims = [claim for queue in self._queues.values() for claim in queue.claims.values()]
            dead = list(self._dead.values())
        for claim in claims:
            if _is_message(claim.data, message_id):
                return Entry(
                    id=claim.id,
                    queue_name=claim.queue_name,
                    state="claimed",
                    data=claim.data,
                    due_at=claim.due_at,
                    deliveries=claim.deliveries,
                    claimed_at=claim.claimed_at,
                    owner=claim.owner,
                )
        for name, entries in waiting:
            for due_at, entry_id, data, deliveries in entries:
                if _is_message(data, message_id):
                    return Entry(
                        id=entry_id,
                        queue_name=name,
                        state="waiting",
                        data=data,
                        due_at=due_at,
                        deliveries=deliveries,
                    )
        return next((letter for letter in dead if _is_message(letter.data, message_id)), None)

    def flush(self, queue_name: str) -> int:
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is None:
                return 0
            dropped = len(queue)
            queue.line.clear()
            queue.heap.clear()
            return dropped

    def check(self) -> list[str]:
        findings = []
        with self._lock:
            ids = [int(letter_id) for letter_id in self._dead]
            for name, queue in self._queues.items():
                line, heap = list(queue.line), queue.heap
                ids += [*queue.claims, *(entry[1] for entry in queue.waiting())]
                if line != sorted(line):
                    findings.append(f"queue {name!r}: the line is out of order")
                if any(heap[i] < heap[(i - 1) // 2] for i in range(1, len(heap))):
                    findings.append(f"queue {name!r}: the heap is out of order")
                for entry_id, claim in queue.claims.items():
                    if (claim.id, claim.queue_name) != (entry_id, name):
                        findings.append(f"queue {name!r}: the claim on entry {entry_id} is on another one")
            if len(ids) != len(set(ids)):
                findings.append("an entry is in two states at once")
            for letter_id, letter in self._dead.items():
                if letter.id != letter_id:
                    findings.append(f"dead letter {letter_id} calls itself {letter.id}")
        return findings

    def close(self) -> None:
        """Nothing to let go of; what is stored stays, until the process ends."""

    def _queue(self, name: str) -> _Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue()
        return queue

    def _alive(self) -> int:
        """Waiting and claimed together: what ``max_messages`` bounds."""
        return sum(len(queue) + len(queue.claims) for queue in self._queues.values())

    def _holder(self, claim: Claim) -> _Queue:
        """The queue in which a claim is held; the lock is."""
        queue = self._queues.get(claim.queue_name)
        if queue is None or queue.claims.get(claim.id) is not claim:
            raise ClaimLost(claim.id)
        return queue

    def _lying(self, letter_id: str) -> DeadLetter:
        try:
            return self._dead[letter_id]
        except KeyError:
            raise LetterNotFound(letter_id) from None


def _is_message(data: bytes, message_id: str) -> bool:
    # The bytes first: decoding a million payloads takes seconds. They may hold the id of another message, as a
    # pipeline's do, and so the decoded message has the last word.
    if message_id.encode() not in data:
        return False
    try:
        return Message.decode(data).message_id == message_id
    except Exception:
        return False
