"""What an operator is shown: the values that :class:`~dramatiq_retryq.operations.Operations` gives. All are immutable.

Instants are milliseconds since the epoch. ``None`` stands for what a broker cannot tell; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dramatiq import Message

from .records import Attempt, ErrorInfo, decode, read_attempts

__all__ = [
    "MINUTE",
    "Minute",
    "Paused",
    "Pending",
    "PendingKey",
    "QueueStatus",
    "Rates",
    "RunningMessage",
    "Status",
    "WorkerStatus",
]

#: A minute, in ms.
MINUTE = 60_000

_NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often something happened in a stretch of time.

    Attributes:
        sent: messages that were enqueued, notices to dead-letter actors among them; retries and replays are not.
        succeeded: messages that were done.
        retried: attempts that failed and are tried again.
        failed: attempts that failed: those retried, and those after which the message died.
        died: messages that died, whatever the reason.
        snoozed: runs that were put off without using an attempt.
        crashed: runs that ended with their worker process.
        deaths: the messages that died, by reason.
    """

    sent: int = 0
    succeeded: int = 0
    retried: int = 0
    failed: int = 0
    died: int = 0
    snoozed: int = 0
    crashed: int = 0
    deaths: Mapping[str, int] = field(default_factory=lambda: _NOTHING)

    @property
    def failure_rate(self) -> float | None:
        """Which part of the attempts failed, from 0 to 1; ``None`` if there was none."""
        attempts = self.succeeded + self.failed
        return self.failed / attempts if attempts else None

    @classmethod
    def sum(cls, rates: Iterable[Rates]) -> Rates:
        """All of them together."""
        totals = dict.fromkeys(("sent", "succeeded", "retried", "failed", "died", "snoozed", "crashed"), 0)
        deaths: dict[str, int] = {}
        for one in rates:
            for name in totals:
                totals[name] += getattr(one, name)
            for reason, times in one.deaths.items():
                deaths[reason] = deaths.get(reason, 0) + times
        return cls(**totals, deaths=deaths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What happened in one queue in the minute that began ``at``."""

    at: int
    queue_name: str
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What is paused now, each with the instant since when in ``since_queues`` and ``since_actors``."""

    queues: frozenset[str] = frozenset()
    actors: frozenset[str] = frozenset()
    since_queues: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    since_actors: Mapping[str, int] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def since_when(cls, *, queues: Mapping[str, int], actors: Mapping[str, int]) -> Paused:
        """What is paused, by name since when."""
        return cls(
            queues=frozenset(queues), actors=frozenset(actors), since_queues=dict(queues), since_actors=dict(actors)
        )

    def __bool__(self) -> bool:
        return bool(self.queues or self.actors)

    @property
    def since(self) -> int | None:
        """Since when anything is paused."""
        return min([*self.since_queues.values(), *self.since_actors.values()], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """How many messages of a queue are in which state.

    Attributes:
        due: wait and could run now; also while the queue or their actor is paused.
        later: wait until some instant to come.
        claimed: a worker has fetched them; at most as many of them run as it has threads.
        dead: dead letters.
        oldest_due_at: the due instant of the message that has waited longest, or is the next to be due.
        paused: whether the queue is paused.
        held: how many of those that wait were set aside because their actor is paused.
    """

    name: str
    due: int | None = None
    later: int | None = None
    claimed: int | None = None
    dead: int | None = None
    oldest_due_at: int | None = None
    paused: bool = False
    held: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMessage:
    """A message that a worker is running, since ``since``."""

    message_id: str
    actor_name: str
    queue_name: str
    since: int | None

    @classmethod
    def of(cls, data: bytes, queue_name: str, since: int | None) -> RunningMessage | None:
        """The record of a payload; ``None`` if it cannot be decoded."""
        try:
            message = decode(data)
        except Exception:
            return None
        return cls(message_id=message.message_id, actor_name=message.actor_name, queue_name=queue_name, since=since)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker process that lives: who it is (``host:pid``), since when it works, and what it runs at this moment."""

    owner: str
    started_at: int | None
    running: tuple[RunningMessage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A broker at one instant. ``None`` where it cannot tell; :meth:`Operations.workers` and the like say why.

    Attributes:
        now: when this was so.
        queues: by name.
        workers: the worker processes that live.
        last_minute: what happened in the last minute; see :meth:`Operations.rates`.
        last_hour: likewise.
        paused: what is paused.
    """

    now: int
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerStatus, ...] | None = None
    last_minute: Rates | None = None
    last_hour: Rates | None = None
    paused: Paused = field(default_factory=Paused)


class PendingKey(NamedTuple):
    """What is enough to act on a message that was listed, and on no other. Of a million, the rest takes much room."""

    id: str
    message_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A message that waits or is being worked on.

    Attributes:
        id: what ``run_now``, ``move`` and ``cancel`` take; the same through all retries.
        message_id: the message's own id; ``None`` if the payload cannot be decoded.
        actor_name: likewise.
        state: ``"waiting"`` or ``"claimed"``.
        due_at: when it is, or was, due.
        retries: how many retries are used up.
        attempts: the failed attempts, oldest first, as far as the history keeps them.
        error: the last error; ``None`` if no attempt failed.
        claimed_at: when a worker fetched it.
        claimed_by: which worker, ``host:pid``.
        held: whether it was set aside because its actor is paused.
        message: the message; ``None`` if the payload cannot be decoded.
        data: the encoded message.
        cursor: give it to ``pending(after=…)`` to go on behind this one.
    """

    id: str
    message_id: str | None
    queue_name: str
    actor_name: str | None
    state: Literal["waiting", "claimed"]
    due_at: int | None
    retries: int = 0
    attempts: tuple[Attempt, ...] = ()
    error: ErrorInfo | None = None
    claimed_at: int | None = None
    claimed_by: str | None = None
    held: bool = False
    message: Message[Any] | None = field(default=None, repr=False)
    data: bytes = field(default=b"", repr=False)
    cursor: str = ""

    @property
    def key(self) -> PendingKey:
        """Give it to ``run_now``, ``move`` and ``cancel``."""
        return PendingKey(self.id, self.message_id)


def last_error(message: Message[Any]) -> ErrorInfo | None:
    """The last error in a message's history; without one, the last line of the traceback that Dramatiq keeps."""
    attempts = read_attempts(message.options)
    if attempts:
        last = attempts[-1]
        return ErrorInfo(type=last.error, message=last.message, place=last.place)
    traceback = message.options.get("traceback")
    if not isinstance(traceback, str) or not traceback.strip():
        return None
    name, _, text = traceback.strip().splitlines()[-1].partition(":")
    return ErrorInfo(type=name.rpartition(".")[2].strip() or "Exception", message=text.strip())
