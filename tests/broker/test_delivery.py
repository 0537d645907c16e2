"""Who gets which message when: consumers and workers of a memory broker, on real threads and in real time."""

from __future__ import annotations

import threading
import time
from queue import PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, MessageProxy
from dramatiq.middleware import Middleware
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import MemoryBroker
from dramatiq_retryq.clock import VirtualClock

PATIENCE = 20
HOUR = 3_600_000


def noop() -> dramatiq.Actor[..., None]:
    @dramatiq.actor
    def noop(number: int = 0) -> None:
        pass

    return noop


def numbers_of(consumer: Any) -> list[int]:
    """The numbers of the messages that a consumer hands out, all of them acked."""
    numbers = []
    while (message := next(consumer)) is not None:
        numbers.append(message.args[0])
        consumer.ack(message)
    return numbers


# -- Waking ----------------------------------------------------------------------------------------------------------


def test_a_sleeping_consumer_is_woken_by_a_new_message(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    sleeper = asleep(real)
    sent = actor.send()
    assert sleeper.got().message_id == sent.message_id  # long before its timeout


def test_a_sleeping_consumer_wakes_when_a_message_is_due(real: MemoryBroker) -> None:
    actor = noop()
    before = time.time() * 1000
    sent = actor.send_with_options(delay=40)
    message = next(real.consume("default", timeout=PATIENCE * 1000))  # type: ignore[call-overload]
    assert message.message_id == sent.message_id
    assert time.time() * 1000 >= before + 40


def test_a_consumer_that_sleeps_until_later_is_woken_by_what_is_due_sooner(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    actor.send_with_options(delay=HOUR)
    sleeper = asleep(real)
    sooner = actor.send_with_options(delay=10)
    assert sleeper.got().message_id == sooner.message_id


def test_a_sleeping_consumer_is_woken_by_a_retry(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    sent = actor.send()
    held = next(real.consume("default"))  # type: ignore[call-overload]
    sleeper = asleep(real)
    real.reschedule(held, delay=10)
    assert sleeper.got().message_id == sent.message_id


def test_a_sleeping_consumer_is_woken_by_a_replay(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    sent = actor.send()
    consumer = real.consume("default")
    held = next(consumer)  # type: ignore[call-overload]
    held.fail()
    consumer.nack(held)
    sleeper = asleep(real)
    real.dead_letters.replay(real.dead_letters.one())
    assert sleeper.got().message_id == sent.message_id


def test_a_sleeping_consumer_is_woken_by_what_another_gives_back(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    sent = actor.send()
    consumer = real.consume("default")
    held = next(consumer)  # type: ignore[call-overload]
    sleeper = asleep(real)
    consumer.requeue([held])
    assert sleeper.got().message_id == sent.message_id


def test_a_sleeping_consumer_is_woken_by_what_a_closed_one_had_not_handed_out(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    first, second = actor.send(1), actor.send(2)
    consumer = real.consume("default", prefetch=2)
    assert next(consumer).message_id == first.message_id  # type: ignore[call-overload]
    sleeper = asleep(real)
    consumer.close()
    assert sleeper.got().message_id == second.message_id


def test_two_sleeping_consumers_share_two_messages(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    sleepers = [asleep(real), asleep(real)]
    sent = {actor.send().message_id, actor.send().message_id}
    assert {sleeper.got().message_id for sleeper in sleepers} == sent


def test_what_one_woken_consumer_cannot_take_wakes_the_next(
    broker: MemoryBroker, clock: VirtualClock, asleep: Any
) -> None:
    actor = noop()
    for _ in range(3):
        actor.send_with_options(delay=HOUR)
    sleepers = [asleep(broker) for _ in range(3)]
    clock.advance(HOUR)
    sleepers[0].consumer.bell.ring()
    assert len({sleeper.got().message_id for sleeper in sleepers}) == 3


def test_a_consumer_is_not_woken_by_a_message_of_another_queue(real: MemoryBroker, asleep: Any) -> None:
    noop()
    real.declare_queue("elsewhere")
    sleeper = asleep(real, "elsewhere")
    real.enqueue(real.get_actor("noop").message())
    sleeper.join(0.05)
    assert sleeper.is_alive()
    sleeper.is_stopped = True
    real.close()  # wakes whoever sleeps
    assert sleeper.got() is None


def test_a_consumer_with_nothing_to_do_comes_back_after_its_timeout(real: MemoryBroker) -> None:
    real.declare_queue("default")
    started = time.monotonic()
    assert next(real.consume("default", timeout=30)) is None  # type: ignore[call-overload]
    assert time.monotonic() - started >= 0.03


def test_an_idle_consumer_does_not_poll(real: MemoryBroker, asleep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real.declare_queue("default")
    asked: list[int] = []
    claim = real.store.claim
    monkeypatch.setattr(real.store, "claim", lambda *args, **kwargs: asked.append(1) or claim(*args, **kwargs))
    assert next(real.consume("default", timeout=200)) is None  # type: ignore[call-overload]
    assert len(asked) <= 3


def test_a_consumer_whose_next_message_is_far_off_does_not_poll(
    real: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    noop().send_with_options(delay=HOUR)
    asked: list[int] = []
    claim = real.store.claim
    monkeypatch.setattr(real.store, "claim", lambda *args, **kwargs: asked.append(1) or claim(*args, **kwargs))
    assert next(real.consume("default", timeout=200)) is None  # type: ignore[call-overload]
    assert len(asked) <= 3


def test_a_worker_looks_no_oftener_than_its_timeout(
    real: MemoryBroker, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        real.declare_queue(f"idle-{number}")
    asked: list[int] = []
    claim = real.store.claim
    monkeypatch.setattr(real.store, "claim", lambda *args, **kwargs: asked.append(1) or claim(*args, **kwargs))
    with running(real, timeout=150):
        pass  # stopping takes the worker as long as its timeout, or twice
    assert len(asked) <= 5 * 3 * 3


# -- Order and due instants ------------------------------------------------------------------------------------------


def test_messages_come_in_the_order_of_their_due_instants(broker: MemoryBroker, clock: VirtualClock) -> None:
    actor = noop()
    for number, delay in enumerate([300, 100, 200]):
        actor.send_with_options(args=(number,), delay=delay)
    clock.advance(300)
    assert numbers_of(broker.consume("default", prefetch=10, timeout=0)) == [1, 2, 0]


def test_messages_that_are_due_together_come_as_they_arrived(broker: MemoryBroker, clock: VirtualClock) -> None:
    actor = noop()
    actor.send_with_options(args=(0,), delay=100)
    clock.advance(100)
    actor.send(1)
    actor.send(2)
    assert numbers_of(broker.consume("default", prefetch=10, timeout=0)) == [0, 1, 2]


def test_a_message_is_not_handed_out_a_millisecond_early(broker: MemoryBroker, clock: VirtualClock) -> None:
    noop().send_with_options(delay=100)
    consumer = broker.consume("default", timeout=0)
    clock.advance(99)
    assert next(consumer) is None  # type: ignore[call-overload]
    clock.advance(1)
    assert next(consumer) is not None  # type: ignore[call-overload]


def test_far_off_work_never_holds_back_due_work(broker: MemoryBroker) -> None:
    actor = noop()
    for number in range(1000):
        actor.send_with_options(args=(number,), delay=HOUR)
    actor.send(1000)
    assert numbers_of(broker.consume("default", prefetch=1, timeout=0)) == [1000]


def test_far_off_work_never_holds_back_due_work_of_a_worker(real: MemoryBroker, running: Any) -> None:
    ran = threading.Event()

    @dramatiq.actor
    def work(soon: bool) -> None:
        if soon:
            ran.set()

    for _ in range(100):  # many times what a worker with one thread prefetches
        work.send_with_options(args=(False,), delay=HOUR)
    work.send_with_options(args=(True,), delay=5)
    with running(real, threads=1):
        assert ran.wait(PATIENCE)


def test_no_worker_ever_parks_a_message(real: MemoryBroker, running: Any) -> None:
    parked: list[str] = []

    class Looks(Middleware):
        def before_delay_message(self, broker: Broker, message: MessageProxy) -> None:
            parked.append(message.message_id)

    real.add_middleware(Looks())
    actor = noop()
    with running(real) as worker:
        actor.send_with_options(delay=5)
        real.join("default", timeout=PATIENCE * 1000)
        assert set(worker.consumers) == {"default"}
    assert parked == []


def test_priorities_order_what_a_worker_has_prefetched(broker: MemoryBroker) -> None:
    ran: list[str] = []

    @dramatiq.actor(priority=10)
    def low() -> None:
        ran.append("low")

    @dramatiq.actor(priority=0)
    def high() -> None:
        ran.append("high")

    for _ in range(3):
        low.send()
        high.send()
    work: PriorityQueue[Any] = PriorityQueue()
    thread = ConsumerThread(broker=broker, queue_name="default", prefetch=6, work_queue=work, worker_timeout=0)
    thread.consumer = broker.consume("default", prefetch=6, timeout=0)
    worker = WorkerThread(broker=broker, consumers={"default": thread}, work_queue=work, worker_timeout=0)
    for _ in range(6):
        thread.handle_message(next(thread.consumer))  # type: ignore[call-overload]
    while work.qsize():
        item = work.get()
        worker.process_message(item[1] if isinstance(item, tuple) else item.message)
    assert ran == ["high"] * 3 + ["low"] * 3


def test_messages_of_one_priority_keep_their_order_in_a_worker(broker: MemoryBroker) -> None:
    actor = noop()
    for number in range(20):
        actor.send(number)
    work: PriorityQueue[Any] = PriorityQueue()
    thread = ConsumerThread(broker=broker, queue_name="default", prefetch=20, work_queue=work, worker_timeout=0)
    thread.consumer = broker.consume("default", prefetch=20, timeout=0)
    for _ in range(20):
        thread.handle_message(next(thread.consumer))  # type: ignore[call-overload]
    items = [work.get() for _ in range(20)]
    messages = [item[1] if isinstance(item, tuple) else item.message for item in items]
    assert [message.args[0] for message in messages] == list(range(20))
    for message in messages:
        thread.consumer.ack(message)


# -- The window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [1, 2, 3, 8])
def test_a_consumer_hands_out_no_more_than_its_window(broker: MemoryBroker, prefetch: int) -> None:
    actor = noop()
    for _ in range(20):
        actor.send()
    consumer = broker.consume("default", prefetch=prefetch, timeout=0)
    held = []
    while (message := next(consumer)) is not None:  # type: ignore[call-overload]
        held.append(message)
    assert len(held) == prefetch
    assert broker.counts()["default"].claimed == prefetch
    assert broker.counts()["default"].due == 20 - prefetch
    consumer.requeue(held)


@pytest.mark.parametrize("prefetch", [1, 2, 3, 8])
def test_a_window_is_full_again_once_some_are_done(broker: MemoryBroker, prefetch: int) -> None:
    actor = noop()
    for _ in range(30):
        actor.send()
    consumer = broker.consume("default", prefetch=prefetch, timeout=0)
    held = [next(consumer) for _ in range(prefetch)]  # type: ignore[call-overload]
    for message in held:
        consumer.ack(message)
    assert [next(consumer) is not None for _ in range(prefetch)] == [True] * prefetch  # type: ignore[call-overload]
    assert next(consumer) is None  # type: ignore[call-overload]


def test_a_consumer_with_a_full_window_is_woken_when_one_is_done(real: MemoryBroker, until: Any) -> None:
    actor = noop()
    first, second = actor.send(1), actor.send(2)
    consumer = real.consume("default", prefetch=1, timeout=3 * PATIENCE * 1000)
    held = next(consumer)  # type: ignore[call-overload]
    assert held.message_id == first.message_id
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(next(consumer)), daemon=True)  # type: ignore[call-overload]
    thread.start()
    until(lambda: consumer.wants_room)  # type: ignore[attr-defined]
    consumer.ack(held)
    thread.join(PATIENCE)
    assert [message.message_id for message in got] == [second.message_id]


def test_a_full_consumer_does_not_keep_a_message_from_one_that_has_room(real: MemoryBroker, asleep: Any) -> None:
    actor = noop()
    actor.send()
    full = real.consume("default", prefetch=1, timeout=0)
    next(full)  # type: ignore[call-overload]
    sleeper = asleep(real)
    sent = actor.send()
    assert sleeper.got().message_id == sent.message_id


# -- Workers ---------------------------------------------------------------------------------------------------------


def test_several_workers_run_each_message_once(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)

    for number in range(200):
        work.send(number)
    with running(real), running(real):
        real.join("default", timeout=PATIENCE * 1000)
    assert sorted(ran) == list(range(200))


def test_a_second_worker_goes_on_where_the_first_was_stopped(real: MemoryBroker, running: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)

    work.send(1)
    with running(real):
        real.join("default", timeout=PATIENCE * 1000)
    work.send(2)
    with running(real):
        real.join("default", timeout=PATIENCE * 1000)
    assert ran == [1, 2]


def test_a_worker_leaves_queues_that_it_was_not_given_alone(real: MemoryBroker, running: Any) -> None:
    ran: list[str] = []

    @dramatiq.actor(queue_name="wanted")
    def wanted() -> None:
        ran.append("wanted")

    @dramatiq.actor(queue_name="unwanted")
    def unwanted() -> None:
        ran.append("unwanted")

    unwanted.send()
    wanted.send()
    with running(real, queues={"wanted"}) as worker:
        real.join("wanted", timeout=PATIENCE * 1000)
        assert set(worker.consumers) == {"wanted"}
    assert ran == ["wanted"]
    assert real.counts()["unwanted"].due == 1


def test_an_actor_declared_while_a_worker_runs_is_run_by_it(real: MemoryBroker, running: Any) -> None:
    ran = threading.Event()
    with running(real):

        @dramatiq.actor(queue_name="new")
        def work() -> None:
            ran.set()

        work.send()
        assert ran.wait(PATIENCE)


def test_a_worker_that_stops_puts_back_all_it_had_not_begun(real: MemoryBroker, running: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)
        begun.set()
        go_on.wait(PATIENCE)

    for number in range(10):
        work.send(number)
    with running(real, threads=1) as worker:
        begun.wait(PATIENCE)
        worker.workers[0].stop()
        go_on.set()
    assert ran == [0]
    count = real.counts()["default"]
    assert (count.due, count.claimed, count.dead) == (9, 0, 0)


def test_what_was_put_back_keeps_its_place(broker: MemoryBroker) -> None:
    actor = noop()
    for number in range(3):
        actor.send(number)
    consumer = broker.consume("default", prefetch=2, timeout=0)
    consumer.requeue([next(consumer), next(consumer)])  # type: ignore[call-overload]
    consumer.close()
    assert numbers_of(broker.consume("default", prefetch=3, timeout=0)) == [0, 1, 2]


def test_nothing_is_lost_or_doubled_while_workers_stop_and_start(real: MemoryBroker, running: Any, until: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)

    for number in range(400):
        work.send(number)
    for cycle in range(1, 5):
        with running(real, threads=2):
            until(lambda cycle=cycle: len(ran) >= cycle * 40)
        count = real.counts()["default"]
        assert (len(ran) + count.due, count.claimed) == (400, 0)
    with running(real):
        real.join("default", timeout=PATIENCE * 1000)
    assert sorted(ran) == list(range(400))


def test_a_paused_worker_runs_nothing_and_loses_nothing(
    real: MemoryBroker, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.01)
    ran = threading.Event()

    @dramatiq.actor
    def work() -> None:
        ran.set()

    with running(real) as worker:
        worker.pause()
        work.send()
        assert not ran.wait(0.05)
        worker.resume()
        assert ran.wait(PATIENCE)


def test_a_message_acked_by_a_consumer_that_took_another_ones_place_is_done(broker: MemoryBroker) -> None:
    noop().send()
    first = broker.consume("default", timeout=0)
    message = next(first)  # type: ignore[call-overload]
    first.close()  # as a consumer thread does after an error, while a worker thread still runs the message
    second = broker.consume("default", timeout=0)
    second.ack(message)
    assert broker.counts()["default"].claimed == 0
    assert next(second) is None  # type: ignore[call-overload]
