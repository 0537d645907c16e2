"""`RetryQueue` in an application that already has a broker.

    python -m examples.existing_app                                       on StubBroker: no server needed
    REDIS_URL=redis://127.0.0.1:6379 python -m examples.existing_app      on Redis

This is all that changes. The actor, and the code that sends to it, stay as they are:

    +from dramatiq_retryq import RetryQueue
     broker = RedisBroker(url=...)
    +broker.add_middleware(RetryQueue(dead_letter_actor="on_death"))

Three pictures are to be shrunk. One needs three attempts, since the storage is busy; one is broken, and its
message dies after four. Dramatiq's own Retries would write a line to the log. With RetryQueue, `on_death` is
told and prints why, and what each attempt led to.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import dramatiq
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import RetryQueue, current_attempt

broker: dramatiq.Broker
if url := os.environ.get("REDIS_URL"):
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=url)
else:
    broker = StubBroker(fail_fast_default=False)
broker.add_middleware(RetryQueue(dead_letter_actor="on_death"))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="pictures", max_retries=3, min_backoff=100, max_backoff=500)
def shrink(picture: str) -> None:
    attempt = current_attempt().number
    print(f"shrinking {picture}, attempt {attempt}", flush=True)
    if picture == "dog.jpg" and attempt < 3:
        raise ConnectionError("the storage is busy")
    if picture == "broken.jpg":
        raise ValueError("not a picture")


# New, and optional. Print, mail, open a ticket: it is an actor like any other, and is retried like any other.
@dramatiq.actor(queue_name="pictures")
def on_death(letter: dict[str, Any]) -> None:
    print(f"dead: {letter['message']['args'][0]} ({letter['reason']})")
    for attempt in letter["attempts"]:
        print(f"  attempt {attempt['n']}: {attempt['error']}: {attempt['message']}", flush=True)


def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)  # For a short output. Keep the log in real life.
    for picture in ("cat.jpg", "dog.jpg", "broken.jpg"):
        shrink.send(picture)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    broker.join("pictures")
    worker.stop()


if __name__ == "__main__":
    main()
