"""Under freezegun a real worker goes by the frozen time: it neither hangs nor runs early."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
from freezegun import freeze_time

from dramatiq_retryq import MemoryBroker

PATIENCE = 20
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
