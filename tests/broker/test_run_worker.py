"""run_worker: Dramatiq's worker inside one's own process, booted once, stopped at the end and at SIGTERM."""

from __future__ import annotations

import signal
import threading
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, MiddlewareError

from dramatiq_retryq import MemoryBroker, run_worker
from dramatiq_retryq.errors import ConfigError

PATIENCE = 20
QUICK = {"threads": 1, "worker_timeout": 5}


class Notes(Middleware):
    """Notes what a worker goes through."""

    def __init__(self, refuse: str = "") -> None:
        self.seen: list[str] = []
        self.refuse = refuse

    def _note(self, what: str) -> None:
        self.seen.append(what)
        if what == self.refuse:
            raise MiddlewareError("not here")

    def after_process_boot(self, broker: Broker) -> None:
        self._note("process")

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._note("worker boots")

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._note("worker is down")


def test_it_runs_what_was_sent_before_and_within(real: MemoryBroker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def work(when: str) -> None:
        ran.append(when)

    work.send("before")
    with run_worker(real, **QUICK):  # type: ignore[arg-type]
        work.send("within")
        real.join("default", timeout=PATIENCE * 1000)
    assert ran == ["before", "within"]


def test_it_takes_the_global_broker_if_it_is_given_none(real: MemoryBroker) -> None:
    with run_worker(**QUICK) as worker:  # type: ignore[arg-type]
        assert worker.broker is real


@pytest.mark.parametrize("threads", [1, 3])
def test_it_has_as_many_threads_as_it_is_told(real: MemoryBroker, threads: int) -> None:
    with run_worker(real, threads=threads, worker_timeout=5) as worker:
        assert len(worker.workers) == threads


def test_it_leaves_queues_that_it_was_not_given_alone(real: MemoryBroker) -> None:
    real.declare_queue("wanted")
    real.declare_queue("unwanted")
    with run_worker(real, queues=["wanted"], **QUICK) as worker:  # type: ignore[arg-type]
        assert set(worker.consumers) == {"wanted"}


def test_no_queue_is_an_error(real: MemoryBroker) -> None:
    real.declare_queue("default")
    with (
        pytest.raises(ConfigError, match="queues is empty: name at least one queue, or leave it out for all of them"),
        run_worker(real, queues=[], **QUICK),  # type: ignore[arg-type]
    ):
        pass


def test_what_is_no_broker_is_an_error() -> None:
    with (
        pytest.raises(ConfigError, match=r"broker is .jobs\.db.: give a Dramatiq broker, or leave it out"),
        run_worker("jobs.db"),  # type: ignore[arg-type]
    ):
        pass


def test_it_runs_on_a_foreign_broker() -> None:
    broker = StubBroker()
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def work() -> None:
        ran.append(1)

    work.send()
    with run_worker(broker, **QUICK):  # type: ignore[arg-type]
        broker.join("default", timeout=PATIENCE * 1000)
    assert ran == [1]


# -- Start -----------------------------------------------------------------------------------------------------------


def test_the_process_boots_once_and_each_worker_by_itself(real: MemoryBroker) -> None:
    notes = Notes()
    real.add_middleware(notes)
    for _ in range(2):
        with run_worker(real, **QUICK):  # type: ignore[arg-type]
            pass
    assert notes.seen == ["process", *["worker boots", "worker is down"] * 2]


def test_the_process_boots_once_for_two_workers_at_a_time(real: MemoryBroker) -> None:
    notes = Notes()
    real.add_middleware(notes)
    with run_worker(real, **QUICK), run_worker(real, **QUICK):  # type: ignore[arg-type]
        pass
    assert notes.seen.count("process") == 1


def test_each_broker_is_told_of_the_process() -> None:
    told = []
    for _ in range(2):
        notes = Notes()
        with run_worker(MemoryBroker([notes]), **QUICK):  # type: ignore[arg-type]
            told.append(notes.seen[0])
    assert told == ["process", "process"]


def test_a_middleware_that_refuses_the_start_is_heard_by_the_caller(real: MemoryBroker) -> None:
    real.add_middleware(Notes(refuse="worker boots"))
    before = threading.active_count()
    with pytest.raises(MiddlewareError, match="not here"), run_worker(real, **QUICK):  # type: ignore[arg-type]
        raise AssertionError("it started")
    assert threading.active_count() <= before + 1  # TimeLimit's thread stays, as it does in Dramatiq


# -- Stop ------------------------------------------------------------------------------------------------------------


def test_the_end_waits_for_what_is_worked_on(real: MemoryBroker) -> None:
    begun = threading.Event()
    ran: list[str] = []

    @dramatiq.actor
    def work() -> None:
        begun.set()
        threading.Event().wait(0.03)
        ran.append("to the end")

    work.send()
    with run_worker(real, **QUICK):  # type: ignore[arg-type]
        assert begun.wait(PATIENCE)
    assert ran == ["to the end"]
    assert real.counts()["default"].claimed == 0


def test_what_was_not_begun_waits_in_the_broker_and_runs_under_the_next_worker(real: MemoryBroker) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)
        begun.set()
        go_on.wait(PATIENCE)

    for number in range(20):
        work.send(number)
    with run_worker(real, **QUICK) as worker:  # type: ignore[arg-type]
        assert begun.wait(PATIENCE)
        worker.workers[0].stop()
        go_on.set()
    assert ran == [0]
    assert real.counts()["default"].due == 19
    with run_worker(real, **QUICK):  # type: ignore[arg-type]
        real.join("default", timeout=PATIENCE * 1000)
    assert ran == list(range(20))


