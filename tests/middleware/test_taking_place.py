"""RetryQueue takes the place of Retries, however the two came to be on one broker, and says so once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AgeLimit, Callbacks, Middleware, Pipelines, Retries, default_middleware

from dramatiq_retryq import MemoryBroker, RetryQueue
from dramatiq_retryq.errors import ConfigError

MakeBroker = Callable[..., Any]
both_brokers = pytest.mark.parametrize("make", [StubBroker, MemoryBroker], ids=["stub", "memory"])
DEFAULT = [cls.__name__ for cls in default_middleware]
#: Dramatiq's default middleware with RetryQueue in the place of Retries.
WANTED = ["RetryQueue" if name == "Retries" else name for name in DEFAULT]


def nothing() -> None:
    pass


def kinds(broker: Any) -> list[str]:
    return [type(middleware).__name__ for middleware in broker.middleware]


def boot(broker: Any) -> None:
    """Start a worker and stop it; what it leaves on the broker is taken off again."""
    worker = Worker(broker, worker_threads=1, worker_timeout=1)
    worker.start()
    worker.stop()
    broker.middleware = [m for m in broker.middleware if getattr(m, "worker", None) is not worker]


# -- How the two meet ------------------------------------------------------------------------------------------------


def test_a_memory_broker_has_retry_queue_in_the_place_of_retries() -> None:
    assert kinds(MemoryBroker()) == WANTED


@pytest.mark.parametrize("order", [[Retries, RetryQueue], [RetryQueue, Retries]], ids=["after", "before"])
@both_brokers
def test_one_list_that_has_both_ends_with_retry_queue_alone(make: MakeBroker, order: list[type[Middleware]]) -> None:
    broker = make(middleware=[AgeLimit(), *(cls() for cls in order), Callbacks()])
    dramatiq.actor(nothing, broker=broker)
    assert kinds(broker) == ["AgeLimit", "RetryQueue", "Callbacks"]


def test_added_to_a_broker_with_the_default_middleware_it_stands_where_retries_stood() -> None:
    broker = StubBroker()
    broker.add_middleware(RetryQueue())
    dramatiq.actor(nothing, broker=broker)
    assert kinds(broker) == WANTED


def test_added_after_actors_were_declared_it_takes_the_place_at_once() -> None:
    broker = StubBroker()
    dramatiq.actor(nothing, broker=broker)
    broker.add_middleware(RetryQueue())
    assert kinds(broker) == WANTED


def test_added_after_queues_were_declared_it_takes_the_place_when_a_worker_starts() -> None:
    broker = StubBroker()
    broker.declare_queue("default")
    broker.add_middleware(RetryQueue())
    boot(broker)
    assert kinds(broker) == WANTED


def test_a_queue_declared_later_is_soon_enough() -> None:
    broker = StubBroker()
    broker.add_middleware(RetryQueue())
    broker.declare_queue("default")
    assert kinds(broker) == WANTED


@pytest.mark.parametrize(
    "where", [{"before": Retries}, {"after": Retries}, {"before": AgeLimit}, {"after": Pipelines}], ids=str
)
def test_wherever_it_was_added_it_ends_where_retries_stood(where: dict[str, type[Middleware]]) -> None:
    broker = StubBroker()
    broker.add_middleware(RetryQueue(), **where)
    dramatiq.actor(nothing, broker=broker)
    assert kinds(broker) == WANTED


def test_retries_added_later_to_a_memory_broker_is_gone_at_once() -> None:
    broker = MemoryBroker()
    broker.add_middleware(Retries())
    assert kinds(broker).count("Retries") == 0
    assert kinds(broker).count("RetryQueue") == 1


@pytest.mark.parametrize("then", ["actor", "queue", "worker"])
@both_brokers
def test_retries_added_later_is_gone_when_something_happens(make: MakeBroker, then: str) -> None:
    broker = make(middleware=[RetryQueue()])
    broker.add_middleware(Retries())
    if then == "actor":
        dramatiq.actor(nothing, broker=broker)
    elif then == "queue":
        broker.declare_queue("default")
    else:
        boot(broker)
    assert kinds(broker) == ["RetryQueue"]


def test_retries_put_into_the_list_behind_the_brokers_back_is_gone_when_a_worker_starts() -> None:
    broker = MemoryBroker([RetryQueue()])
    broker.middleware.append(Retries())
    boot(broker)
    assert kinds(broker) == ["RetryQueue"]


def test_a_kind_of_retries_loses_its_place_too() -> None:
    class MyRetries(Retries):
        pass

    broker = StubBroker(middleware=[MyRetries(), RetryQueue()])
    dramatiq.actor(nothing, broker=broker)
    assert kinds(broker) == ["RetryQueue"]


def test_a_message_is_retried_by_one_of_the_two_only(world: Any) -> None:
    here = world(max_retries=2)
    here.broker.add_middleware(Retries(min_backoff=1, max_backoff=1))
    runs: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    fail.send()
    here.run()
    assert len(runs) == 3


# -- What is said ----------------------------------------------------------------------------------------------------


@both_brokers
def test_taking_the_place_is_logged_once_at_info(make: MakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker = make(middleware=[Retries(), RetryQueue()])
    dramatiq.actor(nothing, broker=broker)
    dramatiq.actor(nothing, actor_name="another", queue_name="elsewhere", broker=broker)
    boot(broker)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "RetryQueue" in record.name]
    assert said == [("INFO", f"RetryQueue takes the place of Retries on {make.__name__}.")]  # type: ignore[attr-defined]


def test_a_broker_without_retries_has_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker = MemoryBroker()
    dramatiq.actor(nothing, broker=broker)
    assert [record for record in caplog.records if "RetryQueue" in record.name] == []


# -- A second RetryQueue ---------------------------------------------------------------------------------------------


def test_a_second_retry_queue_is_an_error_of_a_memory_brokers_add_middleware() -> None:
    broker = MemoryBroker()
    with pytest.raises(ConfigError) as caught:
        broker.add_middleware(RetryQueue())
    assert str(caught.value) == (
        "MemoryBroker has a RetryQueue already, and each would retry every message: make the broker with yours, "
        "MemoryBroker(…, retry_queue=RetryQueue(…))"
    )
    assert kinds(broker) == WANTED


def test_a_retry_queue_given_to_the_broker_stands_in_the_default_middleware() -> None:
    mine = RetryQueue(max_retries=1)
    broker = MemoryBroker(retry_queue=mine)
    assert kinds(broker) == WANTED
    assert mine in broker.middleware


def test_a_retry_queue_and_a_list_are_not_given_together() -> None:
    with pytest.raises(ConfigError) as caught:
        MemoryBroker([], retry_queue=RetryQueue())
    assert str(caught.value) == (
        "MemoryBroker: middleware and retry_queue cannot be given together: put yours into the list"
    )


@pytest.mark.parametrize("given", [RetryQueue, {"max_retries": 5}, 5])
def test_what_is_no_retry_queue_is_an_error_that_says_what_to_give(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MemoryBroker(retry_queue=given)
    assert str(caught.value) == (
        f"MemoryBroker: retry_queue is {given!r}: give an instance, as in retry_queue=RetryQueue(max_retries=5)"
    )


def test_a_second_retry_queue_in_the_list_is_an_error_of_a_memory_brokers_constructor() -> None:
    with pytest.raises(ConfigError, match="MemoryBroker has a RetryQueue already"):
        MemoryBroker([RetryQueue(), RetryQueue()])


@pytest.mark.parametrize("then", ["actor", "worker"])
def test_a_second_retry_queue_on_a_foreign_broker_is_an_error_when_it_is_used(then: str) -> None:
    broker = StubBroker(middleware=[RetryQueue(), RetryQueue()])
    with pytest.raises(ConfigError) as caught:
        dramatiq.actor(nothing, broker=broker) if then == "actor" else Worker(broker, worker_threads=1).start()
    assert str(caught.value) == (
        "StubBroker has 2 RetryQueue middlewares, and each would retry every message: keep one; options that differ "
        "between actors are given to @dramatiq.actor"
    )


def test_a_second_retry_queue_on_a_foreign_broker_with_actors_is_an_error_at_once() -> None:
    broker = StubBroker()
    broker.add_middleware(RetryQueue())
    dramatiq.actor(nothing, broker=broker)
    with pytest.raises(ConfigError, match="StubBroker has 2 RetryQueue middlewares"):
        broker.add_middleware(RetryQueue())


def test_one_retry_queue_may_serve_two_brokers(drain: Any, clock: Any) -> None:
    shared = RetryQueue(max_retries=1)
    runs: list[str] = []
    for name in ("one", "other"):
        broker = MemoryBroker([shared], clock=clock)

        @dramatiq.actor(broker=broker)
        def fail(name: str) -> None:
            runs.append(name)
            raise ValueError("no")

        fail.send(name)
        drain(broker)
    assert runs == ["one", "one", "other", "other"]
