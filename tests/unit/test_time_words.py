"""Durations and instants in words."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_retryq.clock import MAX_DURATION
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.time_words import ago, iso, parse_duration, parse_instant, spoken

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOON = int(datetime(2026, 1, 31, 12, 0).timestamp() * 1000)


def at(*fields: int) -> int:
    return int(datetime(*fields).timestamp() * 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("250ms", 250),
        ("90s", 90_000),
        ("15m", 15 * MINUTE),
        ("2h", 2 * HOUR),
        ("1h30m", 90 * MINUTE),
        ("1h 30 min", 90 * MINUTE),
        ("1.5 days", 36 * HOUR),
        ("2 weeks, 1 day", 15 * DAY),
        (" 2H ", 2 * HOUR),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_a_duration_is_understood(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "5", "h", "2 fortnights", "-2h", "2h-", "1e5h", "soon", "nan s", "inf", "2h 5", "٣h!"]
)
def test_a_duration_that_nobody_understands_is_an_error_that_says_what_is_understood(text: str) -> None:
    with pytest.raises(ConfigError, match="give 90s, 15m, 2h") as raised:
        parse_duration(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize("text", [f"{'9' * 400}d", "2000000 weeks"])
def test_a_duration_of_more_than_a_thousand_years_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="more than a thousand years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("now", NOON),
        ("2h ago", NOON - 2 * HOUR),
        ("in 15m", NOON + 15 * MINUTE),
        ("09:30", at(2026, 1, 31, 9, 30)),
        ("today", at(2026, 1, 31)),
        ("Yesterday 18:00", at(2026, 1, 30, 18)),
        ("tomorrow 9:00:30", at(2026, 2, 1, 9, 0, 30)),
        ("2026-01-30", at(2026, 1, 30)),
        ("2026-01-30 09:00", at(2026, 1, 30, 9)),
        ("2026-01-30T09:00:00Z", 1_769_763_600_000),
        ("2026-01-30T10:00+01:00", 1_769_763_600_000),
    ],
)
def test_an_instant_is_understood(text: str, instant: int) -> None:
    assert parse_instant(text, now=NOON, bare="past") == instant


def test_a_bare_duration_points_the_way_that_is_meant() -> None:
    assert parse_instant("2h", now=NOON, bare="past") == NOON - 2 * HOUR
    assert parse_instant("2h", now=NOON, bare="future") == NOON + 2 * HOUR
    assert parse_instant("2h ago", now=NOON, bare="future") == NOON - 2 * HOUR


@pytest.mark.parametrize(
    "text", ["", "soon", "5", "2026-02-30", "25:00", "tomorrow at nine", "in 2h ago", "ago", "1767225600000"]
)
def test_an_instant_that_nobody_understands_is_an_error_that_says_what_is_understood(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no time: give a duration with its unit .2h.*tomorrow"):
        parse_instant(text, now=NOON, bare="past")


@pytest.mark.parametrize("text", ["900000 days ago", "in 9000 years", "900y"])
def test_an_instant_out_of_all_bounds_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_instant(text, now=NOON, bare="past")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (350, "350 ms"),
        (1_000, "1 s"),
        (2_500, "2.5 s"),
        (12_345, "12 s"),
        (59_900, "1 min"),
        (200_000, "3 min 20 s"),
        (3_599_900, "1 h"),
        (2 * HOUR + 5 * MINUTE, "2 h 5 min"),
        (28 * HOUR, "1 d 4 h"),
        (4_000 * DAY, "4,000 d"),
        (-2_500, "-2.5 s"),
    ],
)
def test_a_duration_is_said_in_two_units_at_most(milliseconds: float, text: str) -> None:
    assert spoken(milliseconds) == text


@given(st.integers(0, MAX_DURATION))
def test_what_is_said_is_understood_again_and_about_the_same(milliseconds: int) -> None:
    again = parse_duration(spoken(milliseconds).replace(",", ""))
    assert abs(again - milliseconds) <= max(0.05 * milliseconds, 1)


@pytest.mark.parametrize("duration", [MAX_DURATION + 1, 10**400, -(10**400), float("inf"), float("nan")])
def test_a_duration_that_is_anybodys_number_is_said_in_words(duration: float) -> None:
    assert spoken(duration) == "more than a thousand years"


def test_an_instant_is_said_as_seen_from_now() -> None:
    assert ago(NOON - 200_000, now=NOON) == "3 min 20 s ago"
    assert ago(NOON + 2 * HOUR, now=NOON) == "in 2 h"
    assert ago(NOON - 999, now=NOON) == "now"


def test_an_instant_that_no_calendar_has_is_a_number() -> None:
    assert iso(10**18) == str(10**18)
    assert iso(NOON).startswith("2026-01-31 12:00:00")
