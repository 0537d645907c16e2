"""Under freezegun a real worker goes by the frozen time: it neither hangs nor runs early."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from freezegun import freeze_time

from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.clock import SystemClock

PATIENCE = 20


@pytest.fixture(params=["memory", "sqlite"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryBroker | SQLiteBroker]:
    """A broker on the machine's clock, as the global broker."""
    previous = dramatiq.broker.global_broker
    broker = MemoryBroker() if request.param == "memory" else SQLiteBroker(tmp_path / "jobs.db")
    dramatiq.set_broker(broker)
    yield broker
    assert broker.check() == []
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


in_the_past_and_in_the_future = pytest.mark.parametrize("instant", ["2001-01-01", "2101-01-01"])


@in_the_past_and_in_the_future
def test_a_worker_runs_what_is_due_while_time_stands_still(real: MemoryBroker, running: Any, instant: str) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    with freeze_time(instant):
        work.send()
        with running(real):
            real.join("default", timeout=PATIENCE * 1000)
    assert ran == [1]


@in_the_past_and_in_the_future
def test_a_delayed_message_runs_when_time_is_moved_on_and_not_before(
    real: MemoryBroker, running: Any, instant: str
) -> None:
    ran = threading.Event()

    @dramatiq.actor
    def work() -> None:
        ran.set()

    with freeze_time(instant) as frozen:
        work.send_with_options(delay=3_600_000)
        with running(real):
            frozen.tick(3599)
            assert not ran.wait(0.05)
            frozen.tick(1)
            assert ran.wait(PATIENCE)


def test_a_retry_waits_for_the_frozen_time(real: MemoryBroker, running: Any, until: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=1, backoff=[60_000])
    def work() -> None:
        ran.append(1)
        raise ValueError("no")

    with freeze_time("2101-01-01") as frozen:
        work.send()
        with running(real):
            until(lambda: real.counts()["default"].later)
            frozen.tick(60)
            real.join("default", timeout=PATIENCE * 1000, fail_fast=False)
    assert len(ran) == 2


def test_a_join_that_times_out_does_so_while_time_stands_still(real: MemoryBroker) -> None:
    real.declare_queue("default")
    real.enqueue(dramatiq.Message(queue_name="default", actor_name="work", args=(), kwargs={}, options={}))
    with freeze_time("2101-01-01"), pytest.raises(dramatiq.QueueJoinTimeout):
        real.join("default", timeout=10)


def test_time_frozen_within_a_millisecond_and_ticked_by_the_delay_has_reached_its_end(
    real: MemoryBroker, running: Any
) -> None:
    ran = threading.Event()

    @dramatiq.actor
    def work() -> None:
        ran.set()

    with freeze_time("2101-01-01 00:00:00.000300") as frozen:
        work.send_with_options(delay=30_000)
        with running(real):
            frozen.tick(30)
            assert ran.wait(PATIENCE)


def test_a_tick_is_noticed_long_before_the_workers_own_timeout(real: MemoryBroker, asleep: Any) -> None:
    @dramatiq.actor
    def work() -> None: ...

    with freeze_time("2101-01-01") as frozen:
        message = work.send_with_options(delay=30_000)
        sleeper = asleep(real)  # for longer than a test waits
        frozen.tick(30)
        assert sleeper.got().message_id == message.message_id


def test_what_a_dead_worker_left_is_due_in_frozen_time_too(real: MemoryBroker, running: Any, until: Any) -> None:
    """A worker's boot looks for what others left, a few frames below threading, where freezegun hands out real time."""

    @dramatiq.actor(max_retries=1, backoff=[5_000])
    def work() -> None:
        raise ValueError

    with freeze_time("2001-01-01") as frozen:
        message = work.send()
        with running(real):
            until(lambda: real.lookup(message.message_id).retries == 1)
            assert real.lookup(message.message_id).due_at == 978_307_205_000
            frozen.tick(5)
            until(lambda: real.lookup(message.message_id).state == "dead")
        assert real.dead_letters.one().died_at == 978_307_205_000


def test_a_thread_that_has_just_started_sees_the_frozen_time_too() -> None:
    seen: list[int] = []
    clock = SystemClock()
    with freeze_time("2101-01-01"):
        thread = threading.Thread(target=lambda: seen.append(clock.now()))
        thread.start()
        thread.join(PATIENCE)
    assert seen == [4_133_980_800_000]
    assert abs(clock.now() / 1000 - time.time()) < PATIENCE
