"""The broker in a few words and two pictures: is it stuck, what fails, and since when?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from dramatiq_retryq.errors import NotSupported
from dramatiq_retryq.limits import oldest_due_age
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.records import DeadLetter
from dramatiq_retryq.status import Minute, QueueStatus, Status, WorkerStatus

from . import charts
from .text import duration, plural

__all__ = ["RECENT", "Charts", "Group", "Verdict", "groups", "if_told", "totals", "verdicts"]

_T = TypeVar("_T")

#: How many of the newest letters are looked at to say what fails.
RECENT = 100
#: After this long (ms) a due message that nobody takes is worth a word.
_LATE = 60_000
_MS, _HOUR, _DAY = timedelta(milliseconds=1), timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to "is it stuck?" in one line."""

    level: str
    text: str


@dataclass(slots=True, kw_only=True)
class Group:
    """Deaths of one actor from one error."""

    actor: str | None
    error: str | None
    count: int
    newest: DeadLetter
    oldest_at: int


class Charts:
    """The charts of the last hour and the last day.

    A day is up to 1440 rows a queue, so what is past is read once and kept: after the first time an hour is read.
    """

    _SLOT = timedelta(minutes=10)
    #: How long (ms) after its end a slot may still grow: a process writes down what it counted a little later.
    _SETTLED = 300_000

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._lock = threading.Lock()
        #: The day's slots that are past, by their start and queue, and up to where they go.
        self._past: dict[tuple[int, str], list[int]] = {}
        self._until = 0

    def get(self, now: int, queue: str | None = None) -> list[charts.Chart]:
        """Both, of one queue or of all.

        Raises:
            NotSupported: the broker does not count.
        """
        with self._lock:
            minutes, day = self._read(now)
        hour = [(one.at, *_outcomes(one)) for one in minutes if queue in (None, one.queue_name)]
        ten = [
            (at, outcomes[0], outcomes[1], outcomes[2]) for (at, name), outcomes in day.items() if queue in (None, name)
        ]
        return [
            charts.chart(
                "hour",
                "Last hour",
                "minute",
                charts.slots(hour, now=now, count=60, step=timedelta(minutes=1)),
                rows_of=5,
                marks=["60 min ago", "45", "30", "15", "now"],
            ),
            charts.chart(
                "day",
                "Last day",
                "10 minutes",
                charts.slots(ten, now=now, count=144, step=self._SLOT),
                rows_of=6,
                marks=charts.marks_of_day(now),
            ),
        ]

    def _read(self, now: int) -> tuple[Sequence[Minute], dict[tuple[int, str], list[int]]]:
        """The minutes of the last hour at least, and the slots of the day."""
        if not self._until <= now < self._until + _DAY // _MS:
            self._past, self._until = {}, 0  # the first time, a day later, or a clock that was set back
        since = _DAY if not self._until else max(_HOUR, (now - self._until) * _MS)
        minutes = self._operations.minutes(since)
        size = self._SLOT // _MS
        day = {key: outcomes for key, outcomes in self._past.items() if key[0] > now - _DAY // _MS - size}
        for one in minutes:
            if one.at >= self._until:
                key = (one.at // size * size, one.queue_name)
                day[key] = [a + b for a, b in zip(day.get(key, (0, 0, 0)), _outcomes(one), strict=True)]
        self._until = max(self._until, (now - self._SETTLED) // size * size)
        self._past = {key: outcomes for key, outcomes in day.items() if key[0] < self._until}
        return minutes, day


def _outcomes(minute: Minute) -> tuple[int, int, int]:
    rates = minute.rates
    return rates.succeeded, rates.retried, rates.died


def if_told(ask: Callable[[], _T]) -> tuple[_T | None, str | None]:
    """What a broker says, or the sentence with which it does not."""
    try:
        return ask(), None
    except NotSupported as error:
        return None, str(error)


def totals(queues: Sequence[QueueStatus]) -> QueueStatus:
    def total(name: str) -> int | None:
        known = [value for value in (getattr(one, name) for one in queues) if value is not None]
        return sum(known) if known or not queues else None

    return QueueStatus(
        name="",
        due=total("due"),
        later=total("later"),
        claimed=total("claimed"),
        dead=total("dead"),
        oldest_due_at=min((one.oldest_due_at for one in queues if one.oldest_due_at is not None), default=None),
    )


def verdicts(status: Status, workers: Sequence[WorkerStatus] | None) -> list[Verdict]:
    """Is it stuck, and what fails? The worst first."""
    found = []
    dead = totals(status.queues).dead
    running = [one for one in status.queues if not one.paused]
    due = sum(one.due or 0 for one in running)
    oldest = min((one.oldest_due_at for one in running if one.due and one.oldest_due_at is not None), default=None)
    if workers is not None and not workers and due:
        found.append(Verdict(level="bad", text=f"No worker is alive, and {plural(due, 'message')} could run now."))
    elif due and oldest is not None and status.now - oldest > _LATE:
        found.append(
            Verdict(
                level="warn", text=f"Work is behind: the oldest due message has waited {duration(status.now - oldest)}."
            )
        )
    elif None in [oldest_due_age(one, status.now) for one in running]:
        found.append(Verdict(level="unknown", text=_untold(due)))
    hour = status.last_hour
    if hour is not None and hour.died:
        minute = status.last_minute.died if status.last_minute is not None else 0
        died = f"{plural(hour.died, 'message')} died in the last hour"
        found.append(Verdict(level="bad" if minute else "warn", text=f"{died}, {minute:,} of them in the last minute."))
    if status.paused:
        names = [f"queue {name}" for name in sorted(status.paused.queues)]
        names += [f"actor {name}" for name in sorted(status.paused.actors)]
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(Verdict(level="warn", text=f"Paused: {', '.join(names[:3])}{rest}."))
    if not status.queues:
        # A server's broker made from a URL: it is asked for the queues that are declared here, and none is.
        found.append(Verdict(level="warn", text="No queue is known here, so nothing can be told of any."))
    elif not found:
        earlier = f" {plural(dead, 'dead letter')} from earlier." if dead else ""
        found.append(Verdict(level="ok", text=f"Nothing is stuck.{earlier}"))
    return sorted(found, key=lambda one: ("bad", "warn", "unknown", "ok").index(one.level))


def _untold(due: int) -> str:
    if not due:
        return "This broker cannot tell whether anything is due."
    are, they = ("is", "it") if due == 1 else ("are", "they")
    return f"{plural(due, 'message')} {are} due, and this broker cannot tell for how long: {they} may be stuck."


def groups(letters: Sequence[DeadLetter]) -> list[Group]:
    """What fails, the most recent first."""
    found: dict[tuple[str | None, str | None], Group] = {}
    for one in letters:
        key = one.actor_name, one.error.type if one.error is not None else None
        group = found.get(key)
        if group is None:
            found[key] = Group(actor=key[0], error=key[1], count=1, newest=one, oldest_at=one.died_at)
        else:
            group.count += 1
            group.oldest_at = min(group.oldest_at, one.died_at)
    return list(found.values())
