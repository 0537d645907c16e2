"""When an actor's retries come, and when they end: what its options lead to, worked out before anything fails."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dramatiq import Actor, Broker, MessageProxy
from dramatiq.middleware import Retries

from .backoff import Backoff, Preview
from .errors import ConfigError
from .middleware import RetryQueue
from .options import max_age_of, nearer_policy, throws_of
from .policy import Policy, Settings, by_exception

__all__ = ["Schedule", "schedules", "settings_of"]

#: How many retries are worked out where nothing bounds them.
_SHOWN = 20
#: With more retries than this an actor's are shown as those of one that has no limit.
_MOST = 10_000
#: How often a function of the user's is asked for each retry, since it may roll dice.
_SAMPLES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The retries of one actor after one kind of error.

    Attributes:
        error: the exception class's name; ``Exception`` for all that no rule is for.
        rows: by retry the least, mean and greatest delay and the running total (ms).
        is_exact: whether the bounds are worked out, or seen in a sample of what a function gave.
        dies: why it is dead after the last row: ``exhausted``, ``expired`` or ``rejected``; ``None`` if it may go on.
        max_age: the age (ms) at which no attempt is made any more; ``None`` for no limit.
        asks: whether a ``retry_when`` is asked before each retry; the rows are as if it always said yes.
        problem: what is wrong with a function of the user's, if it raised.
    """

    error: str
    rows: Sequence[Preview]
    is_exact: bool = True
    dies: str | None = None
    max_age: int | None = None
    asks: bool = False
    problem: str | None = None

    @property
    def may_expire(self) -> bool:
        """Whether chance decides if all of these retries are made before ``max_age``."""
        return bool(self.max_age and self.rows and self.rows[-1].total_greatest >= self.max_age)


def settings_of(actor: Actor[Any, Any]) -> Settings:
    """What holds for an actor's messages that say nothing of their own.

    Raises:
        ConfigError: nothing on its broker retries them.
    """
    broker = actor.broker
    for middleware in broker.middleware:
        if isinstance(middleware, RetryQueue):
            return middleware.settings_of(broker, MessageProxy(actor.message()))[0]
    for middleware in broker.middleware:
        if isinstance(middleware, Retries):
            return _settings_of_retries(middleware, broker, actor)
    raise ConfigError(
        f"actor {actor.actor_name!r}: nothing on its {type(broker).__name__} retries messages: "
        "broker.add_middleware(RetryQueue())"
    )


def _settings_of_retries(retries: Retries, broker: Broker, actor: Actor[Any, Any]) -> Settings:
    """The same under Dramatiq's own middleware, whose delays are those of the jitter ``proportional``."""
    options = {name: actor.options.get(name) for name in ("min_backoff", "max_backoff")}
    greatest = max(retries.max_backoff, retries.min_backoff)
    default = Backoff(retries.min_backoff, greatest, jitter="proportional")
    return Settings(
        # There a 0 is taken as not given.
        policy=nearer_policy(default, {name: value or None for name, value in options.items()}, actor.actor_name),
        max_retries=actor.options.get("max_retries", retries.max_retries),
        retry_when=actor.options.get("retry_when", retries.retry_when),
        throws=throws_of({}, actor.options),
        max_age=max_age_of(broker, actor.options, {}),
    )


def schedules(settings: Settings, *, retries: int | None = None, seed: int = 0) -> list[Schedule]:
    """By kind of error, when the retries come.

    Args:
        settings: what holds for the messages.
        retries: how many are worked out where nothing bounds them.
        seed: of the dice that a user's function may roll through ours.
    """
    found = [Schedule(error=cls.__name__, rows=(), dies="rejected") for cls in settings.throws]
    for cls, policy in by_exception(settings.policy).items():
        if policy is None:
            found.append(Schedule(error=cls.__name__, rows=(), dies="exhausted"))
        elif not (settings.throws and issubclass(cls, settings.throws)):
            found.append(_schedule(cls, policy, settings, retries, random.Random(seed)))
    return found


def _schedule(
    cls: type[BaseException], policy: Policy, settings: Settings, retries: int | None, rng: random.Random
) -> Schedule:
    bound = None if settings.retry_when is not None else settings.max_retries
    if bound is not None and bound > _MOST:
        bound = None  # meant as no end, and nobody reads a table of a million rows
    wanted = bound if bound is not None else retries if retries is not None else _SHOWN
    problem, gave_up = None, False
    if isinstance(policy, Backoff):
        rows: list[Preview] = policy.preview(wanted)
    else:
        rows, gave_up, problem = _asked(policy, cls, wanted, rng)
    schedule = Schedule(
        error=cls.__name__,
        rows=rows,
        is_exact=isinstance(policy, Backoff) or all(row.least == row.greatest for row in rows),
        dies="exhausted" if bound is not None or gave_up else None,
        max_age=settings.max_age or None,
        asks=settings.retry_when is not None,
        problem=problem,
    )
    if settings.max_age:
        possible = [row for row in rows if row.total_least < settings.max_age]
        if len(possible) < len(rows):
            return replace(schedule, rows=possible, dies="expired")
    return schedule


def _asked(
    policy: Policy, cls: type[BaseException], retries: int, rng: random.Random
) -> tuple[list[Preview], bool, str | None]:
    """The rows that a function or a list gives; whether it gave up before the last; what it raised."""
    error, problem = _example(cls), None
    rows: list[Preview] = []
    least, mean, greatest = 0, 0.0, 0
    for retry in range(retries):
        given: list[int] = []
        for _ in range(_SAMPLES):
            try:
                delay = policy.delay(retry, previous=None, error=error, rng=rng)
            except Exception as raised:
                problem = f"retry {retry + 1}: the policy raised {type(raised).__name__}: {raised}"
                delay = Backoff().delay(retry, rng=rng)  # as a worker does
            if delay is not None:
                given.append(delay)
        if not given:
            return rows, True, problem
        low, middle, high = min(given), sum(given) / len(given), max(given)
        least, mean, greatest = least + low, mean + middle, greatest + high
        rows.append(
            Preview(
                retry=retry,
                least=low,
                mean=middle,
                greatest=high,
                total_least=least,
                total_mean=mean,
                total_greatest=greatest,
            )
        )
    return rows, False, problem


def _example(cls: type[BaseException]) -> BaseException:
    try:
        return cls("an example")
    except Exception:  # it wants other arguments
        error: BaseException = cls.__new__(cls)
        return error
