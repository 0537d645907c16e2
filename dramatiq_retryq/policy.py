"""When to try again, and when to stop: values in, values out.

Nothing here reads a clock, rolls dice of its own or has an effect. :func:`decide` takes a failure and
returns a :class:`~dramatiq_retryq.records.RetryIn` or a :class:`~dramatiq_retryq.records.Die`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol, get_args

from dramatiq import Retry
from dramatiq.middleware import Shutdown

from .clock import milliseconds
from .errors import ConfigError, GiveUp, Snooze
from .records import Decision, Die, RetryIn

__all__ = [
    "JITTERS",
    "MAX_HEARD_WAIT",
    "Backoff",
    "BackoffOption",
    "Jitter",
    "Policy",
    "Preview",
    "Settings",
    "decide",
    "heard_wait",
    "parse_policy",
]

Jitter = Literal["additive", "full", "equal", "decorrelated", "proportional", "none"]
JITTERS: tuple[Jitter, ...] = get_args(Jitter)

#: The longest wait that a server's Retry-After is believed: 7 days, Dramatiq's own longest delay.
MAX_HEARD_WAIT = 7 * 86_400_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One retry of a schedule: the least, mean and greatest delay, and how long it all took by then (ms)."""

    retry: int
    least: int
    mean: float
    greatest: int
    total_least: int
    total_mean: float
    total_greatest: int


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter.

    With ``base = min_backoff``, ``cap = max_backoff`` and ``v = min(cap, base * factor ** n)``, where n is 0
    for the first retry, the delay is

    ============== ==========================================================================
    jitter         delay
    ============== ==========================================================================
    additive       v + U(0, base), and where that passes the cap, U(cap - base, cap)
    full           U(0, v)
    equal          v/2 + U(0, v/2)
    decorrelated   min(cap, U(base, 3 * previous delay)); the first is U(base, 3 * base)
    proportional   v * U(1, 2), and where that passes the cap, cap * U(1/2, 1): Dramatiq's own
    none           v
    ============== ==========================================================================

    U(a, b) is uniform. Full, equal and decorrelated are those of Marc Brooker, "Exponential Backoff And
    Jitter" (AWS Architecture Blog, 2015); proportional is ``dramatiq.common.compute_backoff``.

    Args:
        min_backoff: the base, in milliseconds or as a timedelta; 0 is allowed.
        max_backoff: the cap, likewise.
        factor: what the delay is multiplied by from one retry to the next, 1 or more.
        jitter: one of the six names.

    Raises:
        ConfigError: a value that makes no sense.
    """

    min_backoff: int = 100
    max_backoff: int = 30_000
    factor: float = 2
    jitter: Jitter = "additive"

    def __post_init__(self) -> None:
        lo = milliseconds(self.min_backoff, "min_backoff")
        hi = milliseconds(self.max_backoff, "max_backoff")
        if hi < lo:
            raise ConfigError(f"max_backoff is {hi} ms, below min_backoff ({lo} ms): raise it or lower min_backoff")
        factor = self.factor
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor < math.inf:
            raise ConfigError(f"factor is {factor!r}: give a number of 1 or more")
        if self.jitter not in JITTERS:
            raise ConfigError(f"jitter is {self.jitter!r}: give one of {', '.join(JITTERS)}")
        object.__setattr__(self, "min_backoff", lo)
        object.__setattr__(self, "max_backoff", hi)

    def delay(
        self,
        retry: int,
        *,
        previous: int | None = None,
        error: BaseException | None = None,
        rng: random.Random,
    ) -> int:
        """Milliseconds before retry number ``retry``, 0 for the first. See :meth:`Policy.delay`."""
        base, cap, v = self.min_backoff, self.max_backoff, self._v(retry)
        if self.jitter == "additive":
            delay = v + rng.uniform(0, base)
            # Rolled anew and not cut off at the cap: cut off, all late retries would fall together.
            return round(delay if delay <= cap else rng.uniform(cap - base, cap))
        if self.jitter == "full":
            return round(rng.uniform(0, v))
        if self.jitter == "equal":
            return round(v / 2 + rng.uniform(0, v / 2))
        if self.jitter == "decorrelated":
            return round(min(cap, rng.uniform(base, max(base, 3 * (base if previous is None else previous)))))
        if self.jitter == "proportional":
            delay = v * rng.uniform(1, 2)
            return round(delay if delay <= cap else cap * rng.uniform(0.5, 1))
        return round(v)

    def preview(self, max_retries: int = 20) -> list[Preview]:
        """The schedule of ``max_retries`` retries: by retry the bounds and the mean, and the running totals.

        The means are exact for all jitters but ``decorrelated``, where they are computed on a grid of
        quantiles and good to about 1 %.
        """
        rows: list[Preview] = []
        total_least, total_mean, total_greatest = 0, 0.0, 0
        walk = _DecorrelatedWalk(self.min_backoff, self.max_backoff) if self.jitter == "decorrelated" else None
        for retry in range(max_retries):
            least, mean, greatest = walk.step() if walk is not None else self._bounds(retry)
            total_least += least
            total_mean += mean
            total_greatest += greatest
            rows.append(
                Preview(
                    retry=retry,
                    least=least,
                    mean=mean,
                    greatest=greatest,
                    total_least=total_least,
                    total_mean=total_mean,
                    total_greatest=total_greatest,
                )
            )
        return rows

    def _v(self, retry: int) -> float:
        try:
            return min(self.max_backoff, self.min_backoff * float(self.factor) ** retry)
        except OverflowError:  # 2.0 ** 1024: a message with unlimited retries gets there
            return self.max_backoff if self.min_backoff else 0

    def _bounds(self, retry: int) -> tuple[int, float, int]:
        base, cap, v = self.min_backoff, self.max_backoff, self._v(retry)
        if self.jitter == "full":
            return 0, v / 2, round(v)
        if self.jitter == "equal":
            return round(v / 2), v * 3 / 4, round(v)
        if self.jitter == "additive":
            return _two_rolls(v, v + base, cap, cap - base)
        if self.jitter == "proportional":
            return _two_rolls(v, 2 * v, cap, cap / 2)
        return round(v), v, round(v)


def _two_rolls(low: float, high: float, cap: float, second_low: float) -> tuple[int, float, int]:
    """Least, mean and greatest of U(low, high), where what passes the cap is rolled anew as U(second_low, cap)."""
    if high <= cap:
        return round(low), (low + high) / 2, round(high)
    first = max(0.0, (cap - low) / (high - low))  # how often the first roll stays within the cap
    mean = first * (low + cap) / 2 + (1 - first) * (second_low + cap) / 2
    return round(min(low, second_low)), mean, round(cap)


class _DecorrelatedWalk:
    """The distribution of decorrelated delays, one retry at a time, as equally likely quantiles."""

    _QUANTILES, _ROLLS = 256, 16

    def __init__(self, base: int, cap: int) -> None:
        self._base, self._cap = base, cap
        self._greatest = base
        self._previous: list[float] = [base]

    def step(self) -> tuple[int, float, int]:
        base, cap = self._base, self._cap
        values = sorted(
            min(cap, base + (max(base, 3 * previous) - base) * (roll + 0.5) / self._ROLLS)
            for previous in self._previous
            for roll in range(self._ROLLS)
        )
        self._greatest = min(cap, 3 * self._greatest)
        stride = max(1, len(values) // self._QUANTILES)
        self._previous = values[stride // 2 :: stride]
        return base, sum(values) / len(values), self._greatest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for one message, once message, actor and middleware have all been heard."""

    policy: Policy = Backoff()
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
    if max_backoff is None:
        hi = max(lo, hi)
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
    if isinstance(error, Shutdown):
        return RetryIn(delay=0, uses_attempt=False)
    if isinstance(error, GiveUp) or (settings.throws and isinstance(error, settings.throws)):
        return Die(reason="rejected")

    problem: str | None = None
    if isinstance(error, Snooze):
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
    if isinstance(error, Retry):
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


