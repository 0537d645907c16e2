"""When to try again, and when to stop: values in, values out.

Nothing here reads a clock, rolls dice of its own or has an effect. :func:`decide` takes a failure and
returns a :class:`~dramatiq_retryq.records.RetryIn` or a :class:`~dramatiq_retryq.records.Die`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from dramatiq import Retry
from dramatiq.middleware import Shutdown

from .backoff import JITTERS, Backoff, Jitter, Preview
from .clock import milliseconds
from .errors import ConfigError, GiveUp, Snooze
from .records import Decision, Die, RetryIn
from .retry_after import MAX_HEARD_WAIT, heard_wait

__all__ = [
    "JITTERS",
    "MAX_HEARD_WAIT",
    "Backoff",
    "BackoffOption",
    "Jitter",
    "Policy",
    "Preview",
    "Settings",
    "adjusted",
    "by_exception",
    "decide",
    "heard_wait",
    "parse_policy",
]


class Policy(Protocol):
    """How long to wait before a retry."""

    def delay(self, retry: int, *, previous: int | None, error: BaseException, rng: random.Random) -> int | None:
        """Milliseconds before retry number ``retry`` (0 for the first), or ``None`` to give up.

        Args:
            retry: how many retries this message has had.
            previous: the delay before this one, if there was one.
            error: what the attempt raised.
            rng: the dice.
        """


@dataclass(frozen=True, slots=True)
class _Delays:
    """A list of delays; the last one is repeated."""

    delays: tuple[int, ...]

    def delay(self, retry: int, *, previous: int | None, error: BaseException, rng: random.Random) -> int:
        return self.delays[min(retry, len(self.delays) - 1)]


@dataclass(frozen=True, slots=True)
class _Custom:
    """Somebody's own function: ``(attempt, error) -> ms | None``, attempt being 1 for the first that failed."""

    function: Callable[[int, BaseException], Any]

    def delay(self, retry: int, *, previous: int | None, error: BaseException, rng: random.Random) -> int | None:
        chosen = self.function(retry + 1, error)
        return None if chosen is None else milliseconds(chosen, f"the delay chosen by {_name(self.function)}")


@dataclass(frozen=True, slots=True)
class _GiveUpAtOnce:
    """The rule for an exception that is never worth a retry."""

    def delay(self, retry: int, *, previous: int | None, error: BaseException, rng: random.Random) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Rules:
    """A policy by exception type: the nearest class in the error's own line of descent decides."""

    rules: Mapping[type[BaseException], Policy]
    default: Policy

    def delay(self, retry: int, *, previous: int | None, error: BaseException, rng: random.Random) -> int | None:
        for cls in type(error).__mro__:
            if cls in self.rules:
                return self.rules[cls].delay(retry, previous=previous, error=error, rng=rng)
        return self.default.delay(retry, previous=previous, error=error, rng=rng)


#: What the option ``backoff`` may be: a Backoff, a list of delays, a function, or a dict of these by exception.
BackoffOption = (
    Backoff
    | Sequence[int | timedelta]
    | Callable[[int, BaseException], int | float | timedelta | None]
    | Mapping[type[BaseException], Any]
)


def parse_policy(value: Any, *, what: str, default: Policy) -> Policy:
    """The policy that somebody meant by an option ``backoff``.

    Args:
        value: see :data:`BackoffOption`.
        what: how an error calls it, for example ``"actor 'add': backoff"``.
        default: what rules by exception fall back on.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(value, Backoff):
        return value
    if isinstance(value, Mapping):
        rules: dict[type[BaseException], Policy] = {}
        for key, rule in value.items():
            if not (isinstance(key, type) and issubclass(key, BaseException)):
                raise ConfigError(f"{what}: {key!r} is no exception class: rules go by exception class")
            name = f"{what}[{key.__name__}]"
            rules[key] = _GiveUpAtOnce() if rule is None else parse_policy(rule, what=name, default=default)
        if not rules:
            raise ConfigError(f"{what} is an empty dict: give at least one exception class with its policy")
        return _Rules(rules, default)
    if isinstance(value, (list, tuple)):
        if not value:
            raise ConfigError(f"{what} is an empty list: give at least one delay, or max_retries=0 for no retry")
        return _Delays(tuple(milliseconds(delay, f"{what}[{i}]") for i, delay in enumerate(value)))
    if callable(value):
        return _Custom(value)
    raise ConfigError(
        f"{what} is {value!r}: give a Backoff, a list of delays in ms, a function (attempt, error) -> ms, "
        "or a dict of these by exception class"
    )


def by_exception(policy: Policy) -> Mapping[type[BaseException], Policy | None]:
    """What a policy does by exception class; ``None`` for those that are given up at once.

    ``Exception`` stands for all that no rule is for. A policy without rules has that one only.
    """
    if not isinstance(policy, _Rules):
        return {Exception: policy}
    rules = {cls: None if isinstance(rule, _GiveUpAtOnce) else rule for cls, rule in policy.rules.items()}
    return rules if Exception in rules else {**rules, Exception: policy.default}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for one message, once message, actor and middleware have all been heard."""

    policy: Policy = field(default_factory=Backoff)
    max_retries: int | None = 20
    retry_when: Callable[[int, BaseException], bool] | None = None
    throws: tuple[type[BaseException], ...] = ()
    max_age: int | None = None

    @property
    def limit(self) -> int | None:
        """How many attempts there may be; ``None`` if no number says so."""
        return None if self.max_retries is None or self.retry_when is not None else self.max_retries + 1


