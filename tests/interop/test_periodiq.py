"""periodiq's scheduler and middleware, driven by hand: nobody waits for a minute to be over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq
import pendulum
import pytest
from periodiq import PeriodiqMiddleware, Scheduler, cron

from dramatiq_retryq import current_attempt
from tests.interop import four

NOON = pendulum.datetime(2026, 1, 1, 12)


def schedule(broker: Any, now: pendulum.DateTime) -> None:
    """What the scheduler does at an instant."""
    actors = [actor for actor in broker.actors.values() if "periodic" in actor.options]
    scheduler = Scheduler(actors=actors)
    scheduler.send_actors([actor for actor in actors if actor.options["periodic"].validate(now)], now=now)


def test_what_is_scheduled_runs_and_is_retried(make: Callable[..., Any], kind: str, name: str) -> None:
    broker = make(kind, middleware=four.middleware(more=(PeriodiqMiddleware(),)))
    ran: list[tuple[str, int]] = []

    @dramatiq.actor(queue_name=name, periodic=cron("* * * * *"))
    def every_minute() -> None:
        ran.append(("every_minute", current_attempt().number))
        if current_attempt().number < 3:
            raise ConnectionError("nobody answers")

    @dramatiq.actor(queue_name=name, periodic=cron("0 0 31 12 *"))
    def every_year() -> None:
        ran.append(("every_year", current_attempt().number))

    today = pendulum.now()
    schedule(broker, today.set(month=6, day=15))
    assert not ran
    schedule(broker, today if (today.month, today.day) != (12, 31) else today.subtract(seconds=1))
    with four.running(broker):
        four.eventually(lambda: ("every_minute", 3) in ran)
    assert {actor for actor, _ in ran} == {"every_minute"}


@pytest.mark.parametrize(("skip_delay", "attempts"), [(30, [1]), (3600, [1, 2])])
def test_a_retry_that_comes_later_than_skip_delay_is_skipped(
    make: Callable[..., Any],
    kind: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    skip_delay: int,
    attempts: list[int],
) -> None:
    present = pendulum.now
    broker = make(kind, middleware=four.middleware(more=(PeriodiqMiddleware(skip_delay=skip_delay),)))
    ran: list[int] = []
    ended: list[str] = []

    class Watching(dramatiq.Middleware):
        def after_ack(self, broker: Any, message: Any) -> None:
            ended.append("ack")

    broker.add_middleware(Watching())

    @dramatiq.actor(queue_name=name, periodic=cron("* * * * *"))
    def work() -> None:
        ran.append(current_attempt().number)
        if len(ran) == 1:
            # As if the backoff had taken a minute.
            monkeypatch.setattr(pendulum, "now", lambda: present().add(minutes=1))
            raise ConnectionError("nobody answers")

    schedule(broker, pendulum.now())
    with four.running(broker):
        four.eventually(lambda: len(ended) == 2)
    assert ran == attempts
