"""Each jitter: its bounds, its mean, and that the whole of its range is reached.

Bounds alone prove little: a jitter that takes its size and its direction from one roll of the dice stays within them
and never reaches half of the range.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean

import pytest
from dramatiq.common import compute_backoff
from hypothesis import given, settings
from hypothesis import strategies as st

from dramatiq_retryq.policy import JITTERS, Backoff, Jitter

ROLLED: list[Jitter] = ["additive", "full", "equal", "decorrelated", "proportional"]
SAMPLES = 1_500
BINS = 10

seeds = st.integers(0, 2**32 - 1)


@st.composite
def backoffs(draw: st.DrawFn, jitter: Jitter) -> Backoff:
    lo = draw(st.integers(0, 20_000))
    hi = lo + draw(st.one_of(st.just(0), st.integers(0, 2 * lo), st.integers(0, 10_000_000)))
    factor = draw(st.one_of(st.just(2), st.floats(1, 10)))
    return Backoff(lo, hi, factor, jitter=jitter)


#: Bases that leave enough whole milliseconds to tell one bin from the next.
bases = st.integers(1_000, 20_000)


def wide(jitter: Jitter) -> st.SearchStrategy[Backoff]:
    return st.builds(
        lambda base, times, factor: Backoff(base, int(base * times), factor, jitter=jitter),
        bases,
        st.floats(1, 1_000),
        st.just(2) | st.floats(1, 4),
    )


def walks(backoff: Backoff, rng: random.Random, *, retries: int, count: int) -> list[list[int]]:
    """Whole schedules: by schedule the delay of each retry, the one before handed in as in a message's life."""
    schedules = []
    for _ in range(count):
        previous: int | None = None
        schedule = []
        for retry in range(retries):
            previous = backoff.delay(retry, previous=previous, rng=rng)
            schedule.append(previous)
        schedules.append(schedule)
    return schedules


def bins(samples: list[int], least: float, greatest: float) -> list[int]:
    """How many samples fall into each of ``BINS`` equal parts of the range."""
    width = (greatest - least) / BINS
    found = Counter(min(BINS - 1, int((sample - least) / width)) for sample in samples)
    return [found[i] for i in range(BINS)]


def tolerance(samples: Sequence[int], *, errors: float = 6) -> float:
    """So many standard errors of the mean, and what rounding to whole milliseconds may add."""
    mean = fmean(samples)
    variance = max(0.0, fmean(sample * sample for sample in samples) - mean * mean)
    return errors * math.sqrt(variance / len(samples)) + 0.5


# Bounds.


@pytest.mark.parametrize("jitter", JITTERS)
@given(data=st.data(), seed=seeds)
@settings(max_examples=12)
def test_every_delay_is_a_whole_number_within_the_bounds_of_its_preview(
    jitter: Jitter, data: st.DataObject, seed: int
) -> None:
    backoff = data.draw(backoffs(jitter))
    preview = backoff.preview(8)
    for schedule in walks(backoff, random.Random(seed), retries=8, count=15):
        for row, delay in zip(preview, schedule, strict=True):
            assert type(delay) is int
            assert row.least <= delay <= row.greatest


@pytest.mark.parametrize("jitter", JITTERS)
@given(data=st.data(), retry=st.integers(0, 100), previous=st.none() | st.integers(0, 10**9), seed=seeds)
@settings(max_examples=12)
def test_no_delay_is_negative_or_above_the_cap(
    jitter: Jitter, data: st.DataObject, retry: int, previous: int | None, seed: int
) -> None:
    backoff = data.draw(backoffs(jitter))
    rng = random.Random(seed)
    for _ in range(20):
        assert 0 <= backoff.delay(retry, previous=previous, rng=rng) <= backoff.max_backoff


