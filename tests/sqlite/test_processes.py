"""Several real processes on one file, some of which are killed.

Waited for are their pipes, with a patience that only a broken broker uses up.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.results import ResultMissing, Results

from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.backends import SQLiteRateLimiterBackend, SQLiteResultBackend
from dramatiq_retryq.clock import SystemClock, VirtualClock
from dramatiq_retryq.operations import Operations

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")

#: How long to wait for what should happen soon, in seconds.
PATIENCE = 30.0


class Process:
    """A process of one of the roles in processes.py."""

    def __init__(self, address: str, role: str, **options: Any) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(PATIENCE)
        self._connection.connect(address)
        self._rest = b""
        self.heard: list[dict[str, Any]] = []
        self._unasked: list[dict[str, Any]] = []
        self.tell(role=role, **options)
        self.pid: int = self.hear("pid")["pid"]

    def tell(self, **fields: Any) -> None:
        self._connection.sendall(json.dumps(fields).encode() + b"\n")

    def next(self, timeout: float = PATIENCE) -> dict[str, Any] | None:
        """The next thing it says; ``None`` once the process has ended."""
        self._connection.settimeout(timeout)
        while b"\n" not in self._rest:
            try:
                data = self._connection.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        self.heard.append(json.loads(line))
        self._unasked.append(self.heard[-1])
        return self.heard[-1]

    def hear(self, key: str, *values: Any, timeout: float = PATIENCE) -> dict[str, Any]:
        """What it says next, or has said already and nobody asked for, with this key and one of these values."""
        deadline = time.monotonic() + timeout
        while True:
            for fields in self._unasked:
                if key in fields and (not values or fields[key] in values):
                    self._unasked.remove(fields)
                    return fields
            if self.next(max(0.001, deadline - time.monotonic())) is None:
                raise AssertionError(f"the process ended, and all it said was {self.heard}")

    def said(self, event: str) -> list[str]:
        """What it has said of this event so far."""
        return [fields["name"] for fields in self.heard if fields.get("event") == event]

    def wait(self) -> None:
        """Hear it out until it ends."""
        while self.next() is not None:
            pass

    def stop(self) -> None:
        self.tell()
        self.wait()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._connection.close()


@pytest.fixture(scope="module")
def address(start_python: Callable[..., subprocess.Popen[str]], quick_directory: Path) -> str:
    address = str(quick_directory / "processes")
    process = start_python("processes.py", address)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return address


@pytest.fixture
def start(address: str, path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a process on the file."""
    started: list[Process] = []

    def start(role: str, **options: Any) -> Process:
        started.append(Process(address, role, path=str(path), **options))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def start_worker(start: Callable[..., Process]) -> Callable[..., Process]:
    def start_worker(**options: Any) -> Process:
        process = start("work", **options)
        process.hear("event", "ready")
        return process

    return start_worker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def broker(path: Path) -> Iterator[SQLiteBroker]:
    """The file as this process has it open: it sends, and runs nothing."""
    broker = SQLiteBroker(path)
    broker.declare_queue("default")
    yield broker
    assert broker.check() == []
    broker.close()


def send(broker: SQLiteBroker, actor: str, *args: Any, delay: int | None = None, **options: Any) -> str:
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="default", actor_name=actor, args=args, kwargs={}, options=options
    )
    return broker.enqueue(message, delay=delay).message_id


def bury_some(broker: SQLiteBroker, count: int) -> None:
    consumer = broker.consume("default", prefetch=count, timeout=0)
    for n in range(count):
        send(broker, "note", f"n{n}")
        message = next(consumer)
        assert message is not None
        message.stuff_exception(ValueError("no"))
        message.fail()
        consumer.nack(message)


# -- A worker is killed in mid-work ----------------------------------------------------------------------------------


