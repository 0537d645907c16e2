"""What Dramatiq's own brokers can tell an operator, and what they say where they cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import DeadLetter, DeadLetters
from dramatiq_retryq.errors import MessageNotFound, NotSupported, RetryQueueError, StoreUnavailable
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.side import side_of
from dramatiq_retryq.status import Pending, QueueStatus

HOUR = 3_600_000
PATIENCE = 20


@pytest.fixture(scope="module")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Redis of the tests' own, behind a socket."""
    redis = pytest.importorskip("redis")
    server = shutil.which("redis-server")
    if server is None:
        if os.environ.get("RETRYQ_REQUIRE_SERVERS"):
            pytest.fail("there is no redis-server on this machine")
        pytest.skip("there is no redis-server on this machine")
    path = tmp_path_factory.mktemp("redis") / "socket"
    command = [server, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(path.parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "eady to accept connections" in line:
            break
    assert redis.Redis(unix_socket_path=str(path)).ping()
    yield path
    process.terminate()
    process.stdout.close()
    process.wait(PATIENCE)


@pytest.fixture(params=["stub", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Brokers that let one look at what waits."""
    if request.param == "stub":
        broker: Broker = StubBroker()
    else:
        from dramatiq.brokers.redis import RedisBroker

        path = request.getfixturevalue("redis_socket")
        broker = RedisBroker(url=f"unix://{path}")  # type: ignore[no-untyped-call]
        broker.client.flushall()

    @dramatiq.actor(broker=broker)
    def add(fails: bool = False) -> None:
        if fails:
            raise ValueError("it fails")

    @dramatiq.actor(broker=broker, queue_name="other")
    def subtract() -> None:
        """Never run."""

    yield broker
    broker.close()


@pytest.fixture
def operations(broker: Broker) -> Operations:
    return Operations.of(broker)


def send(broker: Broker, actor: str = "add", *args: Any, delay: int | None = None) -> dramatiq.Message[Any]:
    sent: dramatiq.Message[Any] = broker.actors[actor].send_with_options(args=args, delay=delay)
    return sent


def queue(operations: Operations) -> QueueStatus:
    [found] = [queue for queue in operations.status().queues if queue.name == "default"]
    return found


def listed(operations: Operations, **filters: Any) -> list[str | None]:
    return [pending.message_id for pending in operations.pending(**filters)]


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_message_that_is_done_while_it_is_looked_at_does_not_make_the_oldest_unknown(
    broker: Any, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(broker)
    second = send(broker)
    look = broker.client.hget
    key = f"{broker.namespace}:default"

    def done_meanwhile(name: str, field: bytes) -> Any:
        if broker.client.llen(key) == 2:
            broker.client.hdel(f"{key}.msgs", broker.client.lpop(key))
        return look(name, field)

    monkeypatch.setattr(broker.client, "hget", done_meanwhile)
    found = queue(operations)
    assert (found.due, found.oldest_due_at) == (1, second.message_timestamp)


def test_the_status_has_the_lengths_of_the_queues(broker: Broker, operations: Operations) -> None:
    send(broker)
    send(broker)
    send(broker, delay=HOUR)
    found = queue(operations)
    assert (found.due, found.later, found.claimed, found.dead) == (2, 1, 0, 0)
    assert [queue.name for queue in operations.status().queues] == ["default", "other"]


def test_what_was_fetched_is_claimed_and_what_is_done_is_gone(broker: Broker, operations: Operations) -> None:
    first, second = send(broker), send(broker)
    consumer = broker.consume("default", prefetch=1, timeout=100)
    message = next(consumer)
    assert message is not None
    assert message.message_id == first.message_id
    assert (queue(operations).due, queue(operations).claimed) == (1, 1)
    assert listed(operations, state="waiting") == [second.message_id]
    consumer.ack(message)
    assert (queue(operations).due, queue(operations).claimed) == (1, 0)
    consumer.close()


def test_what_is_dead_is_counted(broker: Broker, operations: Operations) -> None:
    send(broker)
    consumer = broker.consume("default", prefetch=1, timeout=100)
    message = next(consumer)
    assert message is not None
    message.fail()
    consumer.nack(message)
    consumer.close()
    assert (queue(operations).dead, queue(operations).due) == (1, 0)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_letter_without_the_brokers_own_copy_is_counted_too(broker: Broker, operations: Operations) -> None:
    broker.declare_queue("other")
    for number, queue_name in enumerate(["default", "default", "other", "of nobody here"]):
        letter = DeadLetter(
            id=str(number), reason="exhausted", queue_name=queue_name, actor_name="work", died_at=1_000, data=b"{}"
        )
        side_of(broker).shelf.add(letter)
    copy: Any = broker
    copy.client.zadd("dramatiq:default.XQ", {"0": 1_000})
    copy.client.hset("dramatiq:default.XQ.msgs", "0", b"{}")
    assert {found.name: found.dead for found in operations.status().queues} == {"default": 2, "other": 1}
    assert len(DeadLetters.of(broker)) == 4


def test_the_status_leaves_out_what_cannot_be_told(operations: Operations) -> None:
    status = operations.status()
    assert (status.workers, status.last_minute, status.last_hour) == (None, None, None)
    assert not status.paused


def test_what_waits_is_listed_in_the_order_in_which_it_is_due(broker: Broker, operations: Operations) -> None:
    late, soon, now = send(broker, delay=2 * HOUR), send(broker, "subtract", delay=HOUR), send(broker)
    assert listed(operations) == [message.message_id for message in (now, soon, late)]
    assert listed(operations, queue="other") == listed(operations, actor="subtract") == [soon.message_id]
    pages = [next(operations.pending(limit=1))]
    assert listed(operations, after=pages[0].cursor) == [soon.message_id, late.message_id]
    assert listed(operations, due_after=pages[0].due_at, limit=1) == [now.message_id]


def test_a_message_is_found_while_it_waits(broker: Broker, operations: Operations) -> None:
    sent = send(broker, delay=HOUR)
    found = operations.find(sent.message_id)
    assert isinstance(found, Pending)
    assert (found.actor_name, found.state) == ("add", "waiting")
    assert found.due_at is not None
    assert found.due_at > sent.message_timestamp
    assert operations.find("nobody's") is None


def test_redis_says_which_worker_has_fetched_a_message(broker: Broker, operations: Operations) -> None:
    if isinstance(broker, StubBroker):
        pytest.skip("a StubBroker does not know what its workers have fetched")
    sent = send(broker)
    consumer = broker.consume("default", prefetch=1, timeout=100)
    message = next(consumer)
    [pending] = operations.pending(state="claimed")
    assert (pending.message_id, pending.claimed_by) == (sent.message_id, broker.broker_id)  # type: ignore[attr-defined]
    consumer.ack(message)
    consumer.close()


def test_to_look_takes_nothing_away(broker: Broker, operations: Operations) -> None:
    sent = [send(broker).message_id for _ in range(3)]
    assert listed(operations) == sent
    operations.status()
    consumer = broker.consume("default", prefetch=3, timeout=100)
    fetched = [next(consumer) for _ in sent]
    assert [message.message_id for message in fetched if message is not None] == sent
    for message in fetched:
        assert message is not None
        consumer.ack(message)
    consumer.close()


CANNOT: dict[str, Callable[[Operations], object]] = {
    "workers": lambda operations: operations.workers(),
    "rates": lambda operations: operations.rates(timedelta(hours=1)),
    "minutes": lambda operations: operations.minutes(timedelta(hours=1)),
    "pause": lambda operations: operations.pause(queue="default"),
    "resume": lambda operations: operations.resume(actor="add"),
    "move": lambda operations: operations.move("1", due_at=0),
    "cancel": lambda operations: operations.cancel("1"),
    "check": lambda operations: operations.check(),
}


@pytest.mark.parametrize("what", CANNOT)
def test_what_a_broker_cannot_do_it_says_in_one_sentence(operations: Operations, what: str) -> None:
    with pytest.raises(NotSupported) as raised:
        CANNOT[what](operations)
    text = str(raised.value)
    assert text.startswith(type(operations.broker).__name__)
    assert "\n" not in text
    assert isinstance(raised.value, RetryQueueError)


def test_run_now_on_what_waits_says_that_it_cannot(broker: Broker, operations: Operations) -> None:
    send(broker, delay=HOUR)
    [pending] = operations.pending()
    with pytest.raises(NotSupported, match="cannot change when a message is due"):
        operations.run_now(pending)
    with pytest.raises(MessageNotFound):
        operations.run_now("nobody's")


def test_a_server_that_does_not_answer_is_told_in_one_sentence(tmp_path: Path) -> None:
    redis_broker = pytest.importorskip("dramatiq.brokers.redis").RedisBroker(url=f"unix://{tmp_path / 'nobody'}")
    redis_broker.declare_queue("default")
    operations = Operations.of(redis_broker)
    for ask in (operations.status, operations.pending, lambda: operations.find("some id")):
        with pytest.raises(StoreUnavailable, match="RedisBroker: its server cannot be asked now") as raised:
            ask()
        assert raised.value.__cause__ is not None
        assert "\n" not in str(raised.value)
    redis_broker.close()


class RabbitmqBroker(StubBroker):
    """As far as is looked at: RabbitMQ tells how long its queues are."""

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        return {"default": (3, 2, 1)}.get(queue_name, (0, 0, 0))


RabbitmqBroker.__module__ = "dramatiq.brokers.rabbitmq"


def test_rabbitmq_tells_the_lengths_of_its_queues_and_no_more() -> None:
    broker = RabbitmqBroker()
    broker.declare_queue("default")
    operations = Operations.of(broker)
    assert operations.status().queues == (QueueStatus(name="default", due=3, later=2, dead=1),)
    with pytest.raises(NotSupported, match="without taking them out"):
        operations.pending()
    with pytest.raises(NotSupported, match="without taking them out"):
        operations.find("some id")


def test_a_broker_that_nobody_knows_says_so() -> None:
    class CarrierPigeons(Broker):
        """Keeps everything to itself."""

    operations = Operations.of(CarrierPigeons([]))
    for ask in (operations.status, operations.pending, operations.check):
        with pytest.raises(NotSupported, match="CarrierPigeons"):
            ask()
