"""What an operator may ask of our brokers and do to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import GiveUp, Snooze, current_attempt
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import ConfigError, MessageNotFound
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.records import DeadLetter
from dramatiq_retryq.status import Pending, QueueStatus
from dramatiq_retryq.store_broker import StoreBroker

HOUR = 3_600_000

Drain = Callable[..., int]


def send(broker: StoreBroker, actor: str = "add", *args: Any, delay: int | None = None) -> dramatiq.Message[Any]:
    sent: dramatiq.Message[Any] = broker.actors[actor].send_with_options(args=args, delay=delay)
    return sent


def listed(operations: Operations, **filters: Any) -> list[str | None]:
    return [pending.message_id for pending in operations.pending(**filters)]


def queue(operations: Operations, name: str = "default") -> QueueStatus:
    [found] = [queue for queue in operations.status().queues if queue.name == name]
    return found


def found(operations: Operations, message: dramatiq.Message[Any]) -> Pending:
    pending = operations.find(message.message_id)
    assert isinstance(pending, Pending)
    return pending


@pytest.mark.parametrize("given", [None, "jobs.db"])
def test_what_is_no_broker_has_no_operations(given: Any) -> None:
    with pytest.raises(ConfigError, match=f"Operations.of: {given!r} is no broker: give one, or"):
        Operations.of(given)


# -- Status ------------------------------------------------------------------------------------------------------


def test_the_status_of_a_new_broker_has_every_queue_and_nothing_in_it(operations: Operations) -> None:
    status = operations.status()
    assert [queue.name for queue in status.queues] == ["default", "other"]
    assert queue(operations) == QueueStatus(name="default", due=0, later=0, claimed=0, dead=0, paused=False, held=0)
    assert (status.workers, status.paused.queues, status.paused.actors) == ((), frozenset(), frozenset())
    assert status.last_hour is not None
    assert status.last_hour.sent == 0


def test_the_status_says_what_is_due_later_claimed_and_dead(
    ours: StoreBroker, operations: Operations, drain: Drain, clock: VirtualClock
) -> None:
    send(ours, "add", True)
    drain(ours)
    send(ours)
    send(ours, delay=HOUR)
    oldest = clock.now()
    clock.advance(5)
    send(ours)
    claimed = ours.store.claim("default", now=clock.now(), limit=1, owner="host:1")
    status = queue(operations)
    assert (status.due, status.later, status.claimed, status.dead) == (1, 1, 1, 1)
    assert status.oldest_due_at == oldest + 5
    ours.store.release(claimed, now=clock.now())


def test_a_queue_that_is_paused_is_shown_as_such(operations: Operations) -> None:
    operations.pause(queue="other")
    assert (queue(operations, "default").paused, queue(operations, "other").paused) == (False, True)
    assert operations.status().paused.queues == {"other"}


def test_rates_say_what_happened(ours: StoreBroker, operations: Operations, drain: Drain) -> None:
    send(ours)
    send(ours, "add", True)
    drain(ours)
    rates = operations.rates(timedelta(hours=1))
    assert (rates.sent, rates.succeeded, rates.retried, rates.failed, rates.died) == (2, 1, 2, 3, 1)
    assert (rates.snoozed, rates.crashed, dict(rates.deaths)) == (0, 0, {"exhausted": 1})
    assert rates.failure_rate == 3 / 4
    assert operations.status().last_hour == rates


def test_a_snooze_is_counted_as_one_and_not_as_a_failure(
    ours: StoreBroker, operations: Operations, drain: Drain
) -> None:
    naps = iter([True, False])

    @dramatiq.actor(broker=ours)
    def nap() -> None:
        if next(naps):
            raise Snooze(5)
        assert current_attempt().number == 1

    nap.send()
    drain(ours)
    rates = operations.rates(timedelta(hours=1))
    assert (rates.snoozed, rates.retried, rates.failed) == (1, 0, 0)


def test_each_death_is_counted_by_its_reason(ours: StoreBroker, operations: Operations, drain: Drain) -> None:
    @dramatiq.actor(broker=ours)
    def refuse() -> None:
        raise GiveUp("no")

    refuse.send()
    ours.enqueue(refuse.message().copy(actor_name="nobody"))
    ours.store.put("default", b"no message", due_at=0, now=ours.clock.now())
    drain(ours)
    rates = operations.rates(timedelta(hours=1))
    assert dict(rates.deaths) == {"rejected": 1, "unknown_actor": 1, "undecodable": 1}
    assert (rates.died, rates.failed) == (3, 1)


def test_rates_of_a_stretch_leave_out_what_was_before(
    ours: StoreBroker, operations: Operations, clock: VirtualClock
) -> None:
    send(ours)
    clock.advance(10 * 60_000)
    send(ours, "subtract")
    assert operations.rates(timedelta(minutes=5)).sent == 1
    assert operations.rates(timedelta(minutes=15)).sent == 2
    assert operations.status().last_minute == operations.rates(timedelta(minutes=1))
    assert [minute.queue_name for minute in operations.minutes(timedelta(hours=1))] == ["default", "other"]


@pytest.mark.parametrize("since", [-1, "an hour", None])
def test_a_stretch_that_is_none_is_an_error(operations: Operations, since: Any) -> None:
    with pytest.raises(ConfigError, match="since is"):
        operations.rates(since)


# -- Pending -----------------------------------------------------------------------------------------------------


def test_what_waits_is_listed_in_the_order_in_which_it_is_due(ours: StoreBroker, operations: Operations) -> None:
    late, soon = send(ours, delay=HOUR), send(ours, "subtract", delay=5)
    now = send(ours)
    assert listed(operations) == [message.message_id for message in (now, soon, late)]


def test_a_listed_message_says_what_is_known_of_it(
    ours: StoreBroker, operations: Operations, drain: Drain, clock: VirtualClock
) -> None:
    sent = send(ours, "add", True)
    drain(ours, until=clock.now())
    [pending] = operations.pending()
    assert (pending.message_id, pending.queue_name, pending.actor_name) == (sent.message_id, "default", "add")
    assert (pending.state, pending.retries, pending.held) == ("waiting", 1, False)
    assert pending.due_at == ours.store.next_due("default")
    assert pending.error is not None
    assert (pending.error.type, pending.error.message) == ("ValueError", "it fails")
    assert [attempt.error for attempt in pending.attempts] == ["ValueError"]
    assert pending.message is not None
    assert pending.message.args == (True,)


def test_a_claimed_message_says_who_has_it_and_since_when(
    ours: StoreBroker, operations: Operations, clock: VirtualClock
) -> None:
    send(ours)
    clock.advance(7)
    claimed = ours.store.claim("default", now=clock.now(), limit=1, owner="host:1")
    [pending] = operations.pending(state="claimed")
    assert (pending.state, pending.claimed_by, pending.claimed_at) == ("claimed", "host:1", clock.now())
    assert listed(operations, state="waiting") == []
    ours.store.release(claimed, now=clock.now())


def test_the_filters_leave_only_what_matches_all_of_them(
    ours: StoreBroker, operations: Operations, drain: Drain, clock: VirtualClock
) -> None:
    failed = send(ours, "add", True).message_id
    drain(ours, until=clock.now())
    fresh = send(ours, delay=HOUR).message_id
    other = send(ours, "subtract").message_id
    assert listed(operations, actor="subtract") == listed(operations, queue="other") == [other]
    assert listed(operations, actor=ours.actors["add"]) == [failed, fresh]
    assert listed(operations, error="ValueError") == listed(operations, error=ValueError) == [failed]
    assert listed(operations, retrying=True) == [failed]
    assert listed(operations, retrying=False) == [other, fresh]
    assert listed(operations, actor="add", retrying=False) == [fresh]
    assert listed(operations, actor="subtract", error="ValueError") == []
    assert listed(operations, actor="ad") == listed(operations, error="Value") == listed(operations, queue="no") == []


def test_messages_can_be_chosen_by_the_instant_at_which_they_are_due(
    ours: StoreBroker, operations: Operations, clock: VirtualClock
) -> None:
    at = clock.now()
    first, second, third = (send(ours, delay=delay).message_id for delay in (10, 20, 30))
    assert listed(operations, due_before=at + 20) == [first]
    assert listed(operations, due_after=at + 20) == [second, third]
    assert listed(operations, due_after=at + 11, due_before=at + 30) == [second]
    when = datetime.fromtimestamp((at + 20) / 1000, tz=timezone.utc)
    assert listed(operations, due_after=when) == [second, third]


def test_pages_follow_each_other_by_the_cursor_of_the_last_one(ours: StoreBroker, operations: Operations) -> None:
    sent = [send(ours, "add" if i % 2 else "subtract", delay=i % 3).message_id for i in range(11)]
    pages: list[list[Pending]] = [list(operations.pending(limit=4))]
    while pages[-1]:
        pages.append(list(operations.pending(limit=4, after=pages[-1][-1].cursor)))
    assert [len(page) for page in pages] == [4, 4, 3, 0]
    together = [pending.message_id for page in pages for pending in page]
    assert together == listed(operations)
    assert sorted(map(str, together)) == sorted(sent)


def test_a_page_goes_on_behind_a_message_that_is_gone(ours: StoreBroker, operations: Operations) -> None:
    _, second, third = (send(ours, delay=5) for _ in range(3))
    page = list(operations.pending(limit=2))
    operations.cancel(page[-1])
    assert page[-1].message_id == second.message_id
    assert listed(operations, after=page[-1].cursor) == [third.message_id]


def test_a_cursor_and_an_instant_hold_together(ours: StoreBroker, operations: Operations, clock: VirtualClock) -> None:
    [first, second] = [send(ours, delay=delay).message_id for delay in (10, 20)]
    [page] = operations.pending(limit=1)
    assert page.message_id == first
    assert listed(operations, after=page.cursor, due_after=clock.now()) == [second]
    assert listed(operations, after=page.cursor, due_after=clock.now() + 21) == []


def test_a_limit_of_0_lists_nothing(ours: StoreBroker, operations: Operations) -> None:
    send(ours)
    assert listed(operations, limit=0) == []


def test_what_is_no_message_is_listed_too_and_matches_no_filter(ours: StoreBroker, operations: Operations) -> None:
    ours.store.put("default", b'{"actor_name":"add"}', due_at=0, now=0)
    [pending] = operations.pending()
    assert (pending.message, pending.message_id, pending.actor_name, pending.error) == (None, None, None, None)
    assert pending.data == b'{"actor_name":"add"}'
    assert listed(operations, actor="add") == []
    operations.cancel(pending)


def test_names_in_any_script_are_found(ours: StoreBroker, operations: Operations) -> None:
    @dramatiq.actor(broker=ours, actor_name='größer "als"')
    def bigger() -> None:
        """Never run."""

    sent = bigger.send()
    assert listed(operations, actor='größer "als"') == [sent.message_id]


def test_filters_work_with_an_encoder_of_ones_own(ours: StoreBroker, operations: Operations) -> None:
    previous = dramatiq.get_encoder()
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        sent = send(ours)
        assert listed(operations, actor="add", retrying=False) == [sent.message_id]
        assert listed(operations, actor="subtract") == []
    finally:
        dramatiq.set_encoder(previous)


@pytest.mark.parametrize(
    "filters",
    [
        {"state": "dead"},
        {"after": "here"},
        {"after": "1_99999999999999999999"},
        {"after": 5},
        {"limit": -1},
        {"limit": "5"},
        {"due_before": "noon"},
        {"due_after": True},
        {"due_after": 10**18},
    ],
)
def test_a_filter_that_makes_no_sense_is_an_error_at_once(operations: Operations, filters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give "):
        operations.pending(**filters)


# -- Find --------------------------------------------------------------------------------------------------------


def test_a_message_is_found_wherever_it_is(ours: StoreBroker, operations: Operations, drain: Drain) -> None:
    waiting, dead = send(ours, delay=HOUR), send(ours, "add", True)
    drain(ours, until=ours.clock.now() + 60_000)
    assert found(operations, waiting).state == "waiting"
    letter = operations.find(dead.message_id)
    assert isinstance(letter, DeadLetter)
    assert operations.find("nobody's") is None
    assert operations.find("") is None


def test_a_message_is_found_by_the_id_of_its_place_too(ours: StoreBroker, operations: Operations) -> None:
    sent = send(ours)
    [pending] = operations.pending()
    assert operations.find(pending.id) == operations.find(sent.message_id) == pending


# -- Acting ------------------------------------------------------------------------------------------------------


def test_run_now_makes_a_message_due(ours: StoreBroker, operations: Operations, clock: VirtualClock) -> None:
    sent = send(ours, delay=HOUR)
    operations.run_now(found(operations, sent))
    assert queue(operations).due == 1
    assert found(operations, sent).due_at == clock.now()


def test_run_now_leaves_what_is_due_at_its_place(
    ours: StoreBroker, operations: Operations, clock: VirtualClock
) -> None:
    first, second = send(ours), send(ours)
    clock.advance(HOUR)
    operations.run_now(found(operations, first))
    assert listed(operations) == [first.message_id, second.message_id]


def test_move_makes_a_message_due_at_that_instant(ours: StoreBroker, operations: Operations) -> None:
    sent = send(ours)
    due_at = ours.clock.now() + HOUR
    operations.move(found(operations, sent), due_at=due_at)
    assert found(operations, sent).due_at == due_at
    assert queue(operations).later == 1


def test_a_cancelled_message_never_runs(ours: StoreBroker, operations: Operations, drain: Drain) -> None:
    sent = send(ours, delay=HOUR)
    operations.cancel(found(operations, sent))
    assert operations.find(sent.message_id) is None
    assert drain(ours) == 0
    assert len(ours.dead_letters) == 0


@pytest.mark.parametrize("what", ["run_now", "move", "cancel"])
def test_a_message_can_be_named_by_its_id_or_the_id_of_its_place(
    ours: StoreBroker, operations: Operations, what: str
) -> None:
    for name in (lambda pending: pending.id, lambda pending: pending.message_id):
        pending = found(operations, send(ours, delay=HOUR))
        more = {"due_at": ours.clock.now()} if what == "move" else {}
        getattr(operations, what)(name(pending), **more)
        assert queue(operations).later == 0


@pytest.mark.parametrize("what", ["run_now", "move", "cancel"])
def test_what_waits_no_more_is_an_error_that_names_the_message(
    ours: StoreBroker, operations: Operations, clock: VirtualClock, what: str
) -> None:
    more = {"due_at": clock.now()} if what == "move" else {}
    sent = send(ours)
    pending = found(operations, sent)
    claimed = ours.store.claim("default", now=clock.now(), limit=1, owner="host:1")
    for name in (pending, pending.message_id):
        with pytest.raises(MessageNotFound, match=sent.message_id):
            getattr(operations, what)(name, **more)
    ours.store.finish_many(claimed)
    for name in (pending, pending.id, pending.message_id, "nobody's", ""):
        with pytest.raises(MessageNotFound):
            getattr(operations, what)(name, **more)


@pytest.mark.parametrize("due_at", [True, 1.5, "noon", 10**18])
def test_a_message_is_not_moved_to_what_is_no_instant(ours: StoreBroker, operations: Operations, due_at: Any) -> None:
    with pytest.raises(ConfigError, match="due_at is"):
        operations.move(found(operations, send(ours)), due_at=due_at)


@pytest.mark.parametrize(
    "given", [{}, {"queue": "default", "actor": "add"}, {"queue": ""}, {"actor": ""}, {"queue": 5}]
)
@pytest.mark.parametrize("what", ["pause", "resume"])
def test_one_thing_is_paused_or_resumed_at_a_time(operations: Operations, what: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=what):
        getattr(operations, what)(**given)


def test_dead_letters_are_those_of_the_broker(ours: StoreBroker, operations: Operations, drain: Drain) -> None:
    send(ours, "add", True)
    drain(ours)
    assert [letter.reason for letter in operations.dead_letters] == ["exhausted"]


def test_check_is_that_of_the_broker(operations: Operations) -> None:
    assert operations.check() == []


@pytest.mark.parametrize("value", [None, 5, b"17", 1.5])
def test_an_id_that_is_no_text_is_refused_in_a_sentence(operations: Operations, value: Any) -> None:
    for ask in (operations.find, operations.run_now, operations.cancel):
        with pytest.raises(ConfigError, match="give a text"):
            ask(value)


@pytest.mark.parametrize("filters", [{"actor": 5}, {"queue": 5}, {"error": 5}, {"due_before": datetime.min}])
def test_a_filter_that_makes_no_sense_is_refused_in_a_sentence(operations: Operations, filters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(filters))):
        operations.pending(**filters)


# -- Ids that two messages could be meant by -----------------------------------------------------------------------


def namesakes(broker: StoreBroker, operations: Operations) -> tuple[Pending, Pending]:
    """Two messages that wait: the message id of the second is the id of the first one's place."""
    send(broker, delay=HOUR)
    [first] = operations.pending()
    broker.enqueue(broker.actors["add"].message().copy(message_id=first.id), delay=2 * HOUR)
    [_, second] = operations.pending()
    assert second.message_id == first.id
    return first, second


