"""The virtual clock reaches what Dramatiq itself reads the time for; what a test leaves alone stays real."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import AgeLimit, AsyncIO, Middleware, TimeLimit, TimeLimitExceeded
from dramatiq.rate_limits import BucketRateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import StubBackend as StubRateLimits
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import StubBackend
from freezegun import freeze_time

from dramatiq_retryq import MemoryBroker, RetryQueue, Snooze
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.testing import Kit, swap_broker


def test_a_message_is_stamped_with_the_tests_time(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None: ...

    first = work.message().message_timestamp
    retryq.advance(timedelta(days=30))
    assert work.message().message_timestamp - first == 30 * 86_400_000
    assert first == retryq.clock.now() - 30 * 86_400_000


def test_the_time_of_everybody_else_is_real(retryq: Kit) -> None:
    before = time.time(), time.monotonic(), datetime.now()
    retryq.advance(timedelta(days=30))
    assert time.time() - before[0] < 60
    assert time.monotonic() - before[1] < 60
    assert datetime.now() - before[2] < timedelta(minutes=1)


def test_the_time_is_real_again_after_the_test() -> None:
    with swap_broker() as retryq:
        retryq.advance(timedelta(days=30))
    assert abs(dramatiq.Message("q", "a", (), {}, {}).message_timestamp / 1000 - time.time()) < 60
    assert abs(dramatiq.common.current_millis() / 1000 - time.time()) < 60


@pytest.mark.parametrize(
    ("limit", "runs"), [(59_999, 0), (60_000, 0), (60_001, 1)], ids=["too old", "just too old", "young enough"]
)
def test_the_age_limit_goes_by_the_tests_time(limit: int, runs: int) -> None:
    broker = MemoryBroker(middleware=[AgeLimit(), RetryQueue()])
    with swap_broker(broker) as retryq:
        ran: list[int] = []

        @dramatiq.actor(max_age=limit)
        def work() -> None:
            ran.append(1)

        work.send_with_options(delay=60_000)
        outcome = retryq.drain()
        assert len(ran) == outcome.succeeded == runs
        assert [letter.reason for letter in retryq.dead_letters] == ["expired"] * (1 - runs)


def test_a_message_sent_later_is_as_young_as_any(retryq: Kit) -> None:
    @dramatiq.actor(max_age=60_000)
    def work() -> None: ...

    retryq.advance(timedelta(days=365))
    work.send()
    assert retryq.drain().succeeded == 1


def test_max_age_ends_the_retries_before_it_is_over(retryq: Kit) -> None:
    @dramatiq.actor(max_age=3_600_000, max_retries=None, backoff=[600_000])
    def work() -> None:
        raise ValueError

    work.send()
    retryq.drain()
    assert len(retryq.attempts(work)) == 6
    assert retryq.dead_letters.one().reason == "expired"
    assert retryq.elapsed == timedelta(minutes=50)


def test_a_snooze_waits_as_long_as_it_says_and_max_age_ends_it(retryq: Kit) -> None:
    @dramatiq.actor(max_age=timedelta(hours=2), max_retries=0)
    def work() -> None:
        raise Snooze(timedelta(minutes=30))

    work.send()
    outcome = retryq.drain()
    assert (outcome.snoozed, outcome.died) == (3, 1)
    assert retryq.dead_letters.one().reason == "expired"


def test_a_time_limit_needs_no_thread_and_is_raised_by_request(retryq: Kit) -> None:
    @dramatiq.actor(time_limit=1_000, max_retries=1)
    def work() -> None: ...

    retryq.fail_next(work, 1, TimeLimitExceeded)
    work.send()
    assert retryq.drain().counts() == {"succeeded": 1, "retried": 1}
    assert str(retryq.attempts(work)[0].error) == "TimeLimitExceeded"
    (limit,) = (m for m in retryq.broker.middleware if isinstance(m, TimeLimit))
    assert not limit.manager.is_alive()  # type: ignore[union-attr]
    assert not any(limit.manager.deadlines.values())  # type: ignore[union-attr]


def test_an_actor_that_takes_longer_than_its_time_limit_by_the_tests_clock_exceeds_it(retryq: Kit) -> None:
    done: list[int] = []

    @dramatiq.actor(time_limit=1_000, max_retries=1)
    def work() -> None:
        takes = 5_000 if not retryq.attempts(work) else 500
        retryq.clock.sleep(takes)
        done.append(takes)

    work.send()
    retryq.drain()
    assert [run.outcome for run in retryq.attempts(work)] == ["retried", "succeeded"]
    assert isinstance(retryq.attempts(work)[0].exception, TimeLimitExceeded)
    assert done == [500]
    assert retryq.elapsed == timedelta(seconds=1, milliseconds=100 + 500)


def test_an_actor_that_sleeps_by_the_clock_lets_time_pass_and_nothing_else(retryq: Kit) -> None:
    order: list[str] = []

    @dramatiq.actor
    def slow() -> None:
        order.append("begins")
        retryq.clock.sleep(10_000)
        order.append("ends")

    @dramatiq.actor
    def quick() -> None:
        order.append("quick")

    slow.send()
    quick.send_with_options(delay=5_000)
    outcome = retryq.drain()
    assert order == ["begins", "ends", "quick"]
    assert outcome.runs[0].duration == 10_000
    assert retryq.elapsed == timedelta(seconds=10)


def test_results_expire_by_the_tests_time() -> None:
    backend = StubBackend()
    broker = MemoryBroker()
    broker.add_middleware(Results(backend=backend, store_results=True, result_ttl=60_000))
    with swap_broker(broker) as retryq:

        @dramatiq.actor
        def add(x: int, y: int) -> int:
            return x + y

        message = add.send(1, 2)
        retryq.drain()
        retryq.advance(59_000)
        assert message.get_result() == 3
        retryq.advance(2_000)
        with pytest.raises(ResultMissing):
            message.get_result()


@pytest.mark.parametrize(
    "make",
    [
        lambda backend: WindowRateLimiter(backend, "window", limit=1, window=60),
        lambda backend: BucketRateLimiter(backend, "bucket", limit=1, bucket=60_000),
    ],
    ids=["window", "bucket"],
)
def test_rate_limiters_go_by_the_tests_time(retryq: Kit, make: Callable[[Any], Any]) -> None:
    limiter = make(StubRateLimits())

    @dramatiq.actor(backoff=[10_000], max_retries=None)
    def work() -> None:
        with limiter.acquire():
            ran.append(retryq.elapsed)

    ran: list[timedelta] = []
    for _ in range(3):
        work.send()
    retryq.drain(until=timedelta(hours=1))
    assert len(ran) == 3
    assert ran[0] == timedelta(0)
    assert ran[2] - ran[0] > timedelta(seconds=60)


def test_a_retry_that_cannot_be_stored_at_once_is_stored_later_by_the_tests_time(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=1)
    def work() -> None:
        if len(retryq.attempts(work)) == 0:
            raise ValueError

    work.send()
    start = time.monotonic()
    retryq.refuse_enqueue(5)
    assert retryq.drain().counts() == {"retried": 1, "succeeded": 1}
    assert time.monotonic() - start < 1
    assert retryq.elapsed == timedelta(milliseconds=50 + 100 + 200 + 400 + 800 + 100)


def test_a_thread_of_a_worker_of_another_broker_sleeps_in_real_time(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None: ...

    work.send()
    thread = threading.Thread(target=lambda: dramatiq.worker.time.sleep(0.001))
    thread.start()
    thread.join()
    assert len(retryq.waiting(work)) == 1
    assert retryq.elapsed == timedelta(0)
    retryq.drain()


def test_dramatiqs_own_sleep_on_the_tests_thread_lets_time_pass(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None: ...

    work.send_with_options(delay=5_000)
    dramatiq.results.backend.time.sleep(4)
    assert len(retryq.waiting(work)) == 1
    dramatiq.results.backend.time.sleep(1)
    assert len(retryq.attempts(work)) == 1


@pytest.mark.parametrize(
    "how", [{"seconds": 90}, {"minutes": 1, "seconds": 30}, {"milliseconds": 90_000}, {"hours": 0.025}]
)
def test_how_far_to_advance_can_be_said_as_a_timedelta_is(retryq: Kit, how: dict[str, float]) -> None:
    @dramatiq.actor
    def remind() -> None: ...

    remind.send_with_options(delay=90_000)
    assert retryq.advance(**how).succeeded == 1
    assert retryq.elapsed == timedelta(seconds=90)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"delay": 5, "seconds": 5},
        {"second": 5},
        {"seconds": "5"},
        {"seconds": -5},
        {"days": 1e12},
        {"seconds": float("nan")},
    ],
)
def test_how_far_to_advance_is_said_once_and_understood(retryq: Kit, how: Any) -> None:
    with pytest.raises(ConfigError, match="advance: "):
        retryq.advance(**how)
    assert retryq.elapsed == timedelta(0)


# -- Real time: an actor that runs on and on -------------------------------------------------------------------------


@pytest.fixture
def rings() -> Iterator[list[float]]:
    """Whoever else has a timer: when it rang, in seconds."""
    heard: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *args: heard.append(time.monotonic()))
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    # pytest-timeout's own is off meanwhile: what is not interrupted would hang for ever.
    faulthandler.dump_traceback_later(60, exit=True)
    yield heard
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def run_on() -> None:
    while True:
        pass


@pytest.mark.parametrize("body", [run_on, lambda: threading.Event().wait()], ids=["runs", "waits"])
def test_an_actor_that_really_runs_on_is_interrupted_without_a_thread(
    retryq: Kit, rings: list[float], body: Callable[[], Any]
) -> None:
    @dramatiq.actor(time_limit=20, max_retries=1)
    def work() -> None:
        body()

    work.send()
    threads = threading.active_count()
    assert retryq.drain().counts() == {"retried": 1, "died": 1}
    assert [str(attempt.error) for attempt in retryq.attempts(work)] == ["TimeLimitExceeded"] * 2
    assert threading.active_count() == threads
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_async_actor_that_runs_on_is_interrupted_and_may_clean_up(rings: list[float], frozen: bool) -> None:
    app = MemoryBroker()
    app.add_middleware(AsyncIO())
    cleaned = []

    @dramatiq.actor(broker=app, time_limit=20, max_retries=0)
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    @dramatiq.actor(broker=app)
    async def after() -> None: ...

    with freeze_time("2030-01-01") if frozen else nullcontext(), swap_broker(app) as kit:
        work.send()
        after.send()
        assert kit.drain().counts() == {"died": 1, "succeeded": 1}
        assert str(kit.attempts(work)[0].error) == "TimeLimitExceeded"
    assert cleaned == [True]


def test_somebody_elses_timer_rings_when_it_would_have(retryq: Kit, rings: list[float]) -> None:
    @dramatiq.actor(time_limit=20, max_retries=0)
    def work() -> None:
        run_on()

    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    work.send()
    assert retryq.drain().died == 1
    assert not rings
    while not rings:
        signal.pause()
    assert 0.1 <= rings[0] - start < 5


def test_somebody_elses_timer_that_rings_first_is_left_alone(retryq: Kit, rings: list[float]) -> None:
    @dramatiq.actor(time_limit=60_000)
    def work() -> None:
        while not rings:
            signal.pause()

    signal.setitimer(signal.ITIMER_REAL, 0.01)
    work.send()
    assert retryq.drain().succeeded == 1


def test_an_actor_within_its_time_limit_leaves_no_timer_behind(retryq: Kit, rings: list[float]) -> None:
    @dramatiq.actor(time_limit=50, max_retries=0)
    def work(fails: bool) -> None:
        if fails:
            raise ValueError

    before = signal.getsignal(signal.SIGALRM)
    for fails in (False, True):
        work.send(fails)
        retryq.drain()
        assert (signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)) == ((0.0, 0.0), before)


def test_off_the_main_thread_nothing_is_interrupted(retryq: Kit) -> None:
    @dramatiq.actor(time_limit=1)
    def work() -> None: ...

    work.send()
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(retryq.drain()))
    thread.start()
    thread.join()
    assert outcomes[0].succeeded == 1


def test_a_worker_that_boots_slowly_takes_no_time_from_the_first_message(rings: list[float]) -> None:
    class Slow(Middleware):
        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                pass

    app = MemoryBroker()
    app.add_middleware(Slow())

    @dramatiq.actor(broker=app, time_limit=20)
    def work() -> None: ...

    with swap_broker(app) as kit:
        work.send()
        assert kit.drain().counts() == {"succeeded": 1}
