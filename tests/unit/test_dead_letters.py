"""Dead letters: see them, replay them, discard them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dramatiq
import pytest
from dramatiq import Actor

from dramatiq_retryq import DeadLetter, GiveUp, MemoryBroker, current_attempt
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.dead_letters import DeadLetters
from dramatiq_retryq.errors import ConfigError, LetterNotFound
from dramatiq_retryq.records import QueueCounts
from dramatiq_retryq.store import Store

Drain = Callable[..., int]


class Ledger:
    """Two actors on two queues that fail as they are told, and what they did."""

    def __init__(self, broker: MemoryBroker, clock: VirtualClock, drain: Drain) -> None:
        self.broker, self.clock, self.drain = broker, clock, drain
        self.runs: list[tuple[str, int]] = []
        self.numbers: list[int] = []
        self.works = False

        @dramatiq.actor(max_retries=0)
        def charge(customer: int, error: str = "ValueError") -> None:
            self.run("charge", customer, error)

        @dramatiq.actor(max_retries=2, min_backoff=10, max_backoff=10, jitter="none", queue_name="mail")
        def notify(customer: int, error: str = "OSError") -> None:
            self.run("notify", customer, error)

        self.charge: Actor[..., None] = charge
        self.notify: Actor[..., None] = notify

    def run(self, actor: str, customer: int, error: str) -> None:
        self.runs.append((actor, customer))
        self.numbers.append(current_attempt().number)
        if not self.works:
            raise {"ValueError": ValueError, "OSError": OSError, "KeyError": KeyError, "GiveUp": GiveUp}[error](error)

    def die(self, actor: Actor[..., None], *args: Any) -> DeadLetter:
        """Send a message and let it die; a second passes before the next."""
        actor.send(*args)
        self.drain(self.broker)
        letter = next(iter(self.letters))
        self.clock.advance(1_000)
        return letter

    @property
    def letters(self) -> DeadLetters:
        return self.broker.dead_letters

    def customers(self, **filters: Any) -> list[int]:
        """Whose letters match."""
        return [letter.message.args[0] for letter in self.letters.list(**filters)]  # type: ignore[union-attr]


@pytest.fixture
def ledger(broker: MemoryBroker, clock: VirtualClock, drain: Drain) -> Ledger:
    return Ledger(broker, clock, drain)


@pytest.fixture
def four(ledger: Ledger) -> Ledger:
    """Customers 1 to 4, whose messages died in this order, a second apart."""
    ledger.die(ledger.charge, 1)
    ledger.die(ledger.notify, 2)
    ledger.die(ledger.charge, 3, "GiveUp")
    ledger.die(ledger.notify, 4, "KeyError")
    return ledger


def in_utc(instant: int) -> datetime:
    return datetime.fromtimestamp(instant / 1000, timezone.utc)


# Looking.


@pytest.mark.parametrize("given", [None, "jobs.db"])
def test_what_is_no_broker_is_an_error_that_says_what_to_give(given: Any) -> None:
    with pytest.raises(ConfigError, match=f"{type(given).__name__} keeps no dead letters .* use MemoryBroker"):
        DeadLetters.of(given)


def test_there_are_no_letters_where_nothing_died(ledger: Ledger) -> None:
    assert list(ledger.letters) == []
    assert ledger.letters.list() == []
    assert len(ledger.letters) == 0
    assert repr(ledger.letters) == "<DeadLetters: 0>"


def test_letters_are_given_newest_first(four: Ledger) -> None:
    assert [letter.message.args[0] for letter in four.letters] == [4, 3, 2, 1]  # type: ignore[union-attr]
    assert four.customers() == [4, 3, 2, 1]
    assert len(four.letters) == 4
    assert repr(four.letters) == "<DeadLetters: 4>"


@pytest.mark.parametrize(
    ("filters", "customers"),
    [
        ({"actor": "charge"}, [3, 1]),
        ({"actor": "nobody"}, []),
        ({"queue": "mail"}, [4, 2]),
        ({"queue": "default"}, [3, 1]),
        ({"reason": "exhausted"}, [4, 2, 1]),
        ({"reason": "rejected"}, [3]),
        ({"reason": "crashed"}, []),
        ({"error": "OSError"}, [2]),
        ({"error": OSError}, [2]),
        ({"error": GiveUp}, [3]),
        ({"error": LookupError}, []),
        ({"actor": "charge", "error": ValueError}, [1]),
        ({"actor": "charge", "queue": "mail"}, []),
        ({"limit": 0}, []),
        ({"limit": 1}, [4]),
        ({"limit": 99}, [4, 3, 2, 1]),
        ({"limit": None}, [4, 3, 2, 1]),
        ({"queue": "mail", "limit": 1}, [4]),
        ({"queue": "default", "limit": 1}, [3]),
    ],
    ids=str,
)
def test_letters_are_listed_that_match_all_of_the_filters(
    four: Ledger, filters: dict[str, Any], customers: list[int]
) -> None:
    assert four.customers(**filters) == customers


def test_since_an_instant_lists_what_died_then_or_later(four: Ledger) -> None:
    third = four.letters.list()[1]
    assert four.customers(since=third.died_at) == [4, 3]
    assert four.customers(since=third.died_at + 1) == [4]
    assert four.customers(since=0) == [4, 3, 2, 1]


def test_since_a_datetime_lists_what_died_then_or_later(four: Ledger) -> None:
    third = four.letters.list()[1]
    assert four.customers(since=in_utc(third.died_at)) == [4, 3]
    assert four.customers(since=in_utc(third.died_at + 1)) == [4]
    elsewhere = timezone(timedelta(hours=-9))
    assert four.customers(since=in_utc(third.died_at).astimezone(elsewhere)) == [4, 3]


def test_since_a_timedelta_lists_what_died_at_most_so_long_ago(four: Ledger) -> None:
    third = four.letters.list()[1]
    ago = timedelta(milliseconds=four.clock.now() - third.died_at)
    assert four.customers(since=ago) == [4, 3]
    assert four.customers(since=ago - timedelta(milliseconds=1)) == [4]
    assert four.customers(since=timedelta(0)) == []


def test_an_undecodable_letter_is_listed_with_those_of_its_queue(four: Ledger) -> None:
    four.broker.queues["mail"].put(b"no message")
    four.drain(four.broker)
    [letter] = four.letters.list(reason="undecodable")
    assert (letter.queue_name, letter.actor_name, letter.message) == ("mail", None, None)
    assert letter in four.letters.list(queue="mail")
    assert letter not in four.letters.list(actor="notify")


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        (
            {"reason": "tired"},
            "reason is 'tired': give one of exhausted, rejected, expired, unknown_actor, undecodable, crashed, "
            "unschedulable",
        ),
        ({"since": "yesterday"}, "since is 'yesterday': give ms since the epoch, a datetime or a timedelta"),
        ({"since": True}, "since is True: give ms since the epoch, a datetime or a timedelta"),
        ({"since": 1.5}, "since is 1.5: give ms since the epoch, a datetime or a timedelta"),
        ({"since": timedelta(seconds=-1)}, "since is -1000.0 ms: a duration cannot be negative"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_and_nothing_is_done(
    four: Ledger, filters: dict[str, Any], text: str
) -> None:
    for act in (four.letters.list, four.letters.one, four.letters.replay_all, four.letters.discard_all):
        with pytest.raises(ConfigError) as caught:
            act(**filters)
        assert str(caught.value) == text
    assert len(four.letters) == 4


def test_a_filter_that_does_not_exist_is_refused_and_nothing_is_done(four: Ledger) -> None:
    for act in (four.letters.list, four.letters.one, four.letters.replay_all, four.letters.discard_all):
        with pytest.raises(TypeError, match="colour"):
            act(colour="red")
    assert len(four.letters) == 4


# get and one.


def test_a_letter_is_got_by_its_id(four: Ledger) -> None:
    for letter in four.letters:
        assert four.letters.get(letter.id) == letter


@pytest.mark.parametrize(
    "name", ["", "0", "999", "nonsense", None, -1, 3.5, "1 OR 1=1", "1\0", "\N{FULLWIDTH DIGIT ONE}"]
)
def test_an_id_that_no_letter_has_is_not_found_by_anything(four: Ledger, name: Any) -> None:
    for act in (four.letters.get, four.letters.replay, four.letters.discard):
        with pytest.raises(LetterNotFound) as caught:
            act(name)
        assert caught.value.letter_id == str(name)
    assert len(four.letters) == 4


def test_the_only_letter_that_matches_is_got(four: Ledger) -> None:
    assert four.letters.one(reason="rejected").message.args == (3, "GiveUp")  # type: ignore[union-attr]


def test_one_letter_of_none_or_several_is_a_lookup_error(four: Ledger) -> None:
    with pytest.raises(LookupError, match=r"^one dead letter was expected, there is none$"):
        four.letters.one(actor="nobody")
    with pytest.raises(LookupError, match=r"^one dead letter was expected, there are several$"):
        four.letters.one(queue="mail")


# replay.


def test_a_replayed_letter_runs_again_and_lies_among_the_dead_no_more(ledger: Ledger) -> None:
    letter = ledger.die(ledger.charge, 1)
    ledger.works = True
    assert ledger.letters.replay(letter) == letter
    assert len(ledger.letters) == 0
    assert ledger.drain(ledger.broker) == 1
    assert ledger.runs == [("charge", 1)] * 2
    assert len(ledger.letters) == 0


def test_a_letter_is_replayed_by_its_id_too(ledger: Ledger) -> None:
    letter = ledger.die(ledger.charge, 1)
    assert ledger.letters.replay(letter.id) == letter
    assert ledger.drain(ledger.broker) == 1


def test_a_replayed_letter_is_due_at_once_in_its_own_queue(ledger: Ledger) -> None:
    letter = ledger.die(ledger.notify, 1)
    ledger.letters.replay(letter)
    assert ledger.broker.counts()["mail"] == QueueCounts(due=1, oldest_due_at=ledger.clock.now())


@pytest.mark.parametrize("delay", [60_000, 59_999.5, timedelta(minutes=1)])
def test_a_letter_that_is_replayed_with_a_delay_waits_so_long(ledger: Ledger, delay: Any) -> None:
    letter = ledger.die(ledger.charge, 1)
    replayed_at = ledger.clock.now()
    ledger.letters.replay(letter, delay=delay)
    assert ledger.broker.store.next_due("default") == replayed_at + 60_000
    assert ledger.drain(ledger.broker, until=replayed_at + 59_999) == 0
    assert ledger.drain(ledger.broker) == 1
    assert ledger.clock.now() == replayed_at + 60_000


@pytest.mark.parametrize(
    ("delay", "text"),
    [
        (-1, "delay is -1 ms: a duration cannot be negative"),
        ("5", "delay is '5': give milliseconds as a whole number, or a datetime.timedelta"),
        (None, "delay is None: give milliseconds as a whole number, or a datetime.timedelta"),
    ],
)
def test_a_delay_that_makes_no_sense_is_refused_and_the_letter_stays(ledger: Ledger, delay: Any, text: str) -> None:
    letter = ledger.die(ledger.charge, 1)
    with pytest.raises(ConfigError) as caught:
        ledger.letters.replay(letter, delay=delay)
    assert str(caught.value) == text
    assert list(ledger.letters) == [letter]


def test_a_replayed_message_has_a_new_budget_of_retries(ledger: Ledger) -> None:
    letter = ledger.die(ledger.notify, 1)
    assert ledger.numbers == [1, 2, 3]
    ledger.letters.replay(letter)
    assert ledger.drain(ledger.broker) == 3
    assert ledger.numbers == [1, 2, 3, 1, 2, 3]


def test_a_replayed_message_keeps_its_history_and_goes_on_counting(ledger: Ledger) -> None:
    ledger.letters.replay(ledger.die(ledger.notify, 1))
    ledger.drain(ledger.broker)
    [letter] = ledger.letters
    assert [attempt.n for attempt in letter.attempts] == [1, 2, 3, 4, 5, 6]


def test_a_letter_counts_how_often_it_was_replayed(ledger: Ledger) -> None:
    letter = ledger.die(ledger.charge, 1)
    assert letter.replays == 0
    for replays in (1, 2, 3):
        ledger.letters.replay(letter)
        ledger.drain(ledger.broker)
        [letter] = ledger.letters
        assert letter.replays == replays


def test_a_replayed_message_keeps_its_id_its_arguments_and_the_options_it_was_sent_with(ledger: Ledger) -> None:
    ledger.charge.send_with_options(args=(1,), kwargs={"error": "KeyError"}, my_option="kept")
    ledger.drain(ledger.broker)
    [before] = ledger.letters
    ledger.letters.replay(before)
    ledger.drain(ledger.broker)
    [after] = ledger.letters
    assert before.message is not None
    assert after.message is not None
    assert after.message_id == before.message_id
    assert after.message.args == (1,)
    assert after.message.kwargs == {"error": "KeyError"}
    assert after.message.options["my_option"] == "kept"


def test_a_replayed_message_is_as_old_as_its_replay(ledger: Ledger) -> None:
    ledger.charge.send_with_options(args=(1,), max_age=5_000)
    ledger.drain(ledger.broker)
    [letter] = ledger.letters
    ledger.clock.advance(3_600_000)
    ledger.letters.replay(letter)
    waiting = ledger.broker.store.claim("default", now=ledger.clock.now(), limit=1, owner="test")
    [claim] = waiting
    assert dramatiq.Message.decode(claim.data).message_timestamp == ledger.clock.now()
    ledger.broker.store.finish(claim)


def test_what_the_first_life_used_up_is_not_in_the_options_of_the_second(ledger: Ledger) -> None:
    ledger.letters.replay(ledger.die(ledger.notify, 1))
    [claim] = ledger.broker.store.claim("mail", now=ledger.clock.now(), limit=1, owner="test")
    options = dramatiq.Message.decode(claim.data).options
    assert options.keys() & {"retries", "snoozes", "traceback", "requeue_timestamp", "eta"} == set()
    assert options["replays"] == 1
    ledger.broker.store.finish(claim)


def test_a_number_of_replays_that_somebody_else_wrote_as_something_else_starts_anew(ledger: Ledger) -> None:
    ledger.charge.send_with_options(args=(1,), replays="many")
    ledger.drain(ledger.broker)
    ledger.letters.replay(ledger.letters.one())
    ledger.drain(ledger.broker)
    assert ledger.letters.one().replays == 1


def test_what_cannot_be_decoded_is_replayed_as_it_is(ledger: Ledger) -> None:
    ledger.broker.queues["mail"].put(b"\xff no message")
    ledger.drain(ledger.broker)
    ledger.letters.replay(ledger.letters.one())
    assert len(ledger.letters) == 0
    ledger.drain(ledger.broker)
    letter = ledger.letters.one()
    assert (letter.reason, letter.data) == ("undecodable", b"\xff no message")


def test_a_letter_is_replayed_once_and_then_not_found(ledger: Ledger) -> None:
    letter = ledger.die(ledger.charge, 1)
    ledger.letters.replay(letter)
    for again in (letter, letter.id):
        with pytest.raises(LetterNotFound):
            ledger.letters.replay(again)
    assert ledger.broker.counts()["default"].waiting == 1


def test_a_letter_is_replayed_where_the_broker_is_full(clock: VirtualClock) -> None:
    broker = MemoryBroker(max_messages=1, clock=clock)
    store = broker.store
    broker.declare_queue("default")
    broker.queues["default"].put(b"no message")
    [claim] = store.claim("default", now=clock.now(), limit=1, owner="test")
    store.bury(
        claim,
        DeadLetter(
            id=str(claim.id),
            reason="undecodable",
            queue_name="default",
            actor_name=None,
            died_at=clock.now(),
            data=claim.data,
        ),
    )
    broker.queues["default"].put(b"one more")
    broker.dead_letters.replay(str(claim.id))
    assert broker.queues["default"].qsize() == 2
    assert broker.check() == []
    broker.close()


def test_a_letter_from_before_the_last_replay_does_not_undo_what_was_written_since(ledger: Ledger) -> None:
    seen_first = ledger.die(ledger.charge, 1)
    ledger.letters.replay(seen_first.id)  # by somebody else
    ledger.drain(ledger.broker)
    ledger.letters.replay(seen_first)
    ledger.drain(ledger.broker)
    letter = ledger.letters.one()
    assert letter.replays == 2
    assert [attempt.n for attempt in letter.attempts] == [1, 2, 3]


# replay_all.


def waiting(ledger: Ledger) -> list[tuple[int, int]]:
    """Who waits, with the milliseconds until then, in due order."""
    now = ledger.clock.now()
    found = []
    for queue in ("default", "mail"):
        for claim in ledger.broker.store.claim(queue, now=now + 10**12, limit=99, owner="test"):
            found.append((claim.due_at - now, dramatiq.Message.decode(claim.data).args[0]))
            ledger.broker.store.finish(claim)
    return sorted(found)


def test_all_letters_are_replayed_oldest_first(ledger: Ledger) -> None:
    for customer in (1, 2, 3):
        ledger.die(ledger.charge, customer)
    ledger.works = True
    assert ledger.letters.replay_all() == 3
    ledger.drain(ledger.broker)
    assert ledger.runs[3:] == [("charge", 1), ("charge", 2), ("charge", 3)]
    assert len(ledger.letters) == 0


def test_the_letters_that_match_are_replayed_and_the_others_stay(four: Ledger) -> None:
    assert four.letters.replay_all(queue="mail") == 2
    assert waiting(four) == [(0, 2), (0, 4)]
    assert four.customers() == [3, 1]


def test_a_limit_replays_so_many_of_the_newest(four: Ledger) -> None:
    assert four.letters.replay_all(limit=3, rate=1) == 3
    assert waiting(four) == [(0, 2), (1_000, 3), (2_000, 4)]


def test_where_there_is_nothing_to_replay_nothing_is_replayed(ledger: Ledger) -> None:
    assert ledger.letters.replay_all() == 0
    assert ledger.letters.replay_all(rate=5) == 0


@pytest.mark.parametrize(
    ("rate", "due"),
    [
        (None, [0, 0, 0, 0]),
        (1, [0, 1_000, 2_000, 3_000]),
        (2, [0, 500, 1_000, 1_500]),
        (3, [0, 333, 666, 1_000]),
        (0.5, [0, 2_000, 4_000, 6_000]),
        (1_000, [0, 1, 2, 3]),
        (4_000, [0, 0, 0, 0]),
        (float("inf"), [0, 0, 0, 0]),
    ],
)
def test_a_rate_spaces_the_letters_so_that_no_more_become_due_in_a_second(
    four: Ledger, rate: float | None, due: list[int]
) -> None:
    assert four.letters.replay_all(rate=rate) == 4
    assert sorted(waiting(four)) == sorted(zip(due, [1, 2, 3, 4], strict=True))


def test_a_rate_counts_from_the_first_that_was_brought_back_by_this_call(four: Ledger, clock: VirtualClock) -> None:
    oldest = four.letters.list()[-1]
    stolen = Stealing(four.broker.store, clock, oldest.id)
    assert stolen.replay_all(rate=1) == 3
    assert waiting(four) == [(0, 2), (1_000, 3), (2_000, 4)]


class Stealing(DeadLetters):
    """Somebody else discards a letter between the look at the letters and their replay."""

    def __init__(self, store: Store, clock: VirtualClock, stolen: str) -> None:
        super().__init__(store, clock, lambda queue_name, due_at: None)
        self.store = store
        self.stolen = stolen

    def __iter__(self) -> Iterator[DeadLetter]:
        yield from list(super().__iter__())
        self.store.discard(self.stolen)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "rate is 0: give the number of messages a second, more than 0"),
        (-1, "rate is -1: give the number of messages a second, more than 0"),
        (True, "rate is True: give the number of messages a second, more than 0"),
        ("5", "rate is '5': give the number of messages a second, more than 0"),
        (float("nan"), "rate is nan: give the number of messages a second, more than 0"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused_and_nothing_is_replayed(four: Ledger, rate: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        four.letters.replay_all(rate=rate)
    assert str(caught.value) == text
    assert len(four.letters) == 4


@pytest.mark.parametrize("limit", ["5", 2.0, True])
def test_a_limit_that_makes_no_sense_is_refused(four: Ledger, limit: Any) -> None:
    with pytest.raises(ConfigError, match=f"limit is {limit!r}: give a whole number"):
        four.letters.list(limit=limit)


def test_a_rate_that_leads_beyond_all_time_is_refused_and_nothing_is_replayed(four: Ledger) -> None:
    with pytest.raises(ConfigError):
        four.letters.replay_all(rate=1e-310)
    assert len(four.letters) == 4


def test_a_replay_that_was_interrupted_can_be_run_again(four: Ledger, clock: VirtualClock) -> None:
    def interrupt(queue_name: str, due_at: int) -> None:
        if len(letters) == 2:
            raise KeyboardInterrupt

    letters = DeadLetters(four.broker.store, clock, interrupt)
    with pytest.raises(KeyboardInterrupt):
        letters.replay_all()
    assert four.customers() == [4, 3]
    assert four.letters.replay_all() == 2
    assert [customer for _, customer in waiting(four)] == [1, 2, 3, 4]


def test_those_who_wait_for_messages_are_told_of_each_replay(four: Ledger, clock: VirtualClock) -> None:
    told: list[tuple[str, int]] = []
    letters = DeadLetters(four.broker.store, clock, lambda queue_name, due_at: told.append((queue_name, due_at)))
    letters.replay_all(rate=1)
    now = clock.now()
    assert told == [("default", now), ("mail", now + 1_000), ("default", now + 2_000), ("mail", now + 3_000)]


# discard.


def test_a_discarded_letter_is_gone(four: Ledger) -> None:
    by_itself, by_id, *_ = four.letters.list()
    four.letters.discard(by_itself)
    four.letters.discard(by_id.id)
    assert four.customers() == [2, 1]
    assert four.drain(four.broker) == 0


def test_a_letter_is_discarded_once_and_then_not_found(ledger: Ledger) -> None:
    letter = ledger.die(ledger.charge, 1)
    ledger.letters.discard(letter)
    for act in (ledger.letters.discard, ledger.letters.replay):
        with pytest.raises(LetterNotFound):
            act(letter)


def test_a_letter_that_was_replayed_cannot_be_discarded(ledger: Ledger) -> None:
    letter = ledger.die(ledger.charge, 1)
    ledger.letters.replay(letter)
    with pytest.raises(LetterNotFound):
        ledger.letters.discard(letter)
    assert ledger.broker.counts()["default"].waiting == 1


def test_an_actor_may_be_named_by_itself(four: Ledger) -> None:
    assert four.letters.list(actor=four.charge) == four.letters.list(actor="charge") != []


def test_all_letters_that_match_are_discarded_and_the_others_stay(four: Ledger) -> None:
    assert four.letters.discard_all(actor="charge") == 2
    assert four.customers() == [4, 2]
    assert four.letters.discard_all() == 2
    assert four.letters.discard_all() == 0


def test_what_somebody_else_discarded_meanwhile_is_not_counted(four: Ledger, clock: VirtualClock) -> None:
    stolen = Stealing(four.broker.store, clock, four.letters.list()[0].id)
    assert stolen.discard_all() == 3
    assert len(four.letters) == 0
