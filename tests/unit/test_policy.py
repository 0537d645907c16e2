"""What a failure leads to, as values: nothing here stores, logs or waits."""

from __future__ import annotations

import email.message
import random
import urllib.error
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from dramatiq import Retry
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Shutdown, TimeLimitExceeded

from dramatiq_retryq import Backoff, GiveUp, Snooze
from dramatiq_retryq.clock import MAX_DURATION
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.policy import (
    JITTERS,
    MAX_HEARD_WAIT,
    Policy,
    Settings,
    adjusted,
    decide,
    heard_wait,
    parse_policy,
)
from dramatiq_retryq.records import Decision, Die, RetryIn

NOW = 1_767_225_600_000
#: A policy whose delay says that it was asked, and for which retry: 1000, 2000, 4000 …
DOUBLING = Backoff(1_000, 1_000_000, jitter="none")


def decided(
    error: BaseException,
    *,
    backoff: Any = DOUBLING,
    retries: int = 0,
    previous: int | None = None,
    age: int = 0,
    **settings: Any,
) -> Decision:
    return decide(
        error,
        Settings(policy=parse_policy(backoff, what="backoff", default=DOUBLING), **settings),
        retries=retries,
        previous=previous,
        sent_at=NOW - age,
        now=NOW,
        rng=random.Random(0),
    )


def delay_of(decision: Decision) -> int:
    assert isinstance(decision, RetryIn)
    return decision.delay


def reason_of(decision: Decision) -> str:
    assert isinstance(decision, Die)
    return decision.reason


