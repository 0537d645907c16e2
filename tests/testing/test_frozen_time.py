"""Inside freeze_time the kit goes by the frozen clock, and moves it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dramatiq
import pytest
from freezegun import freeze_time

from dramatiq_retryq import MemoryBroker
from dramatiq_retryq.middleware import current_attempt
from dramatiq_retryq.testing import Kit, swap_broker

NOON = datetime(2030, 1, 1, 12)


@pytest.fixture
def seen() -> list[datetime]:
    return []


@pytest.fixture
def work(retryq: Kit, seen: list[datetime]) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(max_retries=3, backoff=[60_000, 600_000])
    def work(fails: int = 0) -> None:
        seen.append(datetime.now())
        if len(seen) <= fails:
            raise ConnectionError

    return work


@freeze_time(NOON)
def test_the_decorator(retryq: Kit, work: Any, seen: list[datetime]) -> None:
    work.send(2)
    retryq.drain()
    assert seen == [NOON, NOON + timedelta(minutes=1), NOON + timedelta(minutes=11)]
    assert datetime.now() == NOON + timedelta(minutes=11)
    assert retryq.elapsed == timedelta(minutes=11)


def test_the_context_manager(retryq: Kit, work: Any, seen: list[datetime]) -> None:
    with freeze_time(NOON):
        work.send(1)
        retryq.drain()
    assert seen == [NOON, NOON + timedelta(minutes=1)]


class TestTheClassDecorator:
    @freeze_time(NOON)
    def test_a_method(self, retryq: Kit, work: Any, seen: list[datetime]) -> None:
        work.send_with_options(delay=1_000)
        retryq.drain()
        assert seen == [NOON + timedelta(seconds=1)]


@pytest.fixture
def freezer() -> Iterator[Any]:
    """As pytest-freezegun and pytest-freezer have it: time stands still where it was, microseconds and all."""
    with freeze_time(ignore=["_pytest.runner", "_pytest.terminal"]) as frozen:
        yield frozen


@pytest.mark.parametrize("first", ["the freezer", "the kit"])
def test_a_fixture_that_freezes_before_or_after_the_kit(request: pytest.FixtureRequest, first: str) -> None:
    names = ["freezer", "retryq"] if first == "the freezer" else ["retryq", "freezer"]
    fixtures = {name: request.getfixturevalue(name) for name in names}
    retryq, freezer = fixtures["retryq"], fixtures["freezer"]
    seen: list[datetime] = []

    @dramatiq.actor
    def work() -> None:
        seen.append(datetime.now())

    freezer.move_to("2031-05-05 05:05:05.123456")
    work.send_with_options(delay=timedelta(seconds=30))
    assert retryq.drain(until=0).processed == 0
    freezer.tick(timedelta(seconds=29, milliseconds=999))
    assert retryq.advance(0).processed == 0
    freezer.tick(timedelta(milliseconds=1))
    assert retryq.advance(0).succeeded == 1
    assert seen == [datetime(2031, 5, 5, 5, 5, 35, 123456)]


def test_what_is_ticked_past_is_due_and_run_now(retryq: Kit, work: Any, seen: list[datetime]) -> None:
    with freeze_time(NOON) as frozen:
        work.send_with_options(delay=30_000)
        frozen.tick(45)
        retryq.drain()
        assert seen == [NOON + timedelta(seconds=45)]
        assert retryq.elapsed == timedelta(seconds=45)


def test_advance_moves_the_frozen_clock(retryq: Kit, work: Any) -> None:
    with freeze_time(NOON):
        retryq.advance(timedelta(hours=1))
        assert datetime.now() == NOON + timedelta(hours=1)
        assert retryq.now == NOON.replace(tzinfo=timezone.utc) + timedelta(hours=1)


def test_drain_until_an_instant_of_the_frozen_clock(retryq: Kit, work: Any) -> None:
    with freeze_time(NOON):
        work.send_with_options(delay=timedelta(days=2))
        retryq.drain(until=datetime(2030, 1, 2, tzinfo=timezone.utc))
        assert datetime.now() == datetime(2030, 1, 2)
        assert retryq.drain().succeeded == 1


def test_time_that_is_frozen_in_the_past_is_no_obstacle(retryq: Kit, work: Any, seen: list[datetime]) -> None:
    with freeze_time("1999-12-31 23:59:00"):
        work.send(1)
        retryq.drain()
    assert seen[-1] == datetime(2000, 1, 1)


def test_a_frozen_clock_that_ticks_by_itself_is_moved_too(retryq: Kit, work: Any, seen: list[datetime]) -> None:
    with freeze_time(NOON, tick=True):
        work.send_with_options(delay=timedelta(hours=1))
        retryq.drain()
    assert timedelta(0) <= seen[0] - NOON - timedelta(hours=1) < timedelta(seconds=10)


def test_a_frozen_clock_that_ticks_when_looked_at_is_not_ticked_by_the_kit(retryq: Kit) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    with freeze_time(NOON, auto_tick_seconds=15):
        before = datetime.now()
        work.send()
        retryq.drain()
        assert datetime.now() - before <= timedelta(seconds=15 * 12)  # Dramatiq's own looks
    assert ran == [1]


def test_the_age_limit_goes_by_the_frozen_clock(retryq: Kit) -> None:
    @dramatiq.actor(max_age=60_000)
    def work() -> None: ...

    with freeze_time(NOON) as frozen:
        work.send()
        frozen.tick(61)
        assert retryq.drain().died == 1
        work.send()
        frozen.tick(59)
        assert retryq.drain().succeeded == 1


def test_leaving_frozen_time_is_no_time_that_passes(retryq: Kit, work: Any) -> None:
    with freeze_time(NOON) as frozen:
        retryq.advance(0)
        frozen.tick(10)
    work.send_with_options(delay=5_000)
    retryq.drain()
    assert retryq.elapsed <= timedelta(seconds=15)


def test_dramatiqs_time_is_real_after_a_swap_within_frozen_time() -> None:
    with freeze_time(NOON):
        with swap_broker() as retryq:
            retryq.advance(1_000)
        assert dramatiq.Message("q", "a", (), {}, {}).message_timestamp == 1_893_499_201_000
    assert abs(dramatiq.Message("q", "a", (), {}, {}).message_timestamp / 1000 - time.time()) < 60
    assert abs(dramatiq.common.current_millis() / 1000 - time.time()) < 60


def test_a_freeze_that_ends_before_the_swap_leaves_no_frozen_time_behind() -> None:
    freeze = freeze_time(NOON)
    freeze.start()
    swap = swap_broker()
    retryq = swap.__enter__()
    freeze.stop()
    retryq.advance(1_000)
    swap.__exit__(None, None, None)
    assert abs(dramatiq.Message("q", "a", (), {}, {}).message_timestamp / 1000 - time.time()) < 60
    assert abs(dramatiq.common.current_millis() / 1000 - time.time()) < 60


def test_the_history_and_the_letters_are_of_the_frozen_time(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=1, backoff=[3_600_000])
    def work() -> None:
        assert current_attempt().first_started_at == 1_893_499_200_000
        raise ConnectionError

    with freeze_time(NOON):
        work.send()
        retryq.drain()
        letter = retryq.dead_letters.one()
        assert letter.died_at - letter.attempts[0].started_at == 3_600_000
        assert [found.id for found in retryq.dead_letters.list(since=timedelta(minutes=1))] == [letter.id]


def test_freezegun_is_not_imported_by_the_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "freezegun.api")
    broker = MemoryBroker()

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    with swap_broker(broker) as retryq:
        work.send()
        assert retryq.drain().succeeded == 1
    assert "freezegun.api" not in sys.modules
