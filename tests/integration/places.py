"""A broker of each kind as a place that messages can be moved to and from, and one way to look into all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import redis
from dramatiq import Broker, Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import dq_name, q_name

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker
from dramatiq_retryq.hops import HOP_OPTION

KINDS = ("memory", "sqlite", "redis", "rabbitmq")
#: The two RabbitmqBrokers would be the same place.
PAIRS = [(source, target) for source in KINDS for target in KINDS if (source, target) != ("rabbitmq", "rabbitmq")]


class Seen(NamedTuple):
    """What can be seen of a message that waits."""

    message_id: str
    queue_name: str
    actor_name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    #: When it is due, if it is not due already.
    due_at: int | None


def make(kind: str, url: str | None, name: str, directory: Path) -> Broker:
    """A broker of this kind; ``name`` is the namespace, or the file's name."""
    if kind == "memory":
        return MemoryBroker()
    if kind == "sqlite":
        return SQLiteBroker(directory / f"{name}.db")
    if kind == "redis":
        return RedisBroker(url=url, namespace=name, middleware=[RetryQueue()])
    return RabbitmqBroker(url=url, confirm_delivery=True, middleware=[RetryQueue()])


def waiting(broker: Any, queue_name: str) -> list[Seen]:
    """What waits in a queue, in the order in which it is handed out; later ones last."""
    return [_seen(data, due_at) for data, due_at in _payloads(broker, queue_name)]


def _payloads(broker: Any, queue_name: str) -> Iterator[tuple[bytes, int | None]]:
    if isinstance(broker, (MemoryBroker, SQLiteBroker)):
        now = broker.clock.now()
        claims = broker.store.claim(queue_name, now=1 << 62, limit=100_000, owner="a test")
        broker.store.release(claims, now=now)
        yield from ((claim.data, claim.due_at if claim.due_at > now else None) for claim in claims)
    elif isinstance(broker, RedisBroker):
        client: redis.Redis = broker.client
        for name in (queue_name, dq_name(queue_name)):
            for message_id in client.lrange(f"{broker.namespace}:{name}", 0, -1):
                data = client.hget(f"{broker.namespace}:{name}.msgs", message_id)
                assert data is not None
                assert Message.decode(data).options["redis_message_id"] == message_id.decode()
                yield data, _eta(data, name)
    else:
        for name in (queue_name, dq_name(queue_name)):
            fetched = []
            while True:
                method, _, body = broker.channel.basic_get(name)
                if method is None:
                    break
                fetched.append(method.delivery_tag)
                yield body, _eta(body, name)
            for tag in fetched:
                broker.channel.basic_nack(tag, requeue=True)


def _eta(data: bytes, name: str) -> int | None:
    """The eta of a message, which stands where Dramatiq's worker looks for it, and only there."""
    message = Message.decode(data)
    assert message.queue_name == name
    assert ("eta" in message.options) == (name != q_name(name))
    # Too far off for the broker: it gets there in hops.
    return message.options.get(HOP_OPTION, message.options.get("eta"))


def _seen(data: bytes, due_at: int | None) -> Seen:
    message = Message.decode(data)
    options = {
        key: value for key, value in message.options.items() if key not in ("eta", HOP_OPTION, "redis_message_id")
    }
    return Seen(message.message_id, q_name(message.queue_name), message.actor_name, message.args, options, due_at)