# Any exception.


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RateLimitExceeded("x"),
        TimeLimitExceeded("x"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_is_retried_after_the_delay_of_the_policy_and_uses_an_attempt(error: BaseException) -> None:
    assert decided(error) == RetryIn(delay=1_000)
    assert decided(error, retries=3) == RetryIn(delay=8_000, uses_attempt=True, problem=None)


def test_the_last_attempt_ends_as_exhausted() -> None:
    assert decided(ValueError(), retries=19) == RetryIn(delay=1_000_000)
    assert decided(ValueError(), retries=20) == Die(reason="exhausted")


def test_max_retries_of_zero_is_an_answer() -> None:
    assert decided(ValueError(), max_retries=0) == Die(reason="exhausted")


def test_max_retries_of_none_is_no_limit() -> None:
    assert decided(ValueError(), max_retries=None, retries=10_000) == RetryIn(delay=1_000_000)


def test_a_message_that_had_more_retries_than_it_may_have_now_is_exhausted() -> None:
    assert reason_of(decided(ValueError(), max_retries=3, retries=7)) == "exhausted"


# dramatiq.Retry.


def test_retry_waits_as_long_as_it_says_and_uses_an_attempt() -> None:
    assert decided(Retry(delay=77)) == RetryIn(delay=77, uses_attempt=True)


def test_retry_with_a_delay_of_zero_does_not_wait() -> None:
    assert delay_of(decided(Retry(delay=0))) == 0


def test_retry_without_a_delay_waits_as_the_policy_says() -> None:
    assert delay_of(decided(Retry(), retries=1)) == 2_000


def test_retry_accepts_a_timedelta() -> None:
    assert delay_of(decided(Retry(delay=timedelta(seconds=1.5)))) == 1_500  # type: ignore[arg-type]


def test_retry_at_the_last_attempt_ends_as_exhausted() -> None:
    assert decided(Retry(delay=77), retries=20) == Die(reason="exhausted")


@pytest.mark.parametrize(
    ("delay", "problem"),
    [
        (-1, "Retry(delay=…) is -1 ms: a duration cannot be negative"),
        ("5", "Retry(delay=…) is '5': give milliseconds as a whole number, or a datetime.timedelta"),
        (True, "Retry(delay=…) is True: give milliseconds as a whole number, or a datetime.timedelta"),
        (float("nan"), "Retry(delay=…) is nan: give milliseconds as a whole number, or a datetime.timedelta"),
    ],
)
def test_retry_with_a_delay_that_makes_no_sense_waits_as_the_policy_says_and_says_so(delay: Any, problem: str) -> None:
    assert decided(Retry(delay=delay)) == RetryIn(delay=1_000, problem=problem)


# Snooze.


def test_snooze_waits_as_long_as_it_says_and_uses_no_attempt() -> None:
    assert decided(Snooze(77)) == RetryIn(delay=77, uses_attempt=False)


def test_snooze_accepts_a_timedelta_and_zero() -> None:
    assert delay_of(decided(Snooze(timedelta(minutes=1)))) == 60_000
    assert delay_of(decided(Snooze(0))) == 0


def test_snooze_is_heard_where_no_attempt_is_left() -> None:
    assert decided(Snooze(77), retries=20) == RetryIn(delay=77, uses_attempt=False)
    assert decided(Snooze(77), max_retries=0) == RetryIn(delay=77, uses_attempt=False)


def test_snooze_is_not_a_question_for_retry_when() -> None:
    assert decided(Snooze(77), retry_when=lambda retries, error: False) == RetryIn(delay=77, uses_attempt=False)


def test_snooze_with_a_delay_that_makes_no_sense_waits_as_a_first_retry_and_says_so() -> None:
    decision = decided(Snooze("soon"), retries=5)  # type: ignore[arg-type]
    assert delay_of(decision) == 1_000
    assert decision.problem == (
        "Snooze(delay=…) is 'soon': give milliseconds as a whole number, or a datetime.timedelta"
    )
    assert isinstance(decision, RetryIn)
    assert not decision.uses_attempt


def test_snooze_beyond_max_age_ends_as_expired() -> None:
    assert decided(Snooze(500), age=600, max_age=1_100) == Die(reason="expired")
    assert delay_of(decided(Snooze(499), age=600, max_age=1_100)) == 499


# Shutdown.


@pytest.mark.parametrize("settings", [{}, {"max_retries": 0}, {"retries": 20}, {"age": 10**9, "max_age": 1}])
def test_a_shutdown_is_waiting_again_at_once_and_uses_no_attempt_whatever_holds(settings: dict[str, Any]) -> None:
    assert decided(Shutdown(), **settings) == RetryIn(delay=0, uses_attempt=False)


# GiveUp and throws.


def test_giving_up_ends_as_rejected() -> None:
    assert decided(GiveUp("no such user")) == Die(reason="rejected")


@pytest.mark.parametrize("throws", [(ValueError,), (KeyError, ValueError), (Exception,)])
def test_an_exception_in_throws_ends_as_rejected(throws: tuple[type[Exception], ...]) -> None:
    assert decided(ValueError(), throws=throws) == Die(reason="rejected")


def test_a_subclass_of_one_in_throws_ends_as_rejected() -> None:
    assert decided(UnicodeError(), throws=(ValueError,)) == Die(reason="rejected")


def test_an_exception_that_is_not_in_throws_is_retried() -> None:
    assert delay_of(decided(ValueError(), throws=(UnicodeError, KeyError))) == 1_000


# retry_when.


def test_retry_when_decides_in_place_of_max_retries() -> None:
    assert decided(ValueError(), retry_when=lambda retries, error: False) == Die(reason="exhausted")
    assert delay_of(decided(ValueError(), retries=500, retry_when=lambda retries, error: True)) == 1_000_000


def test_retry_when_is_asked_with_the_number_of_retries_and_the_error() -> None:
    asked: list[tuple[int, BaseException]] = []
    error = ValueError()
    decided(error, retries=7, retry_when=lambda retries, error: asked.append((retries, error)))
    assert asked == [(7, error)]


def test_retry_when_may_answer_with_anything_that_is_true_or_false() -> None:
    assert reason_of(decided(ValueError(), retry_when=lambda retries, error: "")) == "exhausted"
    assert delay_of(decided(ValueError(), retry_when=lambda retries, error: [0])) == 1_000


@pytest.mark.parametrize(("retries", "again"), [(19, True), (20, False)])
def test_a_retry_when_that_raises_gives_way_to_max_retries_and_is_reported(retries: int, again: bool) -> None:
    decision = decided(ValueError(), retries=retries, retry_when=lambda retries, error: retries / 0)
    assert isinstance(decision, RetryIn) == again
    assert decision.problem == "retry_when raised ZeroDivisionError; the default was used"


# max_age.


def test_a_next_attempt_at_or_after_max_age_ends_as_expired_now() -> None:
    assert decided(ValueError(), age=4_000, max_age=5_000) == Die(reason="expired")
    assert decided(ValueError(), age=9_000, max_age=5_000) == Die(reason="expired")


def test_a_next_attempt_before_max_age_is_made() -> None:
    assert delay_of(decided(ValueError(), age=3_999, max_age=5_000)) == 1_000


@pytest.mark.parametrize("max_age", [None, 0])
def test_max_age_of_none_or_zero_is_no_limit(max_age: int | None) -> None:
    assert delay_of(decided(ValueError(), age=10**12, max_age=max_age)) == 1_000


def test_max_age_counts_the_delay_that_an_error_asks_for() -> None:
    assert reason_of(decided(Retry(delay=5_000), max_age=5_000)) == "expired"
    assert reason_of(decided(asking(5), max_age=5_000)) == "expired"
    assert delay_of(decided(Retry(delay=0), age=4_999, max_age=5_000)) == 0


def test_exhausted_comes_before_expired() -> None:
    assert reason_of(decided(ValueError(), retries=20, age=10**9, max_age=1)) == "exhausted"


def test_a_message_from_the_future_is_retried() -> None:
    assert delay_of(decided(ValueError(), age=-(10**9), max_age=5_000)) == 1_000


# The limit.


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        (Settings(), 21),
        (Settings(max_retries=0), 1),
        (Settings(max_retries=None), None),
        (Settings(max_retries=3, retry_when=lambda retries, error: True), None),
    ],
)
def test_the_limit_is_the_number_of_attempts_where_a_number_says_so(settings: Settings, limit: int | None) -> None:
    assert settings.limit == limit


