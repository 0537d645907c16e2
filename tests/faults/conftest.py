"""Things that raise, and a look at where a message is after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import MemoryBroker, RetryQueue
from dramatiq_retryq.clock import VirtualClock


def states(broker: MemoryBroker) -> list[str]:
    """The states of all the messages of the queue "default", one word each."""
    count = broker.counts()["default"]
    return ["waiting"] * count.waiting + ["claimed"] * count.claimed + ["dead"] * count.dead


@pytest.fixture
def fate(clock: VirtualClock, drain: Callable[..., int]) -> Callable[[MemoryBroker], str]:
    """Runs what is due now, and says in which state the one message of the queue "default" is then."""

    def fate(broker: MemoryBroker) -> str:
        drain(broker, until=clock.now(), limit=100)
        found = states(broker)
        assert len(found) == 1, f"the message is there {len(found)} times: {found}"
        return found[0]

    return fate


class Fault:
    """A callable in the place of another one: it raises on some calls, before or after the real one is called."""

    def __init__(self, real: Callable[..., Any], error: BaseException, times: int | None, *, after: bool) -> None:
        self.real = real
        self.error = error
        self.times = times
        self.after = after
        self.raised = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.times is not None and self.raised >= self.times:
            return self.real(*args, **kwargs)
        self.raised += 1
        if self.after:
            self.real(*args, **kwargs)
        raise self.error


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fault]:
    """Makes a method raise: ``fault(store, "bury", times=2)``; ``times=None`` is always."""

    def fault(
        owner: Any, name: str, error: BaseException | None = None, *, times: int | None = 1, after: bool = False
    ) -> Fault:
        made = Fault(getattr(owner, name), error or OSError("no space left on device"), times, after=after)
        monkeypatch.setattr(owner, name, made)
        return made

    return fault


class Stub:
    """A StubBroker with RetryQueue in virtual time, driven on the test's own thread; retries are due at once."""

    def __init__(self, clock: VirtualClock, **options: Any) -> None:
        self.broker = StubBroker()
        self.broker.add_middleware(RetryQueue(min_backoff=0, max_backoff=0, clock=clock, **options))
        dramatiq.set_broker(self.broker)

    def drain(self) -> None:
        work: PriorityQueue[Any] = PriorityQueue()
        consumer = ConsumerThread(
            broker=self.broker, queue_name="default", prefetch=1000, work_queue=work, worker_timeout=0
        )
        consumer.consumer = self.broker.consume("default", prefetch=1000, timeout=0)
        worker = WorkerThread(broker=self.broker, consumers={"default": consumer}, work_queue=work, worker_timeout=0)
        while (message := next(consumer.consumer)) is not None:  # type: ignore[call-overload]
            consumer.handle_message(message)
            try:
                item = work.get_nowait()
            except Empty:
                continue
            worker.process_message(item[1] if isinstance(item, tuple) else item.message)

    def dead(self) -> list[str]:
        return [letter.__dict__["dead_letter"].reason for letter in self.broker.dead_letters]


@pytest.fixture
def stub(clock: VirtualClock) -> Iterator[Callable[..., Stub]]:
    """Makes a StubBroker with RetryQueue: ``stub(max_retries=1, ...)``."""
    previous = dramatiq.broker.global_broker
    yield lambda **options: Stub(clock, **options)
    dramatiq.set_broker(previous)  # type: ignore[arg-type]
