"""The contract in ``dramatiq_retryq/store.py``, those of its sentences that are there for operators.

Each section is headed by its sentence, as in ``test_store_contract.py``, which holds both files and the contract
together.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest

from dramatiq_retryq.errors import ClaimLost, LetterNotFound, MessageNotFound
from dramatiq_retryq.records import Claim, Entry
from dramatiq_retryq.status import Minute, Rates, RunningMessage
from dramatiq_retryq.store import Store
from tests.contract.steps import HOUR, NOW, claim, claim_one, die, encoded, ids, letter_for, put

MINUTE = 60_000


def seen(store: Store) -> object:
    """All that can be seen of a store without touching it."""
    return store.counts(now=NOW), list(store.entries()), list(store.letters()), store.paused(), store.check()


def listed(store: Store, **filters: object) -> list[int]:
    return [entry.id for entry in store.entries(**filters)]  # type: ignore[arg-type]


def hold(store: Store, actor_name: str = "add", *, count: int = 1, queue: str = "default") -> list[Claim]:
    """Pause an actor, and set aside what is claimed for it."""
    store.pause(actor_name=actor_name, now=NOW)
    claimed = claim(store, queue, limit=count)
    assert store.hold(claimed, actor_name, now=NOW) == len(claimed) == count
    return claimed


# 23. ``entries`` are those that wait or are claimed, in the order of their due instant, then of their arrival, behind
#     the place that was given.


def test_entries_are_listed_by_due_instant_and_then_by_arrival(store: Store) -> None:
    late, first, second = put(store, due_at=NOW + 9), put(store, due_at=NOW), put(store, "other", due_at=NOW)
    soon = put(store, due_at=NOW + 1)
    assert listed(store) == [first, second, soon, late]


def test_entries_are_those_that_wait_and_those_that_are_claimed(store: Store) -> None:
    die(store)
    put(store)
    store.finish(claim_one(store))
    claimed, waiting = put(store, data=encoded("claimed")), put(store, data=encoded("waiting"), due_at=NOW + HOUR)
    [held] = claim(store)
    assert held.id == claimed
    assert list(store.entries()) == [
        Entry(
            id=claimed,
            queue_name="default",
            state="claimed",
            data=encoded("claimed"),
            due_at=NOW,
            deliveries=1,
            claimed_at=NOW,
            owner="host:1",
        ),
        Entry(
            id=waiting,
            queue_name="default",
            state="waiting",
            data=encoded("waiting"),
            due_at=NOW + HOUR,
            deliveries=0,
        ),
    ]
    assert listed(store, state="claimed") == [claimed]
    assert listed(store, state="waiting") == [waiting]


def test_entries_can_be_those_of_one_queue(store: Store) -> None:
    ours, theirs = put(store), put(store, "other")
    assert (listed(store, queue_name="default"), listed(store, queue_name="other")) == ([ours], [theirs])
    claim(store)
    assert listed(store, queue_name="default") == [ours]
    assert listed(store, queue_name="nobody's") == []


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 450])
def test_every_entry_is_listed_once_however_many_there_are(store: Store, count: int) -> None:
    arrived = [put(store, due_at=NOW + i % 3) for i in range(count)]
    wanted = [entry_id for offset in range(3) for entry_id in arrived[offset::3]]
    assert listed(store) == wanted


def test_a_page_begins_behind_the_place_that_was_given(store: Store) -> None:
    arrived = [put(store, due_at=due_at) for due_at in (NOW, NOW, NOW, NOW + 1)]
    assert listed(store, after=(NOW, arrived[0])) == arrived[1:]
    assert listed(store, after=(NOW, arrived[2])) == arrived[3:]
    assert listed(store, after=(NOW - 1, 1 << 62)) == arrived
    assert listed(store, after=(NOW + 1, arrived[3])) == []


def test_the_place_behind_which_a_page_begins_need_not_be_there_any_more(store: Store) -> None:
    first, second, third = (put(store) for _ in range(3))
    store.cancel(str(second))
    assert listed(store, after=(NOW, second)) == [third]
    assert first != third


def test_entries_can_be_those_that_have_something_in_their_payload(store: Store) -> None:
    store.pause(actor_name="add", now=NOW)
    names = ("held", "claimed", "waiting", "other")
    arrived = [put(store, data=f"a {name} payload".encode()) for name in names]
    store.hold(claim(store, limit=1), "add", now=NOW)
    claim(store, limit=1)
    assert listed(store, containing=[b"payload"]) == arrived
    assert [listed(store, containing=[name.encode(), b"a "]) for name in names] == [[one] for one in arrived]
    assert listed(store, containing=[b"held", b"waiting"]) == []


def test_pages_hold_what_is_claimed_and_what_is_held_too(store: Store) -> None:
    arrived = [put(store) for _ in range(4)]
    hold(store)
    assert ids(claim(store, limit=1)) == [arrived[1]]
    assert listed(store) == arrived
    assert listed(store, after=(NOW, arrived[0])) == arrived[1:]
    assert listed(store, after=(NOW, arrived[1])) == arrived[2:]


def test_an_entry_is_found_by_its_id_while_it_waits_or_is_claimed(store: Store) -> None:
    entry_id = put(store)
    [waiting] = store.entries()
    assert store.entry(str(entry_id)) == waiting
    claimed = claim_one(store)
    found = store.entry(str(entry_id))
    assert found is not None
    assert (found.state, found.owner) == ("claimed", "host:1")
    store.bury(claimed, letter_for(claimed))
    assert store.entry(str(entry_id)) is None


@pytest.mark.parametrize("entry_id", ["", "0", "-1", " 1", "01", "1.0", "no", "9" * 19, "9" * 50, "\u0661"])
def test_what_is_no_id_finds_nothing_and_moves_nothing(store: Store, entry_id: str) -> None:
    put(store)
    before = seen(store)
    assert store.entry(entry_id) is None
    with pytest.raises(MessageNotFound):
        store.move(entry_id, due_at=NOW, now=NOW)
    with pytest.raises(MessageNotFound):
        store.cancel(entry_id)
    assert seen(store) == before


# 24. A moved entry is the same entry, with its payload, waiting until another instant.


@pytest.mark.parametrize(("due_at", "later"), [(NOW, NOW + HOUR), (NOW + HOUR, NOW), (NOW, NOW), (NOW, NOW - HOUR)])
def test_a_moved_entry_is_due_at_its_new_instant(store: Store, due_at: int, later: int) -> None:
    entry_id = put(store, data=b"payload", due_at=due_at)
    assert store.move(str(entry_id), due_at=later, now=NOW) == "default"
    assert store.next_due("default") == later
    assert claim(store, now=later - 1) == []
    [moved] = claim(store, now=later)
    assert (moved.id, moved.data, moved.due_at, moved.deliveries) == (entry_id, b"payload", later, 1)


def test_a_moved_entry_is_there_once_and_takes_its_place_among_the_others(store: Store) -> None:
    first, second, third = (put(store, due_at=NOW + i) for i in range(3))
    store.move(str(first), due_at=NOW + 1, now=NOW)
    assert listed(store) == [first, second, third]
    store.move(str(first), due_at=NOW + 2, now=NOW)
    store.move(str(third), due_at=NOW, now=NOW)
    assert listed(store) == [third, second, first]
    assert ids(claim(store, now=NOW + 2)) == [third, second, first]


def test_a_moved_entry_keeps_its_deliveries(store: Store) -> None:
    entry_id = put(store)
    store.release(claim(store), now=NOW)
    store.move(str(entry_id), due_at=NOW - 1, now=NOW)
    assert claim_one(store).deliveries == 1


# 25. A cancelled entry is gone.


def test_a_cancelled_entry_is_gone(store: Store) -> None:
    entry_id, other = put(store, data=encoded("gone")), put(store)
    assert store.cancel(str(entry_id)) == "default"
    assert store.find("gone") is None
    assert ids(claim(store)) == [other]


def test_an_entry_for_later_can_be_cancelled_too(store: Store) -> None:
    sooner, entry_id, later = (put(store, due_at=NOW + i * HOUR) for i in (1, 2, 3))
    store.cancel(str(entry_id))
    assert listed(store) == [sooner, later]
    assert store.counts(now=NOW)["default"].later == 2


# 26. Only what waits is moved or cancelled, once; all else raises ``MessageNotFound`` and changes nothing.


def test_what_is_claimed_dead_or_gone_is_neither_moved_nor_cancelled(store: Store) -> None:
    letter_id = die(store)
    finished = put(store)
    store.finish(claim_one(store))
    claimed = put(store)
    held = claim_one(store)
    before = seen(store)
    for entry_id in (letter_id, str(finished), str(claimed), str(claimed + 1)):
        with pytest.raises(MessageNotFound, match=entry_id):
            store.move(entry_id, due_at=NOW, now=NOW)
        with pytest.raises(MessageNotFound, match=entry_id):
            store.cancel(entry_id)
    assert seen(store) == before
    store.finish(held)


def test_an_entry_is_cancelled_once(store: Store) -> None:
    entry_id = str(put(store))
    store.cancel(entry_id)
    with pytest.raises(MessageNotFound):
        store.cancel(entry_id)


# 27. A pause lasts until it is resumed; pausing again does not change since when.


def test_nothing_is_paused_at_first(store: Store) -> None:
    assert not store.paused()
    assert store.paused().since is None


def test_a_pause_lasts_until_it_is_resumed(store: Store) -> None:
    store.pause(queue_name="default", now=NOW)
    store.pause(actor_name="add", now=NOW + 1)
    store.pause(queue_name="add", now=NOW + 2)
    assert store.paused()
    assert (store.paused().queues, store.paused().actors) == ({"default", "add"}, {"add"})
    store.resume(queue_name="add", now=NOW)
    assert (store.paused().queues, store.paused().actors) == ({"default"}, {"add"})
    store.resume(actor_name="add", now=NOW)
    store.resume(queue_name="default", now=NOW)
    assert not store.paused()


def test_pausing_again_does_not_change_since_when(store: Store) -> None:
    for now in (NOW, NOW + HOUR):
        store.pause(queue_name="default", now=now)
        store.pause(actor_name="add", now=now + 1)
    assert store.paused().since_queues == {"default": NOW}
    assert store.paused().since_actors == {"add": NOW + 1}
    assert store.paused().since == NOW


def test_resuming_what_is_not_paused_changes_nothing(store: Store) -> None:
    store.pause(queue_name="default", now=NOW)
    store.resume(actor_name="default", now=NOW)
    store.resume(queue_name="other", now=NOW)
    assert store.paused().queues == {"default"}


# 28. An entry that was set aside waits and is held: it is never claimed, and that delivery is not counted.


def test_a_held_entry_is_never_claimed(store: Store) -> None:
    held, other = put(store), put(store)
    hold(store)
    assert ids(claim(store, now=NOW + HOUR)) == [other]
    assert claim(store, now=NOW + HOUR) == []
    [entry] = store.entries(state="waiting")
    assert (entry.id, entry.held_for, entry.deliveries, entry.owner) == (held, "add", 0, None)


def test_a_held_entry_does_not_count_as_the_next_that_is_due(store: Store) -> None:
    put(store)
    hold(store)
    assert store.next_due("default") is None
    put(store, due_at=NOW + HOUR)
    assert store.next_due("default") == NOW + HOUR


def test_a_held_entry_counts_as_waiting_and_as_due(store: Store) -> None:
    put(store, due_at=NOW - 5)
    put(store, due_at=NOW + HOUR)
    hold(store)
    counts = store.counts(now=NOW)["default"]
    assert (counts.due, counts.later, counts.held, counts.claimed) == (1, 1, 1, 0)
    assert counts.oldest_due_at == NOW - 5
    assert store.unfinished("default") == 2


def test_a_queue_in_which_all_that_waits_is_held_is_idle(store: Store) -> None:
    put(store)
    hold(store)
    assert store.is_idle("default")
    put(store)
    assert not store.is_idle("default")
    assert store.is_idle("default", paused=True)
    claim(store)
    assert not store.is_idle("default", paused=True)


def test_a_held_entry_can_be_found_moved_and_cancelled_and_stays_held(store: Store) -> None:
    first, second = put(store, data=encoded("a")), put(store, data=encoded("b"))
    hold(store, count=2)
    store.move(str(first), due_at=NOW - HOUR, now=NOW)
    found = store.find("a")
    assert isinstance(found, Entry)
    assert (found.held_for, found.due_at) == ("add", NOW - HOUR)
    assert claim(store) == []
    store.cancel(str(second))
    assert listed(store) == [first]


def test_flush_drops_what_is_held_too(store: Store) -> None:
    put(store)
    put(store)
    hold(store)
    assert store.flush("default") == 2
    store.resume(actor_name="add", now=NOW)
    assert claim(store) == []


def test_a_held_entry_takes_part_of_max_messages(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    put(store)
    hold(store)
    with pytest.raises(Exception, match="max_messages=1"):
        put(store)


def test_a_claim_that_was_set_aside_is_lost(store: Store) -> None:
    put(store)
    [claimed] = hold(store)
    with pytest.raises(ClaimLost):
        store.finish(claimed)
    with pytest.raises(LetterNotFound):
        store.discard(str(claimed.id))


# 29. Only what is claimed, for an actor that is paused, is set aside.


def test_for_an_actor_that_is_not_paused_it_is_released(store: Store) -> None:
    entry_id = put(store)
    store.pause(queue_name="add", now=NOW)
    assert store.hold(claim(store), "add", now=NOW) == 0
    claimed = claim_one(store)
    assert (claimed.id, claimed.deliveries) == (entry_id, 1)


def test_a_claim_that_is_lost_is_not_set_aside(store: Store) -> None:
    first, second = put(store), put(store)
    claimed = claim(store)
    store.pause(actor_name="add", now=NOW)
    store.finish(claimed[0])
    assert store.hold(claimed, "add", now=NOW) == 1
    assert store.hold(claimed, "add", now=NOW) == 0
    assert store.hold([], "add", now=NOW) == 0
    assert listed(store) == [second]
    assert first != second


# 30. When its actor is resumed, what is held for it waits at its old place.


def test_what_was_held_waits_at_its_old_place_when_its_actor_is_resumed(store: Store) -> None:
    arrived = [put(store, due_at=NOW - 10 + i) for i in range(5)]
    hold(store, count=3)
    assert ids(claim(store, limit=1)) == [arrived[3]]
    store.resume(actor_name="add", now=NOW)
    claimed = claim(store)
    assert ids(claimed) == [*arrived[:3], arrived[4]]
    assert [claim.deliveries for claim in claimed] == [1, 1, 1, 1]


def test_what_is_held_for_another_actor_stays_held(store: Store) -> None:
    put(store)
    hold(store, "add")
    ours = put(store)
    hold(store, "subtract")
    store.resume(actor_name="subtract", now=NOW)
    assert ids(claim(store)) == [ours]


def test_however_many_were_held_they_are_all_let_go(store: Store) -> None:
    arrived = [put(store) for _ in range(300)]
    hold(store, count=300)
    store.resume(actor_name="add", now=NOW)
    assert ids(claim(store)) == arrived


# 31. What happened is counted once, in its minute and queue, and kept for 24 hours.


def rates(store: Store, *, since_at: int = 0, now: int = NOW) -> Rates:
    return Rates.sum(minute.rates for minute in store.minutes(since_at=since_at, now=now))


def test_nothing_has_happened_at_first(store: Store) -> None:
    assert store.minutes(since_at=0, now=NOW) == []


def test_each_move_counts_as_what_it_is(store: Store) -> None:
    for _ in range(6):
        put(store)
    claimed = claim(store)
    store.finish(claimed[0], now=NOW)
    store.finish_many(claimed[1:3], now=NOW)
    store.reschedule(claimed[3], data=b"again", due_at=NOW + HOUR, now=NOW)
    store.reschedule(claimed[4], data=b"later", due_at=NOW + HOUR, now=NOW, outcome="snoozed")
    store.bury(claimed[5], letter_for(claimed[5]))
    assert list(store.minutes(since_at=NOW - MINUTE, now=NOW)) == [
        Minute(
            at=NOW,
            queue_name="default",
            rates=Rates(sent=6, succeeded=3, retried=1, failed=2, died=1, snoozed=1, deaths={"exhausted": 1}),
        )
    ]


def test_what_changed_nothing_is_not_counted(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    store.finish(claimed)
    with pytest.raises(ClaimLost):
        store.finish(claimed)
    with pytest.raises(ClaimLost):
        store.reschedule(claimed, data=b"again", due_at=NOW, now=NOW)
    with pytest.raises(ClaimLost):
        store.bury(claimed, letter_for(claimed))
    assert list(store.finish_many([claimed])) == [claimed]
    assert rates(store) == Rates(sent=1, succeeded=1)


def test_what_is_released_held_moved_cancelled_revived_or_discarded_is_not_counted(store: Store) -> None:
    letter_id = die(store, died_at=NOW)
    before = rates(store)
    store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)
    store.release(claim(store), now=NOW)
    hold(store)
    store.move(letter_id, due_at=NOW, now=NOW)
    store.cancel(letter_id)
    store.discard(die(store, died_at=NOW))
    after = rates(store)
    assert (after.sent - before.sent, after.died - before.died) == (1, 1)
    assert (after.succeeded, after.retried, after.snoozed) == (0, 0, 0)


def test_a_notice_counts_as_sent_to_its_queue(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed), notice=("undertaker", b"told"))
    by_queue = {minute.queue_name: minute.rates for minute in store.minutes(since_at=0, now=NOW)}
    assert by_queue["undertaker"] == Rates(sent=1)
    assert by_queue["default"].died == 1


def test_minutes_are_listed_oldest_first_and_then_by_queue(store: Store) -> None:
    for now, queue in itertools.product((NOW + MINUTE, NOW, NOW + 2 * MINUTE), ("other", "default")):
        put(store, queue, now=now)
    assert [(minute.at, minute.queue_name) for minute in store.minutes(since_at=NOW, now=NOW)] == [
        (NOW + i * MINUTE, queue) for i in range(3) for queue in ("default", "other")
    ]


def test_a_minute_is_that_in_which_it_happened(store: Store) -> None:
    put(store, now=NOW - 1)
    put(store, now=NOW)
    put(store, now=NOW + MINUTE - 1)
    claimed = claim(store)
    store.finish_many(claimed, now=NOW + MINUTE)
    assert [(m.at, m.rates.sent, m.rates.succeeded) for m in store.minutes(since_at=0, now=NOW)] == [
        (NOW - MINUTE, 1, 0),
        (NOW, 2, 0),
        (NOW + MINUTE, 0, 3),
    ]


@pytest.mark.parametrize(("since_at", "sent"), [(NOW - 1, 3), (NOW, 2), (NOW + 1, 2), (NOW + MINUTE, 1)])
def test_only_minutes_that_reach_beyond_the_instant_are_listed(store: Store, since_at: int, sent: int) -> None:
    for now in (NOW - 1, NOW, NOW + MINUTE):
        put(store, now=now)
    assert rates(store, since_at=since_at).sent == sent


def test_what_is_older_than_a_day_is_forgotten(store: Store) -> None:
    put(store, now=NOW)
    put(store, now=NOW + MINUTE)
    put(store, now=NOW + 24 * HOUR)
    assert [minute.at for minute in store.minutes(since_at=0, now=NOW + 24 * HOUR)] == [NOW + MINUTE, NOW + 24 * HOUR]


def test_a_clock_that_leaps_ahead_and_back_leaves_no_minutes_to_come(store: Store) -> None:
    put(store, now=NOW)
    put(store, now=NOW + 100 * 24 * HOUR)
    put(store, now=NOW)
    assert {minute.at for minute in store.minutes(since_at=0, now=NOW)} == {NOW}


def test_what_was_counted_is_kept_when_told_to(store: Store) -> None:
    for _ in range(3):
        put(store)
    store.keep_counts(now=NOW)
    store.keep_counts(now=NOW + HOUR)
    assert rates(store).sent == 3


# 32. A worker is listed from its start to its stop, with the claims that were begun and not ended, and since when.


@pytest.mark.usefixtures("kept_open")
def test_a_worker_is_listed_from_its_start_to_its_stop(store: Store) -> None:
    assert list(store.workers()) == []
    store.worker_started("host:1", now=NOW)
    [worker] = store.workers()
    assert (worker.owner, worker.started_at, worker.running) == ("host:1", NOW, ())
    store.worker_stopped()
    assert list(store.workers()) == []
    store.worker_started("host:1", now=NOW + 5)
    [worker] = store.workers()
    assert worker.started_at == NOW + 5


@pytest.mark.usefixtures("kept_open")
def test_a_claim_that_was_begun_and_not_ended_is_running_since_then(store: Store) -> None:
    store.worker_started("host:1", now=NOW)
    for name in ("first", "second", "third"):
        put(store, data=encoded(name))
    first, second, _ = claim(store)
    store.begin(first, now=NOW + 1)
    store.begin(second, now=NOW + 2)
    store.end(first)
    [worker] = store.workers()
    assert worker.running == (
        RunningMessage(message_id="second", actor_name="add", queue_name="default", since=NOW + 2),
    )
    store.end(second)
    [worker] = store.workers()
    assert worker.running == ()


@pytest.mark.usefixtures("kept_open")
def test_who_claims_without_being_a_worker_is_not_listed(store: Store) -> None:
    put(store)
    claim(store)
    assert list(store.workers()) == []


@pytest.mark.usefixtures("kept_open")
def test_a_payload_that_is_no_message_does_not_hide_its_worker(store: Store) -> None:
    store.worker_started("host:1", now=NOW)
    put(store, data=b"payload")
    store.begin(claim_one(store))
    assert [worker.owner for worker in store.workers()] == ["host:1"]


# 33. ``dead_by_reason`` has each letter that lies there once, under its reason, and changes nothing.


def test_each_letter_is_counted_under_its_reason(store: Store) -> None:
    assert store.dead_by_reason() == {}
    for reason in ("exhausted", "rejected", "exhausted"):
        put(store, queue=reason, due_at=0)
        [claimed] = claim(store, reason)
        store.bury(claimed, dataclasses.replace(letter_for(claimed), reason=reason))  # type: ignore[arg-type]
    put(store)
    before = seen(store)
    assert store.dead_by_reason() == {"exhausted": 2, "rejected": 1}
    assert seen(store) == before
    store.discard(next(letter.id for letter in store.letters() if letter.reason == "rejected"))
    assert store.dead_by_reason() == {"exhausted": 2}
