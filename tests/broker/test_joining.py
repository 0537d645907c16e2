"""join, flush and what they mean by "nothing left": StubBroker's words, for a memory broker."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, QueueJoinTimeout

from dramatiq_retryq import GiveUp, MemoryBroker
from dramatiq_retryq.errors import MessageDied

PATIENCE = 20


def in_a_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def join(broker: MemoryBroker, **options: Any) -> None:
    broker.join("default", **{"timeout": PATIENCE * 1000, **options})


class CustomError(Exception):
    pass


def die(number: int = 0) -> None:
    raise CustomError(number)


# -- Waiting ---------------------------------------------------------------------------------------------------------


def test_join_returns_at_once_where_nothing_waits(real: MemoryBroker) -> None:
    real.declare_queue("default")
    real.join("default")


def test_join_waits_until_a_message_that_is_worked_on_is_done(real: MemoryBroker, running: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @dramatiq.actor
    def work() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    work.send()
    with running(real):
        assert begun.wait(PATIENCE)
        with pytest.raises(QueueJoinTimeout, match=r"^timed out after 0\.03 seconds$"):
            real.join("default", timeout=30)
        go_on.set()
        join(real)


def test_join_waits_for_messages_that_wait_for_later(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    work.send_with_options(delay=30)
    with running(real):
        join(real)
    assert ran == [1]


def test_join_waits_for_retries(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor(min_backoff=10, max_backoff=10)
    def work() -> None:
        ran.append(1)
        if len(ran) < 3:
            raise ValueError("no")

    work.send()
    with running(real):
        join(real)
    assert len(ran) == 3


def test_join_does_not_wait_for_other_queues(real: MemoryBroker) -> None:
    dramatiq.actor(die, queue_name="elsewhere").send()
    real.declare_queue("default")
    real.join("default", timeout=1)


def test_several_threads_may_join(real: MemoryBroker, running: Any) -> None:
    go_on = threading.Event()

    @dramatiq.actor
    def work() -> None:
        go_on.wait(PATIENCE)

    work.send()
    with running(real):
        threads = [in_a_thread(lambda: join(real)) for _ in range(3)]
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("settle", ["ack", "nack", "flush"])
def test_join_returns_when_the_last_message_is_settled(real: MemoryBroker, until: Any, settle: str) -> None:
    actor = dramatiq.actor(die)
    actor.send()
    consumer = real.consume("default", timeout=0)
    message = None if settle == "flush" else next(consumer)  # type: ignore[call-overload]
    thread = in_a_thread(lambda: join(real, fail_fast=False, timeout=3 * PATIENCE * 1000))
    until(lambda: real._lines["default"].joiners)
    if settle == "flush":
        real.flush("default")
    else:
        getattr(consumer, settle)(message)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_join_returns_when_the_last_message_turns_out_to_be_none(real: MemoryBroker, until: Any) -> None:
    real.declare_queue("default")
    real.queues["default"].put(b"nonsense")
    thread = in_a_thread(lambda: real.join("default", timeout=1500, fail_fast=False))
    until(lambda: real._lines["default"].joiners)
    assert next(real.consume("default", timeout=0)) is None  # type: ignore[call-overload]
    thread.join(1)
    assert not thread.is_alive()


def test_join_does_not_return_when_a_message_is_only_given_back(real: MemoryBroker) -> None:
    dramatiq.actor(die).send()
    consumer = real.consume("default", timeout=0)
    consumer.requeue([next(consumer)])  # type: ignore[call-overload]
    with pytest.raises(QueueJoinTimeout):
        real.join("default", timeout=10)


# -- fail_fast -------------------------------------------------------------------------------------------------------


def test_join_raises_the_error_of_a_message_that_died(real: MemoryBroker, running: Any) -> None:
    dramatiq.actor(die, max_retries=0).send(1)
    with running(real), pytest.raises(CustomError, match="1"):
        join(real)


def test_join_raises_the_first_error_of_several(real: MemoryBroker, running: Any) -> None:
    actor = dramatiq.actor(die, max_retries=0)
    for number in range(3):
        actor.send(number)
    with running(real, threads=1), pytest.raises(CustomError, match="0"):
        join(real)


def test_join_raises_as_often_as_it_is_asked(real: MemoryBroker, running: Any) -> None:
    dramatiq.actor(die, max_retries=0).send()
    with running(real):
        for _ in range(2):
            with pytest.raises(CustomError):
                join(real)


def test_join_waits_for_the_rest_before_it_raises(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    dramatiq.actor(die, max_retries=0).send()
    work.send_with_options(delay=20)
    with running(real), pytest.raises(CustomError):
        join(real)
    assert ran == [1]


def test_join_raises_nothing_where_it_is_told_not_to(real: MemoryBroker, running: Any) -> None:
    dramatiq.actor(die, max_retries=0).send()
    with running(real):
        join(real, fail_fast=False)


def test_the_broker_may_be_told_for_every_join(running: Any) -> None:
    broker = MemoryBroker(fail_fast_default=False)
    dramatiq.actor(die, broker=broker, max_retries=0).send()
    with running(broker):
        join(broker)
        with pytest.raises(CustomError):
            join(broker, fail_fast=True)


def test_a_failure_that_was_made_good_by_a_retry_is_not_raised(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def work() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise CustomError

    work.send()
    with running(real):
        join(real)


def test_join_raises_actor_not_found_for_an_unknown_actor(real: MemoryBroker, running: Any) -> None:
    real.declare_queue("default")
    real.enqueue(Message(queue_name="default", actor_name="nobody", args=(), kwargs={}, options={}))
    with running(real), pytest.raises(dramatiq.ActorNotFound, match="nobody"):
        join(real)


def test_a_death_that_was_replayed_well_is_not_raised(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise GiveUp

    work.send()
    with running(real):
        join(real, fail_fast=False)
        real.dead_letters.replay_all()
        join(real)
    assert len(ran) == 2


def test_the_first_death_whose_error_is_gone_with_its_worker_is_raised_as_such(
    real: MemoryBroker, running: Any
) -> None:
    actor = dramatiq.actor(die, max_retries=0)
    message = actor.send()
    with running(real, threads=1):
        join(real, fail_fast=False)
        actor.send()
        join(real, fail_fast=False)
    with pytest.raises(MessageDied, match=f"message {message.message_id} of actor die died: exhausted"):
        join(real)


def test_the_error_of_a_retried_attempt_is_freed(real: MemoryBroker, running: Any) -> None:
    class Weighty(Exception):
        pass

    errors: list[weakref.ref[Weighty]] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def work() -> None:
        if not errors:
            error = Weighty()
            errors.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    work.send()
    gc.disable()
    try:
        with running(real, threads=1):
            join(real)
        assert errors[0]() is None
    finally:
        gc.enable()


# -- flush -----------------------------------------------------------------------------------------------------------


def test_flush_drops_what_waits_due_or_not(real: MemoryBroker) -> None:
    actor = dramatiq.actor(die)
    actor.send()
    actor.send_with_options(delay=60_000)
    real.flush("default")
    assert real.queues["default"].qsize() == 0
    assert real.queues["default"].unfinished_tasks == 0


def test_flush_leaves_other_queues_and_what_is_worked_on_alone(real: MemoryBroker) -> None:
    actor = dramatiq.actor(die)
    actor.send()
    actor.send()
    dramatiq.actor(die, actor_name="other", queue_name="elsewhere").send()
    consumer = real.consume("default", timeout=0)
    message = next(consumer)  # type: ignore[call-overload]
    real.flush("default")
    counts = real.counts()
    assert (counts["default"].waiting, counts["default"].claimed, counts["elsewhere"].waiting) == (0, 1, 1)
    consumer.ack(message)


def test_flush_leaves_the_dead_alone(broker: MemoryBroker, drain: Any) -> None:
    dramatiq.actor(die, max_retries=0).send()
    drain(broker)
    broker.flush("default")
    assert len(broker.dead_letters) == 1


def test_flush_all_drops_every_queue_and_the_dead(broker: MemoryBroker, drain: Any) -> None:
    actor = dramatiq.actor(die, max_retries=0)
    actor.send()
    drain(broker)
    actor.send()
    dramatiq.actor(die, actor_name="other", queue_name="elsewhere").send_with_options(delay=60_000)
    broker.flush_all()
    assert all(count.waiting == 0 for count in broker.counts().values())
    assert list(broker.dead_letters) == []


def test_after_flush_all_an_old_death_is_not_raised_and_a_new_one_is(real: MemoryBroker, running: Any) -> None:
    actor = dramatiq.actor(die, max_retries=0)
    with running(real):
        actor.send(1)
        with pytest.raises(CustomError, match="1"):
            join(real)
        real.flush_all()
        join(real)
        actor.send(2)
        with pytest.raises(CustomError, match="2"):
            join(real)


def test_a_broker_without_retry_queue_keeps_the_dead_too(running: Any) -> None:
    class FailsIt(dramatiq.Middleware):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            message.fail()

    broker = MemoryBroker([FailsIt()])
    dramatiq.actor(die, broker=broker).send()
    with running(broker), pytest.raises(CustomError):
        join(broker)
    assert broker.dead_letters.one().reason == "rejected"


def test_closing_a_broker_twice_is_no_error(real: MemoryBroker) -> None:
    real.close()
    real.close()