# Policies: lists.


def test_a_list_gives_its_delays_in_turn_and_repeats_the_last() -> None:
    delays = [60_000, 300_000, 3_600_000]
    assert [delay_of(decided(ValueError(), backoff=delays, retries=n)) for n in range(5)] == [*delays, *delays[-1:] * 2]


def test_a_list_may_have_timedeltas_and_zero() -> None:
    delays = (0, timedelta(seconds=2), timedelta(0))
    assert [delay_of(decided(ValueError(), backoff=delays, retries=n)) for n in range(3)] == [0, 2_000, 0]


# Policies: functions.


@pytest.mark.parametrize(
    ("said", "delay"),
    [(0, 0), (5, 5), (1.0, 1), (1.2, 2), (1e-9, 1), (timedelta(seconds=1), 1_000), (timedelta(microseconds=1), 1)],
)
def test_a_function_gives_the_delay_in_whole_milliseconds_rounded_up(said: Any, delay: int) -> None:
    decision = decided(ValueError(), backoff=lambda attempt, error: said)
    assert decision == RetryIn(delay=delay)
    assert type(delay_of(decision)) is int


def test_a_function_that_gives_none_gives_up() -> None:
    assert decided(ValueError(), backoff=lambda attempt, error: None) == Die(reason="exhausted")


def test_a_function_is_asked_with_the_number_of_the_attempt_that_failed_and_the_error() -> None:
    asked: list[tuple[int, BaseException]] = []
    error = ValueError()
    for retries in range(3):
        decided(error, backoff=lambda attempt, error: asked.append((attempt, error)), retries=retries)
    assert asked == [(1, error), (2, error), (3, error)]


@pytest.mark.parametrize(
    ("function", "raised"),
    [
        (lambda attempt, error: 1 / 0, "ZeroDivisionError"),
        (lambda: 5, "TypeError"),
        (lambda attempt, error: "5", "ConfigError"),
        (lambda attempt, error: True, "ConfigError"),
        (lambda attempt, error: -1, "ConfigError"),
        (lambda attempt, error: timedelta(-1), "ConfigError"),
        (lambda attempt, error: float("inf"), "ConfigError"),
        (lambda attempt, error: float("nan"), "ConfigError"),
        (lambda attempt, error: MAX_DURATION + 1, "ConfigError"),
        (lambda attempt, error: [5], "ConfigError"),
        (lambda attempt, error: datetime(2030, 1, 1), "ConfigError"),
    ],
)
def test_a_function_that_raises_or_gives_nonsense_gives_way_to_the_default_and_is_reported(
    function: Callable[..., Any], raised: str
) -> None:
    decision = decided(ValueError(), backoff=function, retries=2)
    assert 400 <= delay_of(decision) <= 500  # the default: 100 ms, doubled each time, and up to 100 more
    assert decision.problem == f"the backoff policy raised {raised}; the default was used"


