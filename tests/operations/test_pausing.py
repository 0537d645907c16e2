"""Pausing and resuming a queue or an actor while workers run: nothing is taken, nothing is lost, no attempt is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Middleware
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend
from dramatiq.results.errors import ResultMissing

from dramatiq_retryq import MemoryBroker, SQLiteBroker, run_worker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.store_broker import StoreBroker

Until = Callable[[Callable[[], Any]], None]

PATIENCE = 20
#: ms
TIMEOUT = 20_000


class Listener(Middleware):
    """Notes every signal about a message."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def before_process_message(self, broker: Any, message: Any) -> None:
        self.heard.append(("before_process_message", message.actor_name))

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        self.heard.append(("after_process_message", message.actor_name))

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.heard.append(("after_skip_message", message.actor_name))

    def before_ack(self, broker: Any, message: Any) -> None:
        self.heard.append(("before_ack", message.actor_name))

    def after_ack(self, broker: Any, message: Any) -> None:
        self.heard.append(("after_ack", message.actor_name))

    def before_nack(self, broker: Any, message: Any) -> None:
        self.heard.append(("before_nack", message.actor_name))

    def after_nack(self, broker: Any, message: Any) -> None:
        self.heard.append(("after_nack", message.actor_name))


class App:
    """A broker with actors that say that they ran, and one that waits until it is let go."""

    def __init__(self, broker: StoreBroker) -> None:
        self.broker = broker
        self.operations = Operations.of(broker)
        self.ran: list[str] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

        @dramatiq.actor(broker=broker)
        def good(name: str) -> None:
            self.ran.append(name)

        @dramatiq.actor(broker=broker)
        def bad(name: str) -> None:
            self.ran.append(name)

        @dramatiq.actor(broker=broker, queue_name="other")
        def elsewhere(name: str) -> None:
            self.ran.append(name)

        @dramatiq.actor(broker=broker, priority=-1)
        def block() -> None:
            self.entered.release()
            assert self.gate.wait(PATIENCE)

        self.good, self.bad, self.elsewhere, self.block = good, bad, elsewhere, block


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    broker: StoreBroker = MemoryBroker() if request.param == "memory" else SQLiteBroker(tmp_path / "jobs.db")
    app = App(broker)
    yield app
    app.gate.set()
    assert broker.check() == []
    broker.close()


def run_until_idle(app: App, *queues: str) -> None:
    with run_worker(app.broker, threads=2, worker_timeout=5):
        for name in queues or ("default", "other"):
            app.broker.join(name, timeout=TIMEOUT)


# -- A queue -----------------------------------------------------------------------------------------------------


def test_a_paused_queue_waits_and_the_others_are_worked_on(app: App) -> None:
    app.operations.pause(queue="default")
    app.good.send("a")
    app.elsewhere.send("b")
    run_until_idle(app)
    assert app.ran == ["b"]
    [pending] = app.operations.pending()
    assert (pending.state, pending.held) == ("waiting", False)


def test_a_queue_that_is_resumed_is_worked_on_in_the_old_order(app: App) -> None:
    app.operations.pause(queue="default")
    for name in "abc":
        app.good.send(name)
    with run_worker(app.broker, threads=1, worker_timeout=5):
        app.broker.join("default", timeout=TIMEOUT)
        assert app.ran == []
        app.operations.resume(queue="default")
        app.broker.join("default", timeout=TIMEOUT)
    assert app.ran == ["a", "b", "c"]


def test_a_pause_stops_what_was_fetched_and_not_begun(app: App, until: Until) -> None:
    """Two threads are busy, and the worker holds more messages; paused then, these do not run."""
    with run_worker(app.broker, threads=2, worker_timeout=5) as worker:
        app.block.send()
        app.block.send()
        for _ in range(2):
            assert app.entered.acquire(timeout=PATIENCE)
        for name in "abcd":
            app.good.send(name)
        until(lambda: worker.work_queue.qsize() >= 1)
        app.operations.pause(queue="default")
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
        assert app.ran == []
        assert app.broker.counts()["default"].due == 4
        app.operations.resume(queue="default")
        app.broker.join("default", timeout=TIMEOUT)
    assert sorted(app.ran) == ["a", "b", "c", "d"]


