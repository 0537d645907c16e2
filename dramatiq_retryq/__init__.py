"""Retries, attempts and dead letters for Dramatiq actors, with brokers that need no server.

PYTEST_DONT_REWRITE: there is no assert in here, and it would add names of its own.
"""

from typing import TYPE_CHECKING

from .lazy import door as __door

if TYPE_CHECKING:
    from .backends import SQLiteRateLimiterBackend, SQLiteResultBackend
    from .broker import MemoryBroker, SQLiteBroker
    from .dead_letters import DeadLetters
    from .embedded import run_worker
    from .errors import GiveUp, Snooze
    from .middleware import RetryQueue, current_attempt
    from .policy import Backoff
    from .records import Attempt, DeadLetter
    from .urls import broker_from_url

__all__ = [
    "Attempt",
    "Backoff",
    "DeadLetter",
    "DeadLetters",
    "GiveUp",
    "MemoryBroker",
    "RetryQueue",
    "SQLiteBroker",
    "SQLiteRateLimiterBackend",
    "SQLiteResultBackend",
    "Snooze",
    "broker_from_url",
    "current_attempt",
    "run_worker",
]

# Imported at use: pytest imports this file to find the plugin, in every test run of every project whose environment has
# the package, and all that stands behind these names takes a tenth of a second.
__getattr__, __dir__ = __door(
    __name__,
    {
        "Attempt": "records",
        "Backoff": "policy",
        "DeadLetter": "records",
        "DeadLetters": "dead_letters",
        "GiveUp": "errors",
        "MemoryBroker": "broker",
        "RetryQueue": "middleware",
        "SQLiteBroker": "broker",
        "SQLiteRateLimiterBackend": "backends",
        "SQLiteResultBackend": "backends",
        "Snooze": "errors",
        "broker_from_url": "urls",
        "current_attempt": "middleware",
        "run_worker": "embedded",
    },
)
del TYPE_CHECKING
