"""One of our brokers in a process that gevent has patched; prints what became of the messages."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

import dramatiq  # noqa: E402
import gevent  # noqa: E402
from dramatiq.results import Results  # noqa: E402

from dramatiq_retryq import RetryQueue, SQLiteResultBackend, current_attempt, run_worker  # noqa: E402
from tests.interop import four  # noqa: E402

kind, name = sys.argv[1], os.environ["INTEROP_NAME"]
own = RetryQueue(backoff=[20], max_retries=2)
broker = four.make(
    kind,
    name,
    ".",
    middleware=four.middleware(retry_queue=own, more=(Results(backend=SQLiteResultBackend("jobs.db")),)),
)
dramatiq.set_broker(broker)
running = most = 0


@dramatiq.actor(queue_name=name, store_results=True)
def work(number: int) -> list[int]:
    global running, most
    running += 1
    most = max(most, running)
    gevent.sleep(0.02)
    running -= 1
    attempt = current_attempt()
    if number % 10 == 0 and attempt.number == 1:
        raise ConnectionError("nobody answers")
    return [number, attempt.number]


@dramatiq.actor(queue_name=name, time_limit=200)
def hang() -> None:
    gevent.sleep(60)


with contextlib.closing(broker):
    with run_worker(broker, threads=50, worker_timeout=50):
        messages = [work.send(number) for number in range(200)]
        hang.send()
        results = [message.get_result(block=True, timeout=20_000) for message in messages]
        broker.join(name, fail_fast=False, timeout=20_000)
    print(sum(attempts for _, attempts in results), most > 20)
    for letter in broker.dead_letters:
        print(letter.actor_name, letter.reason, letter.error.type, len(letter.attempts))
    assert broker.check() == []
