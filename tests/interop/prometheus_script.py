"""Dramatiq's Prometheus middleware on one broker: two retries, one death, one snooze; prints what was counted."""

from __future__ import annotations

import contextlib
import os
import sys

import dramatiq
from dramatiq.middleware.prometheus import DB_PATH, Prometheus

from dramatiq_retryq import GiveUp, RetryQueue, Snooze, current_attempt
from tests.interop import four

kind, name = sys.argv[1], os.environ["INTEROP_NAME"]
broker = four.make(
    kind, name, ".", middleware=[Prometheus(), *four.middleware(retry_queue=RetryQueue(backoff=[10], max_retries=2))]
)
dramatiq.set_broker(broker)
ended: list[str] = []


@dramatiq.actor(queue_name=name)
def flaky() -> None:
    if current_attempt().number < 3:
        raise ConnectionError("nobody answers")
    ended.append("flaky")


@dramatiq.actor(queue_name=name)
def give_up() -> None:
    ended.append("give_up")
    raise GiveUp("closed")


@dramatiq.actor(queue_name=name)
def snooze() -> None:
    ended.append("snooze")
    if ended.count("snooze") == 1:
        raise Snooze(10)


with contextlib.closing(broker):
    with four.running(broker):
        for actor in (flaky, give_up, snooze):
            actor.send()
        four.eventually(lambda: sorted(ended) == ["flaky", "give_up", "snooze", "snooze"])
    four.clear(broker)

# As the exposition server reads them: from the files, and not from this process.
import prometheus_client  # noqa: E402
from prometheus_client import multiprocess  # noqa: E402

registry = prometheus_client.CollectorRegistry()
multiprocess.MultiProcessCollector(registry, DB_PATH)
for metric in registry.collect():
    for sample in metric.samples:
        if sample.name in (
            "dramatiq_messages_total",
            "dramatiq_message_retries_total",
            "dramatiq_message_errors_total",
            "dramatiq_message_rejects_total",
        ):
            print(
                sample.name,
                sample.labels["actor_name"],
                "delayed" if sample.labels["queue_name"].endswith(".DQ") else "queue",
                int(sample.value),
            )
