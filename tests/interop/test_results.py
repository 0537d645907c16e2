"""Dramatiq's Results, with its own backends and ours, on every broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.results import ResultBackend, ResultFailure, Results
from dramatiq.results.backends import RedisBackend, StubBackend

from dramatiq_retryq import GiveUp, SQLiteResultBackend, current_attempt
from tests.interop import four


@pytest.fixture(params=["redis", "stub", "sqlite"])
def backend(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[ResultBackend]:
    if request.param == "redis":
        request.getfixturevalue("redis_server")
        client = redis.Redis.from_url(four.url("redis", tmp_path))
        yield RedisBackend(client=client, namespace=name)
        keys = list(client.scan_iter(f"{name}*"))
        if keys:
            client.delete(*keys)
        client.close()
    elif request.param == "stub":
        yield StubBackend()
    else:
        sqlite = SQLiteResultBackend(tmp_path / "results.db")
        yield sqlite
        sqlite.close()


def test_the_result_is_that_of_the_attempt_that_succeeded(
    make: Callable[..., Any], kind: str, name: str, backend: ResultBackend
) -> None:
    broker = make(kind, middleware=four.middleware(more=(Results(backend=backend),)))

    @dramatiq.actor(queue_name=name, store_results=True)
    def add(x: int, y: int) -> list[int]:
        attempt = current_attempt()
        if attempt.number < 3:
            raise ConnectionError("not yet")
        return [x + y, attempt.number]

    with four.running(broker):
        assert add.send(1, 2).get_result(block=True) == [3, 3]


def test_the_result_of_a_message_that_died_is_its_last_failure(
    make: Callable[..., Any], kind: str, name: str, backend: ResultBackend
) -> None:
    broker = make(kind, middleware=four.middleware(more=(Results(backend=backend),)))

    @dramatiq.actor(queue_name=name, store_results=True, max_retries=1)
    def fail() -> None:
        raise ConnectionError("nobody answers")

    @dramatiq.actor(queue_name=name, store_results=True)
    def give_up() -> None:
        raise GiveUp("closed")

    with four.running(broker):
        with pytest.raises(ResultFailure, match="nobody answers"):
            fail.send().get_result(block=True)
        with pytest.raises(ResultFailure, match="closed"):
            give_up.send().get_result(block=True)
