"""A delayed message that is due goes to the queue where it is run: many at a time, and nothing lost or doubled."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import dq_name

from dramatiq_retryq import RetryQueue
from dramatiq_retryq.rabbitmq_link import Unroutable
from dramatiq_retryq.side import side_of
from tests.integration.conftest import forget_redis, running
from tests.integration.servers import wait_until


def fetched(broker: Any, queue: str) -> MessageProxy:
    """The next message of a queue, as a worker holds it."""
    consumer = broker.consume(queue, timeout=100)
    found: list[MessageProxy] = []

    def look() -> bool:
        message = next(consumer)
        if message is not None:
            found.append(message)
        return bool(found)

    wait_until(look, 10, "a message")
    found[0].__dict__["consumer"] = consumer
    return found[0]


def waiting(broker: Any, queue: str) -> tuple[int, int]:
    """How many messages there are, delayed and not."""
    if isinstance(broker, RedisBroker):
        hlen = broker.client.hlen
        return hlen(f"{broker.namespace}:{dq_name(queue)}.msgs"), hlen(f"{broker.namespace}:{queue}.msgs")
    due, delayed, _ = broker.get_queue_message_counts(queue)
    return delayed, due


class Hooks(dramatiq.Middleware):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        self.seen.append(("enqueue", message.queue_name))

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append(("ack", message.queue_name))


def test_delayed_messages_are_run_once_each_and_nothing_is_left_of_them(make: Any, name: str) -> None:
    broker = make(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work(n: int) -> None:
        runs.append(n)

    for n in range(150):
        work.send_with_options(args=(n,), delay=1)
    with running(broker):
        wait_until(lambda: len(runs) >= 150, 20, "every message")
        wait_until(lambda: waiting(broker, name) == (0, 0), 20, "nothing to be left")
    assert sorted(runs) == list(range(150))


def test_middleware_sees_what_dramatiq_would_show_it(make: Any, name: str) -> None:
    broker, hooks = make(max_retries=0), Hooks()
    broker.add_middleware(hooks)
    done = threading.Event()

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        done.set()

    work.send_with_options(delay=1)
    with running(broker):
        assert done.wait(20)
        wait_until(lambda: len(hooks.seen) == 4, 20, "four signals")
    delayed = dq_name(name)
    # Which of the two acks comes first is up to the threads.
    assert hooks.seen[:2] == [("enqueue", delayed), ("enqueue", name)]
    assert sorted(hooks.seen[2:]) == sorted([("ack", delayed), ("ack", name)])


def test_a_retry_whose_answer_was_lost_is_stored_once_even_if_it_has_been_run(make_redis: Any, name: str) -> None:
    broker = make_redis()
    broker.declare_queue(name)
    broker.enqueue(Message(queue_name=name, actor_name="work", args=(), kwargs={}, options={}))
    message = fetched(broker, name)
    side_of(broker).reschedule(message, delay=0)
    retry = fetched(broker, name)
    retry.__dict__["consumer"].ack(retry)
    side_of(broker).reschedule(message, delay=0)
    assert waiting(broker, name) == (0, 0)


def test_a_retry_that_the_server_has_lost_is_stored(make_redis: Any, redis_url: str, name: str) -> None:
    broker = make_redis()
    broker.declare_queue(name)
    broker.enqueue(Message(queue_name=name, actor_name="work", args=(), kwargs={}, options={}))
    message = fetched(broker, name)
    forget_redis(redis_url, name)
    side_of(broker).reschedule(message, delay=0)
    assert waiting(broker, name) == (0, 1)


def test_what_another_worker_has_by_now_is_not_moved_by_this_one(make_redis: Any, name: str) -> None:
    broker = make_redis()
    broker.declare_queue(name)
    broker.enqueue(Message(queue_name=name, actor_name="work", args=(), kwargs={}, options={}))
    message = fetched(broker, name)
    broker.client.delete(f"{name}:__acks__.{broker.broker_id}.{name}")
    side_of(broker).reschedule(message, delay=1_000)
    assert waiting(broker, name) == (0, 1)


def test_a_broker_with_an_enqueue_of_its_own_is_asked_for_each_message(redis_url: str, name: str) -> None:
    enqueued: list[str] = []

    class Telling(RedisBroker):
        def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
            enqueued.append(message.queue_name)
            return super().enqueue(message, delay=delay)  # type: ignore[no-untyped-call, no-any-return]

    broker: Any = Telling(url=redis_url, namespace=name, middleware=[RetryQueue()])  # type: ignore[no-untyped-call]
    done = threading.Event()

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        done.set()

    try:
        work.send_with_options(delay=1)
        with running(broker):
            assert done.wait(20)
        assert enqueued == [name, name]
    finally:
        broker.close()
        broker.client.close()
        forget_redis(redis_url, name)


def test_a_queue_that_somebody_deleted_is_declared_again_for_what_is_due(make_rabbitmq: Any, name: str) -> None:
    broker = make_rabbitmq(max_retries=0, broker={"confirm_delivery": False})
    done = threading.Event()

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        done.set()

    work.send_with_options(delay=300)
    with running(broker) as worker:
        # No consumer notices, and declares it.
        worker.consumers[name].pause()
        worker.consumers[name].paused_event.wait(10)
        broker.channel.queue_delete(name)
        link = side_of(broker)._link  # type: ignore[attr-defined]
        # Asking the broker for its counts would declare the queue.
        wait_until(lambda: link.count(name) == 1, 20, "the message to be moved")
        worker.consumers[name].resume()
        assert done.wait(20)


def test_publishing_many_says_that_there_is_no_such_queue(make_rabbitmq: Any, name: str) -> None:
    broker = make_rabbitmq()
    broker.declare_queue(name, ensure=True)
    link = side_of(broker)._link  # type: ignore[attr-defined]
    with pytest.raises(Unroutable, match="nowhere"):
        link.publish_all([("nowhere", b"", None)])
    link.publish_all([(name, b"{}", None)] * 3)
    wait_until(lambda: waiting(broker, name) == (0, 3), 10)
