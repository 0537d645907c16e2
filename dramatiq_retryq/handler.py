"""What the steps of a failing message's story, each in a file of its own, want of the middleware that tells it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from dramatiq import Broker, MessageProxy

from .clock import Clock
from .counting import Counting
from .history import Redact
from .policy import Settings
from .side import Side

__all__ = ["Handler", "who"]


class Handler(Protocol):
    """The middleware, as its parts see it."""

    dead_letter_actor: str | None
    redact: Redact | None
    store_timeout: int
    max_crashes: int | None
    max_letter_age: int | None
    rng: random.Random
    counting: Counting

    @property
    def broker(self) -> Broker | None: ...

    def clock_of(self, broker: Broker) -> Clock: ...

    def settings_of(self, broker: Broker, message: MessageProxy) -> tuple[Settings, str | None]: ...

    def side_of(self, broker: Broker) -> Side | None: ...

    def persist(self, broker: Broker, store: Callable[[], object], timeout: int | None = None) -> None: ...

    def log(self, level: str, text: str, *args: object, **kwargs: Any) -> None: ...


def who(message: MessageProxy) -> str:
    """A message as log lines call it: nothing of its arguments."""
    return f"message {message.message_id} of actor {message.actor_name}"
