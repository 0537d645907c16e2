"""``/healthz`` and ``/metrics`` beside an embedded or plain worker, through HTTP."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from prometheus_client import CollectorRegistry, generate_latest

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker, run_worker
from dramatiq_retryq import health as module
from dramatiq_retryq.clock import SystemClock, VirtualClock
from dramatiq_retryq.errors import ConfigError, MissingExtra, StoreUnavailable
from dramatiq_retryq.health import HealthLimits, examine, serve
from dramatiq_retryq.metrics import Collector
from dramatiq_retryq.operations import Operations
from tests.metrics.scraping import get, health, of, read, scrape, value

SOON = 10_000


class World:
    def __init__(self, broker: Any, retry_queue: RetryQueue) -> None:
        self.broker = broker
        self.retry_queue = retry_queue

    @property
    def url(self) -> str:
        assert self.retry_queue.health_url is not None
        return self.retry_queue.health_url


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Makes a broker whose health is served on a free port: ``world(...)`` with options for RetryQueue."""
    made: list[World] = []

    def make(**options: Any) -> World:
        retry_queue = RetryQueue(**{"health": 0, **options})
        broker: Any
        if request.param == "memory":
            broker = MemoryBroker(retry_queue=retry_queue)
        else:
            broker = SQLiteBroker(tmp_path / "jobs.db", retry_queue=retry_queue)
        made.append(World(broker, retry_queue))
        return made[-1]

    yield make
    for here in made:
        assert here.broker.check() == []
        here.broker.close()


def test_health_is_served_for_as_long_as_a_worker_runs(world: Any) -> None:
    here = world()
    dramatiq.actor(lambda: None, broker=here.broker, actor_name="work").send()
    assert here.retry_queue.health_url is None
    with run_worker(here.broker, threads=1):
        url = here.url
        here.broker.join("default", timeout=SOON)
        status, told = health(url)
        assert (status, told["status"], told["problems"], told["workers"]) == (200, "ok", [], 1)
        assert told["last_minute"]["succeeded"] == 1
    assert here.retry_queue.health_url is None
    with pytest.raises(OSError, match="refused"):
        get(f"{url}/healthz")


def test_a_plain_worker_serves_it_too(world: Any) -> None:
    here = world()
    here.broker.declare_queue("default")
    worker = Worker(here.broker, worker_threads=1)
    worker.start()
    assert health(here.url)[0] == 200
    worker.stop()
    assert here.retry_queue.health_url is None


def test_two_workers_of_a_process_serve_it_once_until_the_last_has_stopped(world: Any) -> None:
    here = world()
    here.broker.declare_queue("default")
    with run_worker(here.broker, threads=1):
        with run_worker(here.broker, threads=1):
            url = here.url
        assert here.url == url
        assert health(url)[0] == 200
    assert here.retry_queue.health_url is None


def test_it_is_served_again_when_a_worker_starts_again(world: Any) -> None:
    here = world()
    here.broker.declare_queue("default")
    for _ in range(2):
        with run_worker(here.broker, threads=1):
            assert health(here.url)[0] == 200


def test_it_answers_while_a_worker_that_stops_finishes_its_last_message(world: Any) -> None:
    here = world()
    began, may_end = threading.Event(), threading.Event()

    @dramatiq.actor(broker=here.broker)
    def slow() -> None:
        began.set()
        may_end.wait(10)

    slow.send()
    worker = Worker(here.broker, worker_threads=1, worker_timeout=50)
    worker.start()
    url = here.url
    assert began.wait(10)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    assert health(url)[0] == 200
    may_end.set()
    stopping.join()


def test_beyond_a_limit_it_is_503_with_what_is_wrong(world: Any) -> None:
    here = world(max_retries=0, health_limits=HealthLimits(max_dead=0, max_failure_rate=0.5))

    @dramatiq.actor(broker=here.broker)
    def fail() -> None:
        raise ConnectionError

    with run_worker(here.broker, threads=1):
        assert health(here.url)[0] == 200
        fail.send()
        here.broker.join("default", timeout=SOON, fail_fast=False)
        status, told = health(here.url)
    assert status == 503
    assert told["problems"] == [
        "1 of 1 attempts of the last minute failed, more than max_failure_rate=0.5",
        "1 messages lie dead, more than max_dead=0",
    ]
    assert (told["failure_rate"], told["dead"], told["last_minute"]["deaths"]) == (1.0, 1, {"exhausted": 1})


