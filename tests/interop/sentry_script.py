"""sentry-sdk's Dramatiq integration on one broker; prints what would have been sent to Sentry."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import dramatiq
import sentry_sdk
from sentry_sdk.integrations.dramatiq import DramatiqIntegration, SentryMiddleware
from sentry_sdk.transport import Transport

from dramatiq_retryq import GiveUp, RetryQueue, Snooze, current_attempt
from tests.interop import four

kind, name, at_death_only = sys.argv[1], os.environ["INTEROP_NAME"], "at-death-only" in sys.argv
ended: list[str] = []


class Caught(Transport):
    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            exceptions = event.get("exception", {}).get("values") or [{"type": None}]
            data = event.get("contexts", {}).get("dramatiq", {}).get("data", {})
            row = [data.get("actor_name"), exceptions[-1]["type"], data.get("options", {}).get("retries")]
            print(json.dumps([*row, event.get("logger")]))


def last_failure_only(event: Any, hint: Any) -> Any:
    """Drop the failures after which there is another attempt."""
    options = event.get("contexts", {}).get("dramatiq", {}).get("data", {}).get("options", {})
    attempts = options.get("attempts")
    return None if attempts and attempts[-1]["delay"] is not None else event


sentry_sdk.init(
    dsn="https://key@localhost/1",
    transport=Caught,
    integrations=[DramatiqIntegration()],
    before_send=last_failure_only if at_death_only else None,
    max_request_body_size="always",
)
broker = four.make(kind, name, ".", middleware=four.middleware(retry_queue=RetryQueue(backoff=[0], max_retries=2)))
assert isinstance(broker.middleware[0], SentryMiddleware)
dramatiq.set_broker(broker)


class Watching(dramatiq.Middleware):
    def after_nack(self, broker: Any, message: Any) -> None:
        ended.append(message.actor_name)


broker.add_middleware(Watching())


@dramatiq.actor(queue_name=name)
def fails() -> None:
    raise ConnectionError("nobody answers")


@dramatiq.actor(queue_name=name)
def gives_up() -> None:
    raise GiveUp("closed")


@dramatiq.actor(queue_name=name, throws=KeyError)
def throws() -> None:
    raise KeyError("expected")


@dramatiq.actor(queue_name=name)
def snoozes() -> None:
    ended.append("snoozes")
    if ended.count("snoozes") == 1:
        raise Snooze(0)


@dramatiq.actor(queue_name=name)
def recovers() -> None:
    if current_attempt().number == 1:
        raise ConnectionError("nobody answers")
    ended.append("recovers")


with contextlib.closing(broker):
    with four.running(broker):
        for actor in (fails, gives_up, throws, snoozes, recovers):
            actor.send()
        four.eventually(lambda: len(ended) == 6)
    four.clear(broker)