def test_a_report_does_not_quote_what_was_raised() -> None:
    def leak(attempt: int, error: BaseException) -> int:
        raise ValueError("card number 4111 1111 1111 1111")

    assert "4111" not in str(decided(ValueError(), backoff=leak).problem)


def test_what_ends_the_interpreter_is_not_swallowed() -> None:
    def leave(attempt: int, error: BaseException) -> int:
        raise SystemExit

    with pytest.raises(SystemExit):
        decided(ValueError(), backoff=leave)


# Policies: rules by exception class.

RULES: dict[type[BaseException], Any] = {
    LookupError: [10],
    KeyError: [20, 21],
    OSError: lambda attempt, error: 30,
    ConnectionError: Backoff(40, 40, jitter="none"),
    UnicodeError: None,
}


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (LookupError(), 10),
        (IndexError(), 10),
        (KeyError(), 20),
        (OSError(), 30),
        (ConnectionError(), 40),
        (ConnectionResetError(), 40),
        (ValueError(), 1_000),
        (Exception(), 1_000),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_nearest_class_in_the_errors_line_of_descent_decides(error: Exception, delay: int) -> None:
    assert delay_of(decided(error, backoff=RULES)) == delay
    assert delay_of(decided(error, backoff=dict(reversed(RULES.items())))) == delay


def test_of_two_bases_the_one_that_python_asks_first_decides() -> None:
    class Both(OSError, KeyError):
        pass

    assert delay_of(decided(Both(), backoff=RULES)) == 30


def test_a_rule_of_none_gives_up_at_once() -> None:
    assert decided(UnicodeDecodeError("utf-8", b"", 0, 1, "x"), backoff=RULES) == Die(reason="exhausted")


def test_a_rule_is_told_the_number_of_the_retry() -> None:
    assert delay_of(decided(KeyError(), backoff=RULES, retries=1)) == 21


def test_a_rule_for_base_exception_catches_all() -> None:
    assert delay_of(decided(KeyboardInterrupt(), backoff={BaseException: [5]})) == 5


def test_a_rule_that_raises_gives_way_to_the_default_and_is_reported() -> None:
    decision = decided(KeyError(), backoff={KeyError: lambda attempt, error: 1 / 0})
    assert decision.problem == "the backoff policy raised ZeroDivisionError; the default was used"


# Waits that an error carries.


def asking(retry_after: Any) -> Exception:
    error = ValueError()
    error.retry_after = retry_after  # type: ignore[attr-defined]
    return error


def http_error(header: Any, *, status: int = 503) -> Exception:
    """As requests and httpx raise it."""
    error = ValueError()
    error.response = SimpleNamespace(status_code=status, headers={"Retry-After": header})  # type: ignore[attr-defined]
    return error


def urllib_error(header: str) -> urllib.error.HTTPError:
    headers = email.message.Message()
    headers["retry-after"] = header
    return urllib.error.HTTPError("http://example.org", 503, "unavailable", headers, None)


def http_date(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        (0, 0),
        (120, 120_000),
        (1.5, 1_500),
        (0.0001, 1),
        ("120", 120_000),
        (" 120 ", 120_000),
        ("1.5", 1_500),
        (timedelta(minutes=2), 120_000),
        (http_date(NOW + 90_000), 90_000),
        (http_date(NOW - 90_000), 0),
        ("Thu, 01 Jan 2026 00:01:30 -0000", 90_000),
        ("Thu, 01 Jan 2026 01:01:30 +0100", 90_000),
        (7 * 86_400, MAX_HEARD_WAIT),
        (7 * 86_400 + 1, MAX_HEARD_WAIT),
        ("31536000", MAX_HEARD_WAIT),
        (float("inf"), MAX_HEARD_WAIT),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_HEARD_WAIT),
    ],
)
@pytest.mark.parametrize("carried", [asking, http_error])
def test_a_wait_that_an_error_carries_is_heard(carried: Callable[[Any], Exception], said: Any, wait: int) -> None:
    assert heard_wait(carried(said), now=NOW) == wait
    assert delay_of(decided(carried(said))) == wait


