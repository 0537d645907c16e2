"""What becomes of every event, as seen from the worker: a small Dramatiq middleware that keeps count."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import dramatiq
import requests

from dramatiq_retryq import GiveUp


@dataclass
class Delivery:
    """One event on its way to a customer."""

    event: dict[str, Any]
    attempts: int = 0
    delivered: bool = False
    replays: int = 0
    letters: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will happen: it is delivered, or has died as often as it was started."""
        return self.delivered or len(self.letters) > self.replays

    @property
    def is_dead(self) -> bool:
        return self.is_settled and not self.delivered

    @property
    def gave_up(self) -> bool:
        """Whether it is dead because the customer does not want it, so that there is nothing to repair."""
        return self.is_dead and self.letters[-1]["reason"] == "rejected"

    @property
    def error(self) -> str:
        """What it died of."""
        return str(self.letters[-1]["error"]["message"])


class Journal(dramatiq.Middleware):
    """Follows the messages it has been told to expect, and no others: the queue may hold older ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deliveries: dict[str, Delivery] = {}
        self._attempts: Counter[str] = Counter()

    def expect(self, message: dramatiq.Message[Any]) -> None:
        """Follow this message of `deliver`. To be called before it is sent."""
        with self._lock:
            self._deliveries[message.message_id] = Delivery(message.kwargs["event"])

    @property
    def deliveries(self) -> list[Delivery]:
        with self._lock:
            return list(self._deliveries.values())

    @property
    def settled(self) -> int:
        """How many events are delivered or dead."""
        return sum(delivery.is_settled for delivery in self.deliveries)

    @property
    def attempts(self) -> Counter[str]:
        """How many attempts led to what."""
        with self._lock:
            return self._attempts.copy()

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        with self._lock:
            if delivery := self._deliveries.get(message.message_id):
                delivery.attempts += 1
                delivery.delivered = delivery.delivered or exception is None
                self._attempts[result_of(exception)] += 1
            elif message.actor_name == "record_dead_letter" and exception is None:
                letter = message.args[0]
                if delivery := self._deliveries.get(letter["message"]["message_id"]):
                    delivery.letters.append(letter)


def result_of(error: BaseException | None) -> str:
    """Name the result of one attempt, for people."""
    if error is None:
        return "delivered"
    if isinstance(error, GiveUp):
        return "410 Gone"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "time-out"
    if isinstance(error, requests.ConnectionError):
        return "connection refused" if "refused" in str(error) else "connection lost"
    return type(error).__name__
