"""The two worlds of these tests: StubBroker under Dramatiq's Worker, and MemoryBroker in virtual time."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, Retries, default_middleware

from dramatiq_retryq import MemoryBroker, RetryQueue
from dramatiq_retryq.clock import VirtualClock

with warnings.catch_warnings():
    # Dramatiq 2.0 warns of each backend whose client is not installed, as soon as one of them is imported.
    warnings.simplefilter("ignore", ImportWarning)
    import dramatiq.rate_limits.backends

#: How long a test waits for something that happens at once, in ms.
SOON = 10_000


@pytest.fixture
def clock() -> VirtualClock:
    """A virtual clock that starts now: Dramatiq's AgeLimit and its message timestamps go by the machine's clock."""
    return VirtualClock(int(time.time() * 1000))


@contextlib.contextmanager
def running(broker: Broker, *, threads: int = 1) -> Iterator[Worker]:
    """Dramatiq's own worker, stopped at the end."""
    worker = Worker(broker, worker_threads=threads, worker_timeout=5)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout=SOON)


def run_stub(broker: StubBroker) -> None:
    """Run a worker until nothing is left in any queue."""
    with running(broker) as worker:
        while busy := busy_queue(broker):
            broker.join(busy, timeout=SOON, fail_fast=False)
        worker.join()


def busy_queue(broker: StubBroker) -> str | None:
    """A queue that has something left. Messages move from queue to queue, so all are looked at in one instant."""
    with contextlib.ExitStack() as stack:
        for queue in broker.queues.values():
            stack.enter_context(queue.mutex)
        busy = [name for name, queue in broker.queues.items() if queue.unfinished_tasks]
    return dramatiq.common.q_name(busy[0]) if busy else None


class World:
    """A broker with RetryQueue, and a way to let everything happen that is going to."""

    def __init__(self, kind: str, broker: Any, run: Callable[[Any], object], retry_queue: RetryQueue) -> None:
        self.kind = kind
        self.broker = broker
        self.retry_queue = retry_queue
        #: What the dead-letter actor was sent.
        self.letters: list[dict[str, Any]] = []
        self._run = run

    def run(self) -> None:
        self._run(self.broker)

    def running(self) -> contextlib.AbstractContextManager[Worker]:
        """A real worker on this broker, for what needs one."""
        return running(self.broker)

    def reasons(self) -> list[str]:
        return [letter["reason"] for letter in self.letters]

    def letter(self) -> dict[str, Any]:
        (letter,) = self.letters
        return letter

    def delays(self) -> list[int | None]:
        """The delays after each attempt of the one message that died."""
        return [attempt["delay"] for attempt in self.letter()["attempts"]]

    def send_aged(self, actor: Any, age: int, **options: Any) -> Message[Any]:
        """Send a message as if that had been ``age`` ms ago."""
        message = actor.message_with_options(**options)
        return self.broker.enqueue(message._replace(message_timestamp=int(time.time() * 1000) - age))

    def dead(self) -> list[str]:
        """The ids of the messages that the broker itself keeps as dead."""
        return [letter.message_id for letter in self.broker.dead_letters if letter.queue_name != "morgue"]


MakeWorld = Callable[..., World]


@pytest.fixture(params=["stub", "memory"])
def world(request: pytest.FixtureRequest, clock: VirtualClock, drain: Callable[..., int]) -> Iterator[MakeWorld]:
    """Makes a world: ``world(max_retries=1, ...)`` with options for RetryQueue, backoff being 1 ms unless given.

    ``add`` are middleware beyond Dramatiq's default ones. The actor ``morgue`` is sent every dead letter.
    """
    previous = dramatiq.broker.global_broker
    made: list[World] = []

    def make(*, add: tuple[Middleware, ...] = (), **options: Any) -> World:
        if "backoff" not in options:
            options = {"min_backoff": 1, "max_backoff": 1, "jitter": "none", **options}
        retry_queue = RetryQueue(dead_letter_actor="morgue", **options)
        broker: Any
        if request.param == "stub":
            broker = StubBroker()
            broker.add_middleware(retry_queue)
            world = World("stub", broker, run_stub, retry_queue)
        else:
            middleware = [retry_queue if cls is Retries else cls() for cls in default_middleware]
            broker = MemoryBroker(middleware, clock=clock)
            world = World("memory", broker, drain, retry_queue)
        for middleware_added in add:
            broker.add_middleware(middleware_added)
        dramatiq.set_broker(broker)

        @dramatiq.actor(queue_name="morgue", max_retries=0)
        def morgue(letter: dict[str, Any]) -> None:
            world.letters.append(letter)

        made.append(world)
        return world

    yield make
    for world in made:
        if world.kind == "memory":
            assert world.broker.check() == []
        world.broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]
