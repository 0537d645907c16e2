"""What works with Dramatiq's Retries works with RetryQueue in its place."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, group, pipeline
from dramatiq.middleware import CurrentMessage, GroupCallbacks, Middleware, Retries, TimeLimit
from dramatiq.rate_limits.backends import StubBackend as RateLimiterBackend
from dramatiq.results import ResultFailure, ResultMissing, Results
from dramatiq.results.backends import StubBackend

from dramatiq_retryq import MemoryBroker, RetryQueue

# -- on_retry_exhausted ----------------------------------------------------------------------------------------------


def test_on_retry_exhausted_is_sent_the_message_and_its_retries(world: Any) -> None:
    here = world(max_retries=2)
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: dict[str, Any], retries: dict[str, Any]) -> None:
        told.append((message, retries))

    @dramatiq.actor(on_retry_exhausted="exhausted")
    def fail(number: int) -> None:
        raise ValueError("no")

    sent = fail.send(7)
    here.run()
    ((message, retries),) = told
    assert retries == {"retries": 2, "max_retries": 2}
    assert message["message_id"] == sent.message_id
    assert message["actor_name"] == "fail"
    assert message["args"] == [7]
    assert message["options"]["retries"] == 3


def test_on_retry_exhausted_may_be_the_actor_itself(world: Any) -> None:
    here = world(max_retries=0)
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: Any, retries: Any) -> None:
        told.append(retries)

    @dramatiq.actor(on_retry_exhausted=exhausted)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert told == [{"retries": 0, "max_retries": 0}]


def test_on_retry_exhausted_and_a_dead_letter_actor_are_both_told(world: Any) -> None:
    here = world(max_retries=0)
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: Any, retries: Any) -> None:
        told.append(message["message_id"])

    @dramatiq.actor(on_retry_exhausted="exhausted")
    def fail() -> None:
        raise ValueError("no")

    message = fail.send()
    here.run()
    assert told == [message.message_id]
    assert here.letter()["message"]["message_id"] == message.message_id


# -- Callbacks -------------------------------------------------------------------------------------------------------


def test_on_success_is_sent_the_result_once_even_after_failures(world: Any) -> None:
    here = world()
    saved: list[Any] = []
    runs: list[int] = []

    @dramatiq.actor
    def save(message: Any, result: Any) -> None:
        saved.append(result)

    @dramatiq.actor
    def add(x: int, y: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("no")
        return x + y

    add.send_with_options(args=(1, 2), on_success=save)
    here.run()
    assert saved == [3]


def test_on_failure_is_sent_each_failure_with_its_number_of_retries(world: Any) -> None:
    here = world(max_retries=2)
    told: list[Any] = []

    @dramatiq.actor
    def report(message: dict[str, Any], error: dict[str, Any]) -> None:
        told.append((message["options"]["retries"], error))

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send_with_options(on_failure="report")
    here.run()
    told.sort(key=lambda each: each[0])  # their order among the retries is not promised
    error = {"type": "ValueError", "message": "no"}
    assert told == [(1, error), (2, error), (3, error)]


# -- Composition -----------------------------------------------------------------------------------------------------


def test_a_pipeline_goes_on_after_its_first_message_succeeds_at_last(world: Any) -> None:
    here = world()
    runs: list[int] = []
    saved: list[int] = []

    @dramatiq.actor
    def add(x: int, y: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("no")
        return x + y

    @dramatiq.actor
    def save(result: int) -> None:
        saved.append(result)

    (add.message(1, 2) | add.message(10) | save.message()).run()
    here.run()
    assert saved == [13]


def test_a_pipeline_ends_where_a_message_dies(world: Any) -> None:
    here = world(max_retries=1)
    runs: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    @dramatiq.actor
    def never(result: Any) -> None:
        runs.append(1)

    pipeline([fail.message(), never.message()]).run()
    here.run()
    assert runs == []
    assert len(here.letters) == 1


def test_a_group_calls_back_once_when_its_last_message_has_succeeded(world: Any) -> None:
    here = world(add=(GroupCallbacks(RateLimiterBackend()),))
    runs: list[int] = []
    finished: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        runs.append(number)
        if runs.count(number) <= number:
            raise ValueError("no")

    @dramatiq.actor
    def finish(count: int) -> None:
        finished.append(len(runs))

    batch = group(work.message(number) for number in range(3))
    batch.add_completion_callback(finish.message(3))
    batch.run()
    here.run()
    assert sorted(runs) == [0, 1, 1, 2, 2, 2]
    assert finished == [6]


def test_a_group_with_a_dead_message_does_not_call_back(world: Any) -> None:
    here = world(max_retries=1, add=(GroupCallbacks(RateLimiterBackend()),))
    finished: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        if number == 0:
            raise ValueError("no")

    @dramatiq.actor
    def finish() -> None:
        finished.append(1)

    batch = group(work.message(number) for number in range(3))
    batch.add_completion_callback(finish.message())
    batch.run()
    here.run()
    assert finished == []


# -- Results ---------------------------------------------------------------------------------------------------------


def test_the_result_is_that_of_the_attempt_that_succeeded(world: Any) -> None:
    backend = StubBackend()
    here = world(add=(Results(backend=backend),))
    runs: list[int] = []

    @dramatiq.actor(store_results=True)
    def work() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("no")
        return len(runs)

    message = work.send()
    here.run()
    assert backend.get_result(message) == 3


def test_a_failure_that_is_retried_is_no_result(world: Any) -> None:
    backend = StubBackend()
    here = world(max_retries=2, add=(Results(backend=backend),))
    found: list[str] = []

    @dramatiq.actor(store_results=True)
    def work() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        try:
            backend.get_result(message)
        except ResultMissing:
            found.append("missing")
        raise ValueError("no")

    here.broker.add_middleware(CurrentMessage())
    work.send()
    here.run()
    assert found == ["missing"] * 3


def test_the_final_failure_is_the_result(world: Any) -> None:
    backend = StubBackend()
    here = world(max_retries=2, add=(Results(backend=backend),))
    runs: list[int] = []

    @dramatiq.actor(store_results=True)
    def work() -> None:
        runs.append(1)
        raise ValueError(f"run {len(runs)}")

    message = work.send()
    here.run()
    with pytest.raises(ResultFailure, match="actor raised ValueError: run 3"):
        backend.get_result(message)


# -- TimeLimit, CurrentMessage ---------------------------------------------------------------------------------------


def test_an_actor_over_its_time_limit_is_retried(world: Any) -> None:
    here = world(max_retries=1)
    (limit,) = (m for m in here.broker.middleware if isinstance(m, TimeLimit))
    limit.manager.interval = 0.02
    here.broker.emit_after("process_boot")
    runs: list[int] = []
    forever = threading.Event()

    @dramatiq.actor(time_limit=10)
    def endless() -> None:
        runs.append(1)
        while not forever.wait(0.001):
            pass

    endless.send()
    here.run()
    limit.manager.interval = 60
    assert len(runs) == 2
    assert here.letter()["error"]["type"] == "TimeLimitExceeded"


def test_the_current_message_is_at_hand_in_every_attempt(world: Any) -> None:
    here = world(max_retries=1, add=(CurrentMessage(),))
    found: list[Any] = []

    @dramatiq.actor
    def work() -> None:
        message = CurrentMessage.get_current_message()
        found.append(message.message_id if message is not None else None)
        raise ValueError("no")

    message = work.send()
    here.run()
    assert found == [message.message_id] * 2


# -- Signals of a retry ----------------------------------------------------------------------------------------------


class Counter(Middleware):
    """Counts retries as Dramatiq's Prometheus middleware does."""

    def __init__(self) -> None:
        self.retries = 0
        self.delays: list[Any] = []
        self.etas: list[Any] = []

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        if "retries" in message.options:
            self.retries += 1
            self.delays.append(delay)
            self.etas.append(message.options.get("eta"))