def test_a_scrape_has_the_store_and_what_was_counted(world: Any) -> None:
    here = world(max_retries=1, backoff=[1])

    @dramatiq.actor(broker=here.broker)
    def fail() -> None:
        raise ConnectionError

    fail.send()
    with run_worker(here.broker, threads=1):
        here.broker.join("default", timeout=SOON, fail_fast=False)
        fail.send_with_options(delay=60_000)
        found = scrape(here.url)
    assert value(found, "retryq_store_up") == 1
    assert value(found, "retryq_workers") == 1
    assert of(found, "retryq_messages") == {"default later": 1, "default dead": 1}
    assert of(found, "retryq_dead_letters") == {"exhausted": 1}
    assert value(found, "retryq_oldest_due_age_seconds", queue_name="default") == 0
    assert value(found, "retryq_queue_paused", queue_name="default") == 0
    assert of(found, "retryq_retries_total") == {"fail default": 1}
    assert of(found, "retryq_deaths_total") == {"fail default exhausted": 1}
    assert of(found, "retryq_attempt_duration_seconds_count") == {"fail default": 2}


def test_a_paused_queue_is_told(world: Any) -> None:
    here = world(health_limits=HealthLimits(max_oldest_due_age=0))
    actor = dramatiq.actor(lambda: None, broker=here.broker, actor_name="work")
    Operations.of(here.broker).pause(queue="default")
    actor.send()
    here.broker.clock.sleep(2)
    with run_worker(here.broker, threads=1):
        status, told = health(here.url)
        found = scrape(here.url)
    assert (status, told["queues"]["default"]["paused"]) == (200, True)
    assert told["oldest_due_age"] > 0
    assert value(found, "retryq_queue_paused", queue_name="default") == 1
    Operations.of(here.broker).resume(queue="default")