ACTS: dict[str, Callable[[Operations, Any], object]] = {
    "run_now": lambda operations, what: operations.run_now(what),
    "move": lambda operations, what: operations.move(what, due_at=5),
    "cancel": lambda operations, what: operations.cancel(what),
}


@pytest.mark.parametrize("act", ACTS)
def test_an_id_that_two_messages_could_be_meant_by_is_refused(
    ours: StoreBroker, operations: Operations, act: str
) -> None:
    first, second = namesakes(ours, operations)
    with pytest.raises(ConfigError, match=f"'{first.id}' is the id of message '{first.message_id}'.*give") as raised:
        ACTS[act](operations, first.id)
    assert repr(second.id) in str(raised.value)
    with pytest.raises(ConfigError, match="message id of another"):
        operations.by_id(first.id)
    assert [*operations.pending()] == [first, second]


@pytest.mark.parametrize("act", ACTS)
def test_each_of_the_two_can_be_named_all_the_same(ours: StoreBroker, operations: Operations, act: str) -> None:
    first, second = namesakes(ours, operations)
    ACTS[act](operations, second.id)
    assert first in operations.pending()
    assert second not in operations.pending()
    ACTS[act](operations, first.message_id)
    assert first not in operations.pending()


@pytest.mark.parametrize("act", ACTS)
def test_a_letters_id_is_not_taken_for_the_message_id_of_one_that_waits(
    ours: StoreBroker, operations: Operations, drain: Drain, act: str
) -> None:
    send(ours, "add", True)
    drain(ours)
    letter = ours.dead_letters.one()
    ours.enqueue(ours.actors["add"].message().copy(message_id=letter.id), delay=HOUR)
    [pending] = operations.pending()
    with pytest.raises(ConfigError, match="message id of another"):
        ACTS[act](operations, letter.id)
    assert [*operations.pending()] == [pending]


