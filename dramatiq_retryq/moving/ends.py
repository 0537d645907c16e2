"""What a move wants of the two brokers that it leads from and to, and what passes between them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from dramatiq import Broker, Message
from dramatiq.common import dq_name, q_name

from dramatiq_retryq.hops import HOP_OPTION, REDELIVERED_OPTION, reaching
from dramatiq_retryq.journeys import Journey
from dramatiq_retryq.middleware import RetryQueue
from dramatiq_retryq.records import DeadLetter, decode
from dramatiq_retryq.side import side_of

__all__ = ["ForeignLetters", "NOTE_TTL", "Parcel", "Source", "Target", "delayed_form", "longest_delay_of", "plain_form"]

#: How long (ms) a server keeps the note of a journey of which nothing more is heard: 30 days. One that was killed as it
#: began leaves such a note, and nobody will ever ask for it.
NOTE_TTL = 30 * 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A message on its way."""

    #: Tells it from all others that leave the same broker; the same whenever it is taken again.
    key: str
    #: The queue's own name, never that of a delay queue.
    queue_name: str
    #: The message as the brokers of this package store it, without an eta.
    data: bytes
    #: When it is due, in ms since the epoch; ``None`` for now.
    due_at: int | None
    #: What the source needs to settle it.
    handle: Any = field(repr=False)

    @property
    def message_id(self) -> str | None:
        """The message's own id; ``None`` if the payload is no message."""
        try:
            return decode(self.data).message_id
        except Exception:
            return None


class Source(Protocol):
    """A broker that messages leave."""

    #: For people: where it is, without secrets.
    name: str

    def held(self) -> AbstractContextManager[None]:
        """Keep other moves away while the block lasts.

        Raises:
            MoveRefused: another move is under way.
            StoreUnavailable: it cannot be used.
        """

    def queues(self) -> dict[str, int]:
        """How many messages wait, by queue."""

    def claimed(self) -> int | None:
        """How many messages workers hold; ``None`` where that cannot be known."""

    def journey(self) -> Journey | None:
        """The move that leads away from here and has not ended."""

    def begin(self, journey: Journey) -> None:
        """Note that a move has begun."""

    def on_the_way(self) -> Sequence[Parcel]:
        """What was taken by an earlier call and not settled."""

    def take(self, queue_name: str, limit: int) -> Sequence[Parcel]:
        """Waiting → on the way: no worker gets it any more."""

    def settle(self, parcels: Sequence[Parcel]) -> None:
        """On the way → gone."""

    def give_back(self, parcels: Sequence[Parcel]) -> None:
        """On the way → waiting."""

    def letters(self) -> Iterable[DeadLetter]:
        """The dead letters, newest first."""

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        """Dead → gone."""

    def end(self) -> None:
        """Note that the move has ended."""


class Target(Protocol):
    """A broker that messages come to."""

    #: For people: where it is, without secrets.
    name: str

    def held(self) -> AbstractContextManager[None]:
        """As at the source."""

    def refuses(self, parcel: Parcel) -> str | None:
        """Why this message cannot lie here, if so."""

    def expect(self, journey: str) -> None:
        """Note that a move leads here."""

    def knows(self, journey: str) -> bool:
        """Whether that move leads here."""

    def put(self, journey: str, parcels: Sequence[Parcel]) -> None:
        """Nothing → waiting, once for each key of a journey where the broker lets us."""

    def lay(self, journey: str, letters: Sequence[DeadLetter]) -> None:
        """Nothing → dead. The same letter twice is there once, as long as it lies there."""

    def arrived(self, journey: str, keys: Collection[str]) -> set[str] | None:
        """Which of these have come over; ``None`` where that cannot be known."""

    def forget(self, journey: str, keys: Collection[str] | None = None) -> None:
        """Take back the notes of these keys, or of the whole journey."""


def plain_form(data: bytes) -> tuple[bytes, int | None]:
    """A payload of Dramatiq's own brokers as ours store it, and its eta. What is no message stays as it is."""
    try:
        message = decode(data)
    except Exception:
        return data, None
    options = dict(message.options)
    # An id of the copy that lay in Redis, not of the message.
    options.pop("redis_message_id", None)
    # Deaths of workers are counted anew by the other broker.
    options.pop(REDELIVERED_OPTION, None)
    eta = options.pop("eta", None)
    # A hop on the way to what is too far off for that broker.
    eta = options.pop(HOP_OPTION, eta)
    message = message._replace(queue_name=q_name(message.queue_name), options=options)
    return message.encode(), int(eta) if isinstance(eta, (int, float)) else None


def delayed_form(parcel: Parcel, *, now: int, longest_delay: int | None, **options: Any) -> tuple[str, Message[Any]]:
    """The queue and the message as Dramatiq's own brokers want them: if it must wait, a delay queue and an eta."""
    message = decode(parcel.data)
    queue_name, options = parcel.queue_name, {**message.options, **options}
    if parcel.due_at is not None and parcel.due_at > now:
        queue_name = dq_name(queue_name)
        options.update(reaching(parcel.due_at, now, longest_delay))
    return queue_name, message._replace(queue_name=queue_name, options=options)


def longest_delay_of(broker: Broker) -> int | None:
    """The longest delay (ms) to ask of a broker, where ``RetryQueue`` is there to put the message off again."""
    if any(isinstance(middleware, RetryQueue) for middleware in broker.middleware):
        return side_of(broker).longest_delay
    return None


class ForeignLetters:
    """The dead letters of a ``RedisBroker`` or ``RabbitmqBroker`` at one end of a move."""

    def __init__(self, broker: Broker) -> None:
        self._shelf = side_of(broker).shelf

    def letters(self) -> Iterable[DeadLetter]:
        for letter in self._shelf.letters():
            yield replace(letter, data=plain_form(letter.data)[0])

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        self._shelf.discard([letter.id for letter in letters])

    def lay(self, journey: str, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            # An id of its own, the same whenever it is laid down: those of two files may be alike.
            letter_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{journey} letter {letter.id}"))
            self._shelf.add(replace(letter, id=letter_id))
