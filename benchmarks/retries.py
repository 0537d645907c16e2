"""How fast failing messages are tried again, and how fast they die."""

from __future__ import annotations

import dramatiq

from .probe import Countdown, running_worker

STORM = 2_000
SMALL_STORM = 100
FAILURES = 3

DYING = 2_000
DEATH_AFTER_RETRIES = 2


class Flaky(Exception):
    pass


def storm(broker: dramatiq.Broker) -> dict[str, float]:
    """Each message fails three times, 10 to 40 ms apart, then succeeds. The worker starts on a full queue."""
    attempts = STORM * (FAILURES + 1)
    done = _storm(broker, STORM)
    return {"per_second": attempts / done.seconds, "cpu_us": done.cpu_seconds / attempts * 1e6}


def small_storm(broker: dramatiq.Broker) -> dict[str, float]:
    """The same with 100 messages: the waits are all there is, and are ideally over after 0.1 s."""
    return {"seconds": _storm(broker, SMALL_STORM).seconds}


def _storm(broker: dramatiq.Broker, messages: int) -> Countdown:
    failures_left = [FAILURES] * messages
    done = Countdown(messages)

    @dramatiq.actor(broker=broker, min_backoff=10, max_backoff=40)
    def flaky(number: int) -> None:
        if failures_left[number]:
            failures_left[number] -= 1
            raise Flaky(f"message {number} fails")
        done()

    for number in range(messages):
        flaky.send(number)
    done.start()
    with running_worker(broker):
        done.wait(120)
    return done


def dying(broker: dramatiq.Broker) -> dict[str, float]:
    """Every message fails at once and after each of two retries, 1 ms apart, and becomes a dead letter."""
    attempted = Countdown(DYING * (DEATH_AFTER_RETRIES + 1))

    @dramatiq.actor(broker=broker, max_retries=DEATH_AFTER_RETRIES, min_backoff=1, max_backoff=1)
    def doomed(number: int) -> None:
        attempted()
        raise Flaky(f"message {number} fails")

    for number in range(DYING):
        doomed.send(number)
    attempted.start()
    with running_worker(broker):
        attempted.wait(120)
    return {"per_second": DYING / attempted.seconds, "cpu_us": attempted.cpu_seconds / DYING * 1e6}