@pytest.mark.parametrize(
    "said",
    [
        None,
        -1,
        "-1",
        float("nan"),
        "nan",
        True,
        "",
        "soon",
        "2026-01-01T00:01:30Z",
        "Thu, 32 Jan 2026 00:00:00 GMT",
        b"120",
        timedelta(seconds=-1),
        [120],
        object(),
        asking,
    ],
)
@pytest.mark.parametrize("carried", [asking, http_error])
def test_a_wait_that_cannot_be_read_is_not_heard(carried: Callable[[Any], Exception], said: Any) -> None:
    assert heard_wait(carried(said), now=NOW) is None
    assert decided(carried(said)) == RetryIn(delay=1_000)


def test_the_header_of_an_urllib_error_is_heard() -> None:
    assert heard_wait(urllib_error("7"), now=NOW) == 7_000


def test_the_attribute_is_heard_before_the_header() -> None:
    error = http_error("7")
    error.retry_after = 5  # type: ignore[attr-defined]
    assert heard_wait(error, now=NOW) == 5_000


def test_the_header_is_heard_where_the_attribute_says_nothing() -> None:
    error = http_error("7")
    error.retry_after = None  # type: ignore[attr-defined]
    assert heard_wait(error, now=NOW) == 7_000


@pytest.mark.parametrize(
    "attributes",
    [
        {"response": None},
        {"response": object()},
        {"response": SimpleNamespace(headers=None)},
        {"response": SimpleNamespace(headers={})},
        {"response": SimpleNamespace(headers=["Retry-After"])},
        {"headers": 5},
        {"headers": SimpleNamespace(get=lambda: 5)},
    ],
)
def test_an_error_without_a_header_is_not_heard(attributes: dict[str, Any]) -> None:
    error = ValueError()
    for name, value in attributes.items():
        setattr(error, name, value)
    assert heard_wait(error, now=NOW) is None


def test_an_error_whose_properties_raise_is_not_heard() -> None:
    class Hostile(Exception):
        @property
        def retry_after(self) -> int:
            raise RuntimeError

        @property
        def response(self) -> object:
            raise RuntimeError

    assert decided(Hostile()) == RetryIn(delay=1_000)


def test_a_wait_is_heard_in_place_of_a_list_a_function_and_a_rule() -> None:
    for backoff in ([5], lambda attempt, error: 5, {ValueError: [5]}):
        assert delay_of(decided(asking(3), backoff=backoff)) == 3_000


def test_a_wait_does_not_overrule_a_policy_that_gives_up() -> None:
    assert reason_of(decided(asking(3), backoff=lambda attempt, error: None)) == "exhausted"
    assert reason_of(decided(asking(3), retries=20)) == "exhausted"


