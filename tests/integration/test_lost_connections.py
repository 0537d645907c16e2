"""Delayed messages wait in a worker's memory; what it forgets with a lost connection is delivered all the same."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import _dramatiq
from tests.integration.conftest import running
from tests.integration.servers import wait_until
from tests.integration.test_failing_closed import Line, line

__all__ = ["line"]


def test_delayed_messages_outlive_a_lost_connection(line: Line, name: str) -> None:
    # Redis is asked every tenth of this what the worker has.
    options = {"broker": {"heartbeat_timeout": 1_000}} if line.kind == "redis" else {}
    broker = line.make(max_retries=0, **options)
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work(n: int) -> None:
        runs.append(n)

    with running(broker) as worker:

        def held() -> int:
            return len(list(_dramatiq.messages_in_memory(worker, f"{name}.DQ")))

        for n in range(10):
            work.send_with_options(args=(n,), delay=1_500)
        wait_until(lambda: held() == 10, 20, "the worker to hold them")
        line.proxy.cut()
        wait_until(lambda: held() == 0, 20, "the worker to forget them")
        assert runs == []
        line.proxy.open()
        wait_until(lambda: sorted(set(runs)) == list(range(10)), 30, "every delayed message")
    if line.kind == "redis":
        assert sorted(runs) == list(range(10))


def test_a_consumer_that_ended_is_started_again(make_redis: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    broker = make_redis(max_retries=0, broker={"heartbeat_timeout": 1_000})
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work(n: int) -> None:
        runs.append(n)

    # What a server that does not answer does to the thread that holds delayed messages: a timeout is not what Dramatiq
    # expects, it hands back what it has, and nothing catches what that raises.
    def lost(*args: Any, **kwargs: Any) -> None:
        raise redis.TimeoutError("no answer")

    monkeypatch.setattr("threading.excepthook", lambda args: None)
    with running(broker) as worker:
        for n in range(5):
            work.send_with_options(args=(n,), delay=4_000)
        consumer = worker.consumers[f"{name}.DQ"]
        wait_until(lambda: len(list(_dramatiq.messages_in_memory(worker, f"{name}.DQ"))) == 5, 20, "it to hold them")
        monkeypatch.setattr(broker, "do_requeue", lost, raising=False)
        monkeypatch.setattr(broker, "do_fetch", lost, raising=False)
        wait_until(lambda: not consumer.is_alive(), 20, "the consumer to end")
        monkeypatch.delattr(broker, "do_fetch")
        monkeypatch.delattr(broker, "do_requeue")
        wait_until(lambda: sorted(runs) == list(range(5)), 30, "every delayed message")
