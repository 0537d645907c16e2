"""Delays longer than a broker can do are reached in hops, and use up no attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.common import current_millis

from dramatiq_retryq import DeadLetters, current_attempt
from dramatiq_retryq.side import side_of
from tests.integration.conftest import finish

DAY = 86_400_000

#: How long (ms) before its limit a hop has to end: a worker that is busy is late.
A_WHILE = 60_000


class Log(dramatiq.Middleware):
    """What other middleware sees sent."""

    def __init__(self) -> None:
        self.etas: list[Any] = []

    def after_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        self.etas.append(message.options.get("eta"))


@pytest.mark.parametrize("days", [7, 8, 400])
def test_a_send_for_a_far_off_day_is_asked_for_in_hops(make: Any, name: str, days: int) -> None:
    broker = make()

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None: ...

    before = current_millis()
    message = work.send_with_options(delay=timedelta(days=days))
    longest = side_of(broker).longest_delay
    assert longest is not None
    assert before + longest <= message.options["eta"] <= before + longest + 5_000
    assert before + days * DAY <= message.options["retryq_due_at"] <= before + days * DAY + 5_000


def test_a_hop_ends_before_rabbitmq_closes_the_consumer_that_holds_it(make_rabbitmq: Any) -> None:
    """Its ``consumer_timeout`` is half an hour unless its operator says otherwise."""
    longest = side_of(make_rabbitmq()).longest_delay
    assert longest is not None
    assert longest <= 30 * 60_000 - A_WHILE


def test_a_hop_is_one_that_dramatiq_does_on_redis(make_redis: Any) -> None:
    longest = side_of(make_redis()).longest_delay
    assert longest is not None
    assert longest <= 7 * DAY - A_WHILE


def test_the_replay_of_a_letter_for_a_far_off_day_is_asked_for_in_the_same_hops(make: Any) -> None:
    side: Any = side_of(make())
    assert side.shelf._longest_delay == side.longest_delay


def test_a_delay_that_the_broker_can_do_is_left_alone(make: Any, name: str) -> None:
    broker = make()

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None: ...

    message = work.send_with_options(delay=20 * 60_000)
    assert "retryq_due_at" not in message.options


def test_a_retry_is_run_at_its_instant_after_some_hops(make: Any, name: str, monkeypatch: Any) -> None:
    broker = make(max_retries=1, backoff=[1_500])
    monkeypatch.setattr(side_of(broker), "longest_delay", 200)
    monkeypatch.setattr("dramatiq_retryq.middleware._SHORT", 200)
    log = Log()
    broker.add_middleware(log)
    runs: list[tuple[int, int]] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        runs.append((current_millis(), current_attempt().number))
        raise ValueError("no")

    work.send()
    finish(broker)
    (first, one), (second, two) = runs
    assert (one, two) == (1, 2)
    assert second - first >= 1_500
    # Seven or eight of them; fewer where the machine was slow.
    assert len([eta for eta in log.etas if eta is not None]) >= 2
    letter = DeadLetters.of(broker).one()
    assert [attempt.n for attempt in letter.attempts] == [1, 2]
    assert letter.message is not None
    assert "retryq_due_at" not in letter.message.options


def test_a_replay_can_be_put_off_for_longer_than_the_broker_can(make: Any, name: str, monkeypatch: Any) -> None:
    broker = make(max_retries=0)
    monkeypatch.setattr(side_of(broker), "longest_delay", 60)
    monkeypatch.setattr(side_of(broker).shelf, "_longest_delay", 60)
    monkeypatch.setattr("dramatiq_retryq.middleware._SHORT", 60)
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        runs.append(current_millis())
        raise ValueError("no")

    work.send()
    finish(broker)
    DeadLetters.of(broker).replay(DeadLetters.of(broker).one(), delay=200)
    finish(broker)
    assert len(runs) == 2
    assert runs[1] - runs[0] >= 200


def test_a_hop_that_cannot_be_stored_ends_as_unschedulable(make: Any, name: str, monkeypatch: Any) -> None:
    broker = make(max_retries=1, backoff=[1], store_timeout=50)
    monkeypatch.setattr(side_of(broker), "longest_delay", 60)
    monkeypatch.setattr("dramatiq_retryq.middleware._SHORT", 60)
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        runs.append(1)

    work.send_with_options(delay=100_000)

    def refuse(message: Any, *, delay: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(side_of(broker), "reschedule", refuse)
    finish(broker)
    assert runs == []
    letter = DeadLetters.of(broker).one()
    assert (letter.reason, letter.error) == ("unschedulable", None)
