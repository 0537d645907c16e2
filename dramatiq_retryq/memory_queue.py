"""One queue of the memory store: what waits, what is held, what is claimed. Whoever calls holds the store's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from .records import Claim, QueueCounts

__all__ = ["Held", "MemoryQueue", "Numbers", "Waiting"]

# An entry that waits: due instant, id, payload, deliveries. It compares by due instant, then by id, which is the
# order of arrival. A plain tuple and no record: the garbage collector stops looking at plain tuples of plain values,
# and with a million records each of its full runs would hold up what is due by tens of milliseconds.
Waiting = tuple[int, int, bytes, int]


class Held(NamedTuple):
    """An entry that waits for its actor to be resumed."""

    actor_name: str
    entry: Waiting


class Numbers(NamedTuple):
    """How much is in a queue. It is counted to the end without the lock: a million must not stop the workers."""

    waiting: int = 0
    due: int = 0
    unsorted: Sequence[Waiting] = ()
    claimed: int = 0
    held: int = 0
    oldest_due_at: int | None = None

    def counts(self, now: int, dead: int) -> QueueCounts:
        due = self.due + sum(1 for entry in self.unsorted if entry[0] <= now)
        return QueueCounts(
            due=due,
            later=self.waiting - due,
            claimed=self.claimed,
            dead=dead,
            held=self.held,
            oldest_due_at=self.oldest_due_at,
        )


class MemoryQueue:
    """What waits in one queue.

    Most messages are due as they arrive, and then arrival is the order already: they stand in ``line``, a sorted run
    at whose ends adding and taking is cheap. All others lie in ``heap``. The first of the queue is the lesser of the
    two heads.
    """

    __slots__ = ("claims", "done", "heap", "held", "line", "name", "sent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.line: deque[Waiting] = deque()
        self.heap: list[Waiting] = []
        self.claims: dict[int, Claim] = {}
        self.held: dict[int, Held] = {}
        #: What was put and what was finished in this minute: by far the most frequent, and counted without a call.
        self.sent = 0
        self.done = 0

    def add(self, entry: Waiting, now: int) -> None:
        line = self.line
        if entry[0] <= now:
            if not line or line[-1] < entry:
                line.append(entry)
                return
            if entry < line[0]:
                line.appendleft(entry)
                return
        heappush(self.heap, entry)

    def take_back(self, claim: Claim, entry: Waiting, now: int) -> None:
        """Add an entry in the place of a claim on it; both or neither, also if a time limit interrupts the thread."""
        try:
            self.add(entry, now)
        except BaseException:
            if entry in self.line or entry in self.heap:
                self.claims.pop(claim.id, None)
            raise
        del self.claims[claim.id]

    def take(self, now: int) -> Waiting | None:
        line, heap = self.line, self.heap
        if line and not (heap and heap[0] < line[0]):
            return line.popleft() if line[0][0] <= now else None
        if heap and heap[0][0] <= now:
            return heappop(heap)
        return None

    def head(self) -> Waiting | None:
        if self.line and self.heap:
            return min(self.line[0], self.heap[0])
        first = self.line or self.heap
        return first[0] if first else None

    def first(self) -> int | None:
        """The due instant of the first that waits, held or not."""
        head = self.head()
        return min([*([head] if head else []), *(held.entry for held in self.held.values())], default=(None,))[0]

    def waiting(self) -> list[Waiting]:
        """What waits and is not held."""
        return [*self.line, *self.heap]

    def look_for(self, entry_id: int) -> Waiting | None:
        """The entry with this id, if it waits, held or not; all of them are looked at."""
        held = self.held.get(entry_id)
        if held is not None:
            return held.entry
        return next((entry for part in (self.line, self.heap) for entry in part if entry[1] == entry_id), None)

    def drop(self, entry: Waiting) -> None:
        """Take out an entry that waits."""
        if entry[1] in self.held:
            del self.held[entry[1]]
        elif entry in self.line:
            self.line.remove(entry)
        else:
            self.heap.remove(entry)
            heapify(self.heap)

    def numbers(self, now: int) -> Numbers:
        """How much is here in which state, but for how much of ``unsorted`` is due."""
        due, unsorted = 0, [held.entry for held in self.held.values()]
        if self.line and self.line[-1][0] <= now:
            due = len(self.line)
        elif self.line and self.line[0][0] <= now:
            unsorted += self.line
        if self.heap and self.heap[0][0] <= now:
            unsorted += self.heap
        return Numbers(len(self), due, unsorted, len(self.claims), len(self.held), self.first())

    def __len__(self) -> int:
        return len(self.line) + len(self.heap) + len(self.held)

    def ids(self) -> list[int]:
        """The ids of all that is here, in whatever state."""
        return [*self.claims, *self.held, *(entry[1] for entry in self.waiting())]

    def check(self, paused_actors: Collection[str]) -> list[str]:
        """A sentence for each invariant that is broken."""
        findings = []
        line, heap = list(self.line), self.heap
        if line != sorted(line):
            findings.append(f"queue {self.name!r}: the line is out of order")
        if any(heap[i] < heap[(i - 1) // 2] for i in range(1, len(heap))):
            findings.append(f"queue {self.name!r}: the heap is out of order")
        for entry_id, held in self.held.items():
            if held.entry[1] != entry_id:
                findings.append(f"queue {self.name!r}: what is held as entry {entry_id} is another one")
            if held.actor_name not in paused_actors:
                findings.append(f"queue {self.name!r}: entry {entry_id} is held for an actor that is not paused")
        for entry_id, claim in self.claims.items():
            if (claim.id, claim.queue_name) != (entry_id, self.name):
                findings.append(f"queue {self.name!r}: the claim on entry {entry_id} is on another one")
        return findings
