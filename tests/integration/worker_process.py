"""A worker in a process of its own, for tests that kill it: ``worker_process.py URL NAMESPACE QUEUE FILE CODE``.

Each run of the actor appends a line to the file. What the actor does is the last argument.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import dramatiq

from dramatiq_retryq import RetryQueue, broker_from_url, current_attempt

HEARTBEAT_TIMEOUT = 1_000


def make(url: str, namespace: str, queue: str, file: str, code: str, **options: Any) -> Any:
    settings: dict[str, Any] = {}
    if url.startswith("redis"):
        settings = {"namespace": namespace, "heartbeat_timeout": HEARTBEAT_TIMEOUT}
    retry_queue = RetryQueue(**{"backoff": [1], "max_crashes": 3, **options})
    broker = broker_from_url(url, retry_queue=retry_queue, **settings)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def work(n: int) -> None:
        with open(file, "ab", buffering=0) as lines:
            lines.write(f"{n} {current_attempt().number}\n".encode())
        if code == "die" or (code == "die of 13" and n == 13):
            os.kill(os.getpid(), signal.SIGKILL)
        if code == "raise":
            raise ValueError(n)
        if code == "hang":
            threading.Event().wait()

    return broker, work


class KilledBeforeTheAck(dramatiq.Middleware):
    def before_ack(self, broker: Any, message: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    url, namespace, queue, file, code = sys.argv[1:]
    if code == "raise, and die before the ack":
        # Not so soon that the retry itself is underway by then.
        broker, _ = make(url, namespace, queue, file, "raise", backoff=[500])
        broker.add_middleware(KilledBeforeTheAck())
    else:
        broker, _ = make(url, namespace, queue, file, code)
    dramatiq.Worker(broker, worker_threads=1, worker_timeout=20).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
