"""Results and rate limits in a file, beside Dramatiq's own stub backends."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.encoder import PickleEncoder
from dramatiq.rate_limits import (
    Barrier,
    BucketRateLimiter,
    ConcurrentRateLimiter,
    RateLimiterBackend,
    WindowRateLimiter,
)
from dramatiq.rate_limits.backends import StubBackend as StubRateLimiterBackend
from dramatiq.results import ResultBackend, ResultFailure, ResultMissing, Results, ResultTimeout
from dramatiq.results.backends import StubBackend as StubResultBackend

from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.backends import SQLiteRateLimiterBackend, SQLiteResultBackend
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import ConfigError, StoreUnavailable

TTL = 60_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def open_results(path: Path, clock: VirtualClock) -> Iterator[Callable[..., SQLiteResultBackend]]:
    opened: list[SQLiteResultBackend] = []

    def open_results(**options: Any) -> SQLiteResultBackend:
        opened.append(SQLiteResultBackend(path, clock=clock, **options))
        return opened[-1]

    yield open_results
    for backend in opened:
        backend.close()


@pytest.fixture
def open_limits(path: Path, clock: VirtualClock) -> Iterator[Callable[..., SQLiteRateLimiterBackend]]:
    opened: list[SQLiteRateLimiterBackend] = []

    def open_limits(**options: Any) -> SQLiteRateLimiterBackend:
        opened.append(SQLiteRateLimiterBackend(path, **{"clock": clock, **options}))
        return opened[-1]

    yield open_limits
    for backend in opened:
        backend.close()


@pytest.fixture(params=["stub", "sqlite"])
def results(request: pytest.FixtureRequest, open_results: Callable[..., SQLiteResultBackend]) -> ResultBackend:
    return StubResultBackend() if request.param == "stub" else open_results()


@pytest.fixture(params=["stub", "sqlite"])
def limits(request: pytest.FixtureRequest, open_limits: Callable[..., SQLiteRateLimiterBackend]) -> RateLimiterBackend:
    return StubRateLimiterBackend() if request.param == "stub" else open_limits()


def message(actor: str = "add") -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name="default", actor_name=actor, args=(), kwargs={}, options={})


# -- Results, as in Dramatiq -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, None, False, "", [], {"a": [1, 2.5, "ü"]}, 0])
def test_a_result_that_was_stored_is_given(results: ResultBackend, value: Any) -> None:
    sent = message()
    results.store_result(sent, value, TTL)
    assert results.get_result(sent) == value
    assert results.get_result(sent, block=True, timeout=0) == value


def test_a_result_that_was_not_stored_is_missing(results: ResultBackend) -> None:
    results.store_result(message(), 3, TTL)
    with pytest.raises(ResultMissing):
        results.get_result(message())


def test_who_waits_in_vain_for_a_result_is_told_so(results: ResultBackend) -> None:
    with pytest.raises(ResultTimeout):
        results.get_result(message(), block=True, timeout=1)


def test_a_result_can_be_read_more_than_once_and_the_last_one_stored_counts(results: ResultBackend) -> None:
    sent = message()
    results.store_result(sent, 1, TTL)
    results.store_result(sent, 2, TTL)
    assert [results.get_result(sent) for _ in range(2)] == [2, 2]


def test_an_exception_that_was_stored_is_raised_as_a_failure(results: ResultBackend) -> None:
    sent = message()
    results.store_exception(sent, ValueError("no"), TTL)
    with pytest.raises(ResultFailure) as caught:
        results.get_result(sent)
    assert (caught.value.orig_exc_type, caught.value.orig_exc_msg) == ("ValueError", "no")


def test_results_of_different_actors_and_messages_are_apart(results: ResultBackend) -> None:
    first, second = message(), message()
    other = first.copy(actor_name="other")
    for number, sent in enumerate((first, second, other)):
        results.store_result(sent, number, TTL)
    assert [results.get_result(sent) for sent in (first, second, other)] == [0, 1, 2]


def test_an_actor_stores_its_result_where_the_sender_finds_it(
    results: ResultBackend, broker: MemoryBroker, drain: Callable[..., int]
) -> None:
    broker.add_middleware(Results(backend=results))

    @dramatiq.actor(store_results=True, max_retries=0)
    def divide(x: int, y: int) -> float:
        return x / y

    good, bad = divide.send(6, 3), divide.send(1, 0)
    drain(broker)
    assert good.get_result(backend=results) == 2
    with pytest.raises(ResultFailure, match="ZeroDivisionError"):
        bad.get_result(backend=results)


# -- Results, in a file ----------------------------------------------------------------------------------------------


def test_a_result_is_there_for_its_ttl_and_not_longer(
    open_results: Callable[..., SQLiteResultBackend], clock: VirtualClock
) -> None:
    backend, sent = open_results(), message()
    backend.store_result(sent, 3, 1_500)
    clock.advance(1_499)
    assert backend.get_result(sent) == 3
    clock.advance(1)
    with pytest.raises(ResultMissing):
        backend.get_result(sent)


def test_a_result_is_seen_by_whoever_opens_the_file(open_results: Callable[..., SQLiteResultBackend]) -> None:
    sent = message()
    first = open_results()
    first.store_result(sent, 3, TTL)
    first.close()
    assert open_results().get_result(sent) == 3


def test_results_in_different_namespaces_are_apart(open_results: Callable[..., SQLiteResultBackend]) -> None:
    sent = message()
    open_results(namespace="one").store_result(sent, 1, TTL)
    with pytest.raises(ResultMissing):
        open_results(namespace="two").get_result(sent)


def test_an_encoder_of_ones_own_is_used(open_results: Callable[..., SQLiteResultBackend]) -> None:
    backend, sent = open_results(encoder=PickleEncoder()), message()
    backend.store_result(sent, {1, 2}, TTL)
    assert backend.get_result(sent) == {1, 2}


def test_who_waits_for_a_result_has_it_as_soon_as_it_is_stored(
    open_results: Callable[..., SQLiteResultBackend],
) -> None:
    class StoresMeanwhile(VirtualClock):
        def sleep(self, delay: int) -> None:
            super().sleep(delay)
            if self.now() - start >= 300:
                backend.store_result(sent, 3, TTL)

    backend, sent = open_results(), message()
    backend.clock = StoresMeanwhile()
    start = backend.clock.now()
    assert backend.get_result(sent, block=True, timeout=1_000) == 3
    assert 300 <= backend.clock.now() - start <= 350


@pytest.mark.parametrize(("timeout", "expected"), [(None, 10_000), (777, 777), (0, 0)])
def test_who_waits_for_a_result_waits_for_so_long(
    open_results: Callable[..., SQLiteResultBackend], clock: VirtualClock, timeout: int | None, expected: int
) -> None:
    start = clock.now()
    with pytest.raises(ResultTimeout):
        open_results().get_result(message(), block=True, timeout=timeout)
    assert clock.now() - start == expected


def test_results_that_have_expired_are_cleared_away_as_new_ones_come(
    open_results: Callable[..., SQLiteResultBackend], clock: VirtualClock, path: Path
) -> None:
    backend = open_results()
    for _ in range(20):
        for _ in range(100):
            backend.store_result(message(), "x" * 100, 1_000)
        clock.advance(1_000)
    backend.close()
    assert path.stat().st_size < 200_000  # 2,000 results take more than 300,000


def test_results_may_lie_in_the_file_of_the_broker(
    path: Path, open_results: Callable[..., SQLiteResultBackend]
) -> None:
    broker = SQLiteBroker(path)
    broker.declare_queue("default")
    sent = broker.enqueue(message())
    open_results().store_result(sent, 3, TTL)
    assert open_results().get_result(sent) == 3
    assert broker.store.unfinished("default") == 1
    assert broker.check() == []
    broker.close()


@pytest.mark.parametrize("backend", [SQLiteResultBackend, SQLiteRateLimiterBackend])
def test_what_is_no_file_is_refused(backend: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        backend(":memory:")
    with pytest.raises(StoreUnavailable):
        backend(tmp_path / "missing" / "results.db")


# -- Rate limits, as in Dramatiq -------------------------------------------------------------------------------------


def test_a_key_is_added_once(limits: RateLimiterBackend) -> None:
    assert [limits.add("key", 1, TTL), limits.add("key", 2, TTL), limits.add("other", 1, TTL)] == [True, False, True]


def test_a_key_is_increased_up_to_its_maximum(limits: RateLimiterBackend) -> None:
    assert [limits.incr("key", 2, 5, TTL) for _ in range(3)] == [True, True, False]
    assert limits.incr("key", 1, 5, TTL)  # what was refused was not counted


def test_a_key_is_decreased_down_to_its_minimum(limits: RateLimiterBackend) -> None:
    limits.add("key", 5, TTL)
    assert [limits.decr("key", 2, 0, TTL) for _ in range(3)] == [True, True, False]
    assert limits.decr("key", 1, 0, TTL)


def test_a_key_that_is_not_there_counts_as_zero(limits: RateLimiterBackend) -> None:
    assert not limits.decr("key", 1, 0, TTL)
    assert limits.decr("key", 1, -1, TTL)


def test_a_key_is_increased_while_the_sum_of_all_keys_is_no_more_than_the_maximum(limits: RateLimiterBackend) -> None:
    limits.add("a", 2, TTL)
    limits.add("b", 1, TTL)
    assert [limits.incr_and_sum("key", lambda: ["a", "b", "nobody"], 1, 5, TTL) for _ in range(3)] == [True] * 3
    assert [limits.incr_and_sum("key", lambda: ["a", "b", "key"], 1, 6, TTL) for _ in range(2)] == [False, False]
    assert limits.incr_and_sum("key", lambda: ["a", "b", "key"], 1, 7, TTL)


def test_a_concurrent_limit_lets_so_many_in_at_once(limits: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(limits, "limiter", limit=2)
    acquire = functools.partial(limiter.acquire, raise_on_failure=False)
    with acquire() as first, acquire() as second, acquire() as third:
        assert [first, second, third] == [True, True, False]
    with limiter.acquire(raise_on_failure=False) as again:
        assert again


def test_a_bucket_lets_so_many_in(limits: RateLimiterBackend) -> None:
    limiter = BucketRateLimiter(limits, "limiter", limit=2, bucket=10**13)  # one that has no end while this runs
    acquired = []
    for _ in range(3):
        with limiter.acquire(raise_on_failure=False) as got:
            acquired.append(got)
    assert acquired == [True, True, False]


def test_a_window_lets_so_many_in(limits: RateLimiterBackend) -> None:
    limiter = WindowRateLimiter(limits, "limiter", limit=2, window=600)
    acquired = []
    for _ in range(3):
        with limiter.acquire(raise_on_failure=False) as got:
            acquired.append(got)
    assert acquired == [True, True, False]


def test_a_barrier_is_cleared_by_the_last_of_its_parties(limits: RateLimiterBackend) -> None:
    barrier = Barrier(limits, "barrier", ttl=TTL)
    assert barrier.create(3)
    assert not barrier.create(3)
    assert [barrier.wait(block=False) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("kind", ["stub", "sqlite"])
def test_who_waits_at_a_barrier_is_let_go_by_the_last_of_its_parties(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = StubRateLimiterBackend() if kind == "stub" else SQLiteRateLimiterBackend(path)
    barrier = Barrier(backend, "barrier", ttl=TTL)
    barrier.create(2)
    comes = threading.Event()
    outcome: list[bool] = []
    wait = backend.wait

    def watched(key: str, timeout: int) -> bool:
        comes.set()
        return wait(key, timeout)

    monkeypatch.setattr(backend, "wait", watched)
    thread = threading.Thread(target=lambda: outcome.append(barrier.wait(timeout=20_000)))
    thread.start()
    assert comes.wait(20)
    assert barrier.wait(block=False)
    while thread.is_alive():  # it may not have got as far as to listen when it was notified
        backend.wait_notify(barrier.key_events, TTL)
        thread.join(0.01)
    assert outcome == [True]
    if isinstance(backend, SQLiteRateLimiterBackend):
        backend.close()


# -- Rate limits, in a file ------------------------------------------------------------------------------------------


def test_a_key_is_there_for_its_ttl_and_not_longer(
    open_limits: Callable[..., SQLiteRateLimiterBackend], clock: VirtualClock
) -> None:
    backend = open_limits()
    backend.add("key", 1, 1_000)
    clock.advance(999)
    assert not backend.add("key", 1, 1_000)
    clock.advance(1)
    assert backend.add("key", 1, 1_000)


def test_each_change_gives_a_key_its_ttl_anew_and_a_refused_one_does_not(
    open_limits: Callable[..., SQLiteRateLimiterBackend], clock: VirtualClock
) -> None:
    backend = open_limits()
    backend.incr("key", 1, 2, 1_000)
    clock.advance(900)
    backend.incr("key", 1, 2, 1_000)
    clock.advance(900)
    assert not backend.incr("key", 1, 2, 1_000)
    clock.advance(100)
    assert backend.incr("key", 1, 2, 1_000)


def test_an_expired_key_counts_for_nothing_in_a_sum(
    open_limits: Callable[..., SQLiteRateLimiterBackend], clock: VirtualClock
) -> None:
    backend = open_limits()
    backend.add("a", 5, 1_000)
    assert not backend.incr_and_sum("key", lambda: ["a"], 1, 5, TTL)
    clock.advance(1_000)
    assert backend.incr_and_sum("key", lambda: ["a"], 1, 5, TTL)


def test_who_waits_for_an_event_is_told_of_it_and_otherwise_when_the_time_is_over(
    open_limits: Callable[..., SQLiteRateLimiterBackend],
) -> None:
    class NotifiesAt(VirtualClock):
        def __init__(self, instant: int) -> None:
            super().__init__()
            self.start = self.now()
            self.instant = self.start + instant

        def sleep(self, delay: int) -> None:
            super().sleep(delay)
            if self.now() >= self.instant:
                self.instant = 1 << 62
                backend.wait_notify("event", TTL)

    for instant, notified, waited in ((500, True, 500), (5_000, False, 1_000)):
        clock = NotifiesAt(instant)
        backend = open_limits(clock=clock)
        assert backend.wait("event", 1_000) is notified
        assert waited <= clock.now() - clock.start <= waited + 20


def test_an_event_of_the_past_lets_nobody_go(
    open_limits: Callable[..., SQLiteRateLimiterBackend], clock: VirtualClock
) -> None:
    backend = open_limits()
    backend.wait_notify("event", TTL)
    assert not backend.wait("event", 1_000)


def test_an_event_of_the_past_lets_nobody_go_when_it_expires(
    open_limits: Callable[..., SQLiteRateLimiterBackend], clock: VirtualClock
) -> None:
    backend = open_limits()
    backend.wait_notify("event", 500)
    assert not backend.wait("event", 1_000)


def test_threads_that_increase_a_key_at_once_never_pass_its_maximum(
    open_limits: Callable[..., SQLiteRateLimiterBackend],
) -> None:
    backends = [open_limits() for _ in range(3)]
    let_in: list[bool] = []
    threads = [
        threading.Thread(target=lambda own=own: let_in.extend(own.incr("key", 1, 50, TTL) for _ in range(40)))
        for own in backends
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(let_in), sum(let_in)) == (120, 50)
