"""How RabbitMQ is called: channels of the calling thread, confirmed publishing, and clear errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR
from typing import Any, TypeVar

from dramatiq.errors import ConnectionClosed

from ._dramatiq import take_connection
from .errors import StoreUnavailable
from .logs import said_by

__all__ = ["Link", "Unroutable"]

T = TypeVar("T")

#: How long (s) somebody who wants to read dead letters waits for somebody else who does.
_PATIENCE = 30


class _Expected(logging.Filter):
    """Drops what pika logs of an answer that is no fault: there is no such queue, or somebody else holds the lock."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not (".XQ" in text and ("(404)" in text or "(405)" in text))


_expected = _Expected()


class Unroutable(Exception):
    """There is no such queue."""


@contextmanager
def _afterwards(function: Callable[[], object]) -> Iterator[None]:
    """Call a function in the end, unless that is an interrupt: then the connection goes, and cannot be used before."""
    try:
        yield
    except Exception:
        function()
        raise
    function()


class Link:
    """The way to the server of a ``RabbitmqBroker``, over the broker's own connection of each thread.

    Args:
        broker: the ``RabbitmqBroker``.
    """

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._mine = threading.local()
        logging.getLogger("pika.channel").addFilter(_expected)

    def publish(self, exchange: str, routing_key: str, body: bytes, **properties: Any) -> None:
        """Publish a message, and wait until the server has it.

        Raises:
            Unroutable: there is no queue for it.
            StoreUnavailable: the server cannot be used now.
        """
        import pika
        from pika.exceptions import UnroutableError

        described = pika.BasicProperties(delivery_mode=2, **properties)

        def put() -> None:
            try:
                self._confirmed().basic_publish(exchange, routing_key, body, described, mandatory=True)
            except UnroutableError:
                raise Unroutable(routing_key) from None

        self.insist(put)

    def publish_all(self, messages: Sequence[tuple[str, bytes, int | None]]) -> None:
        """Publish many messages and wait once, until the server has all of them: queue, body, priority.

        Raises:
            Unroutable: there is no queue for some; the others were published.
            StoreUnavailable: the server cannot be used now; some may have been published.
        """
        import pika

        def put() -> None:
            channel = self._transactional()
            returned: list[str] = self._mine.returned
            returned.clear()
            for queue, body, priority in messages:
                described = pika.BasicProperties(delivery_mode=2, priority=priority)
                channel.basic_publish("", queue, body, described, mandatory=True)
            channel.tx_commit()
            # What has no queue comes back before the answer, and is handed out here only.
            channel.connection.process_data_events(0)
            if returned:
                raise Unroutable(returned[0])

        self.insist(put)

    def _confirmed(self) -> Any:
        """This thread's channel with publisher confirms; the broker's own need not have them."""
        return self._own("channel", lambda channel: channel.confirm_delivery())

    def _transactional(self) -> Any:
        """This thread's channel with transactions."""

        def prepare(channel: Any) -> None:
            channel.tx_select()
            returned = self._mine.returned = []
            channel.add_on_return_callback(lambda _, method, *rest: returned.append(method.routing_key))

        return self._own("transactional", prepare)

    def _own(self, name: str, prepare: Callable[[Any], object]) -> Any:
        connection = self._broker.connection
        known, channel = self._mine.__dict__.get(name, (None, None))
        if channel is None or known is not connection or not channel.is_open:
            channel = connection.channel()
            prepare(channel)
            self._mine.__dict__[name] = connection, channel
        return channel

    def insist(self, function: Callable[[], T]) -> T:
        """Call a function, a second time over a new connection if the first fails.

        A thread's connection that idled for long is closed by the server, and that is noticed at the next use only.

        Raises:
            StoreUnavailable: the server cannot be used now.
        """
        for is_last in (False, True):
            try:
                with self._clear_errors():
                    return function()
            except StoreUnavailable:
                if is_last:
                    raise
        raise AssertionError

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        from pika.exceptions import AMQPError

        try:
            yield
        # AssertionError: what pika raises when a connection is lost in the midst of some calls.
        except (AMQPError, OSError, AssertionError, ConnectionClosed) as error:
            if isinstance(error, StoreUnavailable):
                raise
            self._drop_connection()
            raise StoreUnavailable(f"RabbitMQ at {self.place} cannot be used: {said_by(error)}") from error
        except Exception:
            raise
        except BaseException:  # Ctrl-C, a time limit
            self._sever_connection()
            raise

    def _drop_connection(self) -> None:
        """Let this thread have another connection at its next use."""
        for _ in range(2):  # a channel that was lost while it was opened makes Dramatiq raise once, and keep the rest
            try:
                del self._broker.connection
                return
            except Exception:
                continue

    def _sever_connection(self) -> None:
        """End this thread's connection without a word.

        Interrupted in the midst of a call, it would wait for ever for the answer to something that was never sent. The
        server drops the locks that it holds, and puts back what it fetched.
        """
        connection = take_connection(self._broker)
        with suppress(Exception):  # pika has no other way to end one without an answer
            sock = connection._impl._transport._sock
            sock.shutdown(SHUT_RDWR)
            sock.close()

    def ensure(self, queue: str) -> None:
        """Make a queue on the server, if this process has not done so.

        Raises:
            StoreUnavailable: the server cannot be used now.
        """

        def declare() -> None:
            try:
                self._broker.declare_queue(queue, ensure=True)
            except KeyError as error:  # by Dramatiq, of a channel that was lost while it was opened
                raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]

        self.insist(declare)

    @property
    def place(self) -> str:
        """Where the server is, for people; without the password."""
        parameters = self._broker.parameters
        many = parameters if isinstance(parameters, (list, tuple)) else [parameters]
        return ", ".join(f"{one.host}:{one.port}{one.virtual_host}" for one in many)

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of its own, closed in the end: what was fetched over it and not acked lies in its old place again.

        Raises:
            StoreUnavailable: the server cannot be used now.
        """
        channel = self.insist(lambda: self._broker.connection.channel())
        with self._clear_errors(), _afterwards(lambda: channel.close() if channel.is_open else None):
            yield channel

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock that the server drops with the connection: an exclusive queue with this name.

        Raises:
            StoreUnavailable: somebody else holds it for long, or the server cannot be used now.
        """
        from pika.exceptions import ChannelClosedByBroker

        pause, waited = 0.005, 0.0
        while True:
            with self.channel() as channel:
                try:
                    channel.queue_declare(name, exclusive=True, auto_delete=True)
                except ChannelClosedByBroker as error:
                    if error.reply_code != 405:  # RESOURCE_LOCKED
                        raise
                else:
                    with _afterwards(lambda: channel.queue_delete(name) if channel.is_open else None):
                        yield
                    return
            if waited >= _PATIENCE:
                raise StoreUnavailable(
                    f"the dead letters at {self.place} have been read by somebody else for {_PATIENCE} s ({name})"
                )
            # Not time.sleep: it answers the server's heartbeats meanwhile.
            with self._clear_errors():
                self._broker.connection.sleep(pause)
            waited, pause = waited + pause, min(pause * 2, 0.1)

    def count(self, queue: str) -> int:
        """How many messages lie in a queue; 0 if there is none of that name."""
        from pika.exceptions import ChannelClosedByBroker

        with self.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).method.message_count)
            except ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                return 0

    def fetch(self, channel: Any, queue: str, limit: int) -> Iterator[tuple[int, Any, bytes]]:
        """What lies in a queue, oldest first, as delivery tag, properties and body; it stays unacked."""
        if limit <= 0:
            return
        fetched = 0
        for method, properties, body in channel.consume(queue, inactivity_timeout=0.5):
            if method is None:
                # Some were taken or are too old by now; or the server is busy.
                if not channel.queue_declare(queue, passive=True).method.message_count:
                    break
                continue
            yield method.delivery_tag, properties, body
            fetched += 1
            if fetched >= limit:
                break
        channel.cancel()
