"""A server restarted under load, and every message accounted for: `python -m benchmarks.server_soak redis --minutes 5`.

The server is one of its own that keeps its data on disk, and every 20 s it is killed and started again. A worker and a
sender go on meanwhile. In the end every message is done or dead; what ran more often than it should is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import sys
import threading
import time
import uuid
from collections import Counter
from typing import Any

import dramatiq

from dramatiq_retryq import DeadLetters, RetryQueue, broker_from_url, current_attempt
from tests.integration.servers import RabbitmqServer, RedisServer, own_rabbitmq, own_redis

RESTART_EVERY_S = 20
#: How long, at the end, the last messages may take.
PATIENCE_S = 180


class Planned(Exception):
    pass


class Journal:
    """What was sent, and how often each attempt was run."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent: dict[str, str] = {}
        self.runs: Counter[tuple[str, int]] = Counter()
        self.done: Counter[str] = Counter()

    def run(self, key: str) -> None:
        with self.lock:
            self.runs[key, current_attempt().number] += 1

    def finished(self, key: str) -> None:
        with self.lock:
            self.done[key] += 1


def soak(server: RedisServer | RabbitmqServer, minutes: float, rate: int) -> list[str]:
    """Run it, print the account, and return what is wrong."""
    options: dict[str, Any] = (
        {"namespace": "soak", "heartbeat_timeout": 5_000} if server.url.startswith("redis") else {}
    )
    broker: Any = broker_from_url(server.url, retry_queue=RetryQueue(max_retries=3, backoff=[50, 200, 500]), **options)
    dramatiq.set_broker(broker)
    journal, queue = Journal(), f"soak-{uuid.uuid4().hex[:8]}"

    @dramatiq.actor(queue_name=queue)
    def plain(key: str) -> None:
        journal.run(key)
        journal.finished(key)

    @dramatiq.actor(queue_name=queue)
    def flaky(key: str) -> None:
        journal.run(key)
        if current_attempt().number < 3:
            raise Planned(key)
        journal.finished(key)

    @dramatiq.actor(queue_name=queue)
    def doomed(key: str) -> None:
        journal.run(key)
        raise Planned(key)

    stop = threading.Event()
    refused = 0

    def send() -> None:
        nonlocal refused
        dice = random.Random(0)
        while not stop.wait(1 / rate):
            actor = dice.choices([plain, flaky, doomed], [6, 3, 1])[0]
            message = actor.message(uuid.uuid4().hex)
            while True:
                try:
                    broker.enqueue(message)
                    break
                except Exception:
                    refused += 1
                    time.sleep(0.1)
            journal.sent[message.args[0]] = actor.actor_name

    dramatiq.worker.CONSUMER_RESTART_DELAY_SECS = 0.5
    worker = dramatiq.Worker(broker, worker_threads=8)
    worker.start()
    sender = threading.Thread(target=send)
    sender.start()
    restarts, ends_at = 0, time.monotonic() + minutes * 60
    while time.monotonic() < ends_at:
        time.sleep(min(RESTART_EVERY_S, max(0.0, ends_at - time.monotonic())))
        server.stop()
        server.start()
        restarts += 1
        print(f"restart {restarts}: {len(journal.sent)} sent, {len(journal.done)} done", file=sys.stderr)
    stop.set()
    sender.join()

    dead: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    letters = DeadLetters.of(broker)
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            dead = {letter.message.args[0] for letter in letters.list(queue=queue) if letter.message is not None}
        if not journal.sent.keys() - journal.done.keys() - dead:
            break
        time.sleep(1)
    worker.stop()
    lost = journal.sent.keys() - journal.done.keys() - dead
    account = {
        "restarts": restarts,
        "sent": len(journal.sent),
        "sends refused meanwhile": refused,
        "done": len(journal.done),
        "dead": len(dead),
        "done more than once": sum(count > 1 for count in journal.done.values()),
        "attempts run": sum(journal.runs.values()),
        "attempts run more than once": sum(count > 1 for count in journal.runs.values()),
        "lost": len(lost),
    }
    for title, count in account.items():
        print(f"{title:32}{count}")
    wrong = [f"{journal.sent[key]} {key} is lost" for key in lost]
    wrong += [f"{journal.sent.get(key)} {key} is dead" for key in dead if journal.sent.get(key) == "plain"]
    broker.close()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=["redis", "rabbitmq"])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--rate", type=int, default=100, help="messages sent in a second (default: 100)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL + 1)
    make: Any = {"redis": own_redis, "rabbitmq": own_rabbitmq}[arguments.server]
    with make() as server:
        wrong = soak(server, arguments.minutes, arguments.rate)
    print("\n".join(wrong) or "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
