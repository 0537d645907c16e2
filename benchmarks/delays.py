"""How late delayed messages are, what holds them back, and what they weigh."""

from __future__ import annotations

import gc
import random
import threading
import time

import dramatiq

from .probe import Countdown, percentile, rss_bytes, running_worker

DELAYED = 2_000
FIRST_DUE_MS = 500
DUE_WITHIN_MS = 2_000

FAR_OFF = 1_000_000
FILL_WITHIN_S = 120.0
SOON = 20
SOON_WITHIN_MS = 1_000
PATIENCE_S = 5.0
HOUR_MS = 3_600_000

WEIGHED = 200_000


class Lateness:
    """When each message was due, and how long after that it started, in milliseconds."""

    def __init__(self, broker: dramatiq.Broker, expected: int) -> None:
        self.done = Countdown(expected)
        self._due_at: dict[int, int] = {}
        self._asked_for: dict[int, float] = {}
        self._started_at: dict[int, float] = {}

        @dramatiq.actor(broker=broker)
        def note(number: int) -> None:
            self._started_at[number] = time.time() * 1_000
            self.done()

        self._actor = note

    def send(self, number: int, delay: int) -> None:
        self._asked_for[number] = time.time() * 1_000 + delay
        message = self._actor.send_with_options(args=(number,), delay=delay)
        self._due_at[number] = message.options["eta"]

    def figures(self) -> dict[str, float]:
        """Lateness after the instant that the broker gave the message; and the earliest by the sender."""
        late = [started_at - self._due_at[number] for number, started_at in self._started_at.items()]
        by_sender = [started_at - self._asked_for[number] for number, started_at in self._started_at.items()]
        if not late:
            return {"run": 0}
        return {
            "run": len(late),
            "p50_ms": percentile(late, 50),
            "p99_ms": percentile(late, 99),
            "worst_ms": max(late),
            "earliest_ms": min(late),
            "earliest_by_sender_ms": min(by_sender),
        }


def lateness(broker: dramatiq.Broker) -> dict[str, float]:
    """A running worker, and 2000 messages due at different milliseconds of two seconds, sent in no order."""
    messages = Lateness(broker, DELAYED)
    delays = [FIRST_DUE_MS + number * DUE_WITHIN_MS // DELAYED for number in range(DELAYED)]
    random.Random(1).shuffle(delays)
    with running_worker(broker):
        for number, delay in enumerate(delays):
            messages.send(number, delay)
        messages.done.wait(60)
    return messages.figures()


def behind_far_off(broker: dramatiq.Broker) -> dict[str, float]:
    """20 messages due within a second, sent after a million that are due in an hour.

    A slow broker is given as many as it takes within two minutes. How many of the 20 run
    within some seconds is itself a figure.
    """

    @dramatiq.actor(broker=broker)
    def later(number: int) -> None:
        pass

    messages = Lateness(broker, SOON)
    give_up_at = time.monotonic() + FILL_WITHIN_S
    for number in range(FAR_OFF):
        later.send_with_options(args=(number,), delay=HOUR_MS + number)
        if time.monotonic() > give_up_at:
            break
    with running_worker(broker):
        threading.Event().wait(0.5)  # The worker has fetched what it is going to fetch.
        for soon in range(SOON):
            messages.send(soon, (soon + 1) * SOON_WITHIN_MS // SOON)
        try:
            messages.done.wait(PATIENCE_S)
        except TimeoutError:
            pass  # Not an error here: see "run".
        return messages.figures() | {"far_off": number + 1}


def weight(broker: dramatiq.Broker) -> dict[str, float]:
    """What the process grows by, for each message that is due in an hour."""

    @dramatiq.actor(broker=broker)
    def later(number: int) -> None:
        pass

    for number in range(1_000):  # What is allocated once is not counted.
        later.send_with_options(args=(number,), delay=HOUR_MS)
    gc.collect()
    before = rss_bytes()
    for number in range(WEIGHED):
        later.send_with_options(args=(number,), delay=HOUR_MS + number)
    gc.collect()
    return {"bytes": (rss_bytes() - before) / WEIGHED}
