"""That the memory store's ``check`` speaks up: in every other test it is what says that all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dramatiq_retryq.memory_store import MemoryStore
from dramatiq_retryq.records import Claim, DeadLetter

NOW = 1_767_225_600_000


@pytest.fixture
def store() -> MemoryStore:
    """Two entries that are due, two for later, one that is claimed and one that is dead."""
    store = MemoryStore()
    for _ in range(2):
        store.put("default", b"x", due_at=NOW - 1, now=NOW)
    dead, _ = store.claim("default", now=NOW, limit=2, owner="host:1")
    store.bury(dead, letter(dead))
    for due_at in (NOW, NOW, NOW + 5, NOW + 6):
        store.put("default", b"x", due_at=due_at, now=NOW)
    assert store.check() == []
    return store


def letter(claim: Claim) -> DeadLetter:
    return DeadLetter(
        id=str(claim.id),
        reason="exhausted",
        queue_name="default",
        actor_name="add",
        died_at=NOW,
        data=b"x",
    )


def test_check_speaks_of_a_line_that_is_out_of_order(store: MemoryStore) -> None:
    store._queues["default"].line.reverse()
    assert store.check() == ["queue 'default': the line is out of order"]


def test_check_speaks_of_a_heap_that_is_out_of_order(store: MemoryStore) -> None:
    store._queues["default"].heap.reverse()
    assert store.check() == ["queue 'default': the heap is out of order"]


def test_check_speaks_of_an_entry_that_waits_twice(store: MemoryStore) -> None:
    line = store._queues["default"].line
    line.append(line[-1])
    assert store.check() == ["an entry is in two states at once"]


def test_check_speaks_of_an_entry_that_is_dead_and_waits(store: MemoryStore) -> None:
    store._queues["default"].line.appendleft((0, 1, b"x", 0))
    assert store.check() == ["an entry is in two states at once"]


def test_check_speaks_of_a_claim_that_is_on_another_entry(store: MemoryStore) -> None:
    claims = store._queues["default"].claims
    claims[99] = claims.pop(2)
    assert store.check() == ["queue 'default': the claim on entry 99 is on another one"]


def test_check_speaks_of_a_letter_with_the_id_of_another(store: MemoryStore) -> None:
    store._dead._letters["1"] = replace(store.letter("1"), id="7")
    assert store.check() == ["dead letter 1 calls itself 7"]


def test_what_was_cleared_is_empty_and_can_be_used(store: MemoryStore) -> None:
    store.clear()
    assert store.counts(now=NOW) == {}
    store.put("default", b"x", due_at=NOW, now=NOW)
    assert store.unfinished("default") == 1
    assert store.check() == []