def test_a_message_is_found_by_its_own_id_before_any_other(ours: StoreBroker, operations: Operations) -> None:
    first, second = namesakes(ours, operations)
    assert operations.find(first.id) == second
    assert operations.find(second.id) == second


def test_by_id_gives_what_the_listings_name_so(ours: StoreBroker, operations: Operations, drain: Drain) -> None:
    waiting, dead = send(ours, delay=HOUR), send(ours, "add", True)
    drain(ours, until=ours.clock.now() + 60_000)
    [pending], letter = operations.pending(), ours.dead_letters.one()
    assert operations.by_id(pending.id) == operations.by_id(waiting.message_id) == pending
    assert operations.by_id(letter.id) == operations.by_id(dead.message_id) == letter
    assert operations.by_id("nobody's") is None
    assert operations.by_id("999999999") is None
    assert operations.by_id("\ud800") is None


def test_a_message_whose_id_is_that_of_its_own_place_is_meant_without_doubt(
    ours: StoreBroker, operations: Operations
) -> None:
    send(ours)
    [other] = operations.pending()
    own = str(int(other.id) + 1)
    ours.enqueue(ours.actors["add"].message().copy(message_id=own))
    [_, pending] = operations.pending()
    assert (pending.id, pending.message_id) == (own, own)
    assert operations.by_id(own) == pending
    operations.cancel(own)
    assert [*operations.pending()] == [other]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("named", ["whole", "key"])
def test_what_was_listed_is_not_mistaken_for_what_has_its_place_now(
    ours: StoreBroker, operations: Operations, act: str, named: str
) -> None:
    send(ours, delay=HOUR)
    [listed_before] = operations.pending()
    operations.cancel(listed_before)
    # On SQLite it has the id of the newest one that is gone, if it comes at the same instant.
    send(ours, delay=HOUR)
    [other] = operations.pending()
    before = replace(listed_before, id=other.id)
    with pytest.raises(MessageNotFound, match=str(before.message_id)):
        ACTS[act](operations, before if named == "whole" else before.key)
    assert [*operations.pending()] == [other]


@pytest.mark.parametrize("act", ACTS)
def test_a_key_is_enough_to_act_on_what_was_listed(ours: StoreBroker, operations: Operations, act: str) -> None:
    send(ours, delay=HOUR)
    ours.store.put("default", b"no message", due_at=ours.clock.now() + HOUR, now=ours.clock.now())
    for pending in [*operations.pending()]:
        ACTS[act](operations, pending.key)
        assert pending not in operations.pending()
