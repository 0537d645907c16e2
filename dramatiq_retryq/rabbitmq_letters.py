"""The dead letters of a ``RabbitmqBroker``, in durable queues beside each of its own.

::

    $queue.XQ.letters          an exchange that puts each letter into both of the following
    $queue.XQ.letters          a queue with all of the letters
    $queue.XQ.letters.latest   a queue with the latest of them, so that the first page need not go through all
    $queue.XQ.letters.lock     there while somebody reads: who fetches messages hides them from everybody else

A queue gives its oldest message first and knows no others. So whoever looks takes a lock, fetches what there is without
acking it, and lets go: then it lies there as before, in its old order. What is replayed or discarded is acked, and its
message sent, in one transaction of the channel.

RabbitMQ itself puts a copy of each rejected message into ``$queue.XQ``. A letter's id can be read off that copy too,
so it is listed once, and goes when the letter goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from heapq import merge
from typing import Any

from dramatiq import Message
from dramatiq.common import dq_name, q_name, xq_name

from .errors import LetterNotFound, LetterTooNew, LetterUnreadable, StoreUnavailable
from .hops import reaching
from .rabbitmq_link import Link, Unroutable
from .records import DeadLetter, decode
from .shelf import DueAt, Renew, check_readable, pack, plain_letter, unpack

__all__ = ["RabbitmqShelf", "id_of"]

#: Does something with a letter over a channel; false if it did not.
Use = Callable[[Any, DeadLetter], bool]

#: Makes a letter of a delivery's properties and body, and its queue.
Read = Callable[[Any, bytes, str], DeadLetter]

#: How many letters the second queue keeps.
LATEST = 256

#: How many are replayed in one transaction.
_BATCH = 250


def id_of(message: Any) -> str:
    """The id of a message's letter: of each death of a message another one."""
    replays = message.options.get("replays", 0)
    return f"{message.message_id}.{replays}" if replays else str(message.message_id)


