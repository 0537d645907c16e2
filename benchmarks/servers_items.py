"""The work items of `benchmarks.servers`: smaller than the others, since each message crosses a socket."""

from __future__ import annotations

import time
from typing import Any

import dramatiq

from dramatiq_retryq import DeadLetters
from dramatiq_retryq.records import DeadLetter, ErrorInfo
from dramatiq_retryq.side import side_of

from .probe import Countdown, percentile, running_worker
from .throughput import drain

MESSAGES = 4_000
STORM = 500
FAILURES = 3
LETTERS = 10_000
PAGE = 50


def server_drain(broker: dramatiq.Broker) -> dict[str, float]:
    """A worker empties a queue that was filled before it started."""
    return drain(broker, MESSAGES)


def server_storm(broker: dramatiq.Broker) -> dict[str, float]:
    """Each message fails three times, 10 to 40 ms apart, with a traceback as deep as in an application."""
    failures_left = [FAILURES] * STORM
    done = Countdown(STORM)

    def call(depth: int) -> None:
        if depth:
            call(depth - 1)
        raise ConnectionError("the other side does not answer")

    @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=40)
    def flaky(number: int) -> None:
        if failures_left[number]:
            failures_left[number] -= 1
            call(8)
        done()

    for number in range(STORM):
        flaky.send(number)
    attempts = STORM * (FAILURES + 1)
    done.start()
    with running_worker(broker):
        done.wait(120)
    return {"per_second": attempts / done.seconds, "cpu_us": done.cpu_seconds / attempts * 1e6}


def letters(broker: dramatiq.Broker) -> dict[str, float]:
    """Ten thousand dead letters: laying them down, the first page, and replaying them all."""

    @dramatiq.actor(broker=broker)
    def noop(number: int) -> None: ...

    side = side_of(broker)
    attempt = {"started_at": 1, "duration": 5, "error": "ConnectionError", "message": "x" * 60, "delay": 1_000}
    error = ErrorInfo(type="ConnectionError", message="x" * 60, place="app.py:12 in noop")
    started = time.perf_counter()
    for number in range(LETTERS):
        message: Any = noop.message_with_options(args=(number,), attempts=[{"n": n, **attempt} for n in range(1, 4)])
        if hasattr(broker, "namespace"):
            message = message.copy(options={"redis_message_id": message.message_id})
        letter = DeadLetter(
            id=message.message_id,
            reason="exhausted",
            queue_name=message.queue_name,
            actor_name="noop",
            died_at=int(time.time() * 1000),
            error=error,
            traceback="x" * 1_500,
            data=message.encode(),
        )
        side.shelf.add(letter)
    laid_down = LETTERS / (time.perf_counter() - started)
    dead = DeadLetters.of(broker)
    pages = []
    for _ in range(20):
        started = time.perf_counter()
        assert len(dead.list(limit=PAGE)) == PAGE
        pages.append((time.perf_counter() - started) * 1_000)
    started = time.perf_counter()
    dead.get(dead.list(limit=PAGE)[-1].id)
    got = (time.perf_counter() - started) * 1_000
    started = time.perf_counter()
    assert dead.replay_all() == LETTERS
    replayed = LETTERS / (time.perf_counter() - started)
    assert len(dead) == 0
    return {"laid_down": laid_down, "page_ms": percentile(pages, 50), "get_ms": got, "replayed": replayed}