def adjusted(policy: Policy, *, min_backoff: int | None, max_backoff: int | None, jitter: Jitter | None) -> Policy:
    """A policy with what was said nearer to the message put in its place.

    A bound that was said bends the inherited one where the two cross. A policy that has no such bounds (a list,
    a function, rules) gives way to a :class:`Backoff`: the bounds were said nearer to the message than it was.
    """
    if min_backoff is None and max_backoff is None and jitter is None:
        return policy
    base = policy if isinstance(policy, Backoff) else Backoff()
    lo = base.min_backoff if min_backoff is None else min_backoff
    hi = base.max_backoff if max_backoff is None else max_backoff
    if min_backoff is None:
        lo = min(lo, hi)
    if min_backoff is not None and max_backoff is None and hi < 2 * lo:
        hi = 2 * lo  # room for the jitter above the least delay that was asked for
    return replace(base, min_backoff=lo, max_backoff=hi, jitter=base.jitter if jitter is None else jitter)


def decide(
    error: BaseException,
    settings: Settings,
    *,
    retries: int,
    previous: int | None,
    sent_at: int,
    now: int,
    rng: random.Random,
) -> Decision:
    """What a failure leads to.

    Args:
        error: what the attempt raised.
        settings: what holds for this message.
        retries: how many retries it has had in its present budget.
        previous: the delay before this attempt, if it was a retry.
        sent_at: when the message was sent, in ms since the epoch; ``max_age`` counts from here.
        now: the present instant.
        rng: the dice.

    Nothing that a user's policy raises gets out: the decision then falls back to the default and says so in its
    ``problem``.
    """
    # Not isinstance(): it asks the error for its __class__, which may raise.
    kind = type(error)
    if issubclass(kind, Shutdown):
        return RetryIn(delay=0, uses_attempt=False)
    if issubclass(kind, GiveUp) or (settings.throws and issubclass(kind, settings.throws)):
        return Die(reason="rejected")

    problem: str | None = None
    if issubclass(kind, Snooze):
        delay, problem = _own_delay(error)
        if delay is None:
            delay = _fallback(settings).delay(0, rng=rng)
        return _unless_expired(RetryIn(delay=delay, uses_attempt=False, problem=problem), settings, sent_at, now)

    again, problem = _may_retry(error, settings, retries)
    if not again:
        return Die(reason="exhausted", problem=problem)
    try:
        delay = settings.policy.delay(retries, previous=previous, error=error, rng=rng)
    except Exception as raised:
        problem = _report("the backoff policy", raised)
        delay = _fallback(settings).delay(retries, previous=previous, rng=rng)
    if delay is None:
        return Die(reason="exhausted", problem=problem)
    if issubclass(kind, Retry):
        heard, own_problem = _own_delay(error)
        problem = own_problem or problem
    else:
        heard = heard_wait(error, now=now)
    decision = RetryIn(delay=delay if heard is None else heard, problem=problem)
    return _unless_expired(decision, settings, sent_at, now)


def _may_retry(error: BaseException, settings: Settings, retries: int) -> tuple[bool, str | None]:
    problem = None
    if settings.retry_when is not None:
        try:
            return bool(settings.retry_when(retries, error)), None
        except Exception as raised:
            problem = _report("retry_when", raised)
    return settings.max_retries is None or retries < settings.max_retries, problem


def _unless_expired(decision: RetryIn, settings: Settings, sent_at: int, now: int) -> Decision:
    if settings.max_age and now + decision.delay - sent_at >= settings.max_age:
        return Die(reason="expired", problem=decision.problem)
    return decision


def _fallback(settings: Settings) -> Backoff:
    return settings.policy if isinstance(settings.policy, Backoff) else Backoff()


def _own_delay(error: Any) -> tuple[int | None, str | None]:
    """The delay that a ``Retry`` or ``Snooze`` carries, and what is wrong with it."""
    try:
        if error.delay is None:
            return None, None
        return milliseconds(error.delay, f"{type(error).__name__}(delay=…)"), None
    except ConfigError as raised:
        return None, str(raised)
    except Exception as raised:
        return None, _report("the error's own delay", raised)


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _report(who: str, raised: BaseException) -> str:
    # The class only: its text may have been made from the message's arguments.
    return f"{who} raised {type(raised).__name__}; the default was used"
