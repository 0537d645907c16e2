"""What tests/middleware says of StubBroker and MemoryBroker, said of Redis and RabbitMQ: the same tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker
from dramatiq.middleware import Middleware

from dramatiq_retryq import DeadLetters, RetryQueue, broker_from_url
from tests.integration.conftest import Ledger, finish, forget_redis, running
from tests.middleware import test_current_attempt, test_dead_letter_actor, test_failure_table
from tests.middleware.conftest import World

for module in (test_failure_table, test_current_attempt, test_dead_letter_actor):
    for test_name, test in inspect.getmembers(module, inspect.isfunction):
        if test_name.startswith("test_") and "world" in inspect.signature(test).parameters:
            globals()[test_name] = test
del test  # or it would be one test more


class ServerWorld(World):
    def dead(self) -> list[str]:
        letters = DeadLetters.of(self.broker)
        return [str(letter.message_id) for letter in letters if letter.queue_name != "morgue"]

    def running(self) -> Any:
        return running(self.broker, threads=1)


@pytest.fixture(params=["redis", "rabbitmq"])
def world(
    request: pytest.FixtureRequest, name: str, global_broker: Callable[[Broker], None]
) -> Iterator[Callable[..., World]]:
    if request.param == "redis":
        url, settings = request.getfixturevalue("redis_url"), {"namespace": name}
    else:
        url, settings = request.getfixturevalue("rabbitmq_of_its_own"), {}
    made: list[Any] = []

    def make(*, add: tuple[Middleware, ...] = (), **options: Any) -> World:
        if "backoff" not in options:
            options = {"min_backoff": 1, "max_backoff": 1, "jitter": "none", **options}
        retry_queue = RetryQueue(dead_letter_actor="morgue", **options)
        broker = broker_from_url(url, retry_queue=retry_queue, **settings)
        made.append(broker)
        for middleware in (*add, Ledger()):
            broker.add_middleware(middleware)
        global_broker(broker)
        world = ServerWorld(request.param, broker, lambda broker: finish(broker, threads=1), retry_queue)

        @dramatiq.actor(queue_name="morgue", max_retries=0)
        def morgue(letter: dict[str, Any]) -> None:
            world.letters.append(letter)

        return world

    yield make
    for broker in made:
        DeadLetters.of(broker).discard_all()
        broker.flush_all()
        broker.close()
        if request.param == "redis":
            broker.client.close()
            forget_redis(url, name)
