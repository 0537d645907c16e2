"""The application: Dramatiq actors that deliver webhooks and keep a record of those that cannot be delivered.

It is an ordinary Dramatiq application. Set `RETRYQ_BROKER` to something that several processes share, and run
its workers with the `dramatiq` command:

    RETRYQ_BROKER=sqlite:///jobs.db dramatiq examples.webhooks.app --processes 2 --threads 8

| environment variable    | what it is                                                | default              |
| ----------------------- | --------------------------------------------------------- | -------------------- |
| `RETRYQ_BROKER`         | `memory://`, `sqlite:///jobs.db`, `redis://…`, `amqp://…` | `memory://`          |
| `WEBHOOKS_SECRET`       | the key that signs requests                               | for this example     |
| `WEBHOOKS_DEAD_LETTERS` | the file to which dead letters are appended as JSON lines | `dead_letters.jsonl` |
"""

from __future__ import annotations

import json
import os
import threading
import time
from http import HTTPStatus
from typing import Any

import dramatiq
import requests

from dramatiq_retryq import GiveUp, broker_from_url

from . import signing

TIMEOUT = 1.0
"""Seconds to wait for a connection, and for the answer. Ten would be usual; the example is impatient."""


broker = broker_from_url(os.environ.get("RETRYQ_BROKER", "memory://"))
dramatiq.set_broker(broker)


def new_session() -> requests.Session:
    """Return a session, which keeps its connections open from one request to the next."""
    session = requests.Session()
    session.trust_env = False  # No proxy and no .netrc: what goes to a customer is said here and nowhere else.
    return session


class _PerThread(threading.local):
    # requests does not promise that a session may be used by many threads.
    def __init__(self) -> None:
        self.session = new_session()


_per_thread = _PerThread()


# Ten attempts within about ten seconds suit an example. A real service waits for people to notice and repair:
# max_retries=16, min_backoff=5_000 and max_backoff=6 * 3_600_000 keep trying for more than a day.
@dramatiq.actor(
    queue_name="webhooks",
    max_retries=9,
    min_backoff=250,
    max_backoff=1_500,
    dead_letter_actor="record_dead_letter",
)
def deliver(*, url: str, event: dict[str, Any]) -> None:
    """POST one event to the endpoint of the customer whom it concerns."""
    body = json.dumps(event).encode()
    response = _per_thread.session.post(
        url,
        data=body,
        headers={
            "Content-Type": "application/json",
            signing.HEADER: signing.sign(signing.shared_secret(), body, sent_at=int(time.time())),
        },
        timeout=TIMEOUT,
        allow_redirects=False,
    )
    if response.status_code == HTTPStatus.GONE:
        raise GiveUp(f"{event['customer']} has closed its endpoint (410 Gone)")
    response.raise_for_status()  # RetryQueue waits for as long as the answer's Retry-After header asks.


@dramatiq.actor(queue_name="dead-letters")
def record_dead_letter(letter: dict[str, Any]) -> None:
    """Append a dead letter to the file: why and when it died, and after which attempts."""
    line = json.dumps(letter, ensure_ascii=False) + "\n"
    # Unbuffered and in append mode: whole lines, though many threads and processes write to the file.
    with open(os.environ.get("WEBHOOKS_DEAD_LETTERS", "dead_letters.jsonl"), "ab", buffering=0) as file:
        file.write(line.encode())
