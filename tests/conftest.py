from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterator

import dramatiq
import pytest

from dramatiq_retryq import MemoryBroker
from dramatiq_retryq.broker import StoreBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.drain import Drain
from dramatiq_retryq.kit_clock import KitClock
from dramatiq_retryq.timeline import Run, Sent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was logged of a hostile error may be no UTF-8, and with ``-n`` pytest-xdist dies of sending that."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """What a test starts it also stops. Dramatiq's TimeLimit thread runs for as long as the process."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and "TimeoutManager" not in type(t).__name__]
    for thread in left:
        thread.join(timeout=5)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


@pytest.fixture
def broker(clock: VirtualClock) -> Iterator[MemoryBroker]:
    """A memory broker on a virtual clock, as the global broker."""
    previous = dramatiq.broker.global_broker
    broker = MemoryBroker(clock=clock)
    dramatiq.set_broker(broker)
    yield broker
    assert broker.check() == []
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


class Unseen:
    """A witness that looks away."""

    def saw_sent(self, sent: Sent) -> None: ...

    def saw_run(self, run: Run) -> None: ...


@pytest.fixture
def drain() -> Callable[..., int]:
    """Run everything a broker of ours has, in due order, on the test's own thread, leaping from due to due.

    ``drain(broker)`` returns how many messages were processed; ``until`` (ms since the epoch) is where it stops. It is
    the engine of the testing kit on a broker with a virtual clock, and nothing more: what is raised in an actor is the
    broker's to handle, ``KeyboardInterrupt`` too.
    """

    def drain(broker: StoreBroker, *, until: int | None = None, limit: int = 10_000) -> int:
        assert isinstance(broker.clock, VirtualClock)
        engine = Drain(broker, KitClock(broker.clock), Unseen())
        processed = 0
        try:
            while (due := engine.next_due()) is not None and (until is None or due[0] <= until):
                assert processed < limit, f"{limit} messages were processed and there are more"
                processed += len(engine.run(due[1], due[0]))
        finally:
            engine.settle()
            engine.close()
        return processed

    return drain
