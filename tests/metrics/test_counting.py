"""What RetryQueue counts of a message's life, on its own brokers and on another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Shutdown, SkipMessage
from dramatiq.middleware.middleware import Middleware

from dramatiq_retryq import GiveUp, MemoryBroker, RetryQueue, Snooze, SQLiteBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import ConfigError, MissingExtra
from dramatiq_retryq.prometheus_files import Counters
from tests.metrics.scraping import Samples, counted, of, value


@pytest.fixture
def clock() -> VirtualClock:
    """A virtual clock that starts now: Dramatiq's AgeLimit and its message timestamps go by the machine's clock."""
    return VirtualClock(int(time.time() * 1000))


class World:
    """A broker, and a way to let everything happen that is going to."""

    def __init__(self, broker: Any, retry_queue: RetryQueue, run: Callable[[], object]) -> None:
        self.broker = broker
        self.retry_queue = retry_queue
        self.run = run

    def counted(self) -> Samples:
        counters = self.retry_queue.counters(self.broker)
        assert counters is not None
        return counted(counters.directory)

    def of(self, name: str) -> dict[str, float]:
        return of(self.counted(), name)


def run_stub(broker: StubBroker) -> None:
    worker = Worker(broker, worker_threads=2, worker_timeout=5)
    worker.start()
    for queue in broker.get_declared_queues() - broker.get_declared_delay_queues():
        broker.join(queue, timeout=10_000, fail_fast=False)
    worker.join()
    worker.stop()


@pytest.fixture(params=["stub", "memory", "sqlite"])
def world(
    request: pytest.FixtureRequest, clock: VirtualClock, drain: Callable[..., int], tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """Makes a world that counts: ``world(max_retries=1, ...)`` with options for RetryQueue."""
    made: list[Any] = []

    def make(**options: Any) -> World:
        retry_queue = RetryQueue(**{"metrics": True, "backoff": [10], **options})
        broker: Any
        if request.param == "stub":
            broker = StubBroker()
            broker.add_middleware(retry_queue)
            run = lambda: run_stub(broker)  # noqa: E731
        else:
            if request.param == "memory":
                broker = MemoryBroker(retry_queue=retry_queue, clock=clock)
            else:
                broker = SQLiteBroker(tmp_path / "jobs.db", retry_queue=retry_queue, clock=clock)
            run = lambda: drain(broker)  # noqa: E731
        made.append(broker)
        return World(broker, retry_queue, run)

    yield make
    for broker in made:
        if not isinstance(broker, StubBroker):
            assert broker.check() == []
        broker.close()


def test_each_retry_is_counted_once(world: Any) -> None:
    here = world(max_retries=5)
    runs = []

    @dramatiq.actor(broker=here.broker)
    def flaky() -> None:
        runs.append(1)
        if len(runs) < 4:
            raise ConnectionError

    flaky.send()
    here.run()
    assert here.of("retryq_retries_total") == {"flaky default": 3}
    assert here.of("retryq_attempts_total") == {"flaky retried default": 3, "flaky succeeded default": 1}
    assert here.of("retryq_deaths_total") == {}
    assert value(here.counted(), "retryq_retry_delay_seconds_sum", actor_name="flaky", queue_name="default") == (
        pytest.approx(0.03)
    )


def test_the_last_attempt_and_the_death_are_counted(world: Any) -> None:
    here = world(max_retries=1)

    @dramatiq.actor(broker=here.broker, queue_name="mail")
    def fail() -> None:
        raise ConnectionError

    fail.send()
    here.run()
    assert here.of("retryq_deaths_total") == {"fail mail exhausted": 1}
    assert here.of("retryq_attempts_total") == {"fail retried mail": 1, "fail died mail": 1}


@pytest.mark.parametrize(
    ("error", "attempts", "deaths"),
    [
        (GiveUp("no"), {"run died default": 1}, {"run default rejected": 1}),
        (KeyError("thrown"), {"run died default": 1}, {"run default rejected": 1}),
        (Snooze(1), {"run snoozed default": 1, "run succeeded default": 1}, {}),
        (Shutdown(), {"run interrupted default": 1, "run succeeded default": 1}, {}),
        (dramatiq.Retry("later", delay=5), {"run retried default": 1, "run succeeded default": 1}, {}),
    ],
    ids=["give up", "throws", "snooze", "shutdown", "retry"],
)
def test_what_an_actor_raises_is_counted_by_what_it_leads_to(
    world: Any, error: BaseException, attempts: dict[str, int], deaths: dict[str, int]
) -> None:
    here = world()
    errors = [error]

    @dramatiq.actor(broker=here.broker, throws=KeyError)
    def run() -> None:
        if errors:
            raise errors.pop()

    run.send()
    here.run()
    assert here.of("retryq_attempts_total") == attempts
    assert here.of("retryq_deaths_total") == deaths


def test_what_was_never_run_is_a_death_and_no_attempt(world: Any) -> None:
    class Skips(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            message.fail()
            raise SkipMessage

    here = world()
    here.broker.add_middleware(Skips())

    @dramatiq.actor(broker=here.broker)
    def never() -> None: ...

    never.send()
    here.run()
    assert here.of("retryq_attempts_total") == {}
    assert here.of("retryq_deaths_total") == {"never default rejected": 1}


def test_other_peoples_names_are_folded_into_one(world: Any) -> None:
    here = world()

    @dramatiq.actor(broker=here.broker)
    def known() -> None: ...

    for number in range(20):
        message = known.message()._replace(actor_name=f"<name {number}>")
        here.broker.enqueue(message)
    here.run()
    assert here.of("retryq_deaths_total") == {"unknown default unknown_actor": 20}
    assert {dict(labels)["actor_name"] for _, labels in here.counted()} <= {"known", "unknown"}


def test_an_actor_that_fails_its_message_without_an_error_has_died(world: Any) -> None:
    class Fails(Middleware):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            message.fail()

    here = world()
    here.broker.add_middleware(Fails())

    @dramatiq.actor(broker=here.broker)
    def run() -> None: ...

    run.send()
    here.run()
    assert here.of("retryq_attempts_total") == {"run died default": 1}
    assert here.of("retryq_deaths_total") == {"run default rejected": 1}


def test_an_attempts_duration_is_in_seconds(clock: VirtualClock, drain: Any) -> None:
    retry_queue = RetryQueue(metrics=True)
    broker = MemoryBroker(retry_queue=retry_queue, clock=clock)

    @dramatiq.actor(broker=broker)
    def slow() -> None:
        clock.advance(1_500)

    slow.send()
    drain(broker)
    counters = retry_queue.counters(broker)
    assert counters is not None
    assert of(counted(counters.directory), "retryq_attempt_duration_seconds_sum") == {"slow default": 1.5}
    broker.close()


def test_a_clock_that_steps_back_takes_nothing_away(clock: VirtualClock, drain: Any) -> None:
    retry_queue = RetryQueue(metrics=True)
    broker = MemoryBroker(retry_queue=retry_queue, clock=clock)

    @dramatiq.actor(broker=broker)
    def slow() -> None:
        clock.move_to(clock.now() - 60_000)

    slow.send()
    drain(broker)
    counters = retry_queue.counters(broker)
    assert counters is not None
    assert of(counted(counters.directory), "retryq_attempt_duration_seconds_sum") == {}
    assert of(counted(counters.directory), "retryq_attempt_duration_seconds_count") == {"slow default": 1}
    broker.close()


def test_a_payload_that_is_no_message_is_a_death_of_an_unknown_actor(clock: VirtualClock, drain: Any) -> None:
    retry_queue = RetryQueue(metrics=True)
    broker = MemoryBroker(retry_queue=retry_queue, clock=clock)
    broker.declare_queue("default")
    broker.queues["default"].put(b"nonsense")
    drain(broker)
    counters = retry_queue.counters(broker)
    assert counters is not None
    assert of(counted(counters.directory), "retryq_deaths_total") == {"unknown default undecodable": 1}
    broker.close()


def test_a_worker_shows_its_actors_before_anything_happens(clock: VirtualClock) -> None:
    retry_queue = RetryQueue(metrics=True)
    broker = MemoryBroker(retry_queue=retry_queue, clock=clock)

    @dramatiq.actor(broker=broker, queue_name="mail")
    def quiet() -> None: ...

    worker = Worker(broker, worker_threads=1)
    worker.start()
    worker.stop()
    counters = retry_queue.counters(broker)
    assert counters is not None
    found = counted(counters.directory)
    labels = {"actor_name": "quiet", "queue_name": "mail"}
    assert value(found, "retryq_deaths_total", reason="exhausted", **labels) == 0
    assert value(found, "retryq_attempts_total", outcome="retried", **labels) == 0
    broker.close()


def test_counting_that_fails_is_said_once_and_costs_no_message(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("attempted", "retried", "died", "prepare"):
        monkeypatch.setattr(Counters, name, fail)
    here = world(max_retries=1)
    done = []

    @dramatiq.actor(broker=here.broker)
    def run(number: int) -> None:
        done.append(number)
        if number < 0:
            raise ValueError

    for number in (1, 2, -1):
        run.send(number)
    here.run()
    assert sorted(done) == [-1, -1, 1, 2]
    (said,) = [record.getMessage() for record in caplog.records if "Metrics" in record.getMessage()]
    assert said == "Metrics are not, or not fully, counted: OSError: [Errno 28] No space left on device."


def test_a_directory_that_cannot_be_made_is_said_once_and_costs_no_message(
    world: Any, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    temporary.rmdir()
    here = world()
    done = []

    @dramatiq.actor(broker=here.broker)
    def run(number: int) -> None:
        done.append(number)

    for number in (1, 2):
        run.send(number)
    here.run()
    temporary.mkdir()
    assert sorted(done) == [1, 2]
    assert len([record for record in caplog.records if "Metrics" in record.getMessage()]) == 1


# Whether it is counted.


def test_nothing_is_counted_where_nobody_serves_it(temporary: Path, drain: Any, clock: VirtualClock) -> None:
    retry_queue = RetryQueue()
    broker = MemoryBroker(retry_queue=retry_queue, clock=clock)

    @dramatiq.actor(broker=broker, max_retries=0)
    def fail() -> None:
        raise ValueError

    fail.send()
    drain(broker)
    assert retry_queue.counters(broker) is None
    assert list(temporary.iterdir()) == []
    broker.close()


def test_metrics_false_counts_nothing_even_with_an_endpoint(clock: VirtualClock) -> None:
    retry_queue = RetryQueue(health=0, metrics=False)
    assert retry_queue.counters(MemoryBroker(retry_queue=retry_queue, clock=clock)) is None


def test_without_the_library_an_endpoint_is_no_error(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_retryq.counting.is_installed", lambda: False)
    retry_queue = RetryQueue(health=0)
    assert retry_queue.counters(MemoryBroker(retry_queue=retry_queue, clock=clock)) is None


def test_without_the_library_metrics_true_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_retryq.counting.is_installed", lambda: False)
    with pytest.raises(MissingExtra, match="prometheus"):
        RetryQueue(metrics=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"health": "nowhere"}, "RetryQueue: health is 'nowhere': give \"host:port\""),
        ({"health_limits": {"max_dead": 1}}, "RetryQueue: health_limits is {'max_dead': 1}: give a HealthLimits(…)"),
        ({"metrics": "127.0.0.1:9292"}, "RetryQueue: metrics is '127.0.0.1:9292': give True or False, or None"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RetryQueue(**options)
    assert text in str(raised.value)


def test_dramatiqs_own_prometheus_middleware_has_it_counted_in_its_directory(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("dramatiq_prom_db", str(tmp_path / "import"))
    from dramatiq.middleware import prometheus

    monkeypatch.setattr(prometheus, "DB_PATH", str(tmp_path))
    retry_queue = RetryQueue()
    broker = MemoryBroker([prometheus.Prometheus(), retry_queue], clock=clock)
    counters = retry_queue.counters(broker)
    assert counters is not None
    assert counters.directory == str(tmp_path)
    broker.close()
