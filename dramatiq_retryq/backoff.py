"""Exponential backoff with jitter, and what it will look like."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, get_args

from .clock import milliseconds
from .errors import ConfigError

__all__ = ["JITTERS", "Backoff", "Jitter", "NoDice", "Preview"]

Jitter = Literal["additive", "full", "equal", "decorrelated", "proportional", "none"]
JITTERS: tuple[Jitter, ...] = get_args(Jitter)


class NoDice(random.Random):
    """Dice for tests: a ``Backoff`` that is handed these has no jitter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One retry of a schedule: the least, mean and greatest delay, and how long it all took by then (ms).

    ``retry`` is 0 for the first, as in :meth:`Backoff.delay`.
    """

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
        if isinstance(rng, NoDice):
            return round(v)
        if self.jitter == "additive":
            delay = v + rng.uniform(0, base)
            # Rolled anew and not cut off at the cap: cut off, all late retries would fall together.
            return round(delay if delay <= cap else rng.uniform(cap - base, cap))
        if self.jitter == "full":
            return round(rng.uniform(0, v))
        if self.jitter == "equal":
            return round(v / 2 + rng.uniform(0, v / 2))
        if self.jitter == "decorrelated":
            # Cut off before it is tripled: what the history says was the last delay is anybody's number.
            last = base if previous is None else max(base, min(previous, cap))
            return round(min(cap, rng.uniform(base, 3 * last)))
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
