"""The connection is lost at each request, and at each answer, of what is done with dead letters: nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import DeadLetters, current_attempt
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.side import side_of
from tests.integration.bench import Bench, bench, discard_all, replay, replay_all
from tests.integration.conftest import running
from tests.integration.cutter import Loss
from tests.integration.servers import wait_until

__all__ = ["bench"]


@pytest.mark.parametrize("action", [replay, replay_all])
def test_what_is_replayed_is_a_letter_or_a_message_wherever_the_line_is_cut(
    bench: Bench, action: Callable[[DeadLetters, str], int]
) -> None:
    for loss, number in bench.losses(action):
        result = bench.act(action, loss, number)
        letters, waiting = bench.letters(), bench.waiting()
        assert sorted(letters + waiting) == [0, 1, 2], (loss, number)
        if not isinstance(result, StoreUnavailable):
            assert len(waiting) == result, (loss, number)


def test_what_is_discarded_is_gone_or_listed_wherever_the_line_is_cut(bench: Bench) -> None:
    for loss, number in bench.losses(discard_all):
        result = bench.act(discard_all, loss, number)
        left = bench.letters()
        if not isinstance(result, StoreUnavailable):
            assert (result, left) == (3, []), (loss, number)
        assert bench.act(discard_all) == len(left), (loss, number)
        assert (bench.letters(), bench.waiting()) == ([], []), (loss, number)


@pytest.mark.parametrize("bench", ["redis"], indirect=True)
@pytest.mark.parametrize("action", [replay, replay_all, discard_all])
def test_on_redis_a_lost_answer_is_asked_for_again(bench: Bench, action: Callable[[DeadLetters, str], int]) -> None:
    for loss, number in bench.losses(action):
        result = bench.act(action, loss, number)
        assert result == 3 - len(bench.letters()), (loss, number)
        assert bench.cutter.has_cut, (loss, number)


def run_of(queue: str) -> Any:
    options = {"redis_message_id": queue}
    return dramatiq.MessageProxy(
        dramatiq.Message(queue_name=queue, actor_name="work", args=(), kwargs={}, options=options, message_id=queue)
    )


def begin(letters: DeadLetters, queue: str) -> int:
    return side_of(dramatiq.get_broker()).begin(run_of(queue))


def test_a_run_that_began_is_counted_once_wherever_the_line_is_cut(bench: Bench) -> None:
    queues: set[str] = set()
    for loss, number in bench.losses(begin):
        queues |= {bench.queue, f"{bench.name}-1"}
        assert bench.act(begin, loss, number) == 0, (loss, number)
        assert bench.act(begin) == 1, (loss, number)
    for queue in queues:
        side_of(bench.broker).end(run_of(queue))


@pytest.mark.parametrize("run", [1, 2])
def test_a_message_that_fails_is_dead_once_wherever_the_line_is_cut(bench: Bench, run: int) -> None:
    """At its first run a retry is stored, at its second a letter."""
    # Redis is asked every tenth of this what the worker has.
    options = {"broker": {"heartbeat_timeout": 1_000}} if bench.kind == "redis" else {}
    broker = bench.broker_of_the_line(max_retries=1, backoff=[1], store_timeout=30_000, **options)
    runs: dict[str, list[int]] = {}

    @dramatiq.actor(broker=broker, queue_name=bench.name)
    def work(loss: Loss, number: int) -> None:
        made = runs.setdefault(f"{loss} {number}", [])
        made.append(current_attempt().number)
        if len(made) == run:
            bench.cutter.arm(loss, number)
        raise ValueError("no")

    look = DeadLetters.of(bench.broker)
    sent: set[str] = set()
    kinds: tuple[Loss, ...] = ("request", "answer")
    with running(broker, threads=1):
        for loss, number in itertools.product(kinds, range(1, 15)):
            message = work.send(loss, number)
            sent.add(message.message_id)
            wait_until(lambda: {letter.message_id for letter in look.list(queue=bench.name)} == sent, 60, "its letter")
            bench.cutter.arm()
    assert all(set(made) == {1, 2} for made in runs.values())
    bench.broker.declare_queue(bench.name)
    assert len(look) == len(sent)
    if bench.kind == "redis":
        assert all(made == [1, 2] for made in runs.values())