def _own_delay(error: Retry) -> tuple[int | None, str | None]:
    """The delay that a ``Retry`` or ``Snooze`` carries, and what is wrong with it."""
    if error.delay is None:
        return None, None
    try:
        return milliseconds(error.delay, f"{type(error).__name__}(delay=…)"), None
    except ConfigError as raised:
        return None, str(raised)


def heard_wait(error: BaseException, *, now: int) -> int | None:
    """The wait that an error carries, in milliseconds, or ``None``.

    Heard are an attribute ``retry_after`` (seconds, a timedelta, or text as in the header) and the header
    Retry-After (RFC 9110, 10.2.3: seconds or an HTTP date) of ``error.response`` (requests, httpx) or of the
    error itself (urllib). A wait over 7 days is cut down to that; one that cannot be read is not heard.
    """
    # All of it is other people's code: properties that raise, headers that are no mapping.
    try:
        wait = _seconds(getattr(error, "retry_after", None), now)
        if wait is None:
            carrier = getattr(error, "response", None)
            headers = getattr(error if carrier is None else carrier, "headers", None)
            wait = _seconds(headers.get("Retry-After"), now) if headers is not None else None
        return None if wait is None else min(math.ceil(wait * 1000), MAX_HEARD_WAIT)
    except Exception:
        return None


def _seconds(value: Any, now: int) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)):
        seconds = value
    else:
        text = str(value).strip()
        try:
            seconds = float(text)
        except ValueError:
            date: datetime = parsedate_to_datetime(text)
            if date.tzinfo is None:
                date = date.replace(tzinfo=timezone.utc)
            seconds = max(0.0, date.timestamp() - now / 1000)
    if seconds == math.inf:
        return MAX_HEARD_WAIT / 1000
    return seconds if seconds >= 0 else None


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _report(who: str, raised: BaseException) -> str:
    # The class only: its text may have been made from the message's arguments.
    return f"{who} raised {type(raised).__name__}; the default was used"