# Bad input.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"min_backoff": "5"},
            "min_backoff is '5': give milliseconds as a whole number, or a datetime.timedelta",
        ),
        (
            {"min_backoff": None},
            "min_backoff is None: give milliseconds as a whole number, or a datetime.timedelta",
        ),
        (
            {"max_backoff": True},
            "max_backoff is True: give milliseconds as a whole number, or a datetime.timedelta",
        ),
        (
            {"max_backoff": float("inf")},
            "max_backoff is inf: give milliseconds as a whole number, or a datetime.timedelta",
        ),
        (
            {"min_backoff": float("nan")},
            "min_backoff is nan: give milliseconds as a whole number, or a datetime.timedelta",
        ),
        ({"min_backoff": -5}, "min_backoff is -5 ms: a duration cannot be negative"),
        ({"min_backoff": timedelta(seconds=-1)}, "min_backoff is -1000.0 ms: a duration cannot be negative"),
        ({"max_backoff": -0.5}, "max_backoff is -0.5 ms: a duration cannot be negative"),
        (
            {"max_backoff": MAX_DURATION + 1},
            "max_backoff is more than 31622400000000 ms, which is a thousand years: give less",
        ),
        (
            {"min_backoff": 500, "max_backoff": 200},
            "max_backoff is 200 ms, below min_backoff (500 ms): raise it or lower min_backoff",
        ),
        ({"factor": 0.5}, "factor is 0.5: give a number of 1 or more"),
        ({"factor": 0}, "factor is 0: give a number of 1 or more"),
        ({"factor": -2}, "factor is -2: give a number of 1 or more"),
        ({"factor": "2"}, "factor is '2': give a number of 1 or more"),
        ({"factor": True}, "factor is True: give a number of 1 or more"),
        ({"factor": float("nan")}, "factor is nan: give a number of 1 or more"),
        ({"factor": float("inf")}, "factor is inf: give a number of 1 or more"),
        (
            {"jitter": "some"},
            "jitter is 'some': give one of additive, full, equal, decorrelated, proportional, none",
        ),
        ({"jitter": None}, "jitter is None: give one of additive, full, equal, decorrelated, proportional, none"),
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused_with_what_is_wrong(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Backoff(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            5,
            "actor 'add': backoff is 5: give a Backoff, a list of delays in ms, a function (attempt, error) -> ms, "
            "or a dict of these by exception class",
        ),
        (
            "full",
            "actor 'add': backoff is 'full': give a Backoff, a list of delays in ms, a function (attempt, error) -> "
            "ms, or a dict of these by exception class",
        ),
        (
            None,
            "actor 'add': backoff is None: give a Backoff, a list of delays in ms, a function (attempt, error) -> ms, "
            "or a dict of these by exception class",
        ),
        (
            [],
            "actor 'add': backoff is an empty list: give at least one delay, or max_retries=0 for no retry",
        ),
        (
            (),
            "actor 'add': backoff is an empty list: give at least one delay, or max_retries=0 for no retry",
        ),
        (
            [5, "6"],
            "actor 'add': backoff[1] is '6': give milliseconds as a whole number, or a datetime.timedelta",
        ),
        ([5, 6, -7], "actor 'add': backoff[2] is -7 ms: a duration cannot be negative"),
        (
            {},
            "actor 'add': backoff is an empty dict: give at least one exception class with its policy",
        ),
        (
            {"ValueError": [5]},
            "actor 'add': backoff: 'ValueError' is no exception class: rules go by exception class",
        ),
        ({int: [5]}, "actor 'add': backoff: <class 'int'> is no exception class: rules go by exception class"),
        (
            {ValueError: []},
            "actor 'add': backoff[ValueError] is an empty list: give at least one delay, or max_retries=0 for no retry",
        ),
        (
            {KeyError: [5], ValueError: [5, -1]},
            "actor 'add': backoff[ValueError][1] is -1 ms: a duration cannot be negative",
        ),
        (
            {ValueError: 5},
            "actor 'add': backoff[ValueError] is 5: give a Backoff, a list of delays in ms, a function (attempt, "
            "error) -> ms, or a dict of these by exception class",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_what_is_wrong(value: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(value, what="actor 'add': backoff", default=DOUBLING)
    assert str(caught.value) == text


def test_a_backoff_is_a_policy_as_it_is() -> None:
    assert parse_policy(DOUBLING, what="backoff", default=Backoff()) is DOUBLING


# Bounds said nearer to the message.


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, Backoff(100, 5_000, jitter="full")),
        ({"min_backoff": 200}, Backoff(200, 5_000, jitter="full")),
        ({"max_backoff": 300}, Backoff(100, 300, jitter="full")),
        ({"min_backoff": 0}, Backoff(0, 5_000, jitter="full")),
        ({"max_backoff": 50}, Backoff(50, 50, jitter="full")),
        ({"max_backoff": 0}, Backoff(0, 0, jitter="full")),
        ({"min_backoff": 9_000}, Backoff(9_000, 18_000, jitter="full")),  # room for the jitter above it
        ({"min_backoff": 2_500}, Backoff(2_500, 5_000, jitter="full")),
        ({"min_backoff": 2_501}, Backoff(2_501, 5_002, jitter="full")),
        ({"min_backoff": 1, "max_backoff": 2, "jitter": "none"}, Backoff(1, 2, jitter="none")),
        ({"jitter": "equal"}, Backoff(100, 5_000, jitter="equal")),
    ],
)
def test_a_bound_said_nearer_takes_its_place_and_bends_the_other_where_they_cross(
    said: dict[str, Any], wanted: Backoff
) -> None:
    every: dict[str, Any] = {"min_backoff": None, "max_backoff": None, "jitter": None}
    assert adjusted(Backoff(100, 5_000, jitter="full"), **{**every, **said}) == wanted


def test_a_jitter_said_nearer_leaves_the_bounds_alone() -> None:
    policy = adjusted(Backoff(5_000, 5_000, jitter="full"), min_backoff=None, max_backoff=None, jitter="none")
    assert policy == Backoff(5_000, 5_000, jitter="none")


