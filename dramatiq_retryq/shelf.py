"""Where dead letters lie, and the form in which they lie there.

:class:`~dramatiq_retryq.dead_letters.DeadLetters` is the same on every broker; what differs is its shelf: the store
of this package's own brokers, keys in Redis, queues in RabbitMQ, a list in a ``StubBroker``.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from dramatiq import Message

from .due import LAST_INSTANT
from .errors import LetterNotFound, LetterTooNew, LetterUnreadable
from .records import DeadLetter, ErrorInfo, decode, known_reason
from .store import Store

__all__ = [
    "LETTER_VERSION",
    "DueAt",
    "Renew",
    "Shelf",
    "StoreShelf",
    "check_readable",
    "pack",
    "plain_letter",
    "unpack",
]

#: The form in which a letter is written on other people's servers.
LETTER_VERSION = 1
#: In place of a version: nobody can read what was written, or not the message in it.
_TORN = 0

#: Gives the message that is sent again for a letter, as the letter lies there at that moment; ``None`` where the
#: payload cannot be decoded and goes back as it is.
Renew = Callable[[DeadLetter], "Message[Any] | None"]

#: Gives the instant at which the letter with this number, from 0, is due.
DueAt = Callable[[int], int]


class Shelf(Protocol):
    """A place for dead letters."""

    #: How long (ms) letters are kept; ``None`` where that is not for the shelf to say.
    max_age: int | None

    def add(self, letter: DeadLetter) -> None:
        """Lay a letter down. The same letter twice is there once.

        Raises:
            StoreUnavailable: the server cannot be used now.
        """

    def letters(self, queue: str | None = None) -> Iterator[DeadLetter]:
        """The letters, newest first; only those of one queue, if it is named."""

    def letter(self, letter_id: str) -> DeadLetter:
        """One letter.

        Raises:
            LetterNotFound: it does not lie there (any more).
        """

    def revive(self, wanted: Sequence[DeadLetter], renew: Renew, *, due_at: DueAt, now: int) -> Sequence[str]:
        """Send letters again. Each letter is taken away and its message is there in one move, so that of several
        callers one revives it.

        Args:
            wanted: the letters, in this order.
            renew: gives the message that is sent for a letter.
            due_at: when the first, second, … of those that are revived is due.
            now: the present instant.

        Returns:
            The ids of the letters that this call revived.

        Raises:
            LetterTooNew: one letter is wanted, and a newer version of this package wrote it. Among many it is left out.
            LetterUnreadable: likewise, and it is torn.
        """

    def discard(self, letter_ids: Sequence[str]) -> int:
        """Drop letters for good. Returns how many of them this call dropped."""

    def count(self, *, now: int) -> int:
        """How many letters lie there."""


class StoreShelf:
    """The dead of a :class:`~dramatiq_retryq.store.Store`.

    Args:
        store: where they lie.
        wake: is told the queue and the due instant of what was revived.
    """

    max_age: int | None = None

    def __init__(self, store: Store, wake: Callable[[str, int], None]) -> None:
        self._store = store
        self._wake = wake

    def add(self, letter: DeadLetter) -> None:
        raise NotImplementedError("a store lays a letter down where the message was: see Store.bury")

    def letters(self, queue: str | None = None) -> Iterator[DeadLetter]:
        for letter in self._store.letters():
            if queue is None or letter.queue_name == queue:
                yield letter

    def letter(self, letter_id: str) -> DeadLetter:
        return self._store.letter(letter_id)

    def revive(self, wanted: Sequence[DeadLetter], renew: Renew, *, due_at: DueAt, now: int) -> Sequence[str]:
        revived: list[str] = []
        for letter in wanted:
            try:
                # As it lies there now: the one in hand may be from before the last replay, and its history shorter.
                lying = self._store.letter(letter.id)
                if lying.message_id != letter.message_id:
                    continue
                message = renew(lying)
                data = lying.data if message is None else message.encode()
                instant = due_at(len(revived))
                self._store.revive(lying.id, data=data, due_at=instant, now=now)
            except LetterNotFound:
                continue
            self._wake(lying.queue_name, instant)
            revived.append(lying.id)
        return revived

    def discard(self, letter_ids: Sequence[str]) -> int:
        discarded = 0
        for letter_id in letter_ids:
            try:
                self._store.discard(letter_id)
            except LetterNotFound:
                continue
            discarded += 1
        return discarded

    def count(self, *, now: int) -> int:
        return sum(count.dead for count in self._store.counts(now=now).values())


def pack(letter: DeadLetter) -> bytes:
    """A letter as bytes for a server that other versions of this package may read."""
    fields = {
        "version": LETTER_VERSION,
        "id": letter.id,
        "reason": letter.reason,
        "queue_name": letter.queue_name,
        "actor_name": letter.actor_name,
        "died_at": letter.died_at,
        "error": dataclasses.asdict(letter.error) if letter.error is not None else None,
        "traceback": letter.traceback,
        # Whatever encoder made it: pickled messages are not text.
        "data": base64.b64encode(letter.data).decode("ascii"),
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def unpack(data: bytes | str, *, letter_id: str = "", queue_name: str = "", died_at: int = 0) -> DeadLetter:
    """The letter that :func:`pack` made of one, by this version of the package or another. Never raises.

    What a newer version wrote has ``version`` set, and of its fields those that are understood. What cannot be read at
    all is a letter too, reason ``undecodable``, so that it is seen.

    Args:
        data: what lies on the server.
        letter_id: the id under which it lies there, whatever the data says.
        queue_name: the queue, where the data does not say it.
        died_at: the instant, likewise.
    """
    raw = data.encode() if isinstance(data, str) else bytes(data)
    try:
        fields = json.loads(raw)
        version = fields["version"]
        if not isinstance(version, int):
            raise TypeError(version)
    except Exception:
        return DeadLetter(
            id=letter_id,
            reason="undecodable",
            queue_name=queue_name,
            actor_name=None,
            died_at=died_at,
            error=ErrorInfo(type="Undecodable", message="what lies here is no letter of dramatiq_retryq"),
            data=raw,
            version=_TORN,
        )
    queue = _name(fields.get("queue_name")) or queue_name
    try:
        payload = base64.b64decode(fields["data"], validate=True)
    except Exception:
        payload, version = raw, _TORN
    return DeadLetter(
        id=letter_id or _name(fields.get("id")) or "",
        reason=known_reason(fields.get("reason")),
        queue_name=queue,
        actor_name=_text(fields.get("actor_name")),
        died_at=_died_at(fields.get("died_at"), died_at),
        error=_error(fields.get("error")),
        traceback=_text(fields.get("traceback")),
        data=payload,
        # Without a queue it can be sent nowhere.
        version=version if queue else _TORN,
    )


def plain_letter(data: bytes, *, letter_id: str, queue_name: str, died_at: int) -> DeadLetter:
    """A message in the broker's own dead-letter queue, as far as it can tell.

    That is the message as it was before its last attempt: who rejected it and why was not kept, and the error is the
    one of the attempt before.
    """
    raw = data.encode() if isinstance(data, str) else bytes(data)
    try:
        message = decode(raw)
    except Exception as error:
        return DeadLetter(
            id=letter_id,
            reason="undecodable",
            queue_name=queue_name,
            actor_name=None,
            died_at=died_at,
            error=ErrorInfo(type=type(error).__name__, message="the payload is no message"),
            data=raw,
        )
    traceback = _text(message.options.get("traceback"))
    return DeadLetter(
        id=letter_id,
        reason="rejected",
        queue_name=queue_name,
        actor_name=message.actor_name,
        died_at=died_at,
        error=_last_line(traceback),
        traceback=traceback,
        data=raw,
    )


def check_readable(letter: DeadLetter) -> None:
    """
    Raises:
        LetterTooNew: a newer version of this package wrote the letter.
        LetterUnreadable: there is no message in it.
    """
    if letter.version == _TORN:
        raise LetterUnreadable(letter.id)
    if letter.version > LETTER_VERSION:
        raise LetterTooNew(letter.id, letter.version, LETTER_VERSION)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _name(value: object) -> str | None:
    """A text that can be a name on a server: half of a surrogate pair cannot be sent there."""
    try:
        return value if isinstance(value, str) and value.encode() else None
    except UnicodeEncodeError:
        return None


def _died_at(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and abs(value) < LAST_INSTANT else otherwise


def _error(fields: object) -> ErrorInfo | None:
    if not isinstance(fields, Mapping):
        return None
    return ErrorInfo(
        type=str(fields.get("type")), message=str(fields.get("message", "")), place=str(fields.get("place", ""))
    )


def _last_line(traceback: str | None) -> ErrorInfo | None:
    lines = (traceback or "").strip().splitlines()
    if not lines:
        return None
    name, _, text = lines[-1].partition(": ")
    return ErrorInfo(type=name.rpartition(".")[2][:100], message=text[:500])
