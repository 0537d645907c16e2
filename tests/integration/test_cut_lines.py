"""The connection is lost at each request, and at each answer, of what is done with dead letters: nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import pytest
from dramatiq.common import current_millis, xq_name

from dramatiq_retryq import DeadLetter, DeadLetters, current_attempt
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.side import side_of
from tests.integration.conftest import running
from tests.integration.cutter import Cutter, Loss
from tests.integration.servers import wait_until

#: How many of the last requests and answers are tried, one after the other. Of those before, which only look, one in
#: so many is: on RabbitMQ an action has two hundred.
CLOSELY, STEP = 12, 40


class Bench:
    """Three dead letters at a time, each with the copy that the broker keeps, and a line that can be cut."""

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

    def lay_out(self) -> None:
        self.queue = f"{self.name}-{next(self._numbers)}"
        for n in range(3):
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


@pytest.mark.parametrize("action", [replay, replay_all])
def test_what_is_replayed_is_a_letter_or_a_message_wherever_the_line_is_cut(
    bench: Bench, action: Callable[[DeadLetters, str], int]
) -> None:
    for loss, number in bench.losses(action):
        result = bench.act(action, loss, number)
        letters, waiting = bench.letters(), bench.waiting()
        assert sorted(letters + waiting) == [0, 1, 2], (loss, number)
        if not isinstance(result, StoreUnavailable):
            assert len(waiting) == result, (loss, number)


def test_what_is_discarded_is_gone_or_listed_wherever_the_line_is_cut(bench: Bench) -> None:
    for loss, number in bench.losses(discard_all):
        result = bench.act(discard_all, loss, number)
        left = bench.letters()
        if not isinstance(result, StoreUnavailable):
            assert (result, left) == (3, []), (loss, number)
        assert bench.act(discard_all) == len(left), (loss, number)
        assert (bench.letters(), bench.waiting()) == ([], []), (loss, number)


@pytest.mark.parametrize("bench", ["redis"], indirect=True)
@pytest.mark.parametrize("action", [replay, replay_all, discard_all])
def test_on_redis_a_lost_answer_is_asked_for_again(bench: Bench, action: Callable[[DeadLetters, str], int]) -> None:
    for loss, number in bench.losses(action):
        result = bench.act(action, loss, number)
        assert result == 3 - len(bench.letters()), (loss, number)
        assert bench.cutter.has_cut, (loss, number)


def run_of(queue: str) -> Any:
    options = {"redis_message_id": queue}
    return dramatiq.MessageProxy(
        dramatiq.Message(queue_name=queue, actor_name="work", args=(), kwargs={}, options=options, message_id=queue)
    )


def begin(letters: DeadLetters, queue: str) -> int:
    return side_of(dramatiq.get_broker()).begin(run_of(queue))


def test_a_run_that_began_is_counted_once_wherever_the_line_is_cut(bench: Bench) -> None:
    queues: set[str] = set()
    for loss, number in bench.losses(begin):
        queues |= {bench.queue, f"{bench.name}-1"}
        assert bench.act(begin, loss, number) == 0, (loss, number)
        assert bench.act(begin) == 1, (loss, number)
    for queue in queues:
        side_of(bench.broker).end(run_of(queue))


@pytest.mark.parametrize("run", [1, 2])
def test_a_message_that_fails_is_dead_once_wherever_the_line_is_cut(bench: Bench, run: int) -> None:
    """At its first run a retry is stored, at its second a letter."""
    # Redis is asked every tenth of this what the worker has.
    options = {"broker": {"heartbeat_timeout": 1_000}} if bench.kind == "redis" else {}
    broker = bench.broker_of_the_line(max_retries=1, backoff=[1], store_timeout=30_000, **options)
    runs: dict[str, list[int]] = {}

    @dramatiq.actor(broker=broker, queue_name=bench.name)
    def work(loss: Loss, number: int) -> None:
        made = runs.setdefault(f"{loss} {number}", [])
        made.append(current_attempt().number)
        if len(made) == run:
            bench.cutter.arm(loss, number)
        raise ValueError("no")

    look = DeadLetters.of(bench.broker)
    sent: set[str] = set()
    kinds: tuple[Loss, ...] = ("request", "answer")
    with running(broker, threads=1):
        for loss, number in itertools.product(kinds, range(1, 15)):
            message = work.send(loss, number)
            sent.add(message.message_id)
            wait_until(lambda: {letter.message_id for letter in look.list(queue=bench.name)} == sent, 60, "its letter")
            bench.cutter.arm()
    assert all(set(made) == {1, 2} for made in runs.values())
    bench.broker.declare_queue(bench.name)
    assert len(look) == len(sent)
    if bench.kind == "redis":
        assert all(made == [1, 2] for made in runs.values())