def test_without_the_library_there_is_health_and_nothing_else(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_retryq.counting.is_installed", lambda: False)
    here = world()
    here.broker.declare_queue("default")
    with run_worker(here.broker, threads=1):
        assert health(here.url)[0] == 200
        assert get(f"{here.url}/metrics") == (404, b"There is nothing here but /healthz.\n")


def test_metrics_false_leaves_health(world: Any) -> None:
    here = world(metrics=False)
    here.broker.declare_queue("default")
    with run_worker(here.broker, threads=1):
        assert health(here.url)[0] == 200
        assert get(f"{here.url}/metrics")[0] == 404


def test_a_port_that_is_taken_is_logged_and_the_worker_goes_on(
    world: Any, endpoint: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_EVERY", 0.01)
    other = endpoint({})
    here = world(health=str(other.address))
    done = []
    actor = dramatiq.actor(lambda: done.append(1), broker=here.broker, actor_name="work")
    with run_worker(here.broker, threads=1):
        actor.send()
        here.broker.join("default", timeout=SOON)
        assert here.retry_queue.health_url is None
        [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert said.startswith(f"Health is not served: cannot listen at {other.address}: Address already in use")
        other.stop()
        # Once the other is gone, it is served.
        for _ in range(1_000):
            if here.retry_queue.health_url is not None:
                break
            SystemClock().sleep(10)
        assert health(here.url)[0] == 200
    assert done == [1]


def test_a_worker_that_stops_while_the_port_is_taken_stops(world: Any, endpoint: Any) -> None:
    here = world(health=str(endpoint({}).address))
    here.broker.declare_queue("default")
    with run_worker(here.broker, threads=1):
        pass
    assert here.retry_queue.health_url is None


def test_a_writer_that_holds_the_file_does_not_hold_health_up(tmp_path: Path) -> None:
    retry_queue = RetryQueue(health=0)
    with closing(SQLiteBroker(tmp_path / "jobs.db", retry_queue=retry_queue)) as broker:
        broker.declare_queue("default")
        with run_worker(broker, threads=1):
            assert retry_queue.health_url is not None
            with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                status, told = health(retry_queue.health_url)
                other.execute("ROLLBACK")
    assert (status, told["status"]) == (200, "ok")


def test_health_answers_within_a_second_while_the_store_does_not(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world()
    may_answer = threading.Event()
    counts = here.broker.store.counts
    with run_worker(here.broker, threads=1):
        monkeypatch.setattr(here.broker.store, "counts", lambda **at: may_answer.wait(20) and counts(**at))
        started = monotonic()
        answers = [health(here.url) for _ in range(2)]
        assert monotonic() - started < 2
        may_answer.set()
        assert health(here.url)[0] == 200
    problem = "the broker cannot be looked at: the store did not answer within 0.8 s"
    assert [(status, told["problems"]) for status, told in answers] == [(503, [problem])] * 2


def test_a_store_that_cannot_be_read_is_503_and_the_counters_are_there(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world()
    dramatiq.actor(lambda: None, broker=here.broker, actor_name="work").send()

    def fail(**at: int) -> Any:
        raise StoreUnavailable("database disk image is malformed")

    with run_worker(here.broker, threads=1):
        here.broker.join("default", timeout=SOON)
        monkeypatch.setattr(here.broker.store, "counts", fail)
        status, told = health(here.url)
        found = scrape(here.url)
        monkeypatch.undo()
    assert status == 503
    assert told["problems"] == ["the broker cannot be looked at: database disk image is malformed"]
    assert value(found, "retryq_store_up") == 0
    assert not [name for name, _ in found if name == "retryq_messages"]
    assert of(found, "retryq_attempts_total") == {"work succeeded default": 1}


def test_another_broker_is_told_as_far_as_it_can_tell(drain: Any) -> None:
    retry_queue = RetryQueue(health=0, max_retries=1, backoff=[1])
    broker = StubBroker()
    broker.add_middleware(retry_queue)

    @dramatiq.actor(broker=broker)
    def fail() -> None:
        raise ConnectionError

    fail.send()
    worker = Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    broker.join("default", timeout=SOON, fail_fast=False)
    worker.join()
    assert retry_queue.health_url is not None
    status, told = health(retry_queue.health_url)
    found = scrape(retry_queue.health_url)
    worker.stop()
    broker.close()
    assert status == 200
    assert told["workers"] is None
    assert told["failure_rate"] is None
    assert value(found, "retryq_workers") is None
    assert of(found, "retryq_retries_total") == {"fail default": 1}
    assert of(found, "retryq_deaths_total") == {"fail default exhausted": 1}


# In virtual time.


def test_the_age_of_what_is_due_follows_the_brokers_clock(clock: VirtualClock) -> None:
    broker = MemoryBroker(clock=clock)
    dramatiq.actor(lambda: None, broker=broker, actor_name="work").send_with_options(delay=10_000)
    operations, limits = Operations.of(broker), HealthLimits(max_oldest_due_age=5_000)
    ages = []
    for _ in range(4):
        report = examine(operations, limits)
        ages.append((report.oldest_due_age, report.is_ok))
        clock.advance(5_001)
    assert ages == [(0, True), (0, True), (2, True), (5_003, False)]
    broker.close()


def test_failures_are_forgotten_after_a_minute_or_two(clock: VirtualClock, drain: Any) -> None:
    broker = MemoryBroker(clock=clock)

    @dramatiq.actor(broker=broker, max_retries=0)
    def fail() -> None:
        raise ConnectionError

    fail.send()
    drain(broker)
    operations, limits = Operations.of(broker), HealthLimits(max_failure_rate=0)
    assert examine(operations, limits).failure_rate == 1
    clock.advance(120_000)
    assert examine(operations, limits).is_ok
    broker.close()


# For oneself.


def test_serve_answers_until_it_is_interrupted(clock: VirtualClock) -> None:
    broker = MemoryBroker(clock=clock)
    broker.declare_queue("mail")
    found: list[Any] = []

    def ready(url: str) -> None:
        def ask() -> None:
            found.append(health(url))
            found.append(scrape(url))

        threading.Thread(target=ask).start()

    class Interrupted(BaseException):
        """As Ctrl-C: in the thread that serves."""

    def service(self: Any) -> None:
        if len(found) == 2:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dramatiq_retryq.endpoint._Server.service_actions", service)
        with pytest.raises(Interrupted):
            serve(Operations.of(broker), 0, ready=ready)
    (status, told), metrics = found
    assert (status, told["queues"]["mail"]["due"]) == (200, 0)
    assert value(metrics, "retryq_store_up") == 1
    assert not [name for name, _ in metrics if name.endswith("_total")]
    broker.close()


def test_serve_says_that_a_port_is_taken(endpoint: Any, clock: VirtualClock) -> None:
    broker = MemoryBroker(clock=clock)
    with pytest.raises(ConfigError, match="Address already in use"):
        serve(Operations.of(broker), str(endpoint({}).address))
    broker.close()


def test_a_registry_of_ones_own_has_it_all(world: Any) -> None:
    here = world(health=None, metrics=True)
    dramatiq.actor(lambda: None, broker=here.broker, actor_name="work").send()
    with run_worker(here.broker, threads=1):
        here.broker.join("default", timeout=SOON)
        registry = CollectorRegistry()
        registry.register(Collector(here.broker))
        found = read(generate_latest(registry).decode())
    assert value(found, "retryq_store_up") == 1
    assert of(found, "retryq_attempts_total") == {"work succeeded default": 1}


def test_a_collector_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, clock: VirtualClock) -> None:
    monkeypatch.setattr("dramatiq_retryq.metrics.is_installed", lambda: False)
    with pytest.raises(MissingExtra, match="prometheus"):
        Collector(MemoryBroker(clock=clock))


def test_a_forked_child_has_no_endpoint_and_can_have_one_of_its_own(tmp_path: Path) -> None:
    retry_queue = RetryQueue(health=0)
    with closing(SQLiteBroker(tmp_path / "jobs.db", retry_queue=retry_queue)) as broker:
        broker.declare_queue("default")
        with run_worker(broker, threads=1):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    if retry_queue.health_url is None:
                        with run_worker(broker, threads=1):
                            code = 0 if health(str(retry_queue.health_url))[0] == 200 else 2
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            assert health(str(retry_queue.health_url))[0] == 200