def test_what_runs_when_the_pause_comes_runs_to_its_end(app: App) -> None:
    with run_worker(app.broker, threads=1, worker_timeout=5):
        app.block.send()
        assert app.entered.acquire(timeout=PATIENCE)
        app.operations.pause(queue="default")
        app.operations.pause(actor="block")
        assert app.broker.counts()["default"].claimed == 1
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
    assert app.broker.counts()["default"].waiting == 0
    assert len(app.broker.dead_letters) == 0


# -- An actor ----------------------------------------------------------------------------------------------------


def test_a_paused_actor_waits_and_the_others_are_worked_on(app: App) -> None:
    app.operations.pause(actor="bad")
    for name in "abc":
        app.bad.send(name)
        app.good.send(name.upper())
    run_until_idle(app)
    assert sorted(app.ran) == ["A", "B", "C"]
    assert [(p.actor_name, p.held) for p in app.operations.pending()] == [("bad", True)] * 3
    counts = app.broker.counts()["default"]
    assert (counts.due, counts.held) == (3, 3)


def test_a_backlog_of_a_paused_actor_does_not_hold_back_others(app: App) -> None:
    app.operations.pause(actor="bad")
    for number in range(300):
        app.bad.send(str(number))
    app.good.send("good")
    run_until_idle(app)
    assert app.ran == ["good"]
    assert app.broker.counts()["default"].held == 300


def test_an_actor_that_is_resumed_is_worked_on_in_the_old_order(app: App) -> None:
    app.operations.pause(actor="bad")
    for name in "abc":
        app.bad.send(name)
    with run_worker(app.broker, threads=1, worker_timeout=5):
        app.broker.join("default", timeout=TIMEOUT)
        app.bad.send("d")
        app.broker.join("default", timeout=TIMEOUT)  # or it may be fetched when the others are let go
        app.operations.resume(actor="bad")
        app.broker.join("default", timeout=TIMEOUT)
    assert app.ran == ["a", "b", "c", "d"]


def test_what_was_fetched_of_an_actor_and_not_begun_is_set_aside(app: App, until: Until) -> None:
    with run_worker(app.broker, threads=2, worker_timeout=5) as worker:
        app.block.send()
        app.block.send()
        for _ in range(2):
            assert app.entered.acquire(timeout=PATIENCE)
        app.bad.send("bad")
        app.good.send("good")
        until(lambda: worker.work_queue.qsize() >= 1)
        app.operations.pause(actor="bad")
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
    assert app.ran == ["good"]
    [pending] = app.operations.pending()
    assert (pending.actor_name, pending.held, pending.retries) == ("bad", True, 0)


def test_a_message_of_a_paused_actor_can_be_cancelled(app: App) -> None:
    app.operations.pause(actor="bad")
    app.bad.send("a")
    run_until_idle(app)
    [pending] = app.operations.pending()
    app.operations.cancel(pending)
    app.operations.resume(actor="bad")
    run_until_idle(app)
    assert app.ran == []


def test_a_message_of_a_paused_actor_waits_even_if_it_is_to_run_now(app: App) -> None:
    app.operations.pause(actor="bad")
    app.bad.send_with_options(args=("a",), delay=3_600_000)
    [pending] = app.operations.pending()
    app.operations.run_now(pending)
    run_until_idle(app)
    assert app.ran == []
    app.operations.resume(actor="bad")
    run_until_idle(app)
    assert app.ran == ["a"]


# -- Nobody hears of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [{"queue": "default"}, {"actor": "bad"}])
def test_no_middleware_hears_of_a_message_that_was_fetched_and_set_aside(
    app: App, until: Until, what: dict[str, str]
) -> None:
    listener = Listener()
    app.broker.add_middleware(listener)
    with run_worker(app.broker, threads=1, worker_timeout=5) as worker:
        app.block.send()
        assert app.entered.acquire(timeout=PATIENCE)
        app.bad.send("bad")
        until(lambda: worker.work_queue.qsize() >= 1)
        app.operations.pause(**what)
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
        until(lambda: app.broker.counts()["default"].due == 1)
    assert ("after_ack", "block") in listener.heard
    assert [heard for heard in listener.heard if heard[1] == "bad"] == []
    rates = app.operations.status().last_hour
    assert rates is not None
    assert (rates.retried, rates.failed, rates.snoozed, rates.succeeded) == (0, 0, 0, 1)


