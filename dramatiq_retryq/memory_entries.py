"""What a memory store lists: copies of its queues, taken under its lock, and put in order after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from typing import NamedTuple

from .memory_queue import Held, MemoryQueue, Waiting
from .records import Claim, Entry, State

__all__ = ["Copied", "entries_of", "entry_of"]

#: How many entries are listed before all of them are put in order.
_FIRST = 200

#: The due instant, the id, the queue's name, and what it is.
_Listed = tuple[int, int, str, Waiting | Held | Claim]


class Copied(NamedTuple):
    """What was in a queue."""

    queue_name: str
    waiting: list[Waiting]
    held: list[Held]
    claims: list[Claim]

    @classmethod
    def of(cls, queue: MemoryQueue) -> Copied:
        return cls(queue.name, queue.waiting(), [*queue.held.values()], [*queue.claims.values()])

    def listed(self, state: State | None) -> Iterator[_Listed]:
        name = self.queue_name
        if state != "claimed":
            yield from [(entry[0], entry[1], name, entry) for entry in self.waiting]
            yield from [(item.entry[0], item.entry[1], name, item) for item in self.held]
        if state != "waiting":
            yield from [(claim.due_at, claim.id, name, claim) for claim in self.claims]


def entries_of(
    queues: Iterable[Copied],
    *,
    state: State | None = None,
    after: tuple[int, int] | None = None,
    containing: Sequence[bytes] = (),
) -> Iterator[Entry]:
    """The entries in the order of their due instant, then of their arrival; see ``Store.entries``."""
    items = [item for queue in queues for item in queue.listed(state)]
    if after is not None:
        items = [item for item in items if item[:2] > after]
    if containing:
        items = [item for item in items if all(part in _payload(item[3]) for part in containing)]
    return _in_order(items)


def _in_order(found: list[_Listed]) -> Iterator[Entry]:
    # All of them are put in order for who reads on only: who pages through a million asks for a few at a time.
    first = nsmallest(_FIRST, found) if len(found) > _FIRST else sorted(found)
    for item in first:
        yield entry_of(item[2], item[3])
    if len(found) > _FIRST:
        for item in sorted(found)[_FIRST:]:
            yield entry_of(item[2], item[3])


def _payload(item: Waiting | Held | Claim) -> bytes:
    if isinstance(item, Held):
        return item.entry[2]
    return item.data if isinstance(item, Claim) else item[2]


def entry_of(queue_name: str, item: Waiting | Held | Claim) -> Entry:
    """The record of what waits, is held or is claimed."""
    if isinstance(item, Claim):
        return Entry(
            id=item.id,
            queue_name=queue_name,
            state="claimed",
            data=item.data,
            due_at=item.due_at,
            deliveries=item.deliveries,
            claimed_at=item.claimed_at,
            owner=item.owner,
        )
    held_for, entry = (item.actor_name, item.entry) if isinstance(item, Held) else (None, item)
    due_at, entry_id, data, deliveries = entry
    return Entry(
        id=entry_id,
        queue_name=queue_name,
        state="waiting",
        data=data,
        due_at=due_at,
        deliveries=deliveries,
        held_for=held_for,
    )