@pytest.mark.parametrize("jitter", ["additive", "proportional", "none", "decorrelated"])
@given(data=st.data(), seed=seeds)
@settings(max_examples=12)
def test_the_first_delay_is_not_below_the_minimum_while_there_is_room_below_the_cap(
    jitter: Jitter, data: st.DataObject, seed: int
) -> None:
    lo = data.draw(st.integers(0, 20_000))
    backoff = Backoff(lo, data.draw(st.integers(2 * lo, 10_000_000)), jitter=jitter)
    rng = random.Random(seed)
    assert all(backoff.delay(0, rng=rng) >= backoff.min_backoff for _ in range(50))


@pytest.mark.parametrize("jitter", JITTERS)
@given(cap=st.integers(0, 100_000), retry=st.integers(0, 2_000), seed=seeds)
@settings(max_examples=12)
def test_a_base_of_zero_is_a_delay_of_zero(jitter: Jitter, cap: int, retry: int, seed: int) -> None:
    assert Backoff(0, cap, jitter=jitter).delay(retry, rng=random.Random(seed)) == 0


@pytest.mark.parametrize("jitter", JITTERS)
@given(data=st.data(), retry=st.sampled_from([1_023, 1_024, 10_000, 10**9]), seed=seeds)
@settings(max_examples=12)
def test_the_ten_thousandth_retry_does_not_overflow(jitter: Jitter, data: st.DataObject, retry: int, seed: int) -> None:
    backoff = data.draw(backoffs(jitter))
    assert 0 <= backoff.delay(retry, previous=backoff.max_backoff, rng=random.Random(seed)) <= backoff.max_backoff


def test_a_preview_of_ten_thousand_retries_does_not_overflow() -> None:
    rows = Backoff(100, 30_000, factor=10).preview(10_000)
    assert rows[-1].greatest == 30_000
    assert rows[-1].total_greatest <= 10_000 * 30_000


@pytest.mark.parametrize("jitter", JITTERS)
@given(data=st.data())
@settings(max_examples=8)
def test_the_bounds_of_a_preview_never_fall_and_never_pass_the_cap(jitter: Jitter, data: st.DataObject) -> None:
    backoff = data.draw(backoffs(jitter))
    rows = backoff.preview(8)
    for one, next_one in pairwise(rows):
        assert one.least <= next_one.least
        assert one.greatest <= next_one.greatest
    for row in rows:
        assert 0 <= row.least <= row.mean + 0.5
        assert row.mean - 0.5 <= row.greatest <= backoff.max_backoff


@given(data=st.data(), retry=st.integers(0, 60), seed=seeds)
@settings(max_examples=12)
def test_without_jitter_the_delay_is_the_base_times_the_factor_as_often_as_there_were_retries(
    data: st.DataObject, retry: int, seed: int
) -> None:
    backoff = data.draw(backoffs("none"))
    wanted = min(backoff.max_backoff, backoff.min_backoff * float(backoff.factor) ** retry)
    assert backoff.delay(retry, rng=random.Random(seed)) == round(wanted)


# Means.


@pytest.mark.parametrize("retry", [0, 4, 8, 20], ids=["first", "below the cap", "across the cap", "at the cap"])
@pytest.mark.parametrize("jitter", [jitter for jitter in ROLLED if jitter != "decorrelated"])
def test_the_mean_delay_is_the_one_in_the_preview(jitter: Jitter, retry: int, rng: random.Random) -> None:
    backoff = Backoff(1_000, 300_000, jitter=jitter)
    samples = [backoff.delay(retry, rng=rng) for _ in range(10_000)]
    assert fmean(samples) == pytest.approx(backoff.preview(21)[retry].mean, abs=tolerance(samples, errors=3))


@pytest.mark.parametrize("jitter", [jitter for jitter in JITTERS if jitter != "decorrelated"])
@given(data=st.data(), retry=st.integers(0, 11), seed=seeds)
@settings(max_examples=12)
def test_the_mean_is_the_one_in_the_preview_whatever_the_bounds(
    jitter: Jitter, data: st.DataObject, retry: int, seed: int
) -> None:
    backoff, rng = data.draw(backoffs(jitter)), random.Random(seed)
    samples = [backoff.delay(retry, rng=rng) for _ in range(500)]
    assert fmean(samples) == pytest.approx(backoff.preview(12)[retry].mean, abs=tolerance(samples))


