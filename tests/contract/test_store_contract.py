"""The contract in ``dramatiq_retryq/store.py``, sentence by sentence.

Each section is headed by a sentence of the contract, word for word, and the first test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import dramatiq_retryq.store
from dramatiq_retryq.errors import ClaimLost, LetterNotFound, QueueFull
from dramatiq_retryq.records import Claim, DeadLetter, Entry, QueueCounts
from dramatiq_retryq.store import Store
from tests.contract.steps import HOUR, NOW, claim, claim_one, die, encoded, ids, letter_for, put


def seen(store: Store) -> object:
    """All that can be seen of a store without touching it."""
    queues = sorted({"default", "other", *store.counts(now=NOW)})
    return (
        store.counts(now=NOW),
        [(queue, store.next_due(queue), store.unfinished(queue)) for queue in queues],
        list(store.letters()),
        store.check(),
    )


def sentences(text: str) -> list[str]:
    """The numbered sentences of a text, without line breaks."""
    found = re.findall(r"^ *(\d+)\.  ?(.+(?:\n {4}\S.*)*)", text, re.M)
    return [f"{number}. {' '.join(sentence.split())}" for number, sentence in found]


def test_every_sentence_of_the_contract_has_a_test() -> None:
    contract = sentences(dramatiq_retryq.store.__doc__ or "")
    files = [Path(__file__), Path(__file__).with_name("test_store_contract_operators.py")]
    sections = [
        section
        for file in files
        for section in re.split(r"^(?=# \d+\. )", file.read_text(encoding="utf-8"), flags=re.M)[1:]
    ]
    tested = [
        sentences(re.sub(r"^# ?", "", section.split("\n\n", 1)[0], flags=re.M))[0]
        for section in sections
        if "\ndef test_" in section
    ]
    assert len(contract) == 33
    assert tested == contract


# 1.  An entry that was put is handed out once, until it is released, rescheduled, revived or recovered.


def test_an_entry_that_was_put_is_handed_out_once(store: Store) -> None:
    entry_id = put(store)
    assert ids(claim(store)) == [entry_id]
    assert claim(store) == []
    assert claim(store, now=NOW + HOUR) == []


def test_an_entry_that_was_released_is_handed_out_once_more(store: Store) -> None:
    entry_id = put(store)
    store.release(claim(store), now=NOW)
    assert ids(claim(store)) == [entry_id]
    assert claim(store) == []


def test_an_entry_that_was_rescheduled_is_handed_out_once_more(store: Store) -> None:
    entry_id = put(store)
    store.reschedule(claim_one(store), data=b"again", due_at=NOW, now=NOW)
    assert ids(claim(store)) == [entry_id]
    assert claim(store) == []


def test_an_entry_that_was_revived_is_handed_out_once_more(store: Store) -> None:
    letter_id = die(store)
    store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)
    assert ids(claim(store)) == [int(letter_id)]
    assert claim(store) == []


def test_entries_with_the_same_payload_are_different_entries(store: Store) -> None:
    first, second = put(store), put(store)
    assert first != second
    assert ids(claim(store)) == [first, second]


def test_a_claim_says_what_was_claimed_when_and_by_whom(store: Store) -> None:
    entry_id = put(store, due_at=NOW - 5)
    claimed = claim_one(store, now=NOW + 7)
    assert (claimed.id, claimed.queue_name, claimed.due_at) == (entry_id, "default", NOW - 5)
    assert (claimed.claimed_at, claimed.owner) == (NOW + 7, "host:1")


def test_a_claim_is_told_from_every_other_one_of_the_same_entry(store: Store) -> None:
    put(store)
    tokens = []
    for _ in range(5):
        claimed = claim_one(store)
        tokens.append(claimed.token)
        store.release([claimed], now=NOW)
    assert len(set(tokens)) == 5


# 2.  Claim takes entries in the order of their due instant, then of their arrival.


def test_claim_takes_the_earliest_due_first(store: Store) -> None:
    due = [5, 3, 9, 1, 7, 0, 8]
    for offset in due:
        put(store, due_at=NOW + offset)
    assert [claim.due_at - NOW for claim in claim(store, now=NOW + 9)] == sorted(due)


def test_claim_takes_entries_due_at_the_same_instant_in_the_order_of_their_arrival(store: Store) -> None:
    arrived = [put(store, due_at=NOW) for _ in range(50)]
    assert ids(claim(store)) == arrived


def test_the_order_is_the_same_whether_entries_are_claimed_together_or_one_by_one(store: Store) -> None:
    by_due = {put(store, due_at=NOW + offset): offset for offset in (4, 4, 2, 6, 2, 0, 6)}
    one_by_one = [claim_one(store, now=NOW + 10).id for _ in by_due]
    assert one_by_one == sorted(by_due, key=lambda entry_id: (by_due[entry_id], entry_id))


def test_what_was_put_for_later_stands_before_what_came_due_after_it(store: Store) -> None:
    later = put(store, due_at=NOW + 10, now=NOW)
    at_once = put(store, due_at=NOW + 20, now=NOW + 20)
    assert ids(claim(store, now=NOW + 20)) == [later, at_once]


def test_what_is_put_with_a_due_instant_long_past_goes_first(store: Store) -> None:
    recent = [put(store, due_at=NOW - 1), put(store, due_at=NOW)]
    overdue = [put(store, due_at=NOW - HOUR), put(store, due_at=NOW - 2 * HOUR)]
    assert ids(claim(store)) == [overdue[1], overdue[0], *recent]


def test_the_order_holds_when_the_clock_was_set_back_between_two_puts(store: Store) -> None:
    first = put(store, due_at=NOW, now=NOW)
    before = put(store, due_at=NOW - HOUR, now=NOW - HOUR)
    between = put(store, due_at=NOW - 5, now=NOW - HOUR)
    assert ids(claim(store)) == [before, between, first]


def test_a_rescheduled_entry_keeps_its_arrival(store: Store) -> None:
    first, second = put(store), put(store)
    store.reschedule(claim_one(store), data=b"again", due_at=NOW, now=NOW)
    assert ids(claim(store)) == [first, second]


# 3.  Claim never takes an entry that is not due, nor more than ``limit``, nor one of another queue.


def test_claim_never_takes_an_entry_that_is_not_due(store: Store) -> None:
    put(store, due_at=NOW + 1)
    assert claim(store) == []


def test_an_entry_is_due_at_its_very_instant(store: Store) -> None:
    entry_id = put(store, due_at=NOW + 1)
    assert ids(claim(store, now=NOW + 1)) == [entry_id]


def test_what_was_due_is_not_due_any_more_when_the_clock_was_set_back(store: Store) -> None:
    entry_id = put(store, due_at=NOW)
    assert claim(store, now=NOW - 1) == []
    assert ids(claim(store, now=NOW)) == [entry_id]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_claim_never_takes_more_than_the_limit(store: Store, limit: int) -> None:
    arrived = [put(store) for _ in range(5)]
    assert ids(claim(store, limit=limit)) == arrived[:limit]


def test_a_limit_of_zero_takes_nothing(store: Store) -> None:
    put(store)
    assert claim(store, limit=0) == []
    assert store.counts(now=NOW)["default"].due == 1


def test_claim_never_takes_an_entry_of_another_queue(store: Store) -> None:
    put(store, "default")
    other = put(store, "other")
    assert ids(claim(store, "other")) == [other]
    assert claim(store, "other") == []


def test_claim_takes_nothing_from_a_queue_that_nobody_used(store: Store) -> None:
    assert claim(store, "never heard of") == []


# 4.  Work that is far off never holds back work that is due.


def test_work_that_is_far_off_never_holds_back_work_that_is_due(store: Store) -> None:
    for i in range(200):
        put(store, due_at=NOW + HOUR + i)
    due = [put(store, due_at=NOW + i) for i in range(20)]
    assert ids(claim(store, now=NOW + 20, limit=20)) == due


def test_far_off_work_that_was_released_holds_back_nothing(store: Store) -> None:
    far_off = [put(store, due_at=NOW + HOUR) for _ in range(5)]
    store.release(claim(store, now=NOW + HOUR), now=NOW)
    due = put(store, due_at=NOW)
    assert ids(claim(store, now=NOW)) == [due]
    assert ids(claim(store, now=NOW + HOUR)) == far_off


# 5.  A claim gives exactly the bytes that were put.


@pytest.mark.parametrize(
    "data",
    [encoded(), b"", b"\x00", bytes(range(256)), b"\xff\xfe no text", "ü€😀".encode(), b"x" * 1_000_000],
    ids=["message", "empty", "nul", "all bytes", "no utf-8", "utf-8", "a megabyte"],
)
def test_a_claim_gives_exactly_the_bytes_that_were_put(store: Store, data: bytes) -> None:
    put(store, data=data)
    claimed = claim_one(store)
    assert claimed.data == data
    assert type(claimed.data) is bytes


def test_a_released_entry_still_has_the_bytes_that_were_put(store: Store) -> None:
    put(store, data=bytes(range(256)))
    store.release(claim(store), now=NOW)
    assert claim_one(store).data == bytes(range(256))


# 6.  A move on a claim that is no longer held raises ``ClaimLost`` and changes nothing.


def _finish(store: Store, claim: Claim) -> None:
    store.finish(claim)


def _reschedule(store: Store, claim: Claim) -> None:
    store.reschedule(claim, data=b"of the loser", due_at=NOW + 3, now=NOW)


def _bury(store: Store, claim: Claim) -> None:
    store.bury(claim, letter_for(claim, data=b"of the loser"))


def _release(store: Store, claim: Claim) -> None:
    store.release([claim], now=NOW)


def _release_and_claim_anew(store: Store, claim: Claim) -> None:
    store.release([claim], now=NOW)
    claim_one(store)


def _reschedule_and_claim_anew(store: Store, claim: Claim) -> None:
    store.reschedule(claim, data=b"again", due_at=NOW, now=NOW)
    claim_one(store)


def _bury_and_revive(store: Store, claim: Claim) -> None:
    store.bury(claim, letter_for(claim))
    store.revive(str(claim.id), data=b"again", due_at=NOW, now=NOW)


def _bury_and_discard(store: Store, claim: Claim) -> None:
    store.bury(claim, letter_for(claim))
    store.discard(str(claim.id))


MOVES = [_finish, _reschedule, _bury]
WAYS_TO_LOSE = [
    _finish,
    _reschedule,
    _bury,
    _release,
    _release_and_claim_anew,
    _reschedule_and_claim_anew,
    _bury_and_revive,
    _bury_and_discard,
]


def _name(function: Callable[..., None]) -> str:
    return function.__name__.strip("_")


@pytest.mark.parametrize("move", MOVES, ids=_name)
@pytest.mark.parametrize("lose", WAYS_TO_LOSE, ids=_name)
def test_a_move_on_a_claim_that_is_no_longer_held_raises_claim_lost_and_changes_nothing(
    store: Store, lose: Callable[..., None], move: Callable[..., None]
) -> None:
    put(store)
    claimed = claim_one(store)
    lose(store, claimed)
    before = seen(store)
    with pytest.raises(ClaimLost) as caught:
        move(store, claimed)
    assert caught.value.entry_id == claimed.id
    assert seen(store) == before


@pytest.mark.parametrize("move", MOVES, ids=_name)
def test_a_lost_claim_does_not_disturb_the_one_that_is_held(store: Store, move: Callable[..., None]) -> None:
    put(store)
    lost = claim_one(store)
    store.release([lost], now=NOW)
    held = claim_one(store)
    with pytest.raises(ClaimLost):
        move(store, lost)
    move(store, held)
    assert store.counts(now=NOW).get("default", QueueCounts()).claimed == 0


@pytest.mark.parametrize("lose", WAYS_TO_LOSE, ids=_name)
def test_a_release_passes_over_claims_that_are_no_longer_held(store: Store, lose: Callable[..., None]) -> None:
    put(store)
    lost = claim_one(store)
    lose(store, lost)
    before = seen(store)
    assert store.release([lost], now=NOW) == 0
    assert seen(store) == before


# 7.  A finished entry is gone.


def test_a_finished_entry_is_gone(store: Store) -> None:
    put(store, data=encoded("m-1"))
    store.finish(claim_one(store))
    assert claim(store, now=NOW + HOUR) == []
    assert store.find("m-1") is None
    assert store.unfinished("default") == 0
    assert store.next_due("default") is None
    assert store.counts(now=NOW) == {}
    assert list(store.letters()) == []


def test_many_entries_can_be_finished_at_once(store: Store) -> None:
    for _ in range(1_100):
        put(store)
    kept = put(store, due_at=NOW + 1)
    assert list(store.finish_many(iter(claim(store, limit=2_000)))) == []
    assert ids(claim(store, now=NOW + 1)) == [kept]


def test_finishing_many_returns_those_that_were_no_longer_held_and_finishes_the_rest(store: Store) -> None:
    for _ in range(4):
        put(store)
    first, second, third, fourth = claim(store)
    store.finish(first)
    store.release([third], now=NOW)
    assert list(store.finish_many([first, second, third, fourth])) == [first, third]
    assert store.counts(now=NOW) == {"default": QueueCounts(due=1, oldest_due_at=NOW)}
    assert list(store.finish_many([])) == []


def test_finishing_one_entry_leaves_the_others(store: Store) -> None:
    put(store)
    kept = put(store)
    store.finish(claim_one(store))
    assert ids(claim(store)) == [kept]


# 8.  A rescheduled entry is the same entry: its id stays, its payload and due instant are new, it was never gone and
#     never there twice.


def test_a_rescheduled_entry_is_the_same_entry_with_a_new_payload_and_due_instant(store: Store) -> None:
    entry_id = put(store, data=b"first")
    store.reschedule(claim_one(store), data=b"second", due_at=NOW + 500, now=NOW)
    assert claim(store, now=NOW + 499) == []
    claimed = claim_one(store, now=NOW + 500)
    assert (claimed.id, claimed.data, claimed.due_at) == (entry_id, b"second", NOW + 500)


def test_a_rescheduled_entry_is_there_once(store: Store) -> None:
    put(store)
    store.reschedule(claim_one(store), data=b"again", due_at=NOW + 500, now=NOW)
    assert store.unfinished("default") == 1
    assert store.counts(now=NOW) == {"default": QueueCounts(later=1, oldest_due_at=NOW + 500)}


def test_a_rescheduled_entry_stays_in_its_queue(store: Store) -> None:
    put(store, "other")
    store.reschedule(claim_one(store, "other"), data=b"again", due_at=NOW, now=NOW)
    assert claim(store, "default") == []
    assert len(claim(store, "other")) == 1


def test_an_entry_can_be_rescheduled_to_an_earlier_instant(store: Store) -> None:
    moved, waiting = put(store, due_at=NOW), put(store, due_at=NOW + 1)
    store.reschedule(claim_one(store), data=b"again", due_at=NOW - HOUR, now=NOW)
    assert store.next_due("default") == NOW - HOUR
    assert ids(claim(store, now=NOW + 1)) == [moved, waiting]


# 9.  A released entry is waiting at its old place, and that delivery is not counted.


def test_a_released_entry_is_waiting_at_its_old_place(store: Store) -> None:
    arrived = [put(store) for _ in range(4)]
    claimed = claim(store, limit=2)
    store.release(reversed(claimed), now=NOW + 10)
    assert ids(claim(store)) == arrived


def test_a_released_entry_keeps_its_due_instant(store: Store) -> None:
    put(store, due_at=NOW - 5)
    store.release(claim(store), now=NOW + 10)
    assert store.next_due("default") == NOW - 5


def test_a_delivery_that_was_released_is_not_counted(store: Store) -> None:
    put(store)
    for _ in range(3):
        claimed = claim_one(store)
        assert claimed.deliveries == 1
        store.release([claimed], now=NOW)
    assert claim_one(store).deliveries == 1


def test_release_returns_how_many_it_released(store: Store) -> None:
    for _ in range(3):
        put(store)
    claimed = claim(store)
    store.finish(claimed[1])
    assert store.release(iter(claimed), now=NOW) == 2
    assert store.release(claimed, now=NOW) == 0
    assert store.release([], now=NOW) == 0


def test_a_claim_that_is_released_twice_in_one_call_is_released_once(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    assert store.release([claimed, claimed], now=NOW) == 1
    assert len(claim(store)) == 1


def test_many_claims_can_be_released_at_once(store: Store) -> None:
    for _ in range(1_100):
        put(store)
    assert store.release(claim(store, limit=2_000), now=NOW) == 1_100
    assert store.counts(now=NOW)["default"].due == 1_100


# 10. Deliveries count from 1 after a put, a reschedule and a revival.


def test_deliveries_count_from_1_after_a_put(store: Store) -> None:
    put(store)
    assert claim_one(store).deliveries == 1


def test_deliveries_count_from_1_after_a_reschedule(store: Store) -> None:
    put(store)
    store.reschedule(claim_one(store), data=b"again", due_at=NOW, now=NOW)
    assert claim_one(store).deliveries == 1


def test_deliveries_count_from_1_after_a_revival(store: Store) -> None:
    letter_id = die(store)
    store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)
    assert claim_one(store).deliveries == 1


# 11. A buried entry is a dead letter with the id of the entry, and is never claimed.


def test_a_buried_entry_is_a_dead_letter_with_the_id_of_the_entry(store: Store) -> None:
    entry_id = put(store)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed))
    assert store.letter(str(entry_id)).id == str(entry_id)
    assert [letter.id for letter in store.letters()] == [str(entry_id)]


def test_a_letter_is_kept_as_it_was_given(store: Store) -> None:
    put(store, "other")
    claimed = claim_one(store, "other")
    given = letter_for(claimed, died_at=NOW + 9, data=bytes(range(256)))
    store.bury(claimed, given)
    assert store.letter(given.id) == given
    assert list(store.letters()) == [given]


def test_a_letter_without_actor_error_and_traceback_is_kept_as_it_was_given(store: Store) -> None:
    put(store, data=b"no message")
    claimed = claim_one(store)
    given = DeadLetter(
        id=str(claimed.id),
        reason="undecodable",
        queue_name="default",
        actor_name=None,
        died_at=NOW,
        data=claimed.data,
    )
    store.bury(claimed, given)
    assert store.letter(given.id) == given


def test_a_buried_entry_is_never_claimed(store: Store) -> None:
    die(store)
    assert claim(store, now=NOW + 1_000 * HOUR) == []
    assert store.next_due("default") is None
    assert store.unfinished("default") == 0


def test_a_burial_that_drops_nothing_returns_zero(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    assert store.bury(claimed, letter_for(claimed)) == 0


# 12. Letters are listed newest first.


def test_letters_are_listed_newest_first(store: Store) -> None:
    died = [die(store, queue, died_at=NOW + i) for i, queue in enumerate(["default", "other", "default"])]
    assert [letter.id for letter in store.letters()] == died[::-1]


def test_the_newest_letter_is_the_last_to_die_and_not_the_last_to_be_sent(store: Store) -> None:
    for _ in range(3):
        put(store)
    first, second, third = claim(store)
    for i, claimed in enumerate([second, third, first]):
        store.bury(claimed, letter_for(claimed, died_at=NOW + i))
    assert [letter.id for letter in store.letters()] == [str(first.id), str(third.id), str(second.id)]


def test_a_letter_that_died_again_is_the_newest(store: Store) -> None:
    first, second = die(store, died_at=NOW), die(store, died_at=NOW + 1)
    store.revive(first, data=b"again", due_at=NOW, now=NOW)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed, died_at=NOW + 2))
    assert [letter.id for letter in store.letters()] == [first, second]


def test_letters_may_be_revived_and_discarded_while_they_are_listed(store: Store) -> None:
    died = [die(store, died_at=NOW + i) for i in range(4)]
    listed = []
    for i, letter in enumerate(store.letters()):
        listed.append(letter.id)
        if i % 2:
            store.discard(letter.id)
        else:
            store.revive(letter.id, data=b"again", due_at=NOW, now=NOW)
    assert listed == died[::-1]
    assert list(store.letters()) == []


# 13. A letter is revived by one caller only; the others get ``LetterNotFound``.


def test_a_letter_is_revived_by_one_caller_only(store: Store) -> None:
    letter_id = die(store)
    store.revive(letter_id, data=b"of the winner", due_at=NOW, now=NOW)
    before = seen(store)
    with pytest.raises(LetterNotFound) as caught:
        store.revive(letter_id, data=b"of the loser", due_at=NOW, now=NOW)
    assert caught.value.letter_id == letter_id
    assert seen(store) == before
    assert claim_one(store).data == b"of the winner"


@pytest.mark.parametrize(
    "spelling",
    ["", "0", "-{}", "{}{}", "{}.0", " {}", "{} ", "{}\n", "+{}", "0{}", "{}_", "{}\0", "{}' OR 1=1 --", "nonsense"],
)
def test_an_id_that_no_letter_has_is_not_found(store: Store, spelling: str) -> None:
    letter_id = die(store)
    name = spelling.format(letter_id, letter_id)
    before = seen(store)
    with pytest.raises(LetterNotFound):
        store.letter(name)
    with pytest.raises(LetterNotFound):
        store.revive(name, data=b"again", due_at=NOW, now=NOW)
    with pytest.raises(LetterNotFound):
        store.discard(name)
    assert seen(store) == before


def test_an_entry_that_waits_or_is_claimed_cannot_be_revived(store: Store) -> None:
    claimed_id = put(store)
    claim_one(store)
    waiting_id = put(store)
    for entry_id in (claimed_id, waiting_id):
        with pytest.raises(LetterNotFound):
            store.revive(str(entry_id), data=b"again", due_at=NOW, now=NOW)
    assert store.counts(now=NOW) == {"default": QueueCounts(due=1, claimed=1, oldest_due_at=NOW)}


# 14. A revived entry is waiting with the payload it was given.


def test_a_revived_entry_is_waiting_with_the_payload_it_was_given(store: Store) -> None:
    letter_id = die(store, data=b"dead")
    store.revive(letter_id, data=b"alive", due_at=NOW + 500, now=NOW)
    assert claim(store, now=NOW + 499) == []
    claimed = claim_one(store, now=NOW + 500)
    assert (claimed.id, claimed.data, claimed.due_at) == (int(letter_id), b"alive", NOW + 500)


def test_a_revived_entry_is_in_the_queue_where_it_died(store: Store) -> None:
    letter_id = die(store, "other")
    store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)
    assert claim(store, "default") == []
    assert ids(claim(store, "other")) == [int(letter_id)]


def test_a_revived_entry_is_no_dead_letter_any_more(store: Store) -> None:
    letter_id = die(store)
    store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)
    assert list(store.letters()) == []
    with pytest.raises(LetterNotFound):
        store.letter(letter_id)


# 15. A discarded letter is gone.


def test_a_discarded_letter_is_gone(store: Store) -> None:
    letter_id = die(store, data=encoded("m-1"))
    store.discard(letter_id)
    assert list(store.letters()) == []
    assert store.find("m-1") is None
    assert store.counts(now=NOW) == {}
    for look in (store.letter, store.discard):
        with pytest.raises(LetterNotFound):
            look(letter_id)
    with pytest.raises(LetterNotFound):
        store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)


def test_discarding_one_letter_leaves_the_others(store: Store) -> None:
    first, second = die(store), die(store)
    store.discard(first)
    assert [letter.id for letter in store.letters()] == [second]


# 16. ``next_due`` is the due instant of the first waiting entry that is not held, due or not; ``head`` has its id too.


@pytest.mark.parametrize("offset", [-HOUR, 0, HOUR])
def test_next_due_is_the_due_instant_of_the_first_waiting_entry_due_or_not(store: Store, offset: int) -> None:
    put(store, due_at=NOW + 2 * HOUR)
    put(store, due_at=NOW + offset)
    assert store.next_due("default") == NOW + offset


def test_next_due_is_that_of_an_entry_put_for_later_where_it_came_due_first(store: Store) -> None:
    put(store, due_at=NOW + 5, now=NOW)
    put(store, due_at=NOW + 10, now=NOW + 10)
    assert store.next_due("default") == NOW + 5
    assert store.counts(now=NOW + 10)["default"].oldest_due_at == NOW + 5


def test_next_due_goes_on_to_the_next_entry_once_one_is_claimed(store: Store) -> None:
    put(store, due_at=NOW)
    put(store, due_at=NOW + 7)
    claim_one(store)
    assert store.next_due("default") == NOW + 7


def test_next_due_is_none_where_nothing_waits(store: Store) -> None:
    put(store)
    claim_one(store)
    assert store.next_due("default") is None
    assert store.next_due("never heard of") is None


def test_next_due_is_that_of_one_queue(store: Store) -> None:
    put(store, "default", due_at=NOW + 5)
    put(store, "other", due_at=NOW + 1)
    assert store.next_due("default") == NOW + 5


def test_head_is_the_due_instant_and_the_id_of_the_first_waiting_entry(store: Store) -> None:
    put(store, due_at=NOW + 7)
    first, _ = put(store, due_at=NOW + 5), put(store, due_at=NOW + 5)
    assert store.head("default") == (NOW + 5, first)
    assert store.head("never heard of") is None


# 17. ``counts``, ``find``, ``entry`` and ``entries`` change nothing.


def test_who_looks_changes_nothing(store: Store) -> None:
    die(store, data=encoded("dead"))
    put(store, data=encoded("claimed"))
    claimed = claim_one(store)
    arrived = [put(store, data=encoded(f"waiting-{i}"), due_at=NOW - i) for i in range(3)]
    before = seen(store)
    for message_id in ("dead", "claimed", "waiting-1", "nobody"):
        store.find(message_id)
        store.counts(now=NOW + HOUR)
        assert len(list(store.entries())) == 4
        assert store.entry(str(claimed.id)) is not None
    assert seen(store) == before
    assert ids(claim(store)) == arrived[::-1]
    store.finish(claimed)


def test_counts_say_how_many_are_due_later_claimed_and_dead_by_queue(store: Store) -> None:
    die(store)
    put(store)
    claim_one(store)
    for offset in (-5, 0, 1, HOUR):
        put(store, due_at=NOW + offset)
    put(store, "other", due_at=NOW + 3)
    assert store.counts(now=NOW) == {
        "default": QueueCounts(due=2, later=2, claimed=1, dead=1, oldest_due_at=NOW - 5),
        "other": QueueCounts(later=1, oldest_due_at=NOW + 3),
    }


def test_counts_take_the_instant_they_are_given(store: Store) -> None:
    put(store, due_at=NOW)
    assert store.counts(now=NOW - 1)["default"].due == 0
    assert store.counts(now=NOW)["default"].due == 1


def test_counts_leave_out_queues_that_have_become_empty(store: Store) -> None:
    put(store, "default")
    put(store, "other")
    store.finish(claim_one(store))
    assert store.counts(now=NOW) == {"other": QueueCounts(due=1, oldest_due_at=NOW)}


def test_counts_have_a_queue_in_which_something_is_only_dead(store: Store) -> None:
    die(store, "other")
    assert store.counts(now=NOW) == {"other": QueueCounts(dead=1)}


def test_unfinished_counts_what_waits_and_what_is_claimed(store: Store) -> None:
    die(store)
    put(store)
    claim_one(store)
    put(store, due_at=NOW + HOUR)
    put(store, "other")
    assert store.unfinished("default") == 2
    assert store.unfinished("never heard of") == 0


def test_a_queue_is_idle_while_nothing_of_it_waits_or_is_claimed(store: Store) -> None:
    assert store.is_idle("default")
    put(store, "other")
    assert store.is_idle("default")
    put(store, due_at=NOW + HOUR)
    assert not store.is_idle("default")
    claimed = claim_one(store, now=NOW + HOUR)
    assert not store.is_idle("default")
    store.bury(claimed, letter_for(claimed))
    assert store.is_idle("default")


def test_find_tells_of_an_entry_that_waits(store: Store) -> None:
    entry_id = put(store, "other", data=encoded("m-1"), due_at=NOW + 5)
    assert store.find("m-1") == Entry(
        id=entry_id,
        queue_name="other",
        state="waiting",
        data=encoded("m-1"),
        due_at=NOW + 5,
        deliveries=0,
    )


def test_find_tells_of_an_entry_that_is_claimed(store: Store) -> None:
    entry_id = put(store, data=encoded("m-1"))
    claim_one(store, now=NOW + 5)
    assert store.find("m-1") == Entry(
        id=entry_id,
        queue_name="default",
        state="claimed",
        data=encoded("m-1"),
        due_at=NOW,
        deliveries=1,
        claimed_at=NOW + 5,
        owner="host:1",
    )


def test_find_tells_of_a_dead_letter(store: Store) -> None:
    letter_id = die(store, data=encoded("m-1"))
    assert store.find("m-1") == store.letter(letter_id)


def test_find_is_not_misled_by_a_payload_that_mentions_the_id_of_another_message(store: Store) -> None:
    put(store, data=encoded("m-1", pipe_target="m-2"))
    put(store, data=b"no message, but it says m-2")
    sought = put(store, data=encoded("m-2"))
    found = store.find("m-2")
    assert isinstance(found, Entry)
    assert found.id == sought


@pytest.mark.parametrize("message_id", ['"quoted"', "größer", "a\\b", "\x00", "日本", "\ud800"])
def test_find_finds_an_id_that_json_spells_in_another_way(store: Store, message_id: str) -> None:
    sought = put(store, data=encoded(message_id))
    found = store.find(message_id)
    assert isinstance(found, Entry)
    assert found.id == sought


def test_find_finds_nothing_where_nothing_is(store: Store) -> None:
    put(store, data=b"\xff no message")
    assert store.find("m-1") is None


# 18. Flush drops what waits in that queue and nothing else; what is claimed stays claimed.


def test_flush_drops_what_waits_in_that_queue_due_or_not(store: Store) -> None:
    put(store)
    put(store, due_at=NOW + HOUR)
    assert store.flush("default") == 2
    assert claim(store, now=NOW + HOUR) == []
    assert store.next_due("default") is None


def test_flush_leaves_what_is_claimed_claimed(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    put(store)
    assert store.flush("default") == 1
    assert store.counts(now=NOW) == {"default": QueueCounts(claimed=1)}
    store.finish(claimed)
    assert store.unfinished("default") == 0


def test_flush_leaves_other_queues_and_dead_letters(store: Store) -> None:
    letter_id = die(store)
    put(store)
    other = put(store, "other")
    store.flush("default")
    assert store.letter(letter_id).id == letter_id
    assert ids(claim(store, "other")) == [other]


def test_flush_of_a_queue_in_which_nothing_waits_drops_nothing(store: Store) -> None:
    put(store)
    claim_one(store)
    assert store.flush("default") == 0
    assert store.flush("never heard of") == 0


def test_what_is_put_after_a_flush_is_handed_out(store: Store) -> None:
    put(store)
    store.flush("default")
    entry_id = put(store)
    assert ids(claim(store)) == [entry_id]


# 19. ``max_messages`` bounds waiting and claimed entries together; a put beyond it raises ``QueueFull`` and stores
#     nothing, while reschedule, release, revive and a put that is ``exempt`` always have their place.


def test_max_messages_bounds_waiting_and_claimed_entries_together(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=3)
    put(store, "default")
    claim_one(store)
    put(store, "default", due_at=NOW + HOUR)
    put(store, "other")
    with pytest.raises(QueueFull):
        put(store, "a third queue")


def test_a_put_beyond_max_messages_raises_queue_full_and_stores_nothing(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    put(store)
    before = seen(store)
    with pytest.raises(QueueFull) as caught:
        put(store, "other")
    assert (caught.value.queue_name, caught.value.max_messages) == ("other", 1)
    assert seen(store) == before


@pytest.mark.parametrize(
    "make_room",
    [
        lambda store: store.finish(claim_one(store)),
        lambda store: store.flush("default"),
        lambda store: _bury(store, claim_one(store)),
    ],
    ids=["finish", "flush", "bury"],
)
def test_what_is_gone_or_dead_makes_room_for_one_more(
    make_store: Callable[..., Store], make_room: Callable[[Store], object]
) -> None:
    store = make_store(max_messages=1)
    put(store)
    make_room(store)
    put(store)
    with pytest.raises(QueueFull):
        put(store)


def test_a_full_store_still_reschedules(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    entry_id = put(store)
    store.reschedule(claim_one(store), data=b"again", due_at=NOW, now=NOW)
    assert ids(claim(store)) == [entry_id]


def test_a_full_store_still_releases(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    entry_id = put(store)
    assert store.release(claim(store), now=NOW) == 1
    assert ids(claim(store)) == [entry_id]


def test_a_full_store_still_revives(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    letter_id = die(store)
    entry_id = put(store)
    store.revive(letter_id, data=b"again", due_at=NOW, now=NOW)
    assert sorted(ids(claim(store))) == [int(letter_id), entry_id]


def test_a_full_store_still_takes_a_put_that_is_exempt(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    put(store)
    store.put("default", b"exempt", due_at=NOW, now=NOW, exempt=True)
    assert store.unfinished("default") == 2
    with pytest.raises(QueueFull):
        put(store)


def test_a_store_without_max_messages_is_never_full(store: Store) -> None:
    for _ in range(200):
        put(store)
    assert store.unfinished("default") == 200


# 20. ``max_dead_letters`` bounds the letters; a burial beyond it drops the oldest.


def test_a_burial_beyond_max_dead_letters_drops_the_oldest(make_store: Callable[..., Store]) -> None:
    store = make_store(max_dead_letters=2)
    died = [die(store, queue, died_at=NOW + i) for i, queue in enumerate(["default", "other", "default"])]
    assert [letter.id for letter in store.letters()] == [died[2], died[1]]
    with pytest.raises(LetterNotFound):
        store.letter(died[0])


def test_a_burial_says_how_many_letters_it_dropped(make_store: Callable[..., Store]) -> None:
    store = make_store(max_dead_letters=2)
    dropped = []
    for i in range(4):
        put(store)
        claimed = claim_one(store)
        dropped.append(store.bury(claimed, letter_for(claimed, died_at=NOW + i)))
    assert dropped == [0, 0, 1, 1]


def test_the_oldest_letter_is_the_first_to_have_died_and_not_the_first_to_have_been_sent(
    make_store: Callable[..., Store],
) -> None:
    store = make_store(max_dead_letters=1)
    put(store)
    put(store)
    first, second = claim(store)
    store.bury(second, letter_for(second, died_at=NOW))
    store.bury(first, letter_for(first, died_at=NOW + 1))
    assert [letter.id for letter in store.letters()] == [str(first.id)]


def test_what_is_revived_or_discarded_makes_room_for_a_letter(make_store: Callable[..., Store]) -> None:
    store = make_store(max_dead_letters=2)
    revived, discarded = die(store), die(store)
    store.revive(revived, data=b"again", due_at=NOW + HOUR, now=NOW)
    store.discard(discarded)
    kept = [die(store, died_at=NOW + i) for i in range(2)]
    assert [letter.id for letter in store.letters()] == kept[::-1]


# 21. A notice that comes with a burial is waiting once the letter lies, and not if the burial failed.


def test_a_notice_that_comes_with_a_burial_is_waiting_once_the_letter_lies(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed, died_at=NOW + 5), notice=("other", bytes(range(256))))
    assert [letter.id for letter in store.letters()] == [str(claimed.id)]
    told = claim_one(store, "other", now=NOW + 5)
    assert (told.data, told.deliveries) == (bytes(range(256)), 1)
    assert told.id != claimed.id


def test_a_notice_is_due_from_the_instant_of_the_death(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed, died_at=NOW + 5), notice=("other", b"notice"))
    assert store.next_due("other") == NOW + 5


def test_a_notice_may_go_to_the_queue_of_the_dead(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed), notice=("default", b"notice"))
    assert [claim.data for claim in claim(store)] == [b"notice"]


def test_a_notice_is_not_there_if_the_burial_failed(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    store.finish(claimed)
    before = seen(store)
    with pytest.raises(ClaimLost):
        store.bury(claimed, letter_for(claimed), notice=("other", b"notice"))
    assert seen(store) == before


def test_a_notice_has_its_place_in_a_full_store(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=1)
    put(store)
    claimed = claim_one(store)
    store.bury(claimed, letter_for(claimed), notice=("other", b"one"))
    with pytest.raises(QueueFull):
        put(store)
    told = claim_one(store, "other")
    store.bury(told, letter_for(told), notice=("other", b"two"))
    assert [claim.data for claim in claim(store, "other")] == [b"two"]


# 22. ``check`` on a sane store finds nothing.


def test_check_on_an_empty_store_finds_nothing(store: Store) -> None:
    assert store.check() == []


def test_check_finds_nothing_after_every_move(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=10, max_dead_letters=2)
    for i in range(8):
        put(store, "default" if i % 2 else "other", due_at=NOW + (i * 5) % 7)
        assert store.check() == []
    for i, claimed in enumerate(claim(store, now=NOW + 7)):
        [_finish, _reschedule, _release, _bury][i](store, claimed)
        assert store.check() == []
    for _ in range(3):
        died = die(store, "a third queue")
        assert store.check() == []
    store.revive(died, data=b"again", due_at=NOW, now=NOW)
    assert store.check() == []
    store.discard(next(iter(store.letters())).id)
    assert store.check() == []
    assert store.flush("other") == 4
    assert store.check() == []


# And what is said below the sentences and of the methods.


def test_a_store_reads_no_clock(store: Store) -> None:
    put(store, due_at=5, now=5)
    put(store, due_at=NOW * 1_000, now=5)
    assert claim(store, now=4) == []
    assert len(claim(store, now=5)) == 1
    assert len(claim(store, now=NOW * 1_000)) == 1


def test_to_begin_and_to_end_a_run_moves_nothing(store: Store) -> None:
    put(store)
    claimed = claim_one(store)
    before = seen(store)
    store.begin(claimed)
    assert seen(store) == before
    store.end(claimed)
    assert seen(store) == before
    store.finish(claimed)


def test_a_store_can_be_closed_twice(open_store: Callable[..., Store]) -> None:
    store = open_store()
    put(store)
    store.close()
    store.close()
