"""``decide`` and ``heard_wait`` never raise, whatever errors and policies they are given."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from dramatiq import Retry
from dramatiq.middleware import Shutdown, TimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_retryq import GiveUp, Snooze
from dramatiq_retryq.clock import milliseconds
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.policy import JITTERS, MAX_HEARD_WAIT, Backoff, Settings, decide, heard_wait, parse_policy
from dramatiq_retryq.records import REASONS, Decision, Die, RetryIn

NOW = 1_767_225_600_000


class NoText:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Undecided:
    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


def raiser(error: BaseException) -> Callable[..., NoReturn]:
    def raise_it(*args: object) -> NoReturn:
        raise error

    return raise_it


def returner(value: object) -> Callable[..., object]:
    return lambda *args: value


# What no sane person would return or carry as a duration, and what they would.
nonsense = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.timedeltas(),
    st.datetimes(),
    st.text(),
    st.binary(),
    st.lists(st.integers(), max_size=2),
    st.builds(object),
    st.builds(NoText),
    st.builds(Undecided),
    st.just(NotImplemented),
    st.just(type),
)
exceptions = st.sampled_from(
    [
        ValueError("x"),
        KeyError(),
        OSError(5, "io"),
        ZeroDivisionError(),
        RecursionError(),
        MemoryError(),
        StopIteration(),
    ]
)
functions = st.builds(returner, nonsense) | st.builds(raiser, exceptions) | st.just(lambda: None)


def carrying(error: Exception, **attributes: Any) -> Exception:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


sane_delays = st.none() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.timedeltas() | st.text()
failures: st.SearchStrategy[BaseException] = st.one_of(
    exceptions,
    st.builds(lambda delay: Retry(delay=delay), sane_delays),
    st.builds(Snooze, sane_delays),
    st.builds(GiveUp),
    st.builds(Shutdown),
    st.builds(TimeLimitExceeded),
    st.builds(lambda wait: carrying(ValueError(), retry_after=wait), nonsense),
    st.builds(lambda wait: carrying(ValueError(), headers={"Retry-After": wait}), nonsense),
)
backoffs = st.builds(
    lambda lo, more, factor, jitter: Backoff(lo, lo + more, factor, jitter=jitter),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.floats(1, 1e300),
    st.sampled_from(JITTERS),
)
lists = st.lists(st.integers(0, 10**9) | st.timedeltas(timedelta(0), timedelta(days=365_000)), min_size=1)
plain_policies = backoffs | lists | functions
exception_classes = st.sampled_from([BaseException, Exception, ValueError, LookupError, KeyError, Retry, Snooze])
policies = plain_policies | st.dictionaries(exception_classes, st.none() | plain_policies, min_size=1)


@given(
    error=failures,
    policy=policies,
    max_retries=st.none() | st.integers(0, 10),
    retry_when=st.none() | functions,
    max_age=st.none() | st.integers(0, 10**12),
    retries=st.integers(0, 10**6),
    previous=st.none() | st.integers(-(10**9), 10**9),
    age=st.integers(-(10**12), 10**12),
    seed=st.integers(0, 100),
)
def test_decide_never_raises_and_gives_a_whole_delay_or_a_reason(
    error: BaseException,
    policy: Any,
    max_retries: int | None,
    retry_when: Callable[[int, BaseException], bool] | None,
    max_age: int | None,
    retries: int,
    previous: int | None,
    age: int,
    seed: int,
) -> None:
    settings = Settings(
        policy=parse_policy(policy, what="backoff", default=Backoff()),
        max_retries=max_retries,
        retry_when=retry_when,
        max_age=max_age,
    )
    decision = decide(
        error,
        settings,
        retries=retries,
        previous=previous,
        sent_at=NOW - age,
        now=NOW,
        rng=random.Random(seed),
    )
    if isinstance(decision, RetryIn):
        assert type(decision.delay) is int
        assert decision.delay >= 0
        assert not decision.uses_attempt or max_age in (None, 0) or age + decision.delay < max_age
    else:
        assert isinstance(decision, Die)
        assert decision.reason in REASONS


@given(function=functions, retries=st.integers(0, 19))
def test_a_policy_that_raises_or_returns_nonsense_is_reported_and_the_default_used(
    function: Callable[..., object], retries: int
) -> None:
    def decided(policy: Any) -> Decision:
        settings = Settings(policy=policy)
        rng = random.Random(0)
        return decide(ValueError(), settings, retries=retries, previous=None, sent_at=NOW, now=NOW, rng=rng)

    decision = decided(parse_policy(function, what="backoff", default=Backoff()))
    if decision.problem is None:
        # It said something that can be understood.
        return
    assert "raised" in decision.problem
    assert "the default was used" in decision.problem
    default = decided(Backoff())
    assert isinstance(decision, RetryIn)
    assert isinstance(default, RetryIn)
    assert decision.delay == default.delay


def decided(error: BaseException, **given: Any) -> Decision:
    arguments: dict[str, Any] = {"retries": 0, "previous": None, "sent_at": NOW, "now": NOW, "rng": random.Random(0)}
    settings = given.pop("settings", Settings())
    return decide(error, settings, **{**arguments, **given})


class RetryWithItsOwnInit(Retry):
    def __init__(self, host: str) -> None:
        self.host = host


class RetryWhoseDelayRaises(Retry):
    def __init__(self) -> None:
        pass

    @property
    def delay(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no delay")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Retry(delay=10**400), id="huge retry"),
        pytest.param(Snooze(10**400), id="huge snooze"),
        pytest.param(Retry(delay=math.nan), id="not a number"),  # type: ignore[arg-type]
        pytest.param(Retry(delay=NoText()), id="no text"),  # type: ignore[arg-type]
        pytest.param(RetryWithItsOwnInit("example.org"), id="no delay"),
        pytest.param(RetryWhoseDelayRaises(), id="delay raises"),
    ],
)
def test_a_retry_whose_delay_cannot_be_had_waits_as_if_it_had_none(error: Retry) -> None:
    decision = decided(error, settings=Settings(policy=Backoff(700, 700, jitter="none")))
    assert isinstance(decision, RetryIn)
    assert decision.delay == 700


def test_decide_does_not_raise_for_a_previous_delay_beyond_all_floats() -> None:
    settings = Settings(policy=Backoff(100, 30_000, jitter="decorrelated"))
    decision = decided(ValueError(), settings=settings, previous=10**400)
    assert isinstance(decision, RetryIn)
    assert 100 <= decision.delay <= 30_000


# heard_wait: all of it is other people's code.

hostile_headers = st.one_of(
    nonsense,
    st.dictionaries(st.sampled_from(["Retry-After", "retry-after", "Date"]), nonsense),
    st.builds(lambda get: SimpleNamespace(get=get), functions | nonsense),
)


@st.composite
def errors_with_attributes(draw: st.DrawFn) -> Exception:
    error = ValueError("x")
    responses = nonsense | st.builds(lambda headers: SimpleNamespace(headers=headers), hostile_headers)
    for name, values in (("retry_after", nonsense), ("response", responses), ("headers", hostile_headers)):
        if draw(st.booleans()):
            setattr(error, name, draw(values))
    return error


@given(error=errors_with_attributes(), now=st.integers(0, 10**14))
def test_heard_wait_never_raises_and_gives_none_or_at_most_seven_days(error: Exception, now: int) -> None:
    heard = heard_wait(error, now=now)
    assert heard is None or (type(heard) is int and 0 <= heard <= MAX_HEARD_WAIT)


@given(name=st.sampled_from(["retry_after", "response", "headers"]), raised=exceptions)
def test_heard_wait_never_raises_for_a_property_that_does(name: str, raised: Exception) -> None:
    error = type("Hostile", (Exception,), {name: property(raiser(raised))})()
    assert heard_wait(error, now=NOW) is None


@given(value=st.one_of(st.builds(object), st.integers(), st.text(), st.none(), st.binary()))
def test_heard_wait_hears_nothing_from_what_is_no_error_at_all(value: Any) -> None:
    assert heard_wait(value, now=NOW) is None


@given(seconds=st.one_of(st.integers(0, 10**6), st.floats(0, 1e6), st.decimals(0, 10**6), st.fractions(0, 10**6)))
def test_seconds_are_heard_as_milliseconds_and_never_rounded_down(seconds: float | Decimal | Fraction) -> None:
    said = str(seconds) if isinstance(seconds, (Decimal, Fraction)) else seconds
    heard = heard_wait(carrying(ValueError(), retry_after=said), now=NOW)
    if "/" in str(said):
        assert heard is None
        return
    assert heard is not None
    assert heard - 1 < min(float(seconds) * 1000, MAX_HEARD_WAIT) <= heard


@given(
    date=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)),
)
def test_a_date_is_heard_as_the_time_until_then_and_never_early(date: datetime) -> None:
    date = date.replace(microsecond=0)
    text = date.strftime("%a, %d %b %Y %H:%M:%S GMT")
    heard = heard_wait(carrying(ValueError(), headers={"Retry-After": text}), now=NOW)
    assert heard == min(max(0, int(date.timestamp()) * 1000 - NOW), MAX_HEARD_WAIT)


@given(seconds=st.one_of(st.integers(7 * 86_400, 10**30), st.floats(7 * 86_400, 1e300), st.just(math.inf)))
def test_a_wait_over_seven_days_is_cut_down_to_that(seconds: float) -> None:
    assert heard_wait(carrying(ValueError(), retry_after=seconds), now=NOW) == MAX_HEARD_WAIT
    assert heard_wait(carrying(ValueError(), retry_after=str(seconds)), now=NOW) == MAX_HEARD_WAIT


@pytest.mark.parametrize("seconds", [1e306, 1.7e308, "1e307"])
def test_a_wait_that_overflows_as_milliseconds_is_cut_down_too(seconds: float | str) -> None:
    assert heard_wait(carrying(ValueError(), retry_after=seconds), now=NOW) == MAX_HEARD_WAIT


@given(value=st.one_of(st.integers(max_value=-1), st.floats(max_value=-0.001), st.just(math.nan), st.booleans()))
def test_a_wait_that_is_negative_or_no_number_is_not_heard(value: float) -> None:
    assert heard_wait(carrying(ValueError(), retry_after=value), now=NOW) is None


# What can be typed as a duration.


@given(value=nonsense.filter(lambda value: not isinstance(value, NoText)))
def test_a_duration_is_understood_or_refused_with_an_error_that_names_it(value: Any) -> None:
    try:
        understood = milliseconds(value, "min_backoff")
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = "min_backoff is fine"
        assert type(understood) is int
        assert understood >= 0
    assert refusal.startswith("min_backoff is ")
