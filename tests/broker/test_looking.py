"""lookup, counts and broker.queues: where everything is, without changing anything."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import GiveUp, MemoryBroker
from dramatiq_retryq.broker import _Watcher
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.records import QueueCounts, Whereabouts


@pytest.fixture
def work(broker: MemoryBroker) -> dramatiq.Actor[..., None]:
    @dramatiq.actor(backoff=[500])
    def work(outcome: str = "") -> None:
        if outcome == "fail":
            raise ValueError("no")
        if outcome == "die":
            raise GiveUp

    return work


# -- lookup ----------------------------------------------------------------------------------------------------------


def test_a_message_that_waits_is_found_with_its_due_instant(
    broker: MemoryBroker, clock: VirtualClock, work: Any
) -> None:
    message = work.send_with_options(delay=250)
    assert broker.lookup(message.message_id) == Whereabouts(
        message_id=message.message_id,
        state="waiting",
        queue_name="default",
        actor_name="work",
        due_at=clock.now() + 250,
    )


def test_a_message_that_waits_for_a_retry_is_found_with_its_retries(
    broker: MemoryBroker, clock: VirtualClock, work: Any, drain: Any
) -> None:
    message = work.send("fail")
    drain(broker, until=clock.now())
    found = broker.lookup(message.message_id)
    assert (found.state, found.retries, found.due_at) == ("waiting", 1, clock.now() + 500)


def test_a_message_that_is_worked_on_is_found_with_its_holder(
    broker: MemoryBroker, clock: VirtualClock, work: Any
) -> None:
    message = work.send()
    sent_at = clock.now()
    clock.advance(50)
    next(broker.consume("default", timeout=0))  # type: ignore[call-overload]
    assert broker.lookup(message.message_id) == Whereabouts(
        message_id=message.message_id,
        state="claimed",
        queue_name="default",
        actor_name="work",
        due_at=sent_at,
        claimed_at=sent_at + 50,
        claimed_by=f"{socket.gethostname()}:{os.getpid()}",
    )


def test_a_message_that_died_is_found_with_its_reason_and_letter(broker: MemoryBroker, work: Any, drain: Any) -> None:
    message = work.send("die")
    drain(broker)
    found = broker.lookup(message.message_id)
    assert (found.state, found.reason, found.queue_name, found.actor_name) == ("dead", "rejected", "default", "work")
    assert found.letter_id is not None
    assert broker.dead_letters.get(found.letter_id).message_id == message.message_id


def test_a_message_that_is_done_is_unknown(broker: MemoryBroker, work: Any, drain: Any) -> None:
    message = work.send()
    drain(broker)
    assert broker.lookup(message.message_id) == Whereabouts(message_id=message.message_id, state="unknown")


@pytest.mark.parametrize("message_id", ["", "nonsense", "default"])
def test_an_id_that_no_message_has_is_unknown(broker: MemoryBroker, work: Any, message_id: str) -> None:
    work.send()
    assert broker.lookup(message_id).state == "unknown"


def test_a_message_in_the_place_of_its_id_is_not_said_to_be_unknown(broker: MemoryBroker, work: Any) -> None:
    with pytest.raises(ConfigError, match="lookup: message_id is a Message: give its message_id"):
        broker.lookup(work.send())
    with pytest.raises(ConfigError, match="lookup: message_id is a NoneType"):
        broker.lookup(None)  # type: ignore[arg-type]


def test_a_message_is_not_taken_for_one_that_it_mentions(broker: MemoryBroker, work: Any) -> None:
    second = work.message()
    first = broker.enqueue(work.message().copy(options={"pipe_target": second.asdict()}))
    assert broker.lookup(second.message_id).state == "unknown"
    assert broker.lookup(first.message_id).state == "waiting"


def test_looking_something_up_passes_over_what_cannot_be_decoded(broker: MemoryBroker, work: Any, drain: Any) -> None:
    message = work.message()
    broker.queues["default"].put(b"nonsense about " + message.message_id.encode())
    assert broker.lookup(message.message_id).state == "unknown"
    drain(broker)
    assert broker.lookup(message.message_id).state == "unknown"


# -- counts ----------------------------------------------------------------------------------------------------------


def test_every_declared_queue_is_counted(broker: MemoryBroker) -> None:
    broker.declare_queue("one")
    broker.declare_queue("other")
    assert broker.counts() == {"one": QueueCounts(), "other": QueueCounts()}


def test_each_state_is_counted(broker: MemoryBroker, clock: VirtualClock, work: Any, drain: Any) -> None:
    work.send("die")
    drain(broker)
    work.send()
    next(broker.consume("default", timeout=0))  # type: ignore[call-overload]
    start = clock.now()
    for delay in (0, 10, 1000, 2000, 3000):
        work.send_with_options(delay=delay)
    clock.advance(10)
    assert broker.counts()["default"] == QueueCounts(due=2, later=3, claimed=1, dead=1, oldest_due_at=start)
    assert broker.counts()["default"].waiting == 5


def test_what_is_later_becomes_due_by_itself(broker: MemoryBroker, clock: VirtualClock, work: Any) -> None:
    work.send_with_options(delay=1000)
    assert (broker.counts()["default"].due, broker.counts()["default"].later) == (0, 1)
    clock.advance(1000)
    assert (broker.counts()["default"].due, broker.counts()["default"].later) == (1, 0)


def test_looking_changes_nothing(broker: MemoryBroker, work: Any) -> None:
    message = work.send()
    before = broker.counts()
    broker.lookup(message.message_id)
    _ = len(broker.dead_letters)
    assert broker.counts() == before
    assert broker.check() == []


# -- broker.queues ---------------------------------------------------------------------------------------------------


def test_a_queue_tells_its_size_as_a_stub_brokers_does(broker: MemoryBroker, work: Any) -> None:
    queue = broker.queues["default"]
    assert queue.empty()
    work.send()
    work.send_with_options(delay=1000)
    assert (queue.qsize(), queue.unfinished_tasks, queue.empty()) == (2, 2, False)
    next(broker.consume("default", timeout=0))  # type: ignore[call-overload]
    assert (queue.qsize(), queue.unfinished_tasks) == (1, 2)


def test_a_message_taken_out_of_a_queue_by_hand_is_gone(broker: MemoryBroker, work: Any) -> None:
    sent = work.send()
    data = broker.queues["default"].get(timeout=1)
    assert dramatiq.Message.decode(data) == sent
    assert broker.lookup(sent.message_id).state == "unknown"


def test_a_queue_knows_its_name_when_printed(broker: MemoryBroker, work: Any) -> None:
    work.send()
    assert repr(broker.queues["default"]) == "<queue 'default': 1 waiting>"


def test_the_watcher_goes_on_after_whatever_a_look_raises(caplog: pytest.LogCaptureFixture) -> None:
    looked_on = threading.Event()

    def look(times: int) -> None:
        if times <= 2:
            raise RuntimeError("secret")
        looked_on.set()

    watcher = _Watcher(look, 0.001, logging.getLogger("dramatiq_retryq.test"))
    try:
        assert looked_on.wait(30)
    finally:
        watcher.stop()
    assert caplog.messages == ["Looking at what other processes did failed: RuntimeError."]
