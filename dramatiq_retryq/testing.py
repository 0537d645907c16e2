"""Tests of what actors do, over all of their retries, that neither sleep nor start a thread.

::

    from dramatiq_retryq.testing import swap_broker

    with swap_broker() as retryq:  # in pytest: the fixture ``retryq``
        deliver.send("https://example.org/hook")
        outcome = retryq.drain()
        assert outcome.succeeded == 1 and outcome.retried == 3
        assert retryq.delays(deliver) == [100, 200, 400]

For the length of the block every message goes to a memory broker on a clock that stands still, whatever broker the
actors were declared on. ``drain()`` runs what is due, through Dramatiq's own message processing and the application's
own middleware, and leaps to what is due next. See ``docs/testing.md``.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dramatiq import Broker

from .backoff import NoDice
from .clock import VirtualClock
from .errors import ConfigError, KitError, LeftoverMessages, Runaway, UnknownActor
from .kit import Kit, Leftovers
from .kit_clock import KitClock
from .store_broker import StoreBroker
from .swap import find_broker, swapped
from .timeline import Outcome, Run, Sent, call_text

__all__ = [
    "Kit",
    "KitError",
    "LeftoverMessages",
    "LeftoverWarning",
    "Outcome",
    "Run",
    "Runaway",
    "Sent",
    "UnknownActor",
    "swap_broker",
]


class LeftoverWarning(UserWarning):
    """A test ended with messages that it sent, never ran and never looked at."""


@contextmanager
def swap_broker(
    old: Broker | str | None = None,
    new: StoreBroker | None = None,
    *,
    seed: int | None = None,
    jitter: bool | None = None,
    raise_errors: bool = False,
    leftovers: Leftovers = "warn",
) -> Iterator[Kit]:
    """Put a broker of this package in the place of the application's, with all that a test wants of it.

    The application's actors send to it, its middleware works on it in the order it has (``RetryQueue`` in the place of
    ``Retries``, with the same numbers), and it is the global broker. At the end everything is as it was before, also
    if the test fails. No server is connected to.

    Args:
        old: the application's broker, or where it is, as ``"package.module:name"``; the global one if not given.
        new: what takes its place; a fresh ``MemoryBroker`` if not given.
        seed: what the jitter is rolled with. Without it there is none, and each delay is its schedule's.
        jitter: ``True`` for jitter with the seed 0.
        raise_errors: let ``drain`` and the like raise what actors raise.
        leftovers: what to do at the end about messages that the test sent and forgot: ``"warn"`` (a
            :class:`LeftoverWarning`), ``"error"`` (:class:`LeftoverMessages`) or ``"ignore"``.

    Yields:
        The kit.

    Raises:
        KitError: a broker is swapped already.
        ConfigError: an argument makes no sense.
        LeftoverMessages: see ``leftovers``.
    """
    if leftovers not in ("warn", "error", "ignore"):
        raise ConfigError(f"leftovers is {leftovers!r}: give 'warn', 'error' or 'ignore'")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ConfigError(f"seed is {seed!r}: give a whole number")
    if jitter is None:
        jitter = seed is not None
    elif not jitter and seed is not None:
        raise ConfigError(f"jitter is off, and seed is {seed!r}: give one of them")
    broker = find_broker(old)
    given = getattr(new, "clock", None)
    clock = KitClock(given if isinstance(given, VirtualClock) else VirtualClock(int(time.time() * 1000)))
    rng = random.Random(seed or 0) if jitter else NoDice()
    with swapped(broker, new, clock=clock, rng=rng) as taken:
        kit = Kit(taken, clock, replaced=broker, raise_errors=raise_errors, on_leftovers=leftovers)
        try:
            with kit:
                yield kit
                _report_leftovers(kit)
        finally:
            kit.is_over = True


def _report_leftovers(kit: Kit) -> None:
    left = kit.leftovers() if kit.on_leftovers != "ignore" else []
    if not left:
        return
    several = f"{len(left)} messages" if len(left) > 1 else "a message"
    shown = [f"  {call_text(sent.actor_name, sent.args, sent.kwargs)}" for sent in left[:10]]
    if len(left) > len(shown):
        shown.append(f"  … and {len(left) - len(shown)} more")
    text = "\n".join(
        [
            f"the test sent {several} and neither ran nor looked at them:",
            *shown,
            "Run them with drain(), say what is expected with assert_enqueued(), or drop them with clear().",
        ]
    )
    if kit.on_leftovers == "error":
        raise LeftoverMessages(text)
    warnings.warn(text, LeftoverWarning, stacklevel=4)
