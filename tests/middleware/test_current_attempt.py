"""current_attempt(): which attempt this is, in sync and async actors, from the first run on."""

from __future__ import annotations

import asyncio
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, MessageProxy, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, Middleware, SkipMessage

from dramatiq_retryq import GiveUp, MemoryBroker, RetryQueue, Snooze, current_attempt
from dramatiq_retryq.clock import VirtualClock


def test_each_attempt_knows_its_number(world: Any) -> None:
    here = world(max_retries=2)
    numbers: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        numbers.append(current_attempt().number)
        raise ValueError("no")

    fail.send()
    here.run()
    assert numbers == [1, 2, 3]


def test_only_the_last_attempt_is_the_last(world: Any) -> None:
    here = world(max_retries=2)
    last: list[bool] = []

    @dramatiq.actor
    def fail() -> None:
        last.append(current_attempt().is_last)
        raise ValueError("no")

    fail.send()
    here.run()
    assert last == [False, False, True]


@pytest.mark.parametrize(
    ("actor", "message", "limit"),
    [
        ({}, {}, 21),
        ({"max_retries": 4}, {}, 5),
        ({"max_retries": 4}, {"max_retries": 0}, 1),
        ({"max_retries": None}, {}, None),
        ({"retry_when": lambda retries, error: False}, {}, None),
    ],
)
def test_the_limit_is_what_holds_for_this_message(
    broker: MemoryBroker, drain: Any, actor: dict[str, Any], message: dict[str, Any], limit: int | None
) -> None:
    limits: list[int | None] = []

    @dramatiq.actor(**actor)
    def work() -> None:
        limits.append(current_attempt().limit)

    work.send_with_options(**message)
    drain(broker)
    assert limits == [limit]


def test_the_attempts_before_are_at_hand(world: Any) -> None:
    here = world(max_retries=1, backoff=[4])
    previous: list[Any] = []

    @dramatiq.actor
    def fail() -> None:
        previous.append([(a.n, a.error, a.message, a.delay) for a in current_attempt().previous])
        raise ValueError("no")

    fail.send()
    here.run()
    assert previous == [[], [(1, "ValueError", "no", 4)]]


def test_every_attempt_knows_when_the_first_one_started(broker: MemoryBroker, clock: VirtualClock, drain: Any) -> None:
    started: list[int] = []
    before = clock.now()

    @dramatiq.actor(max_retries=2, backoff=[1000])
    def fail() -> None:
        started.append(current_attempt().first_started_at)
        raise ValueError("no")

    fail.send()
    drain(broker)
    assert started == [before] * 3


def test_a_run_that_snoozed_is_no_first_start(broker: MemoryBroker, clock: VirtualClock, drain: Any) -> None:
    started: list[int] = []

    @dramatiq.actor
    def snooze() -> None:
        started.append(current_attempt().first_started_at)
        if len(started) == 1:
            raise Snooze(1000)

    snooze.send()
    drain(broker)
    assert started == [clock.now() - 1000, clock.now()]  # a snooze is no attempt, and so none has started before


def test_after_a_snooze_it_is_still_the_same_attempt(world: Any) -> None:
    here = world(max_retries=1)
    numbers: list[int] = []

    @dramatiq.actor
    def work() -> None:
        numbers.append(current_attempt().number)
        raise (ValueError("no"), Snooze(1), GiveUp("enough"))[len(numbers) - 1]

    work.send()
    here.run()
    assert numbers == [1, 2, 2]


def test_outside_of_a_worker_it_is_a_first_attempt_without_a_limit() -> None:
    attempt = current_attempt()
    assert (attempt.number, attempt.limit, attempt.previous, attempt.is_last) == (1, None, (), False)


def test_an_actor_called_directly_is_in_its_first_attempt(broker: MemoryBroker) -> None:
    @dramatiq.actor(max_retries=0)
    def work() -> int:
        return current_attempt().number

    assert work() == 1


@pytest.mark.parametrize("outcome", ["success", "failure", "skip"])
def test_nothing_is_left_of_a_message_once_it_was_processed(broker: MemoryBroker, drain: Any, outcome: str) -> None:
    class Skips(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if outcome == "skip":
                raise SkipMessage

    @dramatiq.actor(max_retries=0)
    def work() -> None:
        if outcome == "failure":
            raise ValueError("no")

    broker.add_middleware(Skips())  # which comes after RetryQueue has heard of the message
    work.send()
    drain(broker)
    assert current_attempt().limit is None


@pytest.mark.parametrize("make", [StubBroker, MemoryBroker], ids=["stub", "memory"])
def test_an_async_actor_knows_its_attempt(make: Any) -> None:
    broker = make(middleware=[RetryQueue(max_retries=2, min_backoff=1, max_backoff=1), AsyncIO()])
    numbers: list[tuple[int, int | None, int]] = []

    @dramatiq.actor(broker=broker)
    async def work() -> None:
        await asyncio.sleep(0)
        attempt = current_attempt()
        numbers.append((attempt.number, attempt.limit, len(attempt.previous)))
        if attempt.number < 3:
            raise ValueError("no")

    worker = Worker(broker, worker_threads=1, worker_timeout=5)
    worker.start()
    try:
        work.send()
        broker.join("default", timeout=10_000)
    finally:
        worker.stop()
    assert numbers == [(1, 3, 0), (2, 3, 1), (3, 3, 2)]


def test_async_actors_running_at_once_each_know_their_own_attempt() -> None:
    broker = MemoryBroker([RetryQueue(max_retries=1, min_backoff=1, max_backoff=1), AsyncIO()])
    found: dict[str, list[int]] = {"steady": [], "shaky": []}
    both_there = asyncio.Event()
    there: list[str] = []

    @dramatiq.actor(broker=broker)
    async def work(name: str) -> None:
        if name == "shaky" and not found[name]:
            found[name].append(current_attempt().number)
            raise ValueError("no")
        there.append(name)
        if len(there) == 2:
            both_there.set()
        await asyncio.wait_for(both_there.wait(), timeout=10)
        found[name].append(current_attempt().number)

    worker = Worker(broker, worker_threads=2, worker_timeout=5)
    worker.start()
    try:
        work.send("steady")
        work.send("shaky")
        broker.join("default", timeout=10_000)
    finally:
        worker.stop()
    assert found == {"steady": [1], "shaky": [1, 2]}
