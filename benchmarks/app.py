"""What worker processes of the benchmarks import: the contestant and its actors, which note what they did in a file.

A line is appended in one write, so that lines of many processes do not mix and a killed process leaves none behind.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import dramatiq

from .contestants import CONTESTANTS

DIRECTORY = Path(os.environ["BENCHMARKS_DIRECTORY"])
JOURNAL = DIRECTORY / "journal"

broker = CONTESTANTS[os.environ["BENCHMARKS_CONTESTANT"]](DIRECTORY)
dramatiq.set_broker(broker)
_journal = os.open(JOURNAL, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)


def write(line: str) -> None:
    os.write(_journal, f"{line}\n".encode())


class DueAt(dramatiq.Middleware):
    """Notes how late a retry starts, where the broker says when it was due."""

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        if message.options.get("retries"):
            write(f"late {time.time() * 1_000 - message.claim.due_at}")


@dramatiq.actor
def note(number: int) -> None:
    write(str(number))


@dramatiq.actor
def work(number: int, seconds: float) -> None:
    time.sleep(seconds)
    write(str(number))


@dramatiq.actor
def wake(sent_at: float) -> None:
    write(f"woken {time.time() * 1_000 - sent_at}")


@dramatiq.actor(min_backoff=150, max_backoff=300)
def fail_once(number: int) -> None:
    message = dramatiq.middleware.CurrentMessage.get_current_message()
    if message is not None and not message.options.get("retries"):
        raise RuntimeError("the first attempt fails")


broker.add_middleware(dramatiq.middleware.CurrentMessage())
if os.environ["BENCHMARKS_CONTESTANT"] in ("sqlite", "sqlite-full"):
    broker.add_middleware(DueAt())
logging.getLogger("dramatiq").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        note.send(number)