def test_a_bound_keeps_the_factor() -> None:
    policy = adjusted(Backoff(100, 5_000, factor=3), min_backoff=200, max_backoff=None, jitter=None)
    assert policy == Backoff(200, 5_000, factor=3)


def test_a_list_gives_way_to_a_bound_said_nearer_and_to_nothing_else() -> None:
    delays: Policy = parse_policy([5], what="backoff", default=DOUBLING)
    assert adjusted(delays, min_backoff=None, max_backoff=None, jitter=None) is delays
    assert adjusted(delays, min_backoff=200, max_backoff=None, jitter=None) == Backoff(200)


# Backoff.


def test_the_defaults_are_100_ms_to_30_s_doubling_with_additive_jitter() -> None:
    assert Backoff() == Backoff(min_backoff=100, max_backoff=30_000, factor=2, jitter="additive")


def test_a_backoff_accepts_timedeltas() -> None:
    assert Backoff(timedelta(seconds=1), timedelta(hours=1)) == Backoff(1_000, 3_600_000)  # type: ignore[arg-type]


def test_equal_bounds_and_zero_are_allowed() -> None:
    assert Backoff(0, 0).delay(5, rng=random.Random(0)) == 0
    assert Backoff(7, 7, jitter="none").delay(5, rng=random.Random(0)) == 7


def test_a_factor_of_one_is_a_constant_delay() -> None:
    assert [Backoff(7, 100, factor=1, jitter="none").delay(n, rng=random.Random(0)) for n in range(3)] == [7, 7, 7]


def test_the_same_dice_give_the_same_delays() -> None:
    for jitter in JITTERS:
        one, other = random.Random(5), random.Random(5)
        backoff = Backoff(jitter=jitter)
        assert [backoff.delay(n, rng=one) for n in range(9)] == [backoff.delay(n, rng=other) for n in range(9)]


def test_no_other_dice_are_rolled_than_those_handed_in() -> None:
    random.seed(1)
    before = random.getstate()
    for jitter in JITTERS:
        Backoff(jitter=jitter).delay(3, rng=random.Random(5))
        Backoff(jitter=jitter).preview()
    assert random.getstate() == before


def test_a_backoff_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Backoff().min_backoff = 5  # type: ignore[misc]


# preview.


def test_a_preview_has_20_retries_if_not_told_otherwise() -> None:
    assert [row.retry for row in Backoff().preview()] == list(range(20))
    assert len(Backoff().preview(3)) == 3
    assert Backoff().preview(0) == []


@pytest.mark.parametrize(
    ("jitter", "rows"),
    [
        ("additive", [(1_000, 1_500, 2_000), (2_000, 2_500, 3_000), (3_000, 3_500, 4_000)]),
        ("full", [(0, 500, 1_000), (0, 1_000, 2_000), (0, 2_000, 4_000)]),
        ("equal", [(500, 750, 1_000), (1_000, 1_500, 2_000), (2_000, 3_000, 4_000)]),
        ("proportional", [(1_000, 1_500, 2_000), (2_000, 3_000, 4_000), (2_000, 3_000, 4_000)]),
        ("none", [(1_000, 1_000, 1_000), (2_000, 2_000, 2_000), (4_000, 4_000, 4_000)]),
    ],
)
def test_a_preview_gives_the_least_mean_and_greatest_delay_of_each_retry(
    jitter: Any, rows: list[tuple[int, float, int]]
) -> None:
    preview = Backoff(1_000, 4_000, jitter=jitter).preview(3)
    assert [(row.least, row.mean, row.greatest) for row in preview] == rows


def test_the_first_decorrelated_delay_is_between_the_base_and_three_times_the_base() -> None:
    first, second, third = Backoff(1_000, 20_000, jitter="decorrelated").preview(3)
    assert (first.least, first.greatest) == (1_000, 3_000)
    assert first.mean == pytest.approx(2_000, rel=0.01)
    # The mean of U(base, 3 * previous) where previous is U(base, 3 * base): (base + 3 * 2 * base) / 2.
    assert (second.least, second.greatest) == (1_000, 9_000)
    assert second.mean == pytest.approx(3_500, rel=0.01)
    assert (third.least, third.greatest) == (1_000, 20_000)


def test_a_preview_runs_up_totals() -> None:
    last = Backoff(1_000, 4_000).preview(3)[-1]
    assert (last.total_least, last.total_mean, last.total_greatest) == (6_000, 7_500, 9_000)
