"""Dead letters on real servers for tests of what goes wrong with them, and a line to the servers that can be cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import pytest
from dramatiq.common import current_millis, xq_name

from dramatiq_retryq import DeadLetter, DeadLetters
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.side import side_of
from tests.integration.cutter import Cutter, Loss

#: How many of the last requests and answers are tried, one after the other. Of those before, which only look, one in
#: so many is: on RabbitMQ an action has two hundred.
CLOSELY, STEP = 12, 40


class Bench:
    """A few dead letters at a time, each with the copy that the broker keeps, and a line that can be cut."""

    def __init__(self, kind: str, make: Callable[..., Any], url: str, name: str) -> None:
        self.kind = kind
        self.name = name
        port = urlsplit(url).port or 0
        self.cutter = Cutter(port)
        self._make = make
        self._url = url.replace(f":{port}", f":{self.cutter.port}")
        self._numbers = itertools.count(1)
        self.broker = make(max_retries=0)
        self.queue = ""

    def broker_of_the_line(self, **options: Any) -> Any:
        return self._make(url=self._url, **{"max_retries": 0, **options})

    def lay_out(self, number: int = 3) -> None:
        """Lay so many letters down, in a queue of their own."""
        self.queue = f"{self.name}-{next(self._numbers)}"
        for n in range(number):
            self._die(n)

    def _die(self, n: int) -> None:
        message: Any = dramatiq.Message(queue_name=self.queue, actor_name="work", args=(n,), kwargs={}, options={})
        message.options["redis_message_id"] = message.message_id
        side_of(self.broker).shelf.add(
            DeadLetter(
                id=message.message_id,
                reason="exhausted",
                queue_name=self.queue,
                actor_name="work",
                died_at=current_millis(),
                data=message.encode(),
            )
        )
        if self.kind == "redis":
            key = f"{self.broker.namespace}:{xq_name(self.queue)}"
            self.broker.client.hset(f"{key}.msgs", message.message_id, message.encode())
            self.broker.client.zadd(key, {message.message_id: current_millis()})
        else:
            self.broker.declare_queue(self.queue, ensure=True)
            self.broker.channel.basic_publish("", xq_name(self.queue), message.encode())

    def letters(self) -> list[int]:
        """What lies there dead, in letters and in copies."""
        return sorted(letter.message.args[0] for letter in DeadLetters.of(self.broker).list(queue=self.queue))

    def waiting(self) -> list[int]:
        """What waits; it is taken away."""
        if self.kind == "redis":
            key = f"{self.broker.namespace}:{self.queue}"
            found = [self.broker.client.hget(f"{key}.msgs", one) for one in self.broker.client.lrange(key, 0, -1)]
            self.broker.client.delete(key, f"{key}.msgs")
        else:
            found = []
            while (delivery := self.broker.channel.basic_get(self.queue, auto_ack=True))[0] is not None:
                found.append(delivery[2])
        return sorted(dramatiq.Message.decode(data).args[0] for data in found)

    def act(self, action: Callable[[DeadLetters, str], Any], loss: Loss | None = None, number: int = 0) -> Any:
        """Do something over the line; returns what that returned, or the error."""
        self.cutter.arm()
        broker = self.broker_of_the_line()
        try:
            broker.declare_queue(self.queue)
            letters = DeadLetters.of(broker)
            self.cutter.arm(loss, number)
            return action(letters, self.queue)
        except StoreUnavailable as error:
            return error
        finally:
            broker.close()

    def losses(self, action: Callable[[DeadLetters, str], Any]) -> Iterator[tuple[Loss, int]]:
        """The requests and answers of an action, with letters laid out for each."""
        self.lay_out()
        self.act(action)
        self.waiting()
        passed = dict(self.cutter.passed)
        kinds: tuple[Loss, ...] = ("request", "answer")
        for loss in kinds:
            last = passed[loss]
            for number in (*range(last, max(0, last - CLOSELY), -1), *range(last - CLOSELY, 0, -STEP)):
                self.lay_out()
                yield loss, number


@pytest.fixture(params=["redis", "rabbitmq"])
def bench(request: pytest.FixtureRequest, name: str) -> Iterator[Bench]:
    url, make = request.getfixturevalue(f"{request.param}_url"), request.getfixturevalue(f"make_{request.param}")
    bench = Bench(request.param, make, url, name)
    yield bench
    bench.cutter.close()


def replay(letters: DeadLetters, queue: str) -> int:
    letters.replay(letters.list(queue=queue)[1])
    return 1


def replay_all(letters: DeadLetters, queue: str) -> int:
    return letters.replay_all(queue=queue)


def discard_all(letters: DeadLetters, queue: str) -> int:
    return letters.discard_all(queue=queue)
