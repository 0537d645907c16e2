"""Callbacks, pipelines, groups and results under any broker. The scenarios are those of Dramatiq's own tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, MessageProxy, group, pipeline
from dramatiq.middleware import GroupCallbacks, Middleware
from dramatiq.rate_limits.backends import StubBackend as RateLimiterBackend
from dramatiq.results import ResultFailure, ResultMissing, Results, ResultTimeout
from dramatiq.results.backends import StubBackend

PATIENCE = 20_000
Finish = Callable[..., None]


@pytest.fixture
def backend(broker: Any) -> StubBackend:
    """A result backend that the broker uses."""
    backend = StubBackend()
    broker.add_middleware(Results(backend=backend))
    return backend


@pytest.fixture
def add(backend: StubBackend) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(store_results=True)
    def add(*numbers: int) -> int:
        return sum(numbers)

    return add


# -- Callbacks -------------------------------------------------------------------------------------------------------


def test_a_success_calls_back_with_the_result(broker: Any, finish: Finish) -> None:
    saved: list[Any] = []

    @dramatiq.actor
    def save(message: Any, result: Any) -> None:
        saved.append((message["actor_name"], result))

    @dramatiq.actor
    def work() -> int:
        return 3

    work.send_with_options(on_success=save)
    finish()
    assert saved == [("work", 3)]


def test_every_failure_calls_back_and_knows_its_retries(broker: Any, finish: Finish) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def report(message: Any, error: Any) -> None:
        told.append((message["options"]["retries"], error))

    @dramatiq.actor(max_retries=3, min_backoff=1, max_backoff=1, on_failure="report")
    def work() -> None:
        raise RuntimeError("no")

    work.send()
    finish()
    told.sort(key=lambda each: each[0])  # their order among the retries is not promised
    assert told == [(number, {"type": "RuntimeError", "message": "no"}) for number in (1, 2, 3, 4)]


def test_a_callback_has_to_be_an_actor(broker: Any) -> None:
    work = dramatiq.actor(lambda: None, actor_name="work")
    with pytest.raises(TypeError):
        work.send_with_options(on_success=print)


# -- Pipelines -------------------------------------------------------------------------------------------------------


def test_each_result_goes_to_the_next_of_a_pipeline(finish: Finish, add: Any) -> None:
    pipe = add.message(1, 2) | (add.message(3) | add.message(4))
    pipe.run()
    finish()
    assert list(pipe.get_results()) == [3, 6, 10]
    assert pipe.completed


def test_a_message_may_ignore_the_result_before_it(finish: Finish, add: Any) -> None:
    pipe = add.message(1) | add.message_with_options(pipe_ignore=True, args=(2,)) | add.message(3)
    pipe.run()
    finish()
    assert list(pipe.get_results()) == [1, 2, 5]


def test_a_pipeline_does_not_go_on_after_a_message_that_was_marked_as_failed(broker: Any, finish: Finish) -> None:
    class FailsAll(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            message.fail()

    broker.add_middleware(FailsAll())
    ran: list[str] = []

    @dramatiq.actor
    def first() -> None:
        ran.append("first")

    @dramatiq.actor
    def second() -> None:
        ran.append("second")

    pipeline([first.message_with_options(pipe_ignore=True), second.message()]).run()
    finish()
    assert ran == ["first"]


@pytest.mark.parametrize("where", ["pipeline", "first", "second"])
def test_a_pipeline_waits_for_the_delay_that_it_is_told(broker: Any, running: Any, add: Any, where: str) -> None:
    delay = 3_600_000
    first = add.message_with_options(args=(1,), **({"delay": delay} if where == "first" else {}))
    second = add.message_with_options(args=(2,), **({"delay": delay} if where == "second" else {}))
    pipe = first | second
    pipe.run(**({"delay": delay} if where == "pipeline" else {}))
    with running(broker):
        if where == "second":
            assert pipe.messages[0].get_result(block=True) == 1
        with pytest.raises(ResultTimeout):
            pipe.get_result(block=True, timeout=40)
        assert pipe.completed_count == (1 if where == "second" else 0)


# -- Groups ----------------------------------------------------------------------------------------------------------


def test_the_results_of_a_group_come_in_its_order(finish: Finish, add: Any) -> None:
    batch = group(add.message(number) for number in range(5))
    batch.run()
    finish(threads=3)
    assert list(batch.get_results()) == [0, 1, 2, 3, 4]
    assert batch.completed


def test_groups_may_lie_within_groups(finish: Finish, add: Any) -> None:
    batch = group(group(add.message(number) for _ in range(2)) for number in range(3))
    batch.run()
    finish()
    assert [list(inner) for inner in batch.get_results()] == [[0, 0], [1, 1], [2, 2]]


def test_messages_of_a_group_run_at_the_same_time(broker: Any, running: Any, backend: StubBackend) -> None:
    together = threading.Barrier(3, timeout=PATIENCE / 1000)

    @dramatiq.actor(store_results=True, max_retries=0)
    def work() -> bool:
        together.wait()
        return True

    batch = group(work.message() for _ in range(3))
    batch.run()
    with running(broker, threads=3):
        assert list(batch.get_results(block=True, timeout=PATIENCE)) == [True] * 3


def test_a_group_calls_back_when_all_are_done(broker: Any, finish: Finish) -> None:
    broker.add_middleware(GroupCallbacks(RateLimiterBackend()))
    ran: list[str] = []

    @dramatiq.actor
    def work() -> None:
        ran.append("work")

    @dramatiq.actor
    def done(number: int) -> None:
        ran.append(f"done {number}")

    batch = group(work.message() for _ in range(3))
    batch.add_completion_callback(done.message(42))
    batch.run()
    finish()
    assert ran == ["work", "work", "work", "done 42"]


# -- Results ---------------------------------------------------------------------------------------------------------


def test_a_result_can_be_had_from_the_message(finish: Finish, add: Any, backend: StubBackend) -> None:
    message = add.send(1, 2)
    finish()
    assert message.get_result() == 3
    assert message.get_result(backend=backend, block=True) == 3


def test_a_result_that_is_not_there_is_missing(add: Any) -> None:
    with pytest.raises(ResultMissing):
        add.send(1).get_result()


def test_waiting_for_a_result_may_time_out(add: Any) -> None:
    with pytest.raises(ResultTimeout):
        add.send(1).get_result(block=True, timeout=20)


def test_the_last_failure_of_a_message_is_its_result(finish: Finish, backend: StubBackend) -> None:
    ran: list[int] = []

    @dramatiq.actor(store_results=True, max_retries=1, min_backoff=1, max_backoff=1)
    def work() -> None:
        ran.append(1)
        raise RuntimeError(f"run {len(ran)}")

    message = work.send()
    finish()
    with pytest.raises(ResultFailure, match="actor raised RuntimeError: run 2") as caught:
        message.get_result()
    assert caught.value.orig_exc_type == "RuntimeError"


def test_a_message_that_was_skipped_has_the_result_none(broker: Any, finish: Finish, add: Any) -> None:
    class Skips(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            raise dramatiq.middleware.SkipMessage

    broker.add_middleware(Skips())
    message = add.send(1)
    finish()
    assert message.get_result() is None


def test_a_message_to_a_nobody_has_its_failure_stored_nowhere(broker: Any, finish: Finish, add: Any) -> None:
    message = broker.enqueue(add.message(1)._replace(actor_name="nobody"))
    finish()
    with pytest.raises(ResultMissing):
        message.get_result()
