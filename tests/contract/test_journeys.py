"""The sentences of :mod:`dramatiq_retryq.journeys`, on every store. Moves from broker to broker: tests/integration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dramatiq_retryq.errors import MoveRefused, QueueFull
from dramatiq_retryq.journeys import Arrival, Journey, Journeys
from dramatiq_retryq.memory_journeys import MemoryJourneys
from dramatiq_retryq.memory_store import MemoryStore
from dramatiq_retryq.records import DeadLetter
from dramatiq_retryq.sqlite_journeys import SQLiteJourneys
from dramatiq_retryq.sqlite_store import SQLiteStore

NOW = 1_767_225_600_000
HOUR = 3_600_000


class Both(NamedTuple):
    store: Any
    journeys: Journeys
    #: What another process would see, or the same where there is none.
    again: Callable[[], Journeys]


@pytest.fixture(params=["memory", "sqlite"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Both]:
    if request.param == "memory":
        memory = MemoryStore()
        journeys = MemoryJourneys(memory)
        yield Both(memory, journeys, lambda: journeys)
        assert memory.check() == []
        return
    opened = [SQLiteStore(tmp_path / "jobs.db")]

    def again() -> Journeys:
        opened.append(SQLiteStore(tmp_path / "jobs.db"))
        return SQLiteJourneys(opened[-1].database)

    yield Both(opened[0], SQLiteJourneys(opened[0].database), again)
    assert opened[0].check() == []
    for store in opened:
        store.close()


def begin(journeys: Journeys) -> None:
    journeys.begin(Journey(name="j", target="elsewhere"))


def test_what_has_departed_is_claimed_by_nobody_else_and_not_recovered(both: Both) -> None:
    begin(both.journeys)
    both.store.put("q", b"a", due_at=NOW, now=NOW)
    assert [claim.data for claim in both.journeys.depart("q", limit=5, now=NOW)] == [b"a"]
    assert both.store.claim("q", now=NOW + HOUR, limit=5, owner="w") == []
    assert both.store.recover(now=NOW + HOUR, max_crashes=1) == []
    assert both.store.counts(now=NOW)["q"].claimed == 1


def test_departing_takes_what_waits_due_or_not_in_due_order_and_nothing_that_a_worker_holds(both: Both) -> None:
    begin(both.journeys)
    both.store.put("q", b"held by a worker", due_at=NOW - 1, now=NOW)
    [claim] = both.store.claim("q", now=NOW, limit=1, owner="w")
    for data, due_at in ((b"later", NOW + HOUR), (b"second", NOW), (b"third", NOW), (b"first", NOW - 2)):
        both.store.put("q", data, due_at=due_at, now=NOW)
    both.store.put("other", b"other", due_at=NOW, now=NOW)
    assert both.journeys.waiting() == {"q": 4, "other": 1}
    taken = [*both.journeys.depart("q", limit=3, now=NOW), *both.journeys.depart("q", limit=3, now=NOW)]
    assert [(each.data, each.due_at) for each in taken] == [
        (b"first", NOW - 2),
        (b"second", NOW),
        (b"third", NOW),
        (b"later", NOW + HOUR),
    ]
    both.store.finish(claim)


def test_what_has_departed_and_was_not_settled_is_found_again(both: Both) -> None:
    begin(both.journeys)
    for data in (b"a", b"b", b"c"):
        both.store.put("q", data, due_at=NOW, now=NOW)
    settled, given_back, left = both.journeys.depart("q", limit=3, now=NOW)
    both.journeys.settle([settled])
    assert both.store.release([given_back], now=NOW) == 1
    again = both.again()
    assert again.current() == Journey(name="j", target="elsewhere")
    assert again.departed() == [left]
    assert [claim.data for claim in both.store.claim("q", now=NOW, limit=5, owner="w")] == [b"b"]
    again.settle([left])
    again.end()
    assert again.current() is None


def test_an_arrival_is_stored_once_for_each_key_of_a_journey(both: Both) -> None:
    both.journeys.expect("j")
    assert both.journeys.arrive("j", [Arrival("1", "q", b"a", NOW), Arrival("2", "q", b"a", NOW + 1)], now=NOW) == 2
    assert both.journeys.arrive("j", [Arrival("2", "q", b"a", NOW), Arrival("3", "q", b"b", NOW)], now=NOW) == 1
    assert both.journeys.arrived("j", ["1", "3", "4"]) == {"1", "3"}
    assert both.store.counts(now=NOW)["q"].waiting == 3


def test_a_note_is_there_until_it_is_forgotten_also_when_the_message_is_done(both: Both) -> None:
    both.journeys.expect("j")
    both.journeys.arrive("j", [Arrival("1", "q", b"a", NOW)], now=NOW)
    for claim in both.store.claim("q", now=NOW, limit=1, owner="w"):
        both.store.finish(claim)
    again = both.again()
    assert again.knows("j")
    assert not again.knows("another")
    assert again.arrive("j", [Arrival("1", "q", b"a", NOW)], now=NOW) == 0
    again.forget("j", ["1"])
    assert again.arrive("j", [Arrival("1", "q", b"a", NOW)], now=NOW) == 1
    again.forget("j")
    assert not again.knows("j")


def test_one_move_at_a_time_holds_a_store(both: Both) -> None:
    with both.journeys.held(), pytest.raises(MoveRefused, match="another"), both.again().held():
        pass
    with both.again().held():
        pass


def test_what_is_moved_counts_neither_as_sent_nor_as_succeeded(both: Both) -> None:
    begin(both.journeys)
    both.journeys.expect("j")
    both.journeys.arrive("j", [Arrival("1", "q", b"a", NOW)], now=NOW)
    both.journeys.settle(both.journeys.depart("q", limit=1, now=NOW))
    assert list(both.store.minutes(since_at=NOW - HOUR, now=NOW)) == []


def test_a_letter_is_laid_down_once_under_an_id_of_the_store_and_listed_by_its_instant(both: Both) -> None:
    both.journeys.expect("j")
    for key, died_at in (("late", NOW), ("early", NOW - 5), ("early", NOW - 5)):
        letter = DeadLetter(
            id="of another broker", reason="exhausted", queue_name="q", actor_name="a", died_at=died_at, data=b"x"
        )
        both.journeys.lay("j", key, letter)
    letters = list(both.store.letters())
    assert [letter.died_at for letter in letters] == [NOW, NOW - 5]
    both.store.revive(letters[0].id, data=b"y", due_at=NOW, now=NOW)
    assert [claim.data for claim in both.store.claim("q", now=NOW, limit=2, owner="w")] == [b"y"]


def test_a_full_store_notes_what_it_has_stored_and_refuses_the_rest() -> None:
    journeys = MemoryJourneys(MemoryStore(max_messages=1))
    journeys.expect("j")
    with pytest.raises(QueueFull):
        journeys.arrive("j", [Arrival("1", "q", b"a", NOW), Arrival("2", "q", b"b", NOW)], now=NOW)
    assert journeys.arrived("j", ["1", "2"]) == {"1"}
