"""Looking at a store that is slow, broken or asked by many at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.health import HealthLimits, answer
from dramatiq_retryq.status import Status
from dramatiq_retryq.watch import Reading, Watch

SOON = 10


class Store:
    """Operations of a store that is as slow as a test wants it."""

    dead_letters: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.looks = 0
        self.looked_at = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    def dead_by_reason(self) -> dict[Any, int]:
        return {}

    def status(self) -> Status:
        self.looks += 1
        self.looked_at.set()
        assert self.may_answer.wait(SOON)
        if self.error is not None:
            raise self.error
        return Status(now=self.looks, queues=())


def now(reading: Reading) -> int:
    assert reading.status is not None
    return reading.status.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def watch(store: Store) -> Iterator[Watch]:
    watch = Watch(store)  # type: ignore[arg-type]
    yield watch
    store.may_answer.set()
    watch.stop()


def test_each_look_is_a_new_one(watch: Watch) -> None:
    assert [now(watch.look()) for _ in range(3)] == [1, 2, 3]


def test_a_store_that_does_not_answer_is_not_waited_for(store: Store, watch: Watch) -> None:
    store.may_answer.clear()
    with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.01 s"):
        watch.look(0.01)


def test_a_store_that_is_slow_is_not_asked_by_many_at_once(store: Store, watch: Watch) -> None:
    store.may_answer.clear()
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(now(watch.look(SOON)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert store.looked_at.wait(SOON)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            watch.look(0.01)
    store.may_answer.set()
    for thread in threads:
        thread.join()
    assert len(found) == 5
    assert store.looks == 1


def test_it_answers_again_once_the_store_does(store: Store, watch: Watch) -> None:
    store.may_answer.clear()
    with pytest.raises(StoreUnavailable):
        watch.look(0.01)
    store.may_answer.set()
    assert now(watch.look(SOON)) in (1, 2)


def test_what_the_store_raises_reaches_whoever_asks(store: Store, watch: Watch) -> None:
    store.error = StoreUnavailable("the file is gone")
    with pytest.raises(StoreUnavailable, match="the file is gone"):
        watch.look(SOON)
    store.error = None
    assert now(watch.look(SOON)) == 2


def test_whoever_waits_when_it_is_stopped_does_not_wait_on(store: Store, watch: Watch) -> None:
    store.may_answer.clear()
    raised: list[Exception] = []

    def look() -> None:
        try:
            watch.look(SOON)
        except StoreUnavailable as error:
            raised.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    assert store.looked_at.wait(SOON)
    threading.Timer(0, store.may_answer.set).start()
    watch.stop()
    thread.join()


def test_health_is_503_with_what_is_wrong_while_the_store_does_not_answer(store: Store, watch: Watch) -> None:
    store.may_answer.clear()
    reply = answer(watch, HealthLimits())
    assert reply.status == 503
    assert json.loads(reply.body)["problems"] == [
        "the broker cannot be looked at: the store did not answer within 0.8 s"
    ]


def test_what_a_clients_library_says_is_not_quoted(store: Store, watch: Watch) -> None:
    store.error = ConnectionError("redis://:password@host/0 refused")
    reply = answer(watch, HealthLimits())
    assert reply.status == 503
    assert json.loads(reply.body)["problems"] == ["the broker cannot be looked at: ConnectionError"]
