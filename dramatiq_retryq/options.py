"""What may be said of retries on a middleware, an actor or a message, checked and put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dramatiq import Actor, Broker
from dramatiq.middleware import AgeLimit

from .clock import milliseconds
from .errors import ConfigError
from .policy import JITTERS, Policy, adjusted, parse_policy

__all__ = [
    "ACTOR_OPTIONS",
    "actor_name_of",
    "check_age_limits",
    "check_options",
    "max_age_of",
    "nearer_policy",
    "retries_of",
    "throws_of",
]

#: The options that may be given to an actor, and all that JSON can carry also to a message.
ACTOR_OPTIONS = frozenset(
    {
        "max_retries",
        "min_backoff",
        "max_backoff",
        "retry_when",
        "throws",
        "on_retry_exhausted",
        "backoff",
        "jitter",
        "dead_letter_actor",
        "max_age",
    }
)


def nearer_policy(policy: Policy, options: Mapping[str, Any], what: str) -> Policy:
    """The policy once one more level of options has been heard."""
    backoff = options.get("backoff")
    lo, hi = options.get("min_backoff"), options.get("max_backoff")
    jitter = options.get("jitter")
    if lo is not None:
        lo = milliseconds(lo, f"{what}: min_backoff")
    if hi is not None:
        hi = milliseconds(hi, f"{what}: max_backoff")
    if lo is not None and hi is not None and hi < lo:
        raise ConfigError(f"{what}: max_backoff is {hi} ms, below min_backoff ({lo} ms): raise it or lower min_backoff")
    if backoff is None:
        return adjusted(policy, min_backoff=lo, max_backoff=hi, jitter=jitter)
    if isinstance(backoff, Mapping):
        default = adjusted(policy, min_backoff=lo, max_backoff=hi, jitter=jitter)
        return parse_policy(backoff, what=f"{what}: backoff", default=default)
    if not (lo is None and hi is None and jitter is None):
        raise ConfigError(
            f"{what}: backoff and min_backoff, max_backoff or jitter cannot be given together: "
            "say all of it with backoff=Backoff(min_backoff, max_backoff, jitter=…)"
        )
    return parse_policy(backoff, what=f"{what}: backoff", default=policy)


def check_options(options: Mapping[str, Any], what: str) -> None:
    """Check what can be checked of each option by itself.

    Raises:
        ConfigError: with the actor or message, the option, its value and what was wanted.
    """
    retries = options.get("max_retries")
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ConfigError(
            f"{what}: max_retries is {retries!r}: give a whole number, 0 for no retry, or None for no limit"
        )
    jitter = options.get("jitter")
    if jitter is not None and jitter not in JITTERS:
        raise ConfigError(f"{what}: jitter is {jitter!r}: give one of {', '.join(JITTERS)}")
    retry_when = options.get("retry_when")
    if retry_when is not None and not callable(retry_when):
        raise ConfigError(f"{what}: retry_when is {retry_when!r}: give a function (retries, error) -> bool")
    throws = options.get("throws")
    for cls in throws if isinstance(throws, tuple) else (throws,):
        if cls is not None and not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise ConfigError(f"{what}: throws is {throws!r}: give an exception class or a tuple of them")
    for option in ("on_retry_exhausted", "dead_letter_actor"):
        target = options.get(option)
        if target is not None and not isinstance(target, (str, Actor)):
            raise ConfigError(f"{what}: {option} is {target!r}: give an actor or its name")
    max_age = options.get("max_age")
    if max_age is not None and (isinstance(max_age, bool) or not isinstance(max_age, (int, float)) or not max_age >= 0):
        raise ConfigError(f"{what}: max_age is {max_age!r}: give milliseconds, 0 or None for no limit")


def check_age_limits(broker: Broker) -> None:
    """Check the one option of Dramatiq's own middleware that is heard here.

    Raises:
        ConfigError: it is no number. Dramatiq would log that for each message, and run all of them, however old.
    """
    for middleware in broker.middleware:
        if isinstance(middleware, AgeLimit) and not isinstance(middleware.max_age, (int, float, type(None))):
            raise ConfigError(
                f"AgeLimit: max_age is {middleware.max_age!r}, and Dramatiq's own middleware counts in milliseconds: "
                "give a number of them"
            )


def max_age_of(broker: Broker, actor_options: Mapping[str, Any], message_options: Mapping[str, Any]) -> int | None:
    """The age limit, found as Dramatiq's AgeLimit finds it."""
    limits = [m.max_age for m in broker.middleware if isinstance(m, AgeLimit) and m.max_age]
    inherited = min(limits, default=None)  # each of them rejects what is older than it allows
    max_age = message_options.get("max_age") or actor_options.get("max_age", inherited)
    return max_age if isinstance(max_age, (int, float)) else None  # type: ignore[return-value]


def throws_of(message_options: Mapping[str, Any], actor_options: Mapping[str, Any]) -> tuple[type[BaseException], ...]:
    throws = message_options.get("throws") or actor_options.get("throws") or ()
    # A message that JSON carried has no classes to offer.
    return tuple(cls for cls in (throws if isinstance(throws, tuple) else (throws,)) if isinstance(cls, type))


def actor_name_of(actor: str | Actor[..., Any] | None) -> str | None:
    return actor.actor_name if isinstance(actor, Actor) else actor


def retries_of(options: Mapping[str, Any]) -> int:
    retries = options.get("retries", 0)
    return retries if isinstance(retries, int) else 0
