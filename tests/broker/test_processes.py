"""A memory broker belongs to one process: a forked child's is empty, and what is left at the end is warned about."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker
from dramatiq.middleware import Middleware

from dramatiq_retryq import GiveUp, MemoryBroker, run_worker

PATIENCE = 20

# Threads of other tests' middleware may still run; a fork has only the thread that forks, and the tests are about that.
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def in_a_child(look: Callable[[], str]) -> str:
    """What ``look`` says in the child of a fork."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it raised"
        try:
            said = look()
        except BaseException as raised:
            said = repr(raised)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def states(broker: MemoryBroker) -> str:
    count = broker.counts()["default"]
    return f"waiting {count.waiting}, claimed {count.claimed}, dead {count.dead}"


@pytest.fixture
def full(real: MemoryBroker) -> MemoryBroker:
    """A broker with one message in each state."""

    @dramatiq.actor
    def work() -> None:
        raise GiveUp

    for _ in range(3):
        work.send()
    consumer = real.consume("default", prefetch=2, timeout=0)
    dead, _ = next(consumer), next(consumer)  # type: ignore[call-overload]
    dead.fail()
    consumer.nack(dead)
    return real


def test_the_childs_broker_is_empty(full: MemoryBroker) -> None:
    assert in_a_child(lambda: states(full)) == "waiting 0, claimed 0, dead 0"


def test_the_parents_broker_is_as_it_was(full: MemoryBroker) -> None:
    before = states(full)
    in_a_child(lambda: str(full.actors["work"].send() and full.flush_all()))
    assert states(full) == before == "waiting 1, claimed 1, dead 1"


def test_the_childs_broker_can_be_used(full: MemoryBroker) -> None:
    def use() -> str:
        ran = threading.Event()

        @dramatiq.actor
        def another() -> None:
            ran.set()

        another.send()
        with run_worker(full, threads=1, worker_timeout=5):
            ran.wait(PATIENCE)
            full.join("default", timeout=PATIENCE * 1000)
        return f"{ran.is_set()} {states(full)} {full.check()}"

    assert in_a_child(use) == "True waiting 0, claimed 0, dead 0 []"


def test_a_child_forked_while_a_thread_is_in_the_store_is_not_stuck(full: MemoryBroker) -> None:
    with full.store._lock:  # type: ignore[attr-defined]
        assert in_a_child(lambda: states(full)) == "waiting 0, claimed 0, dead 0"


def test_a_child_forked_beside_a_sleeping_consumer_wakes_its_own(real: MemoryBroker, asleep: Any) -> None:
    @dramatiq.actor
    def work() -> None:
        pass

    def use() -> str:
        own = asleep(real)
        work.send()
        return str(own.got().actor_name)

    sleeper = asleep(real)
    assert in_a_child(use) == "work"
    sleeper.is_stopped = True
    real.close()  # wakes whoever sleeps
    assert sleeper.got() is None


def test_a_child_that_runs_a_worker_boots_its_own_process(real: MemoryBroker) -> None:
    class Boots(Middleware):
        pids: list[int] = []  # noqa: RUF012

        def after_process_boot(self, broker: Broker) -> None:
            self.pids.append(os.getpid())

    boots = Boots()
    real.add_middleware(boots)
    with run_worker(real, threads=1, worker_timeout=5):
        pass

    def boot() -> str:
        with run_worker(real, threads=1, worker_timeout=5):
            return str(os.getpid() in boots.pids)

    assert in_a_child(boot) == "True"


# -- At exit ---------------------------------------------------------------------------------------------------------

SENDS_TWO = """
    import dramatiq
    from dramatiq_retryq import MemoryBroker, run_worker

    broker = MemoryBroker()
    dramatiq.set_broker(broker)

    @dramatiq.actor
    def work():
        pass

    work.send()
    work.send_with_options(delay=60_000)
"""


def test_a_process_that_only_sent_warns_once_at_its_end(python: Any) -> None:
    _, errors = python(SENDS_TWO).communicate(timeout=PATIENCE)
    assert errors.splitlines() == [
        "This process ends with 2 messages in a MemoryBroker that no worker ever consumed: they are lost. Run a worker "
        "in this process with run_worker(), or use SQLiteBroker, where other processes see them."
    ]


def test_a_process_that_had_a_worker_ends_without_a_warning(python: Any) -> None:
    program = SENDS_TWO + "\n    with run_worker(broker, worker_timeout=5):\n        pass\n"
    _, errors = python(program).communicate(timeout=PATIENCE)
    assert errors == ""


def test_a_process_that_sent_nothing_ends_without_a_warning(python: Any) -> None:
    program = SENDS_TWO.replace("work.send()", "").replace("work.send_with_options(delay=60_000)", "")
    _, errors = python(program).communicate(timeout=PATIENCE)
    assert errors == ""