class RabbitmqShelf:
    """See :class:`~dramatiq_retryq.shelf.Shelf`.

    Args:
        broker: the ``RabbitmqBroker``.
        link: the way to its server.
        longest_delay: what is due later is reached in hops.
    """

    def __init__(self, broker: Any, link: Link, longest_delay: int) -> None:
        from dramatiq.brokers.rabbitmq import DEAD_MESSAGE_TTL

        self._broker = broker
        self._link = link
        self._longest_delay = longest_delay
        #: How long (ms) letters are kept.
        self.max_age: int | None = DEAD_MESSAGE_TTL
        self._declared: set[str] = set()

    # -- Laying down ---------------------------------------------------------------------------------------------

    def add(self, letter: DeadLetter) -> None:
        name = _letters(letter.queue_name)
        for is_last in (False, True):
            self._declare(name)
            try:
                self._link.publish(
                    name,
                    letter.queue_name,
                    pack(letter),
                    message_id=letter.id,
                    content_type="application/json",
                    expiration=str(self.max_age) if self.max_age is not None else None,
                )
                return
            except Unroutable:  # somebody deleted the queues
                self._declared.discard(name)
                if is_last:
                    raise

    def _declare(self, name: str) -> None:
        if name in self._declared:
            return

        def declare() -> None:
            channel = self._broker.connection.channel()
            channel.exchange_declare(name, exchange_type="fanout", durable=True)
            channel.queue_declare(name, durable=True)
            channel.queue_declare(_latest(name), durable=True, arguments={"x-max-length": LATEST})
            for queue in (name, _latest(name)):
                channel.queue_bind(queue, name)
            channel.close()

        self._link.insist(declare)
        self._declared.add(name)

    # -- Looking -------------------------------------------------------------------------------------------------

    def letters(self, queue: str | None = None) -> Iterator[DeadLetter]:
        queues = [self._of_queue(name) for name in self._queues(queue)]
        return merge(*queues, key=lambda letter: -letter.died_at)

    def _queues(self, queue: str | None = None) -> list[str]:
        return [q_name(queue)] if queue is not None else sorted(self._broker.get_declared_queues())

    def _of_queue(self, queue: str) -> Iterator[DeadLetter]:
        name = _letters(queue)
        latest = {letter.id: letter for letter in self._read(queue, _latest(name))}
        yield from _newest_first(latest)
        known = set(latest)
        if self._link.count(name) > len(latest):
            rest = {letter.id: letter for letter in self._read(queue, name) if letter.id not in latest}
            yield from _newest_first(rest)
            known |= rest.keys()
        if self._link.count(xq_name(queue)):
            plain = {letter.id: letter for letter in self._read_plain(queue) if letter.id not in known}
            yield from _newest_first(plain)

    def _read(self, queue: str, name: str) -> list[DeadLetter]:
        with self._browsing(queue) as channel:
            fetched = self._link.fetch(channel, name, self._link.count(name))
            return [_unpacked(properties, body, queue) for _, properties, body in fetched]

    def _read_plain(self, queue: str) -> list[DeadLetter]:
        with self._browsing(queue) as channel:
            xq = xq_name(queue)
            fetched = self._link.fetch(channel, xq, self._link.count(xq))
            return [_plain(properties, body, queue) for _, properties, body in fetched]

    @contextmanager
    def _browsing(self, queue: str) -> Iterator[Any]:
        """A channel for looking at the letters of a queue, while nobody else does."""
        name = _letters(queue)
        with self._link.lock(f"{name}.lock"), self._link.channel() as channel:
            yield channel
            channel.basic_nack(0, multiple=True, requeue=True)
            # An answer comes after what was asked before: now all of it lies in its old place, and the next one may
            # look. Merely closed, a channel leaves the queue short for some ms.
            channel.basic_qos(prefetch_count=0)

    def letter(self, letter_id: str) -> DeadLetter:
        for queue in self._queues():
            for name in (_latest(_letters(queue)), _letters(queue)):
                for letter in self._read(queue, name):
                    if letter.id == letter_id:
                        return letter
            for letter in self._read_plain(queue):
                if letter.id == letter_id:
                    return letter
        raise LetterNotFound(letter_id)

    def count(self, *, now: int) -> int:
        # By id: one whose confirmation was lost lies there twice, and so does one that was run twice.
        counted = 0
        for queue in self._queues():
            names = [name for name in (_letters(queue), xq_name(queue)) if self._link.count(name)]
            counted += len(set[str]().union(*(self._ids(queue, name) for name in names)))
        return counted

    def _ids(self, queue: str, name: str) -> set[str]:
        with self._browsing(queue) as channel:
            fetched = self._link.fetch(channel, name, self._link.count(name))
            return {_id_of_delivery(properties, body) for _, properties, body in fetched}

    # -- Taking away ---------------------------------------------------------------------------------------------

    def revive(self, wanted: Sequence[DeadLetter], renew: Renew, *, due_at: DueAt, now: int) -> Sequence[str]:
        revived: list[str] = []

        def send(channel: Any, letter: DeadLetter) -> bool:
            try:
                check_readable(letter)
            except (LetterTooNew, LetterUnreadable):
                if len(wanted) == 1:
                    raise
                return False
            self._send(channel, letter, renew(letter), due_at(len(revived)), now)
            revived.append(letter.id)
            return True

        for queue in dict.fromkeys(letter.queue_name for letter in wanted):
            # A queue that nobody declared here is made, or what is sent to it would be lost.
            self._link.ensure(queue)
            self._take(queue, [letter.id for letter in wanted if letter.queue_name == queue], send)
        return revived

    def _send(self, channel: Any, letter: DeadLetter, message: Message[Any] | None, due_at: int, now: int) -> None:
        import pika

        queue, data, priority = letter.queue_name, letter.data, None
        if message is not None:
            options = dict(message.options)
            priority = options.get("broker_priority")
            if due_at > now:
                queue = dq_name(queue)
                options.update(reaching(due_at, now, self._longest_delay))
            data = message._replace(queue_name=queue, options=options).encode()
        channel.basic_publish("", queue, data, pika.BasicProperties(delivery_mode=2, priority=priority))

    def discard(self, letter_ids: Sequence[str]) -> int:
        discarded = 0
        left = list(letter_ids)
        for queue in self._queues():
            if left:
                gone = self._take(queue, left, lambda channel, letter: True)
                discarded += len(gone)
                left = [letter_id for letter_id in left if letter_id not in gone]
        return discarded

    def _take(self, queue: str, letter_ids: Sequence[str], use: Use) -> set[str]:
        """Take letters away, and in the same transaction do with each what ``use`` does, unless that returns false."""
        name, xq, taken, is_done = _letters(queue), xq_name(queue), set[str](), False
        try:
            with (
                self._link.lock(f"{name}.lock"),
                self._link.channel() as channel,
                self._link.channel() as copies_channel,
            ):
                letters = self._fetch(channel, name, queue, _unpacked)
                wanted = dict.fromkeys(letter_ids)
                lying = [id for id in wanted if id in letters.tags]
                plain = wanted.keys() - letters.tags.keys()
                # In the same transaction as the letters: broken off in between, one would be listed that is gone.
                self._fetch_into(letters, _latest(name))
                copies = self._fetch(copies_channel, xq, queue, _plain)
                # First the copies that RabbitMQ made: broken off in between, each letter is there once.
                copies.settle(id for id in lying if id in copies.tags)
                letters.take(lying, use, taken)
                copies.take([id for id in wanted if id in plain and id in copies.tags], use, taken)
                is_done = True
                for fetched in (letters, copies):
                    fetched.put_back()
        except StoreUnavailable:
            # What was fetched and not used lies in its old place, now that the connection is gone.
            if not is_done:
                raise
        return taken

    def _fetch(self, channel: Any, name: str, queue: str, read: Read) -> _Fetched:
        channel.tx_select()
        fetched = _Fetched(channel, queue, read)
        self._fetch_into(fetched, name)
        return fetched

    def _fetch_into(self, fetched: _Fetched, name: str) -> None:
        for tag, properties, body in self._link.fetch(fetched.channel, name, self._link.count(name)):
            fetched.add(tag, properties, body)