def test_what_a_killed_worker_held_is_run_at_once_when_another_worker_starts(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    send(broker, "hang", "begun")
    fetched = [f"fetched-{n}" for n in range(2)]
    for name in fetched:
        send(broker, "note", name)
    first = start_worker()
    first.hear("event", "began")
    first.kill()
    second = start_worker(threads=2)
    second.hear("name", "begun", timeout=5)
    for name in fetched:
        second.hear("name", name, timeout=5)


def test_what_a_killed_worker_held_is_run_within_five_seconds_by_a_worker_that_already_runs(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    first = start_worker()
    send(broker, "hang", "begun")
    first.hear("event", "began")
    second = start_worker()
    first.kill()
    second.hear("name", "begun", timeout=5)


def test_a_crash_is_an_attempt_in_the_history_of_the_message_that_was_being_run_and_of_no_other(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    send(broker, "hang", "begun")
    send(broker, "note", "fetched")
    first = start_worker()
    first.hear("event", "began")
    first.kill()
    second = start_worker(threads=2)
    begun, fetched = second.hear("event", "began", "ran"), second.hear("event", "began", "ran")
    if begun["name"] != "begun":
        begun, fetched = fetched, begun
    assert begun["previous"] == [["WorkerCrashed", f"{socket.gethostname()}:{first.pid}"]]
    assert fetched["previous"] == []


def test_a_message_that_keeps_killing_its_worker_is_dead_and_what_was_fetched_with_it_is_not(
    broker: SQLiteBroker, start: Callable[..., Process], start_worker: Callable[..., Process]
) -> None:
    send(broker, "kill_worker", "killer", dead_letter_actor="undertaker")
    innocents = [f"innocent-{n}" for n in range(2)]
    for name in innocents:
        send(broker, "note", name)
    crashed = []
    for _ in range(3):
        worker = start("work", max_crashes=3)
        worker.wait()
        crashed.append([worker.said("began"), worker.said("ran")])
    assert crashed == [[["killer"], []]] * 3
    last = start_worker(max_crashes=3)
    assert last.hear("event", "told")["reason"] == "crashed"
    last.stop()
    letter = broker.dead_letters.one()
    assert (letter.reason, letter.message is not None and letter.message.args) == ("crashed", ("killer",))
    assert [attempt.error for attempt in letter.attempts] == ["WorkerCrashed"] * 3
    assert letter.error is not None
    assert letter.error.type == "WorkerCrashed"
    assert sorted(last.said("ran")) == innocents
    assert last.said("told") == ["killer"]
    assert broker.store.unfinished("default") == 0


def test_a_message_is_dead_after_max_crashes_of_its_worker(
    broker: SQLiteBroker, start: Callable[..., Process], start_worker: Callable[..., Process]
) -> None:
    send(broker, "kill_worker", "killer")
    start("work", max_crashes=1).wait()
    last = start_worker(max_crashes=1)
    last.stop()
    assert last.said("began") == []
    assert len(broker.dead_letters.one(reason="crashed").attempts) == 1


def test_an_actor_that_holds_the_interpreter_for_seconds_keeps_its_message(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    send(broker, "hold_interpreter", "slow", 2_500)
    first = start_worker()
    first.hear("event", "began")
    second = start_worker()  # this one looks for the dead as it starts, and every two seconds
    first.hear("event", "ran")
    first.stop()
    second.stop()
    assert second.said("began") == []
    assert broker.store.unfinished("default") == 0


def test_a_dead_worker_is_known_to_be_dead_though_a_child_that_it_forked_lives(
    broker: SQLiteBroker, start: Callable[..., Process], start_worker: Callable[..., Process]
) -> None:
    send(broker, "note", "begun")
    process = start("fork_and_hang")
    child = process.hear("child")["child"]
    try:
        os.kill(process.pid, signal.SIGKILL)
        second = start_worker()
        second.hear("name", "begun", timeout=5)
    finally:
        os.kill(child, signal.SIGKILL)


# -- An orderly stop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_are_stopped_under_load_leave_nothing_undone_and_do_nothing_twice(
    broker: SQLiteBroker, start_worker: Callable[..., Process], seed: int
) -> None:
    rng = random.Random(seed)
    names = [f"m{n}" for n in range(1_000)]
    workers = [start_worker(threads=2, worker_timeout=20) for _ in range(2)]
    for name in names:
        send(broker, "note", name)
    for worker in workers:
        for _ in range(rng.randrange(1, 70)):
            worker.hear("event", "ran")
        worker.stop()
    done = [name for worker in workers for name in worker.said("ran")]
    # What was done is gone, and what was fetched and not begun waits.
    counts = broker.counts()["default"]
    assert (counts.waiting, counts.claimed) == (len(names) - len(done), 0)
    last = start_worker(threads=4, worker_timeout=20)
    for _ in range(len(names) - len(done)):
        last.hear("event", "ran")
    last.stop()
    assert Counter(done + last.said("ran")) == Counter(names)
    assert broker.counts()["default"].waiting == 0


# -- From process to process -----------------------------------------------------------------------------------------


def test_a_message_sent_by_another_process_is_started_soon(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    # By itself this worker would look up once a minute.
    worker = start_worker(worker_timeout=60_000)
    waited = []
    for n in range(3):
        began = time.monotonic()
        send(broker, "note", f"n{n}")
        worker.hear("name", f"n{n}")
        waited.append(time.monotonic() - began)
    assert min(waited) < 1


def test_a_message_sent_by_another_process_for_later_is_started_when_it_is_due_and_not_before(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker(worker_timeout=60_000)
    began = time.monotonic()
    send(broker, "note", "later", delay=400)
    worker.hear("name", "later")
    assert 0.4 <= time.monotonic() - began < 3


def test_two_processes_that_replay_the_same_dead_letters_revive_each_once(
    broker: SQLiteBroker, start: Callable[..., Process]
) -> None:
    bury_some(broker, 100)
    processes = [start("replay") for _ in range(2)]
    for process in processes:
        process.hear("event", "ready")
    for process in processes:
        process.tell()
    assert sum(process.hear("replayed")["replayed"] for process in processes) == 100
    counts = broker.counts()["default"]
    assert (counts.waiting, counts.dead) == (100, 0)


def test_two_processes_that_claim_at_once_are_handed_each_message_once(
    broker: SQLiteBroker, start: Callable[..., Process]
) -> None:
    for n in range(600):
        send(broker, "note", f"n{n}")
    processes = [start("claim") for _ in range(2)]
    for process in processes:
        process.hear("event", "ready")
    for process in processes:
        process.tell()
    claimed = [process.hear("claimed")["claimed"] for process in processes]
    assert Counter(claimed[0] + claimed[1]) == Counter(f"n{n}" for n in range(600))
    assert broker.store.unfinished("default") == 0


def test_a_process_that_forks_while_its_threads_send_is_unharmed_and_its_children_can_send(
    broker: SQLiteBroker, start: Callable[..., Process], path: Path
) -> None:
    process = start("fork_while_writing", children=4, each=15)
    said = process.hear("names")
    assert said["statuses"] == [0] * 4
    assert said["findings"] == []
    # The message it held before it forked is its own still, whatever its children did at their end.
    broker.store.recover(now=broker.clock.now(), max_crashes=3)
    process.tell()
    process.hear("event", "finished")
    process.wait()
    found = broker.store.claim("default", now=broker.clock.now(), limit=1_000_000, owner="host:1")
    names = [dramatiq.Message.decode(claim.data).args[0] for claim in found]
    assert Counter(names) == Counter(said["names"])
    broker.store.finish_many(found)


# -- Results and rate limits -----------------------------------------------------------------------------------------


def test_a_result_that_another_process_stored_can_be_waited_for_and_expires(
    broker: SQLiteBroker, start_worker: Callable[..., Process], path: Path
) -> None:
    backend = SQLiteResultBackend(path)
    broker.add_middleware(Results(backend=backend))

    @dramatiq.actor(broker=broker, store_results=True, result_ttl=60_000)
    def add(x: int, y: int) -> int:
        raise AssertionError("it runs in the other process")

    message = add.send(1, 2)
    start_worker(results=True)
    assert backend.get_result(message, block=True, timeout=int(PATIENCE * 1000)) == 3
    later = SQLiteResultBackend(path, clock=VirtualClock(SystemClock().now() + 60_001))
    with pytest.raises(ResultMissing):
        later.get_result(message)
    backend.close()
    later.close()


def test_a_rate_limit_that_another_process_has_used_up_is_used_up_here(
    start: Callable[..., Process], path: Path
) -> None:
    backend = SQLiteRateLimiterBackend(path)
    limiter = ConcurrentRateLimiter(backend, "shared", limit=1)
    process = start("hold_limit")
    process.hear("event", "held")
    with limiter.acquire(raise_on_failure=False) as acquired:
        assert not acquired
    process.tell()
    process.hear("event", "released")
    with limiter.acquire(raise_on_failure=False) as acquired:
        assert acquired
    backend.close()


# -- What an operator sees and does, from a process of his own --------------------------------------------------------


def soon(is_so: Callable[[], Any]) -> Any:
    """What it gives as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while time.monotonic() < deadline:
        found = is_so()
        if found:
            return found
        pause.wait(0.005)
    raise AssertionError("it did not come about")


def test_workers_of_other_processes_are_listed_while_they_live_with_what_they_run(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    operations = Operations.of(broker)
    started = broker.clock.now()
    first, second = start_worker(), start_worker()
    idle = operations.workers()
    assert sorted(worker.owner.split(":")[-1] for worker in idle) == sorted([str(first.pid), str(second.pid)])
    assert all(worker.started_at is not None and worker.started_at >= started for worker in idle)
    assert [worker.running for worker in idle] == [(), ()]
    message_id = send(broker, "hang", "begun")
    busy = soon(lambda: [worker for worker in operations.workers() if worker.running])
    [running] = busy[0].running
    assert (running.message_id, running.actor_name, running.queue_name) == (message_id, "hang", "default")
    assert running.since is not None
    assert started <= running.since <= broker.clock.now()
    at_work, other = (first, second) if busy[0].owner.endswith(f":{first.pid}") else (second, first)
    at_work.kill()
    assert [worker.owner.split(":")[-1] for worker in operations.workers()] == [str(other.pid)]
    other.kill()
    assert list(operations.workers()) == []


def test_a_worker_that_was_stopped_is_listed_no_more(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker()
    assert len(Operations.of(broker).workers()) == 1
    worker.stop()
    assert list(Operations.of(broker).workers()) == []


def test_a_worker_takes_nothing_of_a_queue_that_another_process_pauses(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    operations = Operations.of(broker)
    worker = start_worker()
    operations.pause(queue="default")
    pause = threading.Event()
    pause.wait(1)  # so long it may take
    send(broker, "note", "paused")
    assert not pause.wait(0.2)
    counts = broker.counts()["default"]
    assert (counts.due, counts.claimed) == (1, 0)
    operations.resume(queue="default")
    worker.hear("name", "paused", timeout=1)
    assert worker.said("ran") == ["paused"]


@pytest.mark.parametrize("paused", [{"queue": "default"}, {"actor": "note"}], ids=["queue", "actor"])
def test_what_another_process_pauses_is_not_begun_though_a_worker_has_fetched_it(
    broker: SQLiteBroker, start_worker: Callable[..., Process], tmp_path: Path, paused: dict[str, str]
) -> None:
    operations = Operations.of(broker)
    go_on = tmp_path / "go on"
    names = ["one", "two", "three"]
    send(broker, "wait_for_file", "begun", str(go_on))
    worker = start_worker()
    worker.hear("event", "began")
    for name in names:
        send(broker, "note", name)
    soon(lambda: broker.counts()["default"].claimed > 1)
    operations.pause(**paused)  # type: ignore[arg-type]
    threading.Event().wait(1)  # so long it may take
    go_on.touch()
    worker.hear("event", "ran")

    def waiting() -> list[str]:
        return sorted(pending.message.args[0] for pending in operations.pending() if pending.message)

    soon(lambda: broker.counts()["default"].claimed == 0 and waiting() == sorted(names))
    operations.resume(**paused)  # type: ignore[arg-type]
    for name in names:
        worker.hear("name", name)
    worker.stop()
    assert sorted(worker.said("ran")) == sorted(["begun", *names])
    assert not broker.counts()["default"].waiting


def test_a_worker_sets_aside_messages_of_an_actor_that_another_process_pauses(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    operations = Operations.of(broker)
    worker = start_worker()
    operations.pause(actor="note")
    threading.Event().wait(1)  # so long it may take
    send(broker, "note", "paused")
    assert soon(lambda: [pending for pending in operations.pending() if pending.held])
    operations.resume(actor="note")
    worker.hear("name", "paused", timeout=1)


def test_a_worker_that_starts_heeds_a_pause_from_before(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    operations = Operations.of(broker)
    operations.pause(actor="note")
    operations.pause(queue="other")
    send(broker, "note", "paused")
    worker = start_worker()
    assert soon(lambda: [pending for pending in operations.pending() if pending.held])
    assert worker.said("ran") == []
    operations.resume(actor="note")
    worker.hear("name", "paused", timeout=1)


def test_a_message_that_is_to_run_now_is_started_soon_by_an_idle_worker_elsewhere(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker()
    message_id = send(broker, "note", "later", delay=3_600_000)
    Operations.of(broker).run_now(message_id)
    worker.hear("name", "later", timeout=1)


def test_what_several_processes_count_is_summed(broker: SQLiteBroker, start_worker: Callable[..., Process]) -> None:
    operations = Operations.of(broker)
    for _ in range(5):
        send(broker, "note", "n")
    workers = [start_worker(), start_worker()]
    soon(lambda: broker.store.is_idle("default"))
    for worker in workers:
        worker.stop()
    rates = operations.rates(timedelta(hours=1))
    assert (rates.sent, rates.succeeded, rates.failed) == (5, 5, 0)


def test_a_worker_that_runs_on_writes_its_counts_within_seconds(
    broker: SQLiteBroker, start_worker: Callable[..., Process]
) -> None:
    start_worker()
    for _ in range(20):
        send(broker, "note", "n")
    soon(lambda: Operations.of(broker).rates(timedelta(hours=1)).succeeded == 20)


def test_a_crash_is_counted_once(broker: SQLiteBroker, start_worker: Callable[..., Process]) -> None:
    first = start_worker()
    send(broker, "hang", "begun")
    first.hear("event", "began")
    first.kill()
    second = start_worker()
    second.hear("event", "began")
    rates = Operations.of(broker).rates(timedelta(hours=1))
    assert (rates.crashed, rates.died, rates.retried) == (1, 0, 0)