def fail_three_times(broker: Any) -> None:
    runs: list[int] = []

    @dramatiq.actor(broker=broker)
    def work() -> None:
        runs.append(1)
        if len(runs) < 4:
            raise ValueError("no")

    work.send()


def test_a_memory_broker_enqueues_once_for_each_retry(broker: MemoryBroker, drain: Any) -> None:
    counter = Counter()
    broker.add_middleware(counter)
    fail_three_times(broker)
    drain(broker)
    assert counter.retries == 3


def test_a_retry_looks_like_an_enqueue_with_a_delay_and_an_eta(broker: MemoryBroker, clock: Any, drain: Any) -> None:
    counter = Counter()
    broker.add_middleware(counter)

    @dramatiq.actor(backoff=[500], max_retries=1)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    before = clock.now()
    drain(broker)
    assert counter.delays == [500]
    assert counter.etas == [before + 500]


@pytest.mark.parametrize("world", ["stub"], indirect=True)
def test_on_a_foreign_broker_a_retry_is_counted_as_often_as_with_retries(world: Any) -> None:
    counted = []
    for middleware in (Retries(min_backoff=1, max_backoff=1), None):
        here = world(max_retries=20)
        counter = Counter()
        here.broker.add_middleware(counter)
        if middleware is not None:
            here.broker.middleware[here.broker.middleware.index(here.retry_queue)] = middleware
        fail_three_times(here.broker)
        here.run()
        counted.append(counter.retries)
    assert counted[0] == counted[1] > 0


def test_a_middleware_that_is_placed_by_retries_finds_its_place_on_a_memory_broker() -> None:
    class Mine(Middleware):
        pass

    broker = MemoryBroker()
    broker.add_middleware(Mine(), before=Retries)
    kinds = [type(middleware) for middleware in broker.middleware]
    assert kinds.index(Mine) == kinds.index(RetryQueue) - 1
