"""Retries, attempts and dead letters for Dramatiq actors, with brokers that need no server."""

from .backends import SQLiteRateLimiterBackend, SQLiteResultBackend
from .broker import MemoryBroker, SQLiteBroker
from .dead_letters import DeadLetters
from .embedded import run_worker
from .errors import GiveUp, Snooze
from .middleware import RetryQueue, current_attempt
from .policy import Backoff
from .records import Attempt, DeadLetter

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
    "current_attempt",
    "run_worker",
]
