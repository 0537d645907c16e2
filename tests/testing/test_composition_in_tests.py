"""Results, callbacks, pipelines, groups and async actors behave in drain() as in a worker."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import AsyncIO, GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend as StubRateLimits
from dramatiq.results import ResultFailure, Results, ResultTimeout
from dramatiq.results.backends import StubBackend

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteResultBackend, current_attempt
from dramatiq_retryq.testing import Kit, swap_broker


@pytest.fixture
def composed() -> Any:
    broker = MemoryBroker()
    broker.add_middleware(Results(backend=StubBackend(), store_results=True))
    broker.add_middleware(GroupCallbacks(StubRateLimits()))
    broker.add_middleware(AsyncIO())
    with swap_broker(broker) as retryq:
        yield retryq


@pytest.fixture
def add(composed: Kit) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(max_retries=3)
    def add(x: int, y: int) -> int:
        return x + y

    return add


def test_a_pipeline_hands_results_on(composed: Kit, add: Any) -> None:
    composed.fail_next(add, 2, ConnectionError)
    pipe = add.message(1, 2) | add.message(3) | add.message(4)
    pipe.run(delay=1_000)
    composed.drain()
    assert pipe.get_result() == 10
    assert list(pipe.get_results()) == [3, 6, 10]


def test_a_group_calls_back_once_all_are_done(composed: Kit, add: Any) -> None:
    called: list[timedelta] = []

    @dramatiq.actor
    def done() -> None:
        called.append(composed.elapsed)

    group = dramatiq.group([add.message(n, n) for n in range(3)])
    group.add_completion_callback(done.message())
    composed.fail_next(add, 1, ConnectionError)
    group.run()
    composed.drain()
    assert called == [timedelta(milliseconds=100)]
    assert list(group.get_results()) == [0, 2, 4]


def test_waiting_for_a_result_runs_what_is_due_until_it_is_there(composed: Kit, add: Any) -> None:
    composed.fail_next(add, 2, ConnectionError)
    first, second = add.send(1, 2), add.send_with_options(args=(3, 4), delay=60_000)
    assert first.get_result(block=True) == 3
    assert composed.elapsed == timedelta(milliseconds=300)
    assert [sent.message_id for sent in composed.waiting()] == [second.message_id]
    with pytest.raises(ResultTimeout, match=r"add\(3, 4\) has no result, and nothing more is due in time"):
        second.get_result(block=True, timeout=10_000)
    assert composed.elapsed == timedelta(seconds=10, milliseconds=300)
    assert second.get_result(block=True, timeout=60_000) == 7


def test_waiting_for_a_group_or_a_pipeline_runs_it(composed: Kit, add: Any) -> None:
    group = dramatiq.group([add.message(n, n) for n in range(3)]).run()
    group.wait(timeout=1_000)
    assert list(group.get_results(block=True)) == [0, 2, 4]
    assert (add.message(1, 2) | add.message(3)).run().get_result(block=True) == 6


def test_waiting_for_the_result_of_a_message_that_dies_raises_its_failure(composed: Kit, add: Any) -> None:
    composed.fail_next(add, 4, ConnectionError("refused"))
    with pytest.raises(ResultFailure, match="refused"):
        add.send(1, 2).get_result(block=True)


def test_an_actor_that_waits_for_a_result_is_told_that_nobody_else_runs(composed: Kit, add: Any) -> None:
    @dramatiq.actor(max_retries=0)
    def wait() -> int:
        result: int = add.send(1, 2).get_result(block=True)
        return result

    wait.send()
    outcome = composed.drain()
    assert isinstance(outcome.errors[0], ResultTimeout)
    assert "messages are run one after the other" in str(outcome.errors[0])


def test_waiting_for_a_result_in_a_sqlite_file_runs_what_is_due(tmp_path: Path) -> None:
    backend = SQLiteResultBackend(tmp_path / "results.db")
    broker = MemoryBroker()
    broker.add_middleware(Results(backend=backend, store_results=True))
    with swap_broker(broker) as retryq:

        @dramatiq.actor
        def add(x: int, y: int) -> int:
            return x + y

        retryq.fail_next(add, 3, ConnectionError)
        assert add.send(1, 2).get_result(block=True) == 3
        retryq.advance(700_000)  # past the ten minutes that results are kept
        with pytest.raises(dramatiq.results.ResultMissing):
            backend.get_result(retryq.enqueued(add)[0].message)
    backend.close()


def test_callbacks_are_called(composed: Kit, add: Any) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def went_well(message: Any, result: int) -> None:
        told.append(result)

    @dramatiq.actor
    def went_wrong(message: Any, error: Any) -> None:
        told.append(error["type"])

    add.send_with_options(args=(1, 2), on_success=went_well, on_failure=went_wrong)
    composed.drain()
    composed.fail_next(add, 1, ConnectionError)
    add.send_with_options(args=(1, 2), on_failure=went_wrong)
    composed.drain()
    assert told == [3, "ConnectionError"]


# -- Async actors ----------------------------------------------------------------------------------------------------


def test_an_async_actor_is_run_on_the_tests_own_thread(composed: Kit) -> None:
    seen: list[Any] = []

    @dramatiq.actor(max_retries=2)
    async def work(n: int) -> int:
        await asyncio.sleep(0)
        seen.append((current_attempt().number, threading.get_ident()))
        if len(seen) < 3:
            raise ConnectionError
        return n

    threads = threading.active_count()
    message = work.send(7)
    assert composed.drain().counts() == {"retried": 2, "succeeded": 1}
    assert seen == [(n, threading.get_ident()) for n in (1, 2, 3)]
    assert threading.active_count() == threads
    assert message.get_result() == 7


def test_the_loop_goes_on_from_one_message_to_the_next(composed: Kit) -> None:
    loops: list[Any] = []

    @dramatiq.actor
    async def work() -> None:
        loops.append(asyncio.get_running_loop())

    work.send()
    work.send()
    composed.drain()
    assert loops[0] is loops[1]


def test_an_async_actor_can_fail_and_crash_on_request(composed: Kit) -> None:
    ran: list[int] = []

    @dramatiq.actor
    async def work() -> None:
        ran.append(1)

    composed.fail_next(work, 1, ConnectionError)
    composed.crash_during(work, at="end")
    work.send()
    assert composed.drain().counts() == {"retried": 1, "crashed": 1, "succeeded": 1}
    assert ran == [1, 1]


def test_drain_within_an_async_test_runs_async_actors_too(composed: Kit) -> None:
    ran: list[int] = []

    @dramatiq.actor
    async def work() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    async def test() -> None:
        work.send()
        assert composed.drain().succeeded == 1

    asyncio.run(test())
    assert ran == [1]


def test_the_loop_is_gone_after_the_test() -> None:
    before = get_event_loop_thread()
    broker = MemoryBroker(middleware=[AsyncIO(), RetryQueue()])
    with swap_broker(broker) as retryq:
        tasks: list[Any] = []

        @dramatiq.actor
        async def work() -> None:
            tasks.append(asyncio.create_task(asyncio.sleep(3600)))

        work.send()
        retryq.drain()
        assert get_event_loop_thread() is not before
    assert get_event_loop_thread() is before
    assert tasks[0].cancelled()


def test_without_the_asyncio_middleware_an_async_actor_fails_as_in_a_worker(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=0)
    async def work() -> None: ...

    work.send()
    outcome = retryq.drain()
    assert "Have you added the AsyncIO middleware" in str(outcome.errors[0])