@pytest.mark.parametrize("cap", [1_000, 2_000, 50_000, 10_000_000])
def test_the_mean_decorrelated_delay_is_the_one_in_the_preview(cap: int, rng: random.Random) -> None:
    backoff = Backoff(1_000, cap, jitter="decorrelated")
    schedules = walks(backoff, rng, retries=8, count=2_000)
    for row, samples in zip(backoff.preview(8), zip(*schedules, strict=True), strict=True):
        # The preview promises its mean to about 1 %.
        assert fmean(samples) == pytest.approx(row.mean, abs=tolerance(samples, errors=3) + 0.01 * row.mean)


@pytest.mark.parametrize("jitter", JITTERS)
@given(data=st.data(), seed=seeds)
@settings(max_examples=8)
def test_the_totals_of_a_preview_are_those_of_whole_schedules(jitter: Jitter, data: st.DataObject, seed: int) -> None:
    backoff = data.draw(backoffs(jitter))
    last = backoff.preview(6)[-1]
    totals = [sum(schedule) for schedule in walks(backoff, random.Random(seed), retries=6, count=300)]
    assert last.total_least <= min(totals)
    assert max(totals) <= last.total_greatest
    assert fmean(totals) == pytest.approx(last.total_mean, abs=tolerance(totals) + 3 + 0.01 * last.total_mean)


@pytest.mark.parametrize("jitter", JITTERS)
def test_the_totals_of_a_preview_are_the_sums_of_its_rows(jitter: Jitter) -> None:
    rows = Backoff(1_000, 50_000, jitter=jitter).preview(10)
    for n, row in enumerate(rows, start=1):
        assert row.retry == n - 1
        assert row.total_least == sum(r.least for r in rows[:n])
        assert row.total_greatest == sum(r.greatest for r in rows[:n])
        assert row.total_mean == pytest.approx(sum(r.mean for r in rows[:n]))


# Coverage.


@pytest.mark.parametrize("jitter", [jitter for jitter in ROLLED if jitter != "decorrelated"])
@given(data=st.data(), retry=st.integers(0, 8), seed=seeds)
@settings(max_examples=10)
def test_every_part_of_the_range_is_reached(jitter: Jitter, data: st.DataObject, retry: int, seed: int) -> None:
    backoff, rng = data.draw(wide(jitter)), random.Random(seed)
    row = backoff.preview(9)[retry]
    samples = [backoff.delay(retry, rng=rng) for _ in range(SAMPLES)]
    assert all(bins(samples, row.least, row.greatest))


@given(
    base=bases,
    previous=st.none() | st.floats(1, 1_000),
    cut=st.floats(0.3, 2),
    seed=seeds,
)
@settings(max_examples=10)
def test_every_part_of_the_decorrelated_range_is_reached(
    base: int, previous: float | None, cut: float, seed: int
) -> None:
    before = None if previous is None else int(base * previous)
    highest = 3 * (before or base)
    backoff = Backoff(base, int(base + (highest - base) * cut), jitter="decorrelated")
    rng = random.Random(seed)
    samples = [backoff.delay(3, previous=before, rng=rng) for _ in range(SAMPLES)]
    assert all(bins(samples, base, min(highest, backoff.max_backoff)))


def even_range(jitter: Jitter, *, base: int, v: float, at_the_cap: bool) -> tuple[float, float]:
    """Where the delays of a formula lie, evenly spread."""
    return {
        "additive": (v - base, v) if at_the_cap else (v, v + base),
        "full": (0, v),
        "equal": (v / 2, v),
        "proportional": (v / 2, v) if at_the_cap else (v, 2 * v),
        "decorrelated": (base, 3 * base),
    }[jitter]


