"""On a foreign broker a retry is stored first and acked after: what fails costs a duplicate, never a message."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import BrokerError
from dramatiq.middleware import MiddlewareError, TimeLimitExceeded

from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.side import side_of

MakeStub = Callable[..., Any]


def send_failing() -> list[int]:
    """Send a message to an actor that fails always; each run is noted in the list."""
    runs: list[int] = []

    @dramatiq.actor
    def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    fail.send()
    return runs


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("error", [BrokerError("gone"), OSError("gone"), MiddlewareError("gone")], ids=repr)
def test_an_enqueue_that_fails_some_times_is_tried_again(stub: MakeStub, fault: Any, error: Any, times: int) -> None:
    here = stub(max_retries=1)
    runs = send_failing()
    failing = fault(here.broker, "enqueue", error, times=times)
    here.drain()
    assert failing.raised == times
    assert len(runs) == 2
    assert here.dead() == ["exhausted"]


def test_an_enqueue_that_always_fails_ends_as_unschedulable(stub: MakeStub, fault: Any) -> None:
    here = stub()
    runs = send_failing()
    fault(here.broker, "enqueue", times=None)
    here.drain()
    assert len(runs) == 1
    assert here.dead() == ["unschedulable"]


@pytest.mark.parametrize("timeout", [5_000, 60_000])
def test_an_enqueue_is_tried_again_for_store_timeout(
    stub: MakeStub, clock: VirtualClock, fault: Any, timeout: int
) -> None:
    here = stub(store_timeout=timeout)
    send_failing()
    fault(here.broker, "enqueue", times=None)
    before = clock.now()
    here.drain()
    assert timeout <= clock.now() - before <= timeout + 2_000


def test_store_timeout_is_five_seconds_unless_it_is_given(stub: MakeStub, clock: VirtualClock, fault: Any) -> None:
    here = stub()
    send_failing()
    fault(here.broker, "enqueue", times=None)
    before = clock.now()
    here.drain()
    assert 5_000 <= clock.now() - before <= 7_000


def test_a_message_that_cannot_be_encoded_is_not_tried_again(stub: MakeStub, clock: VirtualClock) -> None:
    here = stub()

    @dramatiq.actor
    def spoil(values: list[Any]) -> None:
        values.append(object())
        raise ValueError("no")

    spoil.send([1])
    before = clock.now()
    here.drain()
    assert here.dead() == ["unschedulable"]
    assert clock.now() == before


def test_an_enqueue_that_fails_after_storing_may_double_the_message_and_never_loses_it(
    stub: MakeStub, fault: Any
) -> None:
    here = stub(max_retries=1)
    runs = send_failing()
    fault(here.broker, "enqueue", after=True)
    here.drain()
    assert len(runs) >= 2
    assert set(here.dead()) == {"exhausted"}


def test_a_retry_is_stored_before_the_message_is_acked(stub: MakeStub) -> None:
    here = stub(max_retries=1)
    order: list[str] = []

    class Looks(dramatiq.Middleware):
        def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            order.append("stored")

        def before_ack(self, broker: Any, message: Any) -> None:
            order.append("acked")

    send_failing()
    here.broker.add_middleware(Looks())
    here.drain()
    assert order == ["stored", "acked"]


def test_an_interrupt_while_storing_leaves_one_retry(stub: MakeStub, fault: Any) -> None:
    here = stub(max_retries=1)
    runs = send_failing()
    fault(here.broker, "enqueue", TimeLimitExceeded())
    here.drain()
    assert len(runs) == 2
    assert here.dead() == ["exhausted"]


def test_an_interrupt_after_storing_does_not_store_the_retry_twice(stub: MakeStub, fault: Any) -> None:
    here = stub(max_retries=1)
    runs = send_failing()
    fault(logging.getLogger("dramatiq_retryq.RetryQueue"), "warning", TimeLimitExceeded())
    here.drain()
    assert len(runs) == 2
    assert here.dead() == ["exhausted"]


def test_a_letter_that_cannot_be_sent_does_not_keep_the_message_from_dying(stub: MakeStub, fault: Any) -> None:
    here = stub(max_retries=0, dead_letter_actor="morgue")

    @dramatiq.actor(queue_name="morgue")
    def morgue(letter: Any) -> None:
        raise AssertionError

    send_failing()
    fault(here.broker, "enqueue", times=None)
    here.drain()
    assert here.dead() == ["exhausted"]


@pytest.mark.parametrize("method", ["begin", "end"])
@pytest.mark.parametrize(
    ("error", "said"),
    [(TypeError("hunter2 is not serializable"), "TypeError"), (StoreUnavailable("hunter2 " + "x" * 9_000), "… x")],
    ids=["of others", "of ours"],
)
def test_what_is_logged_of_a_broken_server_is_short_and_redacted(
    stub: MakeStub,
    fault: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: Exception,
    said: str,
) -> None:
    here = stub(max_retries=0, redact=lambda text: text.replace("hunter2", "…"))
    side = side_of(here.broker)
    monkeypatch.setattr(side, "may_have_crashed", lambda message: True)
    monkeypatch.setattr(side, "begin", lambda message: 0)
    fault(side, method, error)
    send_failing()
    here.drain()
    lines = [record.getMessage() for record in caplog.records]
    (line,) = [line for line in lines if "could not be counted" in line or "could not be noted" in line]
    assert said in line
    assert "hunter2" not in line
    assert len(line) < 700
