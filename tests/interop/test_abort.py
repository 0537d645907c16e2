"""dramatiq-abort: what is cancelled does not run, what is aborted is not retried."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq_abort import Abort, Abortable, abort
from dramatiq_abort.backends import StubBackend
from dramatiq_abort.middleware import AbortMode

from tests.interop import four


@pytest.fixture
def broker(make: Callable[..., Any], kind: str) -> Any:
    abortable = Abortable(backend=StubBackend())
    abortable.wait_timeout = 20  # how often (ms) it looks; a second otherwise
    return make(kind, middleware=four.middleware(more=(abortable,)))


def test_a_message_that_is_cancelled_while_it_waits_does_not_run(broker: Any, name: str) -> None:
    ran: list[str] = []

    @dramatiq.actor(queue_name=name)
    def work(which: str) -> None:
        ran.append(which)

    cancelled = work.send("cancelled")
    abort(cancelled.message_id, mode=AbortMode.CANCEL)
    work.send("other")
    with four.running(broker):
        four.eventually(lambda: "other" in ran)
    assert ran == ["other"]


@pytest.mark.parametrize("throws", [None, Abort], ids=["retried and skipped", "a dead letter at once"])
def test_an_actor_that_is_aborted_does_not_run_again(
    broker: Any, kind: str, name: str, throws: type[BaseException] | None
) -> None:
    started: list[str] = []
    released = threading.Event()
    outcomes: list[str] = []

    class Watching(dramatiq.Middleware):
        def after_nack(self, broker: Any, message: Any) -> None:
            outcomes.append("dead")

        def after_skip_message(self, broker: Any, message: Any) -> None:
            outcomes.append("skipped")

    broker.add_middleware(Watching())

    @dramatiq.actor(queue_name=name, **({"throws": throws} if throws is not None else {}))
    def hang() -> None:
        started.append("hang")
        while not released.wait(0.01):
            pass

    message = hang.send()
    with four.running(broker):
        four.eventually(lambda: started)
        abort(message.message_id)
        four.eventually(lambda: outcomes)
        released.set()
    assert started == ["hang"]
    assert outcomes == (["skipped"] if throws is None else ["dead"])
