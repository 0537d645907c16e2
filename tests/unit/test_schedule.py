"""When an actor's retries come, and when they end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from dramatiq_retryq import Backoff, MemoryBroker, RetryQueue
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.schedule import Schedule, schedules, settings_of

Declare = Callable[..., list[Schedule]]


@pytest.fixture
def declare(broker: MemoryBroker) -> Declare:
    """The schedules of an actor with these options."""

    def declare(**options: Any) -> list[Schedule]:
        @dramatiq.actor(actor_name="it", **options)
        def it() -> None: ...

        return schedules(settings_of(it))

    return declare


def delays(schedule: Schedule) -> list[tuple[int, int]]:
    return [(row.least, row.greatest) for row in schedule.rows]


def test_an_actors_own_options_and_the_middlewares_are_heard(declare: Declare) -> None:
    (schedule,) = declare(max_retries=3, min_backoff=1_000, jitter="full")
    assert delays(schedule) == [(0, 1_000), (0, 2_000), (0, 4_000)]
    assert (schedule.error, schedule.dies, schedule.is_exact) == ("Exception", "exhausted", True)
    assert schedule.rows == Backoff(1_000, 30_000, jitter="full").preview(3)


def test_a_list_of_delays_is_exact_and_its_last_one_is_repeated(declare: Declare) -> None:
    (schedule,) = declare(max_retries=4, backoff=[10, 20, 40])
    assert delays(schedule) == [(10, 10), (20, 20), (40, 40), (40, 40)]
    assert schedule.rows[-1].total_greatest == 110
    assert schedule.is_exact


def test_a_function_is_asked_and_what_it_rolls_is_a_sample(declare: Declare) -> None:
    dice = random.Random(1)
    (schedule,) = declare(max_retries=9, backoff=lambda attempt, error: dice.randint(10, 20) if attempt < 4 else None)
    assert len(schedule.rows) == 3
    assert delays(schedule)[0] == (10, 20)
    assert (schedule.dies, schedule.is_exact) == ("exhausted", False)


def test_a_function_that_raises_is_named_and_the_default_shown(declare: Declare) -> None:
    (schedule,) = declare(max_retries=2, backoff=lambda attempt, error: 1 // 0)
    assert schedule.problem == "retry 2: the policy raised ZeroDivisionError: integer division or modulo by zero"
    assert delays(schedule)[0][0] >= 100


def test_rules_by_exception_have_a_schedule_each(declare: Declare) -> None:
    found = declare(max_retries=2, backoff={ConnectionError: [5], ValueError: None}, throws=(KeyError,))
    assert [(schedule.error, delays(schedule)[:1], schedule.dies) for schedule in found] == [
        ("KeyError", [], "rejected"),
        ("ConnectionError", [(5, 5)], "exhausted"),
        ("ValueError", [], "exhausted"),
        ("Exception", [(100, 200)], "exhausted"),
    ]


def test_no_retry_is_a_schedule_without_a_row(declare: Declare) -> None:
    (schedule,) = declare(max_retries=0)
    assert (schedule.rows, schedule.dies) == ([], "exhausted")


def test_what_is_never_over_has_its_first_rows(declare: Declare) -> None:
    (schedule,) = declare(max_retries=None)
    assert (len(schedule.rows), schedule.dies) == (20, None)


def test_a_predicate_that_decides_is_mentioned(declare: Declare) -> None:
    (schedule,) = declare(retry_when=lambda retries, error: True)
    assert (schedule.asks, schedule.dies) == (True, None)


def test_no_attempt_is_planned_at_the_age_limit_or_after_it(declare: Declare) -> None:
    (schedule,) = declare(max_retries=5, backoff=[1_000], max_age=3_000)
    assert (len(schedule.rows), schedule.dies) == (2, "expired")


def test_where_chance_decides_about_the_age_limit_that_is_said(declare: Declare) -> None:
    (schedule,) = declare(max_retries=2, min_backoff=1_000, jitter="full", max_age=2_500)
    assert (len(schedule.rows), schedule.dies, schedule.may_expire) == (2, "exhausted", True)


@pytest.fixture
def stub() -> Iterator[StubBroker]:
    broker = StubBroker(middleware=[])
    yield broker
    broker.close()


def actor_of(broker: dramatiq.Broker, **options: Any) -> dramatiq.Actor[..., None]:
    def it() -> None: ...

    return dramatiq.actor(it, broker=broker, **options)


def test_dramatiqs_own_retries_have_their_schedule_too(stub: StubBroker) -> None:
    stub.add_middleware(Retries(min_backoff=1_000))
    (schedule,) = schedules(settings_of(actor_of(stub, max_retries=2, max_backoff=60_000)))
    assert delays(schedule) == [(1_000, 2_000), (2_000, 4_000)]


def test_any_broker_with_the_middleware_has_a_schedule(stub: StubBroker) -> None:
    stub.add_middleware(RetryQueue(backoff=[7], max_retries=1))
    (schedule,) = schedules(settings_of(actor_of(stub)))
    assert delays(schedule) == [(7, 7)]


def test_a_broker_that_retries_nothing_is_an_error_that_says_what_to_add(stub: StubBroker) -> None:
    with pytest.raises(ConfigError, match=r"nothing on its StubBroker retries messages: broker.add_middleware"):
        settings_of(actor_of(stub))
