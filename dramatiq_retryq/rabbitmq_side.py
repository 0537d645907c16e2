"""What is kept beside a ``RabbitmqBroker``: confirmed retries, dead letters, and crash loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from dramatiq import Message, MessageProxy, Worker
from dramatiq.common import current_millis, dq_name, q_name
from dramatiq.worker import ConsumerThread

from ._dramatiq import move_in_batches, plain_message
from .errors import ConfigError, StoreUnavailable
from .logs import log, said_by
from .rabbitmq_letters import RabbitmqShelf, id_of
from .rabbitmq_link import Link, Unroutable
from .shelf import Shelf

__all__ = ["RabbitmqSide"]

#: RabbitMQ closes a consumer's channel when it holds a message for half an hour, and a worker holds delayed ones.
LONGEST_DELAY = 25 * 60_000

#: How long (ms) it is remembered that a run began and did not end.
_RUNS_KEPT = 7 * 86_400_000


class RabbitmqSide:
    """See :class:`~dramatiq_retryq.side.Side`.

    Args:
        broker: the ``RabbitmqBroker``.
    """

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._link = Link(broker)
        self.longest_delay: int | None = LONGEST_DELAY
        self.shelf: Shelf = RabbitmqShelf(broker, self._link, LONGEST_DELAY)

    # -- Retries and letters -------------------------------------------------------------------------------------

    def letter_id(self, message: MessageProxy) -> str:
        return id_of(message)

    def reschedule(self, message: MessageProxy, *, delay: int) -> None:
        queue = target = message.queue_name
        options = dict(message.options)
        if delay > 0:
            target = dq_name(queue)
            options["eta"] = current_millis() + delay
        copy: Message[Any] = plain_message(message)._replace(queue_name=target, options=options)
        for is_last in (False, True):
            self._link.ensure(queue)
            self._broker.emit_before("enqueue", copy, delay or None)
            try:
                # Not over the broker's channel, which confirms only if it was told to: a message that is on its way in
                # some buffer when its original is acked may be lost.
                self._link.publish("", target, copy.encode(), priority=options.get("broker_priority"))
                break
            except Unroutable:  # somebody deleted the queue
                self._broker.queues_pending.add(queue)
                if is_last:
                    raise
        self._broker.emit_after("enqueue", copy, delay or None)

    def attend(self, thread: ConsumerThread) -> None:
        if thread.queue_name != q_name(thread.queue_name):
            move_in_batches(thread, self._move_due)

    def _move_due(self, thread: ConsumerThread, messages: Sequence[MessageProxy]) -> bool:
        """Move what is due to the queue where it is run. Dramatiq waits for each message's confirmation before it sends
        the next, which is what a storm of retries then waits for; or it acks what nobody confirmed."""
        queue, copies = q_name(thread.queue_name), []
        for message in messages:
            copy = plain_message(message).copy(queue_name=queue)
            del copy.options["eta"]
            self._broker.emit_before("enqueue", copy, None)
            copies.append(copy)
        bodies = [(queue, copy.encode(), copy.options.get("broker_priority")) for copy in copies]
        for is_last in (False, True):
            self._link.ensure(queue)
            try:
                self._link.publish_all(bodies)
                break
            except Unroutable:  # all go to one queue, and somebody deleted it
                self._broker.queues_pending.add(queue)
                if is_last:
                    raise
            except StoreUnavailable as error:
                # They stay where they are. If the connection is lost, the consumer notices at its next step.
                log(self._broker.logger, "warning", "%d delayed messages are due: %s.", len(messages), error)
                return False
        for message, copy in zip(messages, copies, strict=True):
            self._broker.emit_after("enqueue", copy, None)
            thread.post_process_message(message)
        return True

    # -- Workers that died ---------------------------------------------------------------------------------------

    def boot(self, worker: Worker) -> None:
        import pika
        from pika.exceptions import AMQPError

        # One that is there already tells it as well, and a new one costs some 20 ms.
        connection = next((one for one in list(self._broker.connections) if one.is_open), None)
        if connection is not None:
            self._check_server(connection)
            return
        try:
            connection = pika.BlockingConnection(self._broker.parameters)
        except (AMQPError, OSError) as error:
            text = "RabbitMQ at %s cannot be used: %s. The worker starts, and waits for it."
            log(self._broker.logger, "warning", text, self._link.place, said_by(error))
            return
        try:
            self._check_server(connection)
        finally:
            connection.close()

    def _check_server(self, connection: Any) -> None:
        if not (connection.publisher_confirms_supported and connection.basic_nack_supported):
            raise ConfigError(
                f"RabbitMQ at {self._link.place} has no publisher confirms or no basic.nack: RetryQueue cannot store a "
                "retry safely; upgrade the server to 3.8 or newer"
            )

    def shut_down(self, worker: Worker) -> None:
        pass

    def may_have_crashed(self, message: MessageProxy) -> bool:
        # Set by the server where a connection ended with the message unacked: a killed worker, a stop with messages
        # prefetched, a restarted server.
        return bool(message.__dict__.get("redelivered"))

    def begin(self, message: MessageProxy) -> int:
        # There is no place for a counter but a queue: a message in it for each run that began.
        name = _runs(message)

        def count() -> int:
            with self._link.channel() as channel:
                lying = channel.queue_declare(name, durable=True, arguments={"x-expires": _RUNS_KEPT})
                runs = self._link.fetch(channel, name, int(lying.method.message_count))
                # A run that was published twice, since the confirmation of the first was lost, counts once.
                return len({properties.message_id for _, properties, _ in runs})

        begun = self._link.insist(count)
        self._link.publish("", name, b"", message_id=str(uuid4()))
        return begun

    def end(self, message: MessageProxy) -> None:
        def forget() -> None:
            with self._link.channel() as channel:
                channel.queue_delete(_runs(message))

        self._link.insist(forget)


def _runs(message: MessageProxy) -> str:
    return f"{message.queue_name}.runs.{message.message_id}"
