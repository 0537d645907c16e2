"""What is well and what is not: limits, and a broker's status held against them. Values in, values out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .clock import milliseconds
from .errors import ConfigError
from .status import QueueStatus, Rates, Status

__all__ = ["HealthLimits", "HealthReport", "judge", "oldest_due_age"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """Beyond these, ``/healthz`` answers 503. What is ``None`` is not looked at.

    A limit on what the broker cannot tell is a problem of its own, so that it is noticed when it is set and not when
    it is needed.

    Args:
        max_oldest_due_age: how long a message may be due and not be fetched, in ms or as a timedelta. Paused queues
            are passed over.
        max_failure_rate: which part of the attempts of the last minute may fail, from 0 to 1.
        min_attempts: with fewer attempts in the last minute than this, their failures are not judged.
        min_workers: how many worker processes must live.
        max_due: how many messages may be due in all queues together.
        max_dead: how many dead letters there may be.

    Raises:
        ConfigError: a value makes no sense.
    """

    max_oldest_due_age: int | timedelta | None = None
    max_failure_rate: float | None = None
    min_attempts: int = 1
    min_workers: int | None = None
    max_due: int | None = None
    max_dead: int | None = None

    def __post_init__(self) -> None:
        if self.max_oldest_due_age is not None:
            age = milliseconds(self.max_oldest_due_age, "HealthLimits: max_oldest_due_age")
            object.__setattr__(self, "max_oldest_due_age", age)
        rate = self.max_failure_rate
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1):
            raise ConfigError(f"HealthLimits: max_failure_rate is {rate!r}: give a part, from 0 to 1")
        for name in ("min_attempts", "min_workers", "max_due", "max_dead"):
            value = getattr(self, name)
            if value is None and name != "min_attempts":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"HealthLimits: {name} is {value!r}: give a whole number of 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """How a broker is, and what is wrong.

    Attributes:
        problems: a sentence for each limit that is crossed; empty is good.
        now: when this was so, in ms since the epoch.
        workers: how many worker processes live; this and the following are ``None`` where nobody can tell.
        queues: by name.
        due: how many messages are due and not fetched.
        dead: how many dead letters there are.
        oldest_due_age: for how long (ms) the oldest message that is due has been; 0 if none is.
        failure_rate: which part of the last minute's attempts failed; ``None`` also if there was none.
        last_minute: what happened.
    """

    problems: tuple[str, ...]
    now: int | None = None
    workers: int | None = None
    queues: Mapping[str, QueueStatus] | None = None
    due: int | None = None
    dead: int | None = None
    oldest_due_age: int | None = None
    failure_rate: float | None = None
    last_minute: Rates | None = None

    @property
    def is_ok(self) -> bool:
        return not self.problems

    def asdict(self) -> dict[str, Any]:
        """What ``/healthz`` sends: plain values."""
        queues: dict[str, Any] | None = None
        if self.queues is not None and self.now is not None:
            queues = {
                name: {
                    "due": queue.due,
                    "later": queue.later,
                    "claimed": queue.claimed,
                    "dead": queue.dead,
                    "oldest_due_age": oldest_due_age(queue, self.now),
                    "paused": queue.paused,
                }
                for name, queue in self.queues.items()
            }
        minute = self.last_minute
        return {
            "status": "ok" if self.is_ok else "failing",
            "problems": list(self.problems),
            "now": self.now,
            "workers": self.workers,
            "queues": queues,
            "due": self.due,
            "dead": self.dead,
            "oldest_due_age": self.oldest_due_age,
            "failure_rate": self.failure_rate,
            "last_minute": None
            if minute is None
            else {
                field.name: dict(value) if isinstance(value := getattr(minute, field.name), Mapping) else value
                for field in dataclasses.fields(minute)
            },
        }


def oldest_due_age(queue: QueueStatus, now: int) -> int | None:
    """For how long (ms) the oldest message of a queue has been due; 0 if none is; ``None`` if nobody can tell."""
    if queue.oldest_due_at is not None:
        return max(0, now - queue.oldest_due_at)
    # RabbitMQ counts what is due and does not show it: that is no age of 0.
    return 0 if queue.due == 0 else None


def judge(status: Status | None, limits: HealthLimits) -> HealthReport:
    """Hold a status against limits: a value, without an effect. ``None`` is that of a broker that can tell nothing."""
    if status is None:
        report = HealthReport(problems=())
        return dataclasses.replace(report, problems=tuple(_problems(report, {}, limits)))
    queues = {queue.name: queue for queue in status.queues}
    ages = {name: oldest_due_age(queue, status.now) for name, queue in queues.items()}
    report = HealthReport(
        problems=(),
        now=status.now,
        workers=None if status.workers is None else len(status.workers),
        queues=queues,
        due=_total([queue.due for queue in status.queues]),
        dead=_total([queue.dead for queue in status.queues]),
        oldest_due_age=None if None in ages.values() else max((age or 0 for age in ages.values()), default=0),
        failure_rate=None if status.last_minute is None else status.last_minute.failure_rate,
        last_minute=status.last_minute,
    )
    return dataclasses.replace(report, problems=tuple(_problems(report, ages, limits)))


def _total(counts: list[int | None]) -> int | None:
    return None if None in counts else sum(count or 0 for count in counts)


def _problems(report: HealthReport, ages: Mapping[str, int | None], limits: HealthLimits) -> list[str]:
    found = []

    def untold(limit: str, what: str) -> str:
        return f"{limit} is set, and this broker cannot tell {what}: take the limit away"

    if limits.max_oldest_due_age is not None:
        if report.queues is None:
            found.append(untold("max_oldest_due_age", "how long messages have been due"))
        for name, age in ages.items():
            if report.queues is not None and report.queues[name].paused:
                continue
            if age is None:
                found.append(untold("max_oldest_due_age", f"how long messages of queue {name!r} have been due"))
            elif age > limits.max_oldest_due_age:  # type: ignore[operator]  # ms since __post_init__
                found.append(
                    f"queue {name!r}: a message has been due for {age} ms, more than max_oldest_due_age="
                    f"{limits.max_oldest_due_age}"
                )
    if limits.max_failure_rate is not None:
        minute, rate = report.last_minute, report.failure_rate
        if minute is None:
            found.append(untold("max_failure_rate", "how many attempts fail"))
        elif rate is not None and rate > limits.max_failure_rate:
            attempts = minute.succeeded + minute.failed
            if attempts >= limits.min_attempts:
                found.append(
                    f"{minute.failed} of {attempts} attempts of the last minute failed, more than max_failure_rate="
                    f"{limits.max_failure_rate}"
                )
    if limits.min_workers is not None:
        if report.workers is None:
            found.append(untold("min_workers", "which workers live"))
        elif report.workers < limits.min_workers:
            found.append(f"{report.workers} worker processes live, fewer than min_workers={limits.min_workers}")
    for limit, count, what in (
        ("max_due", report.due, "messages are due"),
        ("max_dead", report.dead, "messages lie dead"),
    ):
        most = getattr(limits, limit)
        if most is None:
            continue
        if count is None:
            found.append(untold(limit, f"how many {what}"))
        elif count > most:
            found.append(f"{count} {what}, more than {limit}={most}")
    return found
