"""Dramatiq's RabbitmqBroker at one end of a move.

A server without transactions over several queues cannot note what has arrived together with the message itself. So what
a killed move had sent and not settled is sent again: the same message, with the same ``message_id`` and, as an AMQP
property, the same key. What is fetched stays unacknowledged on the server until it has arrived elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dramatiq.common import dq_name, q_name

from dramatiq_retryq.clock import Clock
from dramatiq_retryq.errors import ConfigError, MoveRefused, StoreUnavailable
from dramatiq_retryq.journeys import Journey
from dramatiq_retryq.logs import said_by
from dramatiq_retryq.rabbitmq_link import Link

from .ends import NOTE_TTL, ForeignLetters, Parcel, delayed_form, longest_delay_of, plain_form

__all__ = ["RabbitmqEnd"]


class RabbitmqEnd(ForeignLetters):
    """A ``RabbitmqBroker`` as source and target, for these queues."""

    def __init__(self, broker: Any, clock: Clock, queues: Collection[str]) -> None:
        super().__init__(broker)
        self._broker = broker
        self._clock = clock
        self._longest_delay = longest_delay_of(broker)
        self._queues = sorted(queues)
        self.name = f"RabbitMQ at {Link(broker).place}"
        self._connection: Any = None
        #: Each message is confirmed, or all of a batch together.
        self._channel: Any = None
        self._batch: Any = None
        #: The queues of what could not be put anywhere.
        self._returned: list[str] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock is a queue that only this connection may use; the server drops it with the connection."""
        import pika
        import pika.exceptions

        try:
            self._connection = pika.BlockingConnection(parameters=self._broker.parameters)
        except (pika.exceptions.AMQPError, OSError) as error:
            text = f"{self.name} cannot be used: {said_by(error)}: nothing was moved"
            raise StoreUnavailable(text) from error
        try:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
            self._batch, self._returned = self._connection.channel(), []
            self._batch.tx_select()
            self._batch.add_on_return_callback(lambda _, method, *rest: self._returned.append(method.routing_key))
            for queue_name in self._queues or [""]:
                self._lock(f"{queue_name}.move.lock")
            yield
        finally:
            # Closing it gives back what was fetched and not settled. Where the server is gone, so is the connection.
            with suppress(pika.exceptions.AMQPError, OSError):
                self._connection.close()

    def _lock(self, lock: str) -> None:
        import pika.exceptions

        try:
            self._channel.queue_declare(lock, exclusive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            raise MoveRefused(
                f"{self.name}: queue {lock.removesuffix('.move.lock')!r} is at one end of another move: wait until "
                "that has ended"
            ) from error

    # -- Source --------------------------------------------------------------------------------------------------

    def queues(self) -> dict[str, int]:
        if not self._queues:
            raise ConfigError(
                "move: no queue is declared on the RabbitmqBroker, and RabbitMQ cannot be asked for its queues: "
                "declare the actors first, or name the queues with queues=[…]"
            )
        found = {}
        for queue_name in self._queues:
            self._broker.declare_queue(queue_name, ensure=True)
            found[queue_name] = sum(self._size(name) or 0 for name in (queue_name, dq_name(queue_name)))
        return {name: waiting for name, waiting in found.items() if waiting}

    def claimed(self) -> None:
        return None

    def journey(self) -> Journey | None:
        for queue_name in self._queues:
            if not self._size(_note_of(queue_name)):
                continue
            method, _, body = self._channel.basic_get(_note_of(queue_name))
            if method is not None:
                self._channel.basic_nack(method.delivery_tag, requeue=True)
                note = json.loads(body)
                return Journey(name=note["name"], target=note["target"])
        return None

    def begin(self, journey: Journey) -> None:
        body = json.dumps({"name": journey.name, "target": journey.target}).encode()
        for queue_name in self._queues:
            self._channel.queue_declare(_note_of(queue_name), durable=True)
            self._publish(self._channel, _note_of(queue_name), body)

    def on_the_way(self) -> list[Parcel]:
        # What a dead move had fetched is in its queue again, and comes with the mark "redelivered".
        return []

    def take(self, queue_name: str, limit: int) -> list[Parcel]:
        parcels: list[Parcel] = []
        times: Counter[str] = Counter()
        for name in (queue_name, dq_name(queue_name)):
            while len(parcels) < limit:
                method, _, body = self._channel.basic_get(name)
                if method is None:
                    break
                # The message has no id of its own here. Its digest is one, unless it was sent twice on purpose: then
                # the second is another one.
                digest = hashlib.sha256(body).hexdigest()
                times[digest] += 1
                data, eta = plain_form(body)
                parcels.append(
                    Parcel(
                        key=f"{digest}:{times[digest]}",
                        queue_name=queue_name,
                        data=data,
                        due_at=eta,
                        handle=method.delivery_tag,
                    )
                )
        return parcels

    def settle(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._channel.basic_ack(parcel.handle)
        # An answer to this one means that the server has seen those before it.
        self._connection.process_data_events(0)
        self._channel.queue_declare(f"{self._queues[0]}.move.lock", exclusive=True)

    def give_back(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._channel.basic_nack(parcel.handle, requeue=True)

    def end(self) -> None:
        for queue_name in self._queues:
            self._channel.queue_delete(_note_of(queue_name))

    # -- Target --------------------------------------------------------------------------------------------------

    def refuses(self, parcel: Parcel) -> str | None:
        return "it is no message, and would be rejected" if parcel.message_id is None else None

    def expect(self, journey: str) -> None:
        self._channel.queue_declare(_note_of(journey), durable=True, arguments={"x-expires": NOTE_TTL})

    def knows(self, journey: str) -> bool:
        return self._size(_note_of(journey)) is not None

    def put(self, journey: str, parcels: Sequence[Parcel]) -> None:
        now = self._clock.now()
        for queue_name in {parcel.queue_name for parcel in parcels}:
            # Even if it was there once: somebody may have deleted it.
            self._broker.queues_pending.add(queue_name)
            self._broker.declare_queue(queue_name, ensure=True)
        for parcel in parcels:
            queue_name, message = delayed_form(parcel, now=now, longest_delay=self._longest_delay)
            self._publish(
                self._batch,
                queue_name,
                message.encode(),
                message_id=parcel.key,
                priority=message.options.get("broker_priority"),
            )
        # Answered once all of them are safe: one answer for each would take ten times as long.
        self._batch.tx_commit()
        if self._returned:
            raise StoreUnavailable(f"{self.name}: queue {self._returned[0]!r} was deleted meanwhile")

    def arrived(self, journey: str, keys: Collection[str]) -> None:
        return None

    def forget(self, journey: str, keys: Collection[str] | None = None) -> None:
        if keys is None:
            self._channel.queue_delete(_note_of(journey))

    # -- Parts ---------------------------------------------------------------------------------------------------

    def _publish(self, channel: Any, queue_name: str, body: bytes, **properties: Any) -> None:
        import pika

        channel.basic_publish(
            exchange="",
            routing_key=queue_name,
            body=body,
            properties=pika.BasicProperties(delivery_mode=2, **properties),
            mandatory=True,
        )

    def _size(self, queue_name: str) -> int | None:
        """How many messages wait in a queue; ``None`` if there is no such queue."""
        import pika.exceptions

        # A channel of its own: the server closes it where there is no such queue.
        channel = self._connection.channel()
        try:
            return int(channel.queue_declare(queue_name, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker:
            return None
        finally:
            if channel.is_open:
                channel.close()


def _note_of(name: str) -> str:
    """The queue that says that a journey leads from a queue, or to this server."""
    return f"{q_name(name)}.move"
