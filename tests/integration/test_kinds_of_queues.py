"""Queues that are not as Dramatiq makes them, and workers that are not all alike."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Retries

from dramatiq_retryq import DeadLetters, RetryQueue
from tests.integration.conftest import running
from tests.integration.servers import wait_until


def test_quorum_queues_of_rabbitmq_retry_and_replay(
    make_rabbitmq: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_rabbitmq(max_retries=1, backoff=[1])
    plain = broker._build_queue_arguments
    monkeypatch.setattr(broker, "_build_queue_arguments", lambda queue: {**plain(queue), "x-queue-type": "quorum"})
    runs: list[int] = []
    is_well = threading.Event()

    @dramatiq.actor(broker=broker, queue_name=name)
    def work(n: int) -> None:
        runs.append(n)
        if not is_well.is_set():
            raise ValueError("no")

    for n in range(5):
        work.send(n)
    letters = DeadLetters.of(broker)
    with running(broker):
        wait_until(lambda: len(letters.list()) == 5, 60, "the letters")
        is_well.set()
        assert letters.replay_all(rate=100) == 5
        wait_until(lambda: sorted(runs) == sorted(3 * list(range(5))), 60, "the replays")
        # Acks are sent when the consumer gets to them.
        wait_until(lambda: broker.get_queue_message_counts(name) == (0, 0, 0), 60, "the queues to be empty")
    assert letters.list() == []


def test_workers_with_retries_beside_workers_with_retry_queue_lose_nothing(make: Any, name: str) -> None:
    """As while a new version is rolled out: they share one count of retries."""
    runs: list[tuple[int, str]] = []

    def declare(broker: Any, whose: str) -> Any:
        @dramatiq.actor(broker=broker, queue_name=name, actor_name="work")
        def work(n: int) -> None:
            runs.append((n, whose))
            raise ValueError("no")

        return work

    new, old = make(max_retries=3, backoff=[1]), make()
    old.middleware = [m for m in old.middleware if not isinstance(m, RetryQueue)]
    old.add_middleware(Retries(max_retries=3, min_backoff=1, max_backoff=1))
    work = declare(new, "new")
    declare(old, "old")
    for n in range(20):
        work.send(n)
    letters = DeadLetters.of(new)
    with running(new, threads=1), running(old, threads=1):
        wait_until(lambda: len(letters.list()) == 20, 60, "the letters")
    assert sorted(letter.message.args[0] for letter in letters.list()) == list(range(20))  # type: ignore[union-attr]
    assert sorted(n for n, _ in runs) == sorted(4 * list(range(20)))