def test_no_attempt_is_used_and_nothing_is_logged_as_a_failure(
    app: App, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    with run_worker(app.broker, threads=1, worker_timeout=5) as worker:
        app.block.send()
        assert app.entered.acquire(timeout=PATIENCE)
        app.bad.send("bad")
        until(lambda: worker.work_queue.qsize() >= 1)
        app.operations.pause(actor="bad")
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []
    [pending] = app.operations.pending()
    assert (pending.attempts, pending.retries) == ((), 0)


def test_who_waits_for_a_result_goes_on_waiting(app: App, until: Until) -> None:
    backend = StubBackend()
    app.broker.add_middleware(Results(backend=backend, store_results=True))
    with run_worker(app.broker, threads=1, worker_timeout=5) as worker:
        app.block.send()
        assert app.entered.acquire(timeout=PATIENCE)
        sent = app.bad.send("bad")
        until(lambda: worker.work_queue.qsize() >= 1)
        app.operations.pause(actor="bad")
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
        with pytest.raises(ResultMissing):
            sent.get_result(backend=backend)
        app.operations.resume(actor="bad")
        app.broker.join("default", timeout=TIMEOUT)
        assert sent.get_result(backend=backend) is None


def test_what_cannot_be_set_aside_now_runs(app: App, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_worker(app.broker, threads=1, worker_timeout=5) as worker:
        app.block.send()
        assert app.entered.acquire(timeout=PATIENCE)
        app.bad.send("bad")
        until(lambda: worker.work_queue.qsize() >= 1)

        def unavailable(*args: Any, **kwargs: Any) -> int:
            raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(app.broker.store, "hold", unavailable)
        app.operations.pause(actor="bad")
        app.gate.set()
        until(lambda: app.ran == ["bad"])
    monkeypatch.undo()


# -- Joining, and the state --------------------------------------------------------------------------------------


def test_join_does_not_wait_for_what_is_paused(app: App) -> None:
    app.operations.pause(queue="other")
    app.operations.pause(actor="bad")
    app.elsewhere.send("a")
    app.bad.send("b")
    app.good.send("c")
    run_until_idle(app)
    assert app.ran == ["c"]


def test_a_join_that_waits_is_told_of_a_pause_and_of_a_cancellation(app: App, until: Until) -> None:
    app.good.send("a")
    app.elsewhere.send("b")
    joiners = [threading.Thread(target=app.broker.join, args=(name,)) for name in ("default", "other")]
    for joiner in joiners:
        joiner.start()
    until(lambda: all(line.joiners for line in app.broker._lines.values()))
    app.operations.pause(queue="default")
    [pending] = app.operations.pending(queue="other")
    app.operations.cancel(pending)
    for joiner in joiners:
        joiner.join(PATIENCE)
        assert not joiner.is_alive()


def test_pausing_and_resuming_can_be_repeated(app: App) -> None:
    for _ in range(3):
        app.operations.pause(queue="default")
        app.operations.pause(queue="default")
        app.operations.resume(queue="default")
        app.operations.resume(queue="default")
    app.good.send("a")
    run_until_idle(app)
    assert app.ran == ["a"]


def test_a_pause_is_found_by_its_delay_queues_name_too(app: App) -> None:
    app.operations.pause(queue="default.DQ")
    assert app.operations.paused().queues == {"default"}


def test_a_retry_of_a_paused_actor_waits(app: App, until: Until) -> None:
    @dramatiq.actor(broker=app.broker, min_backoff=0, max_backoff=0, max_retries=1)
    def fails() -> None:
        app.entered.release()
        assert app.gate.wait(PATIENCE)
        raise ValueError("it fails")

    with run_worker(app.broker, threads=1, worker_timeout=5):
        fails.send()
        assert app.entered.acquire(timeout=PATIENCE)
        app.operations.pause(actor="fails")
        app.gate.set()
        app.broker.join("default", timeout=TIMEOUT)
        [pending] = app.operations.pending()
        assert (pending.held, pending.retries) == (True, 1)


def test_a_pause_survives_a_restart(tmp_path: Path, clock: VirtualClock) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    Operations.of(broker).pause(actor="bad")
    Operations.of(broker).pause(queue="other")
    paused = Operations.of(broker).paused()
    broker.close()
    app = App(SQLiteBroker(tmp_path / "jobs.db"))
    assert app.operations.paused() == paused
    assert paused.since == clock.now()
    app.bad.send("bad")
    app.good.send("good")
    app.elsewhere.send("elsewhere")
    run_until_idle(app)
    assert app.ran == ["good"]
    assert app.broker.check() == []
    app.broker.close()