class _Fetched:
    """What was fetched over a channel with transactions, and is not acked yet."""

    def __init__(self, channel: Any, queue: str, read: Read) -> None:
        self.channel = channel
        self._queue = queue
        self._read = read
        self._raw: dict[str, tuple[Any, bytes]] = {}
        #: By letter; one that lies in two queues, or was doubled, has two of them.
        self.tags: dict[str, list[int]] = {}
        self._left: set[int] = set()

    def add(self, tag: int, properties: Any, body: bytes) -> None:
        letter_id = _id_of_delivery(properties, body)
        self._raw[letter_id] = properties, body
        self.tags.setdefault(letter_id, []).append(tag)
        self._left.add(tag)

    def take(self, letter_ids: Sequence[str], use: Use, taken: set[str]) -> None:
        """Use letters one after the other; each is gone as soon as its use is committed."""
        for start in range(0, len(letter_ids), _BATCH):
            batch = letter_ids[start : start + _BATCH]
            used = [id for id in batch if use(self.channel, self._read(*self._raw[id], self._queue))]
            self.settle(used)
            taken.update(used)

    def settle(self, letter_ids: Iterable[str]) -> None:
        """Ack what belongs to these letters, and commit."""
        tags = {tag for letter_id in letter_ids for tag in self.tags[letter_id]}
        self._left -= tags
        if tags and (not self._left or max(tags) < min(self._left)):
            self.channel.basic_ack(max(tags), multiple=True)  # ten thousand single ones take two seconds
        else:
            for tag in tags:
                self.channel.basic_ack(tag)
        self.channel.tx_commit()

    def put_back(self) -> None:
        if self._left:
            self.channel.basic_nack(0, multiple=True, requeue=True)
        self.channel.tx_commit()


def _letters(queue: str) -> str:
    return f"{xq_name(queue)}.letters"


def _latest(name: str) -> str:
    return f"{name}.latest"


def _newest_first(letters: dict[str, DeadLetter]) -> list[DeadLetter]:
    # Of those of one millisecond the one that was laid down last comes first.
    return sorted(letters.values(), key=lambda letter: letter.died_at)[::-1]


def _unpacked(properties: Any, body: bytes, queue: str) -> DeadLetter:
    return unpack(body, letter_id=_id_of_delivery(properties, body), queue_name=queue)


def _plain(properties: Any, body: bytes, queue: str) -> DeadLetter:
    # RabbitMQ tells the time of death in seconds.
    deaths = (properties.headers or {}).get("x-death") or [{}]
    died_at = deaths[0].get("time")
    instant = int(died_at.timestamp() * 1000) if hasattr(died_at, "timestamp") else 0
    return plain_letter(body, letter_id=_id_of_delivery(properties, body), queue_name=queue, died_at=instant)


def _id_of_delivery(properties: Any, body: bytes) -> str:
    """A letter has its id on the outside; in RabbitMQ's own copy of a message it must be looked for."""
    if properties.message_id:
        return str(properties.message_id)
    try:
        return id_of(decode(body))
    except Exception:
        return blake2b(body, digest_size=12).hexdigest()
