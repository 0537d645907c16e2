"""How fast messages come in, go out, and come through."""

from __future__ import annotations

import threading
import time

import dramatiq

from .probe import Countdown, percentile, running_worker

MESSAGES = 20_000
ONE_AT_A_TIME = 2_000


def enqueue(broker: dramatiq.Broker) -> dict[str, float]:
    """`actor.send()` from one thread, no worker running."""

    @dramatiq.actor(broker=broker)
    def noop(number: int) -> None:
        pass

    for number in range(1_000):
        noop.send(number)
    sent = Countdown(1)
    sent.start()
    for number in range(MESSAGES):
        noop.send(number)
    sent()
    return {"per_second": MESSAGES / sent.seconds, "cpu_us": sent.cpu_seconds / MESSAGES * 1e6}


def drain(broker: dramatiq.Broker, messages: int = MESSAGES) -> dict[str, float]:
    """A worker empties a queue that was filled before it started."""
    done = Countdown(messages)

    @dramatiq.actor(broker=broker)
    def noop(number: int) -> None:
        done()

    for number in range(messages):
        noop.send(number)
    done.start()
    with running_worker(broker):
        done.wait(120)
    return {"per_second": messages / done.seconds, "cpu_us": done.cpu_seconds / messages * 1e6}


def latency(broker: dramatiq.Broker) -> dict[str, float]:
    """From before `send()` to the actor's first line, one at a time: at once, then each after a rest."""
    waits: list[float] = []
    started = threading.Event()

    @dramatiq.actor(broker=broker)
    def note(sent_at: int) -> None:
        waits.append((time.perf_counter_ns() - sent_at) / 1_000)
        started.set()

    def measure(rest: float) -> list[float]:
        waits.clear()
        for _ in range(ONE_AT_A_TIME):
            if rest:
                time.sleep(rest)
            started.clear()
            note.send(time.perf_counter_ns())
            if not started.wait(10):
                raise TimeoutError("a message did not start within 10 s")
        return list(waits)

    with running_worker(broker):
        busy = measure(0)
        rested = measure(0.001)  # By then the worker has acked the one before, and the CPU may have gone to sleep.
    return {
        "p50_us": percentile(busy, 50),
        "p99_us": percentile(busy, 99),
        "rested_p50_us": percentile(rested, 50),
        "rested_p99_us": percentile(rested, 99),
    }
