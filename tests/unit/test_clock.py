"""Where the time comes from."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from freezegun import freeze_time

from dramatiq_retryq.clock import MAX_DURATION, SystemClock, VirtualClock, milliseconds
from dramatiq_retryq.errors import ConfigError

NEW_YEAR = 1_767_225_600_000


# SystemClock.


def test_the_system_clock_gives_the_machines_time_in_whole_milliseconds() -> None:
    before = time.time()
    now = SystemClock().now()
    after = time.time()
    assert type(now) is int
    assert math.floor(before * 1000) <= now <= after * 1000 + 1


def test_the_system_clock_follows_frozen_time() -> None:
    with freeze_time("2026-01-01T00:00:00Z"):
        assert SystemClock().now() == NEW_YEAR
        assert SystemClock().due_in(500) == NEW_YEAR + 500
    assert SystemClock().now() != NEW_YEAR


def test_the_system_clock_follows_frozen_time_that_is_moved() -> None:
    clock = SystemClock()
    with freeze_time("2026-01-01T00:00:00Z") as frozen:
        frozen.tick(timedelta(milliseconds=1))
        assert clock.now() == NEW_YEAR + 1
        frozen.move_to("2026-01-01T01:00:00Z")
        assert clock.now() == NEW_YEAR + 3_600_000
        frozen.move_to("2025-12-31T23:59:59Z")
        assert clock.now() == NEW_YEAR - 1_000


@pytest.mark.parametrize("year", [2026, 2038])
def test_the_system_clock_gives_each_millisecond_as_itself(year: int) -> None:
    # From 2038 on, a time as a float may come out below the millisecond that was meant, or above it.
    start = datetime(year, 4, 16, tzinfo=timezone.utc)
    wanted = int(start.timestamp()) * 1000
    with freeze_time(start) as frozen:
        for _ in range(300):
            assert SystemClock().now() == SystemClock().due_in(0) == wanted
            assert SystemClock().due_in(5) == wanted + 5
            frozen.tick(timedelta(milliseconds=1))
            wanted += 1


@pytest.mark.parametrize("microseconds", [1, 2, 499, 500, 501, 998, 999])
def test_the_system_clock_rounds_the_present_down(microseconds: int) -> None:
    with freeze_time(datetime(2026, 1, 1, microsecond=7_000 + microseconds, tzinfo=timezone.utc)):
        assert SystemClock().now() == NEW_YEAR + 7


@pytest.mark.parametrize("microseconds", [0, 1, 2, 499, 500, 501, 998, 999])
@pytest.mark.parametrize("delay", [1, 2, 1_000])
def test_due_in_is_never_early_and_less_than_a_millisecond_late(delay: int, microseconds: int) -> None:
    with freeze_time(datetime(2026, 1, 1, microsecond=7_000 + microseconds, tzinfo=timezone.utc)):
        waits = (SystemClock().due_in(delay) - NEW_YEAR - 7) * 1000 - microseconds  # in microseconds
    assert delay * 1000 <= waits < delay * 1000 + 1000


def test_due_in_no_time_is_due_now() -> None:
    with freeze_time(datetime(2026, 1, 1, microsecond=7_500, tzinfo=timezone.utc)):
        clock = SystemClock()
        assert clock.due_in(0) == clock.now()


def test_the_system_clock_sleeps_on_the_machines_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    SystemClock().sleep(1_500)
    assert slept == [1.5]


# VirtualClock.


def test_a_virtual_clock_stands_still_until_it_is_told_to_move() -> None:
    clock = VirtualClock(5_000)
    assert [clock.now(), clock.now()] == [5_000, 5_000]
    assert clock.due_in(7) == 5_007
    assert clock.now() == 5_000


def test_a_virtual_clock_moves_on_and_tells_the_new_instant() -> None:
    clock = VirtualClock(5_000)
    assert clock.advance(10) == 5_010
    assert clock.advance(timedelta(seconds=1)) == 6_010
    assert clock.advance(0) == 6_010
    assert clock.now() == 6_010


def test_a_virtual_clock_sleeps_without_sleeping() -> None:
    clock = VirtualClock(5_000)
    clock.sleep(3_600_000)
    assert clock.now() == 3_605_000


def test_a_virtual_clock_leaps_forwards_and_back() -> None:
    clock = VirtualClock(5_000)
    clock.move_to(9_000)
    assert clock.now() == 9_000
    clock.move_to(1_000)
    assert clock.now() == 1_000


@pytest.mark.parametrize("step", [-1, "5", None, True, float("nan")])
def test_a_virtual_clock_is_not_moved_on_by_what_is_no_duration(step: Any) -> None:
    clock = VirtualClock(5_000)
    with pytest.raises(ConfigError, match=r"^delay is "):
        clock.advance(step)
    assert clock.now() == 5_000


def test_a_virtual_clock_starts_at_the_new_year_of_2026() -> None:
    assert VirtualClock().now() == NEW_YEAR


# milliseconds.


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, 0),
        (5, 5),
        (0.0, 0),
        (1.0, 1),
        (1.2, 2),
        (1e-9, 1),
        (timedelta(0), 0),
        (timedelta(seconds=1), 1_000),
        (timedelta(microseconds=1), 1),
        (timedelta(microseconds=1_000), 1),
        (timedelta(days=7), 604_800_000),
        (MAX_DURATION, MAX_DURATION),
    ],
)
def test_a_duration_is_understood_as_whole_milliseconds_rounded_up(value: Any, wanted: int) -> None:
    assert milliseconds(value, "delay") == wanted
    assert type(milliseconds(value, "delay")) is int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5", "actor 'add': delay is '5': give milliseconds as a whole number, or a datetime.timedelta"),
        (None, "actor 'add': delay is None: give milliseconds as a whole number, or a datetime.timedelta"),
        (True, "actor 'add': delay is True: give milliseconds as a whole number, or a datetime.timedelta"),
        (1j, "actor 'add': delay is 1j: give milliseconds as a whole number, or a datetime.timedelta"),
        (float("nan"), "actor 'add': delay is nan: give milliseconds as a whole number, or a datetime.timedelta"),
        (float("inf"), "actor 'add': delay is inf: give milliseconds as a whole number, or a datetime.timedelta"),
        (-1, "actor 'add': delay is -1 ms: a duration cannot be negative"),
        (-0.1, "actor 'add': delay is -0.1 ms: a duration cannot be negative"),
        (float("-inf"), "actor 'add': delay is -inf ms: a duration cannot be negative"),
        (timedelta(seconds=-2), "actor 'add': delay is -2000.0 ms: a duration cannot be negative"),
        (10**400, "actor 'add': delay is more than 31622400000000 ms, which is a thousand years: give less"),
        (1e300, "actor 'add': delay is more than 31622400000000 ms, which is a thousand years: give less"),
        (timedelta.max, "actor 'add': delay is more than 31622400000000 ms, which is a thousand years: give less"),
    ],
)
def test_what_is_no_duration_is_refused_with_what_was_wanted(value: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        milliseconds(value, "actor 'add': delay")
    assert str(caught.value) == text
