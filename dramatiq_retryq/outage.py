"""What a dependency that is down meets when it is retried: a simulation, for choosing a policy by looking.

Every attempt before the end of the outage fails, every one after it succeeds, and none takes any time; there is a
worker for each. So this is the load that a policy *offers*, and the picture of it is the worst one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ConfigError
from .policy import Backoff, Settings

__all__ = ["Load", "Outage", "retries_needed", "simulate"]

#: How many attempts are simulated for one policy. Where more would be made, a sample of the messages stands for all.
_BUDGET = 100_000
#: How many attempts one message may make before this is taken for a loop.
_RUNAWAY = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What is simulated.

    Attributes:
        duration: how long the dependency is down, in ms.
        messages: how many are sent.
        over: they are sent evenly over this time (ms) from the beginning of the outage; 0 for all at once.
    """

    duration: int
    messages: int
    over: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the dependency met under one policy.

    Attributes:
        name: the policy's.
        attempts: how many there were in all, the first ones included.
        in_vain: how many of them met the outage.
        dead: how many messages died in it.
        busiest: how many retries there were in the busiest second.
        busiest_later: how many retries there were in the busiest second of the outage's second half and after it, once
            the first short delays are over.
        done_median: how long after the end of the outage half of the messages that had met it were done (ms);
            ``None`` if none was.
        done_last: when the last one was.
        retries: how many retries there were, by second since the beginning of the outage.
        simulated: how many messages were simulated; fewer than there are where all would take too long.
    """

    name: str
    attempts: int
    in_vain: int
    dead: int
    busiest: int
    busiest_later: int
    done_median: int | None
    done_last: int | None
    retries: Mapping[int, int]
    simulated: int


def simulate(outage: Outage, policies: Mapping[str, Settings], *, seed: int = 0) -> list[Load]:
    """The load by policy. The same seed gives the same dice, whatever other policies there are.

    Raises:
        ConfigError: a policy that retries without end and without a pause, or an outage that makes no sense.
    """
    if outage.messages < 1:
        raise ConfigError(f"messages is {outage.messages}: give 1 or more")
    if outage.duration < 1:
        raise ConfigError(f"the outage lasts {outage.duration} ms: give 1 ms or more")
    return [_simulate(outage, name, settings, random.Random(f"{seed} {name}")) for name, settings in policies.items()]


def retries_needed(outage: Outage, backoff: Backoff) -> int | None:
    """How many retries outlast the outage, on average; ``None`` for more than a thousand."""
    for rows in (32, 128, 1_000):  # a preview of many retries may take a second
        for row in backoff.preview(rows):
            if row.total_mean >= outage.duration:
                return row.retry + 1
    return None


class _Message:
    """One message's way through the outage, again and again for different messages."""

    def __init__(self, outage: Outage, name: str, settings: Settings, rng: random.Random) -> None:
        self.outage = outage
        self.name = name
        self.settings = settings
        self.rng = rng
        self.error = ConnectionError("the dependency is down")
        self.attempts = 0
        #: The instants of all retries, in ms since the beginning of the outage.
        self.retries: list[int] = []
        self.done: list[int] = []
        self.dead = 0

    def run(self, sent_at: int) -> None:
        end, max_retries, max_age = self.outage.duration, self.settings.max_retries, self.settings.max_age
        policy, rng, error, retries = self.settings.policy, self.rng, self.error, self.retries
        now, retry, previous = sent_at, 0, None
        while now < end:
            delay = None
            if max_retries is None or retry < max_retries:
                try:
                    delay = policy.delay(retry, previous=previous, error=error, rng=rng)
                except Exception:  # somebody's own function; a worker does the same
                    delay = Backoff().delay(retry, previous=previous, rng=rng)
            if delay is None or (max_age and now + delay - sent_at >= max_age):
                self.dead += 1
                self.attempts += retry + 1
                return
            now += delay
            retry += 1
            previous = delay
            retries.append(now)
            if retry > _RUNAWAY:
                raise ConfigError(
                    f"{self.name}: a message makes more than {_RUNAWAY:,} attempts in this outage: raise min_backoff "
                    "or max_backoff, or give a shorter outage"
                )
        self.attempts += retry + 1
        if retry:
            self.done.append(now - end)


def _simulate(outage: Outage, name: str, settings: Settings, rng: random.Random) -> Load:
    # One goes ahead, to see how many attempts a message makes.
    scout = _Message(outage, name, settings, random.Random(0))
    scout.run(0)
    simulated = max(2, min(outage.messages, _BUDGET // scout.attempts)) if outage.messages > 1 else 1
    run = _Message(outage, name, settings, rng)
    for number in range(simulated):
        run.run(number * outage.over // simulated)
    weight = outage.messages / simulated
    retries = {second: round(n * weight) for second, n in sorted(Counter(at // 1_000 for at in run.retries).items())}
    met = len(run.done) + run.dead
    later = outage.duration // 2_000
    run.done.sort()
    succeeded_in_time = simulated - met
    return Load(
        name=name,
        attempts=round(run.attempts * weight),
        in_vain=round((run.attempts - len(run.done) - succeeded_in_time) * weight),
        dead=round(run.dead * weight),
        busiest=max(retries.values(), default=0),
        busiest_later=max((n for second, n in retries.items() if second >= later), default=0),
        done_median=run.done[len(run.done) // 2] if run.done else None,
        done_last=run.done[-1] if run.done else None,
        retries=retries,
        simulated=simulated,
    )