def assert_evenly_spread(samples: list[int], least: float, greatest: float) -> None:
    wanted = len(samples) / BINS
    # Six standard deviations of a binomial count, and the half milliseconds that rounding moves over an edge.
    leeway = 6 * math.sqrt(wanted) + len(samples) / (greatest - least)
    assert bins(samples, least, greatest) == pytest.approx([wanted] * BINS, abs=leeway)


@pytest.mark.parametrize("jitter", ROLLED)
@given(base=bases, factor=st.sampled_from([1, 1.5, 2, 5]), retry=st.integers(0, 6), seed=seeds)
@settings(max_examples=8)
def test_below_the_cap_delays_are_spread_evenly_over_the_range_of_the_formula(
    jitter: Jitter, base: int, factor: float, retry: int, seed: int
) -> None:
    v = base * factor**retry
    backoff, rng = Backoff(base, int(3 * v) + 1, factor, jitter=jitter), random.Random(seed)
    samples = [backoff.delay(retry, rng=rng) for _ in range(SAMPLES)]
    assert_evenly_spread(samples, *even_range(jitter, base=base, v=v, at_the_cap=False))


@pytest.mark.parametrize("jitter", ["additive", "full", "equal", "proportional"])
@given(base=bases, cap=st.integers(1, 1_000), seed=seeds)
@settings(max_examples=8)
def test_at_the_cap_delays_are_spread_evenly_over_the_range_of_the_formula(
    jitter: Jitter, base: int, cap: int, seed: int
) -> None:
    backoff, rng = Backoff(base, base * cap, jitter=jitter), random.Random(seed)
    samples = [backoff.delay(20, rng=rng) for _ in range(SAMPLES)]
    assert_evenly_spread(samples, *even_range(jitter, base=base, v=backoff.max_backoff, at_the_cap=True))


@pytest.mark.parametrize("jitter", ["additive", "full", "equal", "proportional"])
@given(data=st.data(), retry=st.integers(0, 40), seed=seeds)
@settings(max_examples=10)
def test_late_retries_do_not_fall_together_at_the_cap(
    jitter: Jitter, data: st.DataObject, retry: int, seed: int
) -> None:
    backoff, rng = data.draw(wide(jitter)), random.Random(seed)
    samples = [backoff.delay(retry, rng=rng) for _ in range(500)]
    [(_, most_common)] = Counter(samples).most_common(1)
    assert most_common <= 25


def test_two_processes_with_dice_of_their_own_wait_differently() -> None:
    for jitter in ROLLED:
        one, other = random.Random(1), random.Random(2)
        backoff = Backoff(10_000, 10_000_000, jitter=jitter)
        assert [backoff.delay(n, rng=one) for n in range(5)] != [backoff.delay(n, rng=other) for n in range(5)]


# Proportional is Dramatiq's own.


def dramatiqs(backoff: Backoff, retry: int) -> Iterator[int]:
    while True:
        yield compute_backoff(retry, factor=backoff.min_backoff, max_backoff=backoff.max_backoff)[1]


@pytest.mark.parametrize("retry", [0, 3, 6, 7, 8, 9, 30])
def test_proportional_delays_are_distributed_as_those_of_dramatiq(
    retry: int, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.common.uniform", random.Random(1).uniform)
    backoff = Backoff(100, 30_000, jitter="proportional")
    ours = sorted(backoff.delay(retry, rng=rng) for _ in range(SAMPLES))
    theirs = sorted(delay for delay, _ in zip(dramatiqs(backoff, retry), range(SAMPLES), strict=False))
    # The greatest distance of the two distributions (Kolmogorov and Smirnov); 0.06 is passed once in 10,000.
    width = (theirs[-1] - theirs[0]) * 0.06
    for quantile in range(0, SAMPLES, SAMPLES // 20):
        assert ours[quantile] == pytest.approx(theirs[quantile], abs=width)