def test_it_stops_where_the_block_raises(real: MemoryBroker) -> None:
    with pytest.raises(KeyError), run_worker(real, **QUICK) as worker:  # type: ignore[arg-type]
        raise KeyError
    assert not any(thread.is_alive() for thread in worker.workers)


def test_a_stopped_worker_leaves_nothing_on_the_broker(real: MemoryBroker) -> None:
    before = list(real.middleware)
    with run_worker(real, **QUICK):  # type: ignore[arg-type]
        pass
    assert real.middleware == before


def test_a_queue_declared_after_the_end_starts_no_consumer(real: MemoryBroker) -> None:
    with run_worker(real, **QUICK) as worker:  # type: ignore[arg-type]
        pass
    real.declare_queue("later")
    assert "later" not in worker.consumers


def test_it_does_not_wait_for_an_endless_actor_longer_than_it_is_told(real: MemoryBroker) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @dramatiq.actor
    def work() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    work.send()
    with run_worker(real, threads=1, worker_timeout=5, stop_timeout=20) as worker:
        assert begun.wait(PATIENCE)
    assert worker.workers[0].is_alive()
    go_on.set()


def test_it_may_run_in_a_thread_that_is_not_the_main_one(real: MemoryBroker) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    found: list[Any] = []

    def run() -> None:
        with run_worker(real, **QUICK) as worker:  # type: ignore[arg-type]
            found.append((len(worker.workers), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert found == [(1, handler)]


def test_the_handler_for_sigterm_is_given_back(real: MemoryBroker) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with run_worker(real, **QUICK):  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


# -- SIGTERM ---------------------------------------------------------------------------------------------------------

PROGRAM = """
    import atexit, os, signal, sys, threading
    import dramatiq
    from dramatiq_retryq import MemoryBroker, run_worker

    broker = MemoryBroker()
    dramatiq.set_broker(broker)
    begun = threading.Event()

    @dramatiq.actor
    def work(number):
        begun.set()
        threading.Event().wait(0.05)
        print("ran", number, flush=True)

    def report():
        count = broker.counts()["default"]
        print("waiting", count.waiting, "claimed", count.claimed, flush=True)

    for number in range(10):
        work.send(number)
"""


def test_sigterm_finishes_what_is_worked_on_and_keeps_the_rest_waiting(python: Any) -> None:
    process = python(
        PROGRAM
        + """
    try:
        with run_worker(broker, threads=1, worker_timeout=5):
            begun.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()
    finally:
        report()
"""
    )
    output, errors = process.communicate(timeout=PATIENCE)
    ran, (_, waiting, _, claimed) = output.splitlines()[:-1], output.splitlines()[-1].split()
    assert ran == [f"ran {number}" for number in range(len(ran))]
    assert ran
    assert int(waiting) == 10 - len(ran)
    assert int(claimed) == 0
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors


def test_a_handler_for_sigterm_that_was_there_before_is_called_and_the_worker_stops(python: Any) -> None:
    process = python(
        PROGRAM
        + """
    done = threading.Event()

    def mine(signum, frame):
        report()
        done.set()

    signal.signal(signal.SIGTERM, mine)
    with run_worker(broker, threads=1, worker_timeout=5) as worker:
        begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        done.wait()
        worker.workers[0].join(10)
        print("goes on" if not worker.workers[0].is_alive() else "the worker runs on")
    report()
"""
    )
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "goes on" in output.splitlines()
    assert output.splitlines()[-1].startswith("waiting ")
    assert not output.splitlines()[-1].startswith("waiting 0 ")
    assert output.splitlines()[-1].endswith("claimed 0")


def test_a_worker_that_is_still_running_at_exit_is_stopped(python: Any) -> None:
    process = python(
        PROGRAM
        + """
    atexit.register(report)
    context = run_worker(broker, threads=1, worker_timeout=5)
    context.__enter__()
    begun.wait()
    sys.exit(0)
"""
    )
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert output.splitlines()[-1].endswith("claimed 0")


@pytest.mark.parametrize("handler", ["SIG_DFL", "a function"])
def test_sigterm_while_the_main_thread_is_sending_does_not_hang(python: Any, handler: str) -> None:
    process = python(
        PROGRAM
        + ("" if handler == "SIG_DFL" else "\n    signal.signal(signal.SIGTERM, lambda *args: None)\n")
        + """
    import faulthandler
    from dramatiq_retryq import memory_queue

    faulthandler.dump_traceback_later(3, exit=True)
    add = memory_queue.MemoryQueue.add

    def interrupted(self, entry, now):  # the signal comes while the store's lock is held
        if threading.current_thread() is threading.main_thread():
            memory_queue.MemoryQueue.add = add
            os.kill(os.getpid(), signal.SIGTERM)
        return add(self, entry, now)

    with run_worker(broker, threads=1, worker_timeout=5, stop_timeout=1000):
        begun.wait()
        memory_queue.MemoryQueue.add = interrupted
        work.send(10)
    report()
"""
    )
    output, errors = process.communicate(timeout=PATIENCE)
    assert "Timeout" not in errors
    assert process.returncode == (128 + signal.SIGTERM if handler == "SIG_DFL" else 0)
    if handler == "a function":  # which lets the program go on: what was being sent is there
        assert output.splitlines()[-1].endswith("claimed 0")
        assert not output.splitlines()[-1].startswith("waiting 0 ")
