"""What happened, counted by minute and queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .records import REASONS, Reason
from .status import MINUTE, Minute, Rates

__all__ = ["KEPT_MINUTES", "Happening", "Tally", "minutes_of"]

#: What happened, in which queue, how often: ``sent``, ``succeeded``, ``retried``, ``snoozed``, ``crashed``,
#: or ``died_`` and the reason.
Happening = tuple[str, str, int]

#: How many minutes are kept: 24 hours of them.
KEPT_MINUTES = 24 * 60

#: The deaths that were a failed attempt. The others had none that counts: nobody could run the message, or its worker
#: died, which is counted as a crash.
_FAILURES: tuple[Reason, ...] = ("exhausted", "rejected", "expired", "unschedulable")


class Tally:
    """Counters by minute and queue. Whoever uses it holds a lock.

    A clock that leaps takes nothing with it but what lies more than a day from where it lands.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, dict[tuple[str, str], int]] = {}
        self._minute: int | None = None
        self._counts: dict[tuple[str, str], int] = {}

    def __bool__(self) -> bool:
        return any(self._minutes.values())

    def add(self, what: str, queue_name: str, now: int, times: int = 1) -> None:
        minute = now // MINUTE
        if minute != self._minute:
            self._turn_to(minute)
        counts, key = self._counts, (queue_name, what)
        counts[key] = counts.get(key, 0) + times

    def _turn_to(self, minute: int) -> None:
        self._minute = minute
        self._counts = self._minutes.setdefault(minute, {})
        for other in [other for other in self._minutes if abs(other - minute) >= KEPT_MINUTES]:
            del self._minutes[other]

    def take(self) -> Tally:
        """All that was counted, which is forgotten here."""
        taken = Tally()
        taken._minutes, self._minutes = self._minutes, {}
        self._minute, self._counts = None, {}
        return taken

    def merge(self, other: Tally) -> None:
        """Count what was counted elsewhere, or give back what was taken."""
        for minute, counts in other._minutes.items():
            own = self._minutes.setdefault(minute, {})
            for key, times in counts.items():
                own[key] = own.get(key, 0) + times

    def last_at(self) -> int | None:
        """The start of the last minute in which anything was counted."""
        last = max((minute for minute, counts in self._minutes.items() if counts), default=None)
        return last * MINUTE if last is not None else None

    def rows(self) -> Iterator[tuple[int, str, dict[str, int]]]:
        """The minute's start, the queue, and what happened how often; oldest first, then by queue."""
        for minute, counts in sorted(self._minutes.items()):
            queues: dict[str, dict[str, int]] = {}
            for (queue_name, what), times in counts.items():
                queues.setdefault(queue_name, {})[what] = times
            for queue_name, happened in sorted(queues.items()):
                yield minute * MINUTE, queue_name, happened


def minutes_of(rows: Iterable[tuple[int, str, Mapping[str, int]]], *, since_at: int) -> list[Minute]:
    """The rows that reach beyond an instant, as records."""
    return [
        Minute(at=at, queue_name=queue_name, rates=_rates(happened))
        for at, queue_name, happened in rows
        if at + MINUTE > since_at and any(happened.values())
    ]


def _rates(happened: Mapping[str, int]) -> Rates:
    """The record of what happened."""
    deaths = {reason: happened.get(f"died_{reason}", 0) for reason in REASONS}
    retried = happened.get("retried", 0)
    return Rates(
        sent=happened.get("sent", 0),
        succeeded=happened.get("succeeded", 0),
        retried=retried,
        failed=retried + sum(deaths[reason] for reason in _FAILURES),
        died=sum(deaths.values()),
        snoozed=happened.get("snoozed", 0),
        crashed=happened.get("crashed", 0),
        deaths={reason: times for reason, times in deaths.items() if times},
    )
