"""What a failure leads to: the table of the design, row by row, in both worlds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import Middleware, Shutdown, SkipMessage
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import StubBackend

from dramatiq_retryq import GiveUp, MemoryBroker, Snooze, current_attempt
from dramatiq_retryq.clock import VirtualClock

# -- Any exception ---------------------------------------------------------------------------------------------------


def test_a_failing_message_is_attempted_once_and_then_max_retries_times(world: Any) -> None:
    here = world(max_retries=3)
    runs: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    fail.send()
    here.run()
    assert len(runs) == 4


def test_a_message_without_attempts_left_is_dead_as_exhausted(world: Any) -> None:
    here = world(max_retries=1)

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    message = fail.send()
    here.run()
    assert here.reasons() == ["exhausted"]
    assert here.dead() == [message.message_id]


def test_a_letter_tells_each_attempt(world: Any) -> None:
    here = world(max_retries=2, backoff=[3, 4])

    @dramatiq.actor
    def fail() -> None:
        raise ValueError(f"attempt {current_attempt().number}")

    fail.send()
    here.run()
    attempts = here.letter()["attempts"]
    assert [(attempt["n"], attempt["error"], attempt["message"], attempt["delay"]) for attempt in attempts] == [
        (1, "ValueError", "attempt 1", 3),
        (2, "ValueError", "attempt 2", 4),
        (3, "ValueError", "attempt 3", None),
    ]


def test_a_letter_has_the_last_error_and_its_full_traceback(world: Any) -> None:
    here = world(max_retries=1)

    def deep_down() -> None:
        raise ValueError("no")

    @dramatiq.actor
    def fail() -> None:
        try:
            deep_down()
        except ValueError as error:
            raise RuntimeError("outer") from error

    fail.send()
    here.run()
    letter = here.letter()
    assert letter["error"]["type"] == "RuntimeError"
    assert letter["error"]["message"] == "outer"
    assert "in deep_down" in letter["traceback"]
    assert "direct cause" in letter["traceback"]


def test_a_message_that_succeeds_in_the_end_leaves_no_letter(world: Any) -> None:
    here = world(max_retries=3)
    runs: list[int] = []

    @dramatiq.actor
    def fail_twice() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("no")

    fail_twice.send()
    here.run()
    assert len(runs) == 3
    assert here.letters == []
    assert here.dead() == []


def test_retries_traceback_and_requeue_timestamp_are_written_as_dramatiq_writes_them(world: Any) -> None:
    here = world(max_retries=1)
    options: list[dict[str, Any]] = []

    class Looks(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.actor_name == "fail":
                options.append(dict(message.options))

    here.broker.add_middleware(Looks())

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    first, second = options
    assert not first.keys() & {"retries", "traceback", "requeue_timestamp"}
    assert second["retries"] == 1
    assert "ValueError: no" in second["traceback"]
    assert isinstance(second["requeue_timestamp"], int)


def test_a_rate_limit_uses_up_attempts_like_any_exception(world: Any) -> None:
    here = world(max_retries=1)
    runs: list[int] = []
    limiter = ConcurrentRateLimiter(StubBackend(), "only-one", limit=1)

    @dramatiq.actor
    def limited() -> None:
        runs.append(1)
        with limiter.acquire(), limiter.acquire():
            pass

    limited.send()
    here.run()
    assert len(runs) == 2
    assert here.letter()["error"]["type"] == "RateLimitExceeded"


def test_a_message_that_ends_the_interpreter_is_retried_too(world: Any) -> None:
    here = world(max_retries=1)
    runs: list[int] = []

    @dramatiq.actor
    def leave() -> None:
        runs.append(1)
        raise SystemExit(1)

    leave.send()
    here.run()
    assert len(runs) == 2
    assert here.reasons() == ["exhausted"]


# -- dramatiq.Retry --------------------------------------------------------------------------------------------------


def test_retry_uses_attempts_and_ends_as_exhausted(world: Any) -> None:
    here = world(max_retries=2)
    runs: list[int] = []

    @dramatiq.actor
    def ask() -> None:
        runs.append(1)
        raise dramatiq.Retry(delay=1)

    ask.send()
    here.run()
    assert len(runs) == 3
    assert here.reasons() == ["exhausted"]


def test_retry_says_the_delay(world: Any) -> None:
    here = world(max_retries=1, backoff=[1])

    @dramatiq.actor
    def ask() -> None:
        raise dramatiq.Retry(delay=7)

    ask.send()
    here.run()
    assert here.delays() == [7, None]


def test_retry_without_a_delay_waits_as_the_policy_says(world: Any) -> None:
    here = world(max_retries=1, backoff=[6])

    @dramatiq.actor
    def ask() -> None:
        raise dramatiq.Retry("busy")

    ask.send()
    here.run()
    assert here.delays() == [6, None]


def test_retry_with_a_delay_of_zero_is_heard(world: Any) -> None:
    here = world(max_retries=1, backoff=[5])

    @dramatiq.actor
    def ask() -> None:
        raise dramatiq.Retry(delay=0)

    ask.send()
    here.run()
    assert here.delays() == [0, None]


# -- Snooze ----------------------------------------------------------------------------------------------------------


def test_snoozing_uses_no_attempt(world: Any) -> None:
    here = world(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor
    def snooze() -> None:
        runs.append(current_attempt().number)
        if len(runs) < 5:
            raise Snooze(1)

    snooze.send()
    here.run()
    assert runs == [1] * 5
    assert here.letters == []


def test_snoozes_are_counted_apart(world: Any) -> None:
    here = world(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor
    def snooze() -> None:
        runs.append(1)
        raise Snooze(1) if len(runs) < 3 else ValueError("no")

    snooze.send()
    here.run()
    options = here.letter()["message"]["options"]
    assert options["snoozes"] == 2
    assert options["retries"] == 1
    assert [attempt["error"] for attempt in options["attempts"]] == ["ValueError"]


def test_a_snoozed_message_is_due_after_its_delay(broker: MemoryBroker, clock: VirtualClock, drain: Any) -> None:
    @dramatiq.actor
    def snooze() -> None:
        raise Snooze(timedelta(minutes=5))

    message = snooze.send()
    drain(broker, until=clock.now())
    assert broker.lookup(message.message_id).due_at == clock.now() + 300_000


def test_a_snooze_beyond_max_age_is_dead_as_expired_at_once(world: Any) -> None:
    here = world()
    runs: list[int] = []

    @dramatiq.actor(max_age=60_000)
    def snooze() -> None:
        runs.append(1)
        raise Snooze(3_600_000)

    snooze.send()
    here.run()
    assert len(runs) == 1
    assert here.reasons() == ["expired"]


# -- Shutdown --------------------------------------------------------------------------------------------------------


def test_a_worker_that_shuts_down_uses_no_attempt(world: Any) -> None:
    here = world(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor
    def interrupted() -> None:
        runs.append(current_attempt().number)
        if len(runs) < 3:
            raise Shutdown

    interrupted.send()
    here.run()
    assert runs == [1, 1, 1]
    assert here.letters == []


def test_a_message_interrupted_by_a_shutdown_is_due_at_once(
    broker: MemoryBroker, clock: VirtualClock, drain: Any
) -> None:
    runs: list[int] = []

    @dramatiq.actor
    def interrupted() -> None:
        runs.append(clock.now())
        if len(runs) == 1:
            raise Shutdown

    interrupted.send()
    drain(broker)
    assert runs == [runs[0]] * 2


# -- Rejected --------------------------------------------------------------------------------------------------------


def test_giving_up_ends_as_rejected_after_one_attempt(world: Any) -> None:
    here = world(max_retries=5)
    runs: list[int] = []

    @dramatiq.actor
    def give_up() -> None:
        runs.append(1)
        raise GiveUp("410 Gone")

    give_up.send()
    here.run()
    assert len(runs) == 1
    assert here.reasons() == ["rejected"]


def test_giving_up_is_an_attempt_with_its_reason_in_the_letter(world: Any) -> None:
    here = world()

    @dramatiq.actor
    def give_up() -> None:
        raise GiveUp("410 Gone")

    give_up.send()
    here.run()
    (attempt,) = here.letter()["attempts"]
    assert (attempt["n"], attempt["error"], attempt["message"]) == (1, "GiveUp", "410 Gone")
    assert here.letter()["error"]["message"] == "410 Gone"


def test_a_rejected_message_counts_no_retry(world: Any) -> None:
    here = world()

    @dramatiq.actor
    def give_up() -> None:
        raise GiveUp

    give_up.send()
    here.run()
    assert "retries" not in here.letter()["message"]["options"]  # as with what an actor throws in Dramatiq


@pytest.mark.parametrize("throws", [KeyError, (ValueError, KeyError)], ids=["class", "tuple"])
def test_an_exception_in_throws_ends_as_rejected_after_one_attempt(world: Any, throws: Any) -> None:
    here = world(max_retries=5)
    runs: list[int] = []

    @dramatiq.actor(throws=throws)
    def fail() -> None:
        runs.append(1)
        raise KeyError("expected")

    fail.send()
    here.run()
    assert len(runs) == 1
    assert here.reasons() == ["rejected"]


def test_an_exception_that_is_not_in_throws_is_retried(world: Any) -> None:
    here = world(max_retries=1)

    @dramatiq.actor(throws=KeyError)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert here.reasons() == ["exhausted"]


def test_a_message_that_another_middleware_fails_is_rejected(world: Any) -> None:
    class Refuses(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.actor_name == "never":
                message.fail()
                raise SkipMessage("not today")

    here = world(add=(Refuses(),))
    runs: list[int] = []

    @dramatiq.actor
    def never() -> None:
        runs.append(1)

    never.send()
    here.run()
    assert runs == []
    assert here.reasons() == ["rejected"]


def test_a_message_that_a_middleware_fails_after_a_success_is_rejected(world: Any) -> None:
    class Refuses(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            if message.actor_name == "succeed":
                message.fail()

    here = world(add=(Refuses(),))

    @dramatiq.actor
    def succeed() -> None:
        pass

    succeed.send()
    here.run()
    assert here.reasons() == ["rejected"]
    assert here.letter()["error"] is None


def test_a_message_that_was_skipped_but_not_failed_leaves_no_letter(world: Any) -> None:
    class Skips(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.actor_name == "never":
                raise SkipMessage("not today")

    here = world(add=(Skips(),))

    @dramatiq.actor
    def never() -> None:
        raise AssertionError

    never.send()
    here.run()
    assert here.letters == []
    assert here.dead() == []


# -- retry_when ------------------------------------------------------------------------------------------------------


def test_a_retry_when_that_says_no_ends_as_exhausted(world: Any) -> None:
    here = world()
    runs: list[int] = []

    @dramatiq.actor(retry_when=lambda retries, error: not isinstance(error, KeyError))
    def fail() -> None:
        runs.append(1)
        raise ValueError("again") if len(runs) < 3 else KeyError("enough")

    fail.send()
    here.run()
    assert len(runs) == 3
    assert here.reasons() == ["exhausted"]


def test_a_retry_when_that_says_no_tells_the_actor_of_on_retry_exhausted(world: Any) -> None:
    here = world()
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: Any, retries: Any) -> None:
        told.append(retries)

    @dramatiq.actor(retry_when=lambda retries, error: retries < 1, on_retry_exhausted="exhausted")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert told == [{"retries": 1, "max_retries": 20}]


# -- Age -------------------------------------------------------------------------------------------------------------


def test_a_message_whose_next_attempt_would_come_after_max_age_is_dead_now(world: Any) -> None:
    here = world(backoff=[3_600_000])
    runs: list[int] = []

    @dramatiq.actor(max_age=60_000)
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    fail.send()
    here.run()  # on StubBroker in real time: an hour's wait would end this test
    assert len(runs) == 1
    assert here.reasons() == ["expired"]


def test_a_death_foreseen_by_max_age_takes_no_time(broker: MemoryBroker, clock: VirtualClock, drain: Any) -> None:
    before = clock.now()

    @dramatiq.actor(max_age=60_000, backoff=[3_600_000])
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    drain(broker)
    assert clock.now() == before
    letter = broker.dead_letters.one()
    assert letter.died_at == before
    assert letter.attempts[0].delay is None


def test_a_retry_within_max_age_goes_on(world: Any) -> None:
    here = world(max_retries=1)
    runs: list[int] = []

    @dramatiq.actor(max_age=60_000)
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    fail.send()
    here.run()
    assert len(runs) == 2
    assert here.reasons() == ["exhausted"]


def test_a_message_over_its_age_limit_never_runs_and_ends_as_expired(world: Any) -> None:
    here = world()
    runs: list[int] = []

    @dramatiq.actor(max_age=60_000)
    def late() -> None:
        runs.append(1)

    here.send_aged(late, 120_000)
    here.run()
    assert runs == []
    assert here.reasons() == ["expired"]


# -- No actor, no message --------------------------------------------------------------------------------------------


def test_a_message_to_an_actor_that_nobody_knows_ends_as_unknown_actor(world: Any) -> None:
    here = world()
    here.broker.declare_queue("default")
    here.broker.enqueue(Message(queue_name="default", actor_name="nobody", args=(), kwargs={}, options={}))
    here.run()
    assert here.reasons() == ["unknown_actor"]
    assert here.letter()["actor_name"] == "nobody"


def test_a_payload_that_is_no_message_ends_as_undecodable(broker: MemoryBroker, drain: Any) -> None:
    broker.declare_queue("default")
    broker.queues["default"].put(b"\x00nonsense")
    drain(broker)
    letter = broker.dead_letters.one()
    assert letter.reason == "undecodable"
    assert letter.data == b"\x00nonsense"


# -- What a death is and is not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [GiveUp("no"), KeyError("expected")], ids=["GiveUp", "throws"])
def test_a_rejected_message_does_not_count_as_exhausted(world: Any, error: Exception) -> None:
    here = world()
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: Any, retries: Any) -> None:
        told.append(retries)

    @dramatiq.actor(throws=KeyError, on_retry_exhausted="exhausted")
    def fail() -> None:
        raise error

    fail.send()
    here.run()
    assert here.reasons() == ["rejected"]
    assert told == []


def test_an_expired_message_does_not_count_as_exhausted(world: Any) -> None:
    here = world(backoff=[3_600_000])
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: Any, retries: Any) -> None:
        told.append(retries)

    @dramatiq.actor(max_age=60_000, on_retry_exhausted="exhausted")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert here.reasons() == ["expired"]
    assert told == []


def test_a_policy_that_returns_none_ends_as_exhausted(world: Any) -> None:
    here = world(backoff=lambda attempt, error: 1 if attempt < 3 else None)
    runs: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    fail.send()
    here.run()
    assert len(runs) == 3
    assert here.reasons() == ["exhausted"]


def test_an_error_that_carries_a_wait_is_heard(world: Any) -> None:
    here = world(max_retries=1, backoff=[1])

    class TooManyRequests(Exception):
        retry_after = 0.009

    @dramatiq.actor
    def fail() -> None:
        raise TooManyRequests

    fail.send()
    here.run()
    assert here.delays() == [9, None]


def test_a_replayed_letter_has_a_new_budget_and_goes_on_counting_attempts(broker: MemoryBroker, drain: Any) -> None:
    numbers: list[int] = []

    @dramatiq.actor(max_retries=1)
    def fail() -> None:
        numbers.append(current_attempt().number)
        raise ValueError("no")

    fail.send()
    drain(broker)
    broker.dead_letters.replay(broker.dead_letters.one())
    drain(broker)
    letter = broker.dead_letters.one()
    assert numbers == [1, 2, 1, 2]
    assert [attempt.n for attempt in letter.attempts] == [1, 2, 3, 4]
    assert letter.replays == 1
