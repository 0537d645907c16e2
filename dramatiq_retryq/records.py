"""The values that pass between the parts. All are immutable.

A stored message is called an *entry*; it is in one of three states, ``waiting``, ``claimed`` or ``dead``.
A finished message is gone. "Due" and "retrying" are no states but comparisons (``due_at <= now``,
``retries > 0``), so nothing has to move a message from one to the other.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from dramatiq import Message

__all__ = [
    "REASONS",
    "Attempt",
    "Claim",
    "CurrentAttempt",
    "DeadLetter",
    "Decision",
    "Die",
    "Entry",
    "ErrorInfo",
    "QueueCounts",
    "Reason",
    "RetryIn",
    "State",
    "Whereabouts",
    "decode",
    "entry_number",
    "is_message",
    "known_reason",
    "read_attempts",
    "spellings",
]

State = Literal["waiting", "claimed", "dead"]

#: Why a message died. ``exhausted``: no attempt left. ``rejected``: an actor raised ``GiveUp`` or one of
#: its ``throws``, or a middleware failed the message. ``expired``: ``max_age`` is over, or would be before
#: the next attempt. ``unknown_actor``: no actor of that name. ``undecodable``: the payload is no message.
#: ``crashed``: its workers kept dying. ``unschedulable``: the retry could not be stored.
Reason = Literal["exhausted", "rejected", "expired", "unknown_actor", "undecodable", "crashed", "unschedulable"]

REASONS: tuple[Reason, ...] = (
    "exhausted",
    "rejected",
    "expired",
    "unknown_actor",
    "undecodable",
    "crashed",
    "unschedulable",
)


def known_reason(value: object) -> Reason:
    """What is stored as a reason; ``rejected`` for one that this version does not know, or that is torn."""
    return next((reason for reason in REASONS if reason == value), "rejected")


# A NamedTuple where the rest are dataclasses: one is made for every delivery, and a frozen
# dataclass takes four times as long to make.
class Claim(NamedTuple):
    """The right to decide what becomes of an entry, held from ``claim`` until one move settles it."""

    id: int
    queue_name: str
    data: bytes
    due_at: int
    #: How often the entry was handed out since its last recorded outcome, this time included.
    deliveries: int
    claimed_at: int
    #: Who holds it, for people: ``host:pid``.
    owner: str
    #: Tells this claim from every other one of the same entry.
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a store knows of one message, for those who look (never on the message's own way)."""

    id: int
    queue_name: str
    state: State
    data: bytes
    due_at: int
    deliveries: int
    claimed_at: int | None = None
    owner: str | None = None
    #: The actor for whose pause it was set aside, while it waits.
    held_for: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """How many messages of one queue are in which state."""

    due: int = 0
    later: int = 0
    claimed: int = 0
    dead: int = 0
    #: How many of those that wait, due or later, were set aside because their actor is paused.
    held: int = 0
    #: The due instant of the entry that has waited longest, in ms since the epoch, or ``None``.
    oldest_due_at: int | None = None

    @property
    def waiting(self) -> int:
        return self.due + self.later


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where a message is now. ``state`` is ``unknown`` for one that is finished or never was."""

    message_id: str
    state: Literal["waiting", "claimed", "dead", "unknown"]
    queue_name: str | None = None
    actor_name: str | None = None
    retries: int = 0
    due_at: int | None = None
    claimed_at: int | None = None
    claimed_by: str | None = None
    reason: Reason | None = None
    letter_id: str | None = None

    @classmethod
    def of(cls, message_id: str, found: Entry | DeadLetter | None) -> Whereabouts:
        """Where the message is, by what was found of it."""
        if found is None:
            return cls(message_id=message_id, state="unknown")
        message = Message.decode(found.data)
        retries = message.options.get("retries", 0)
        if isinstance(found, DeadLetter):
            return cls(
                message_id=message_id,
                state="dead",
                queue_name=found.queue_name,
                actor_name=found.actor_name,
                retries=retries,
                reason=found.reason,
                letter_id=found.id,
            )
        return cls(
            message_id=message_id,
            state=found.state,
            queue_name=found.queue_name,
            actor_name=message.actor_name,
            retries=retries,
            due_at=found.due_at,
            claimed_at=found.claimed_at,
            claimed_by=found.owner,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """An exception, as far as it is kept."""

    #: The class's name, without its module.
    type: str
    #: Its text, repaired and cut; see :mod:`dramatiq_retryq.history`.
    message: str
    #: The innermost frame, as ``file.py:12 in function``; empty where there was no traceback.
    place: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt that failed.

    Attributes:
        n: 1 for the first; goes on counting through replays.
        started_at: ms since the epoch.
        duration: milliseconds.
        error: the name of the exception's class.
        message: its text.
        place: where it was raised.
        delay: milliseconds until the next attempt was due; ``None`` if there was none.
        worker: ``host:pid`` of the process that ran it.
    """

    n: int
    started_at: int
    duration: int
    error: str
    message: str
    place: str = ""
    delay: int | None = None
    worker: str = ""

    def asdict(self) -> dict[str, Any]:
        # Not dataclasses.asdict, which copies deeply: that was a tenth of what a retry costs.
        return {
            "n": self.n,
            "started_at": self.started_at,
            "duration": self.duration,
            "error": self.error,
            "message": self.message,
            "place": self.place,
            "delay": self.delay,
            "worker": self.worker,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentAttempt:
    """The attempt that is running now.

    Attributes:
        number: 1 for the first attempt (after a replay it starts again at 1).
        limit: how many attempts there may be; ``None`` if there is no fixed number, because
            ``max_retries`` is ``None`` or a ``retry_when`` decides.
        previous: the attempts that failed so far, as far as the history keeps them.
        first_started_at: when the first attempt started, in ms since the epoch.
    """

    number: int
    limit: int | None
    previous: tuple[Attempt, ...]
    first_started_at: int

    @property
    def is_last(self) -> bool:
        """Whether a failure now would be the end: no retry is left."""
        return self.limit is not None and self.number >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryIn:
    """Decision: wait, then run again.

    Attributes:
        delay: milliseconds from now.
        uses_attempt: ``False`` for a snooze and for a worker's shutdown.
        problem: what went wrong while deciding (a policy that raised), to be reported.
    """

    delay: int
    uses_attempt: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Die:
    """Decision: no further attempt."""

    reason: Reason
    problem: str | None = None


Decision = RetryIn | Die


def read_attempts(options: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """The attempts in a message's options. What cannot be read, because someone else wrote it, is left out."""
    found = []
    written = options.get("attempts")
    for fields in written if isinstance(written, (list, tuple)) else ():
        try:
            attempt = Attempt(**{name: fields[name] for name in _ATTEMPT_FIELDS if name in fields})
        except (TypeError, KeyError):
            continue
        numbers = (attempt.n, attempt.started_at, attempt.duration, attempt.delay or 0)
        texts = (attempt.error, attempt.message, attempt.place, attempt.worker)
        if all(isinstance(number, int) for number in numbers) and all(isinstance(text, str) for text in texts):
            found.append(attempt)
    return tuple(found)


def decode(data: bytes) -> Message[Any]:
    """The message that a payload holds.

    Raises:
        DecodeError: the encoder refuses it.
        TypeError: it decodes to something that no worker could handle.
    """
    message: Message[Any] = Message.decode(data)
    if not (
        isinstance(message.options, dict)
        and isinstance(message.kwargs, dict)
        and isinstance(message.actor_name, str)
        and isinstance(message.message_id, str)
    ):
        raise TypeError("a field of the message has the wrong type")
    return message


def spellings(message_id: str) -> tuple[bytes, ...]:
    """How a payload may have a message's id in it: as it is, or as JSON writes quotes and other scripts."""
    plain = message_id.encode("utf-8", "surrogatepass")
    escaped = json.dumps(message_id)[1:-1].encode()
    return (plain,) if plain == escaped else (plain, escaped)


def is_message(data: bytes, message_id: str) -> bool:
    """Whether a payload holds the message with this id, for those who look through many."""
    # The bytes first: decoding a million payloads takes seconds. They may hold the id of another message, as a
    # pipeline's do, and so the decoded message has the last word.
    if not any(spelling in data for spelling in spellings(message_id)):
        return False
    try:
        return Message.decode(data).message_id == message_id
    except Exception:
        return False


def entry_number(text: str) -> int | None:
    """The number that the id of an entry or a letter stands for; ``None`` for what is none."""
    # As it was written and no other spelling, nor more than SQLite can count.
    return min(int(text), (1 << 63) - 1) if re.fullmatch(r"[1-9][0-9]{0,18}", text, re.ASCII) else None


_ATTEMPT_FIELDS = tuple(field.name for field in dataclasses.fields(Attempt))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that will not be attempted again, with all that is needed to see why and to run it again.

    Attributes:
        id: what ``get``, ``replay`` and ``discard`` take.
        reason: see :data:`REASONS`.
        queue_name: the queue it lay in.
        actor_name: the actor it was for; ``None`` if the payload cannot be decoded.
        error: the last error; ``None`` where there was none.
        traceback: the last error's traceback as text, formatted once, at death.
        died_at: ms since the epoch.
        data: the encoded message, attempts and all.
        version: the form it was stored in, on a server that newer versions of this package may use too.
    """

    id: str
    reason: Reason
    queue_name: str
    actor_name: str | None
    died_at: int
    error: ErrorInfo | None = None
    traceback: str | None = dataclasses.field(default=None, repr=False)
    data: bytes = dataclasses.field(repr=False)
    version: int = dataclasses.field(default=1, repr=False)

    @property
    def message(self) -> Message[Any] | None:
        """The message as it was when it died; ``None`` if the payload cannot be decoded."""
        try:
            return decode(self.data)
        except Exception:
            return None

    @property
    def message_id(self) -> str | None:
        """The message's own id, the same through all its retries and replays."""
        message = self.message
        return message.message_id if message is not None else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The failed attempts, oldest first, as far as the history keeps them."""
        message = self.message
        return read_attempts(message.options) if message is not None else ()

    @property
    def replays(self) -> int:
        """How often the message was brought back from the dead before it died this time."""
        message = self.message
        replays = message.options.get("replays", 0) if message is not None else 0
        return replays if isinstance(replays, int) else 0

    def asdict(self) -> dict[str, Any]:
        """The letter as one dict of plain values: what a dead-letter actor is sent.

        ``message`` is the message as a dict; for one that cannot be decoded it is ``None`` and
        ``data`` has the payload in base64.
        """
        message = self.message
        return {
            "id": self.id,
            "reason": self.reason,
            "queue_name": self.queue_name,
            "actor_name": self.actor_name,
            "died_at": self.died_at,
            "error": dataclasses.asdict(self.error) if self.error is not None else None,
            "traceback": self.traceback,
            "attempts": [attempt.asdict() for attempt in self.attempts],
            "replays": self.replays,
            "message": dict(message.asdict()) if message is not None else None,
            "data": base64.b64encode(self.data).decode("ascii") if message is None else None,
        }
