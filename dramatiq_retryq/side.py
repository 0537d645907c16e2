"""What is kept beside a broker that is not this package's own, and what ``RetryQueue`` and ``DeadLetters`` want of it.

Such a broker is left as it is. Its :class:`Side` has the shelf of its dead letters, a way to store a retry before the
message is acked, and what is known of workers that died.
"""

from __future__ import annotations

import sys
import threading
from typing import Protocol

from dramatiq import Broker, MessageProxy, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.worker import ConsumerThread

from .errors import ConfigError
from .shelf import Shelf
from .stub_side import StubSide

__all__ = ["Side", "is_supported", "side_of"]


class Side(Protocol):
    """What is kept beside a broker."""

    #: Where its dead letters lie.
    shelf: Shelf
    #: The longest delay (ms) that the broker is asked for; what is longer is reached in hops. ``None`` for no limit.
    longest_delay: int | None

    def letter_id(self, message: MessageProxy) -> str:
        """The id of the letter that this message would be: the same for the copy that the broker keeps of it."""

    def reschedule(self, message: MessageProxy, *, delay: int) -> None:
        """Store the retry of a message that a worker holds; other middleware sees an enqueue.

        Once this returns, the message may be acked. Called again after it raised, it stores the retry once if the
        broker lets it know.
        """

    def boot(self, worker: Worker) -> None:
        """A worker starts in this process."""

    def attend(self, thread: ConsumerThread) -> None:
        """A consumer of a worker in this process starts."""

    def shut_down(self, worker: Worker) -> None:
        """A worker is about to stop in this process."""

    def may_have_crashed(self, message: MessageProxy) -> bool:
        """Whether this message was delivered before, to a worker that never said what became of it. Costs nothing."""

    def begin(self, message: MessageProxy) -> int:
        """Such a message is about to be run: write that down. Returns how many runs of it began and never ended."""

    def end(self, message: MessageProxy) -> None:
        """The run of such a message has ended."""


def is_supported(broker: Broker) -> bool:
    """Whether there is a side for this broker."""
    return _kind(broker) is not None


def side_of(broker: Broker) -> Side:
    """The one side of a broker.

    Raises:
        ConfigError: a kind of broker that is not known.
    """
    with _lock:
        side: Side | None = getattr(broker, "__dict__", {}).get("_retryq_side")
        if side is None:
            side = _make(broker)
            broker.__dict__["_retryq_side"] = side
        return side


_lock = threading.Lock()


def _kind(broker: Broker) -> str | None:
    if isinstance(broker, StubBroker):
        return "stub"
    # Looked up and not imported: a broker of that kind has been made only if its module is there.
    for kind, module_name, class_name in (
        ("redis", "dramatiq.brokers.redis", "RedisBroker"),
        ("rabbitmq", "dramatiq.brokers.rabbitmq", "RabbitmqBroker"),
    ):
        cls = getattr(sys.modules.get(module_name), class_name, None)
        if cls is not None and isinstance(broker, cls):
            return kind
    return None


def _make(broker: Broker) -> Side:
    kind = _kind(broker)
    if kind == "redis":
        from .redis_side import RedisSide

        return RedisSide(broker)
    if kind == "rabbitmq":
        from .rabbitmq_side import RabbitmqSide

        return RabbitmqSide(broker)
    if isinstance(broker, StubBroker):
        return StubSide(broker)
    raise ConfigError(
        f"{type(broker).__name__} keeps no dead letters that could be listed: use MemoryBroker, SQLiteBroker, "
        "RedisBroker, RabbitmqBroker or StubBroker, or a dead_letter_actor"
    )
