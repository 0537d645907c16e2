"""An option of the message counts before its actor's, and that before the middleware's; zero and None are answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import AgeLimit

from dramatiq_retryq import Backoff, MemoryBroker, RetryQueue
from dramatiq_retryq.clock import VirtualClock

NOTHING: dict[str, Any] = {}


class Trial:
    """Sends one message to an actor that fails always, and tells what became of it."""

    def __init__(self, clock: VirtualClock, drain: Any) -> None:
        self.clock = clock
        self.drain = drain
        self.ran_at: list[int] = []

    def run(self, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any]) -> MemoryBroker:
        clock = self.clock
        self.broker = MemoryBroker([AgeLimit(), RetryQueue(**middleware)], clock=clock)
        self.letters: dict[str, list[Any]] = {"far": [], "near": [], "nearest": []}
        for name, letters in self.letters.items():
            self._declare_target(name, letters)

        @dramatiq.actor(broker=self.broker, **actor)
        def fail() -> None:
            self.ran_at.append(clock.now())
            raise ValueError("no")

        fail.send_with_options(**message)
        return self.broker

    def _declare_target(self, name: str, letters: list[Any]) -> None:
        @dramatiq.actor(broker=self.broker, actor_name=name, queue_name="targets")
        def target(*args: Any) -> None:
            letters.append(args)

    def finish(self) -> None:
        self.drain(self.broker)

    @property
    def runs(self) -> int:
        return len(self.ran_at)

    def first_delay(self) -> int:
        """Milliseconds between the first attempt and the second."""
        self.finish()
        return self.ran_at[1] - self.ran_at[0]

    def told(self) -> list[str]:
        """Which of the three targets were sent something."""
        return [name for name, letters in self.letters.items() if letters]


@pytest.fixture
def trial(clock: VirtualClock, drain: Any) -> Trial:
    return Trial(clock, drain)


@pytest.mark.parametrize(
    ("middleware", "actor", "message", "attempts"),
    [
        ({"max_retries": 3}, {}, {}, 4),
        ({"max_retries": 3}, {"max_retries": 2}, {}, 3),
        ({"max_retries": 3}, {"max_retries": 2}, {"max_retries": 1}, 2),
        ({"max_retries": 3}, {}, {"max_retries": 1}, 2),
        ({"max_retries": 3}, {"max_retries": 2}, {"max_retries": 0}, 1),
        ({"max_retries": 3}, {"max_retries": 0}, {}, 1),
        ({"max_retries": 0}, {}, {}, 1),
        ({}, {}, {}, 21),
    ],
)
def test_max_retries_is_the_nearest_one(
    trial: Trial, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any], attempts: int
) -> None:
    trial.run(middleware, actor, message)
    trial.finish()
    assert trial.runs == attempts


@pytest.mark.parametrize(
    ("actor", "message"), [({"max_retries": None}, {}), ({"max_retries": 1}, {"max_retries": None})]
)
def test_max_retries_none_is_no_limit(trial: Trial, drain: Any, actor: dict[str, Any], message: dict[str, Any]) -> None:
    broker = trial.run({"max_retries": 1}, {**actor, "min_backoff": 0, "max_backoff": 0}, message)
    with pytest.raises(AssertionError, match="there are more"):
        drain(broker, limit=50)
    assert trial.runs == 50


@pytest.mark.parametrize(
    ("middleware", "actor", "message", "delay"),
    [
        # The middleware's own, its actor's, the message's.
        ({"min_backoff": 3000}, {}, {}, 3000),
        ({"min_backoff": 3000}, {"min_backoff": 2000}, {}, 2000),
        ({"min_backoff": 3000}, {"min_backoff": 2000}, {"min_backoff": 1000}, 1000),
        ({"min_backoff": 3000}, {}, {"min_backoff": 1000}, 1000),
        # Zero is an answer.
        ({"min_backoff": 3000}, {"min_backoff": 0}, {}, 0),
        ({"min_backoff": 3000}, {"min_backoff": 2000}, {"min_backoff": 0}, 0),
        ({"min_backoff": 0}, {}, {}, 0),
        # None means not said.
        ({"min_backoff": 3000}, {"min_backoff": None}, {"min_backoff": None}, 3000),
        ({"min_backoff": 3000}, {"min_backoff": timedelta(seconds=2)}, {}, 2000),
    ],
)
def test_min_backoff_is_the_nearest_one(
    trial: Trial, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any], delay: int
) -> None:
    trial.run({"jitter": "none", **middleware}, actor, message)
    assert trial.first_delay() == delay


@pytest.mark.parametrize(
    ("middleware", "actor", "message", "delay"),
    [
        ({"max_backoff": 6000}, {}, {}, 5000),
        ({"max_backoff": 6000}, {"max_backoff": 4000}, {}, 4000),
        ({"max_backoff": 6000}, {"max_backoff": 4000}, {"max_backoff": 3000}, 3000),
        ({"max_backoff": 6000}, {}, {"max_backoff": 3000}, 3000),
        ({"max_backoff": 6000}, {"max_backoff": 0}, {}, 0),
    ],
)
def test_max_backoff_is_the_nearest_one(
    trial: Trial, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any], delay: int
) -> None:
    trial.run({"jitter": "none", "min_backoff": 5000, **middleware}, actor, message)
    assert trial.first_delay() == delay


@pytest.mark.parametrize(
    ("middleware", "actor", "message", "delays"),
    [
        ({"jitter": "none"}, {}, {}, range(1000, 1001)),
        ({"jitter": "full"}, {"jitter": "none"}, {}, range(1000, 1001)),
        ({"jitter": "full"}, {"jitter": "full"}, {"jitter": "none"}, range(1000, 1001)),
        ({"jitter": "none"}, {"jitter": "none"}, {"jitter": "full"}, range(1000)),
        ({"jitter": "none"}, {"jitter": "full"}, {}, range(1000)),
    ],
)
def test_jitter_is_the_nearest_one(
    trial: Trial, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any], delays: range
) -> None:
    trial.run({"min_backoff": 1000, **middleware}, actor, message)
    assert trial.first_delay() in delays


@pytest.mark.parametrize(
    ("middleware", "actor", "message", "delay"),
    [
        ({"backoff": [3000]}, {}, {}, 3000),
        ({"backoff": [3000]}, {"backoff": [2000]}, {}, 2000),
        ({"backoff": [3000]}, {"backoff": [2000]}, {"backoff": [1000]}, 1000),
        ({"backoff": [3000]}, {"backoff": [2000]}, {"backoff": [0]}, 0),
        ({"backoff": [3000]}, {"backoff": Backoff(2000, 2000, jitter="none")}, {}, 2000),
        ({"backoff": [3000]}, {"backoff": lambda attempt, error: 2000}, {}, 2000),
        ({"backoff": [3000]}, {"backoff": {ValueError: [2000]}}, {}, 2000),
        # Rules that say nothing of this error fall back on what is farther from the message.
        ({"backoff": [3000]}, {"backoff": {KeyError: [2000]}}, {}, 3000),
        # Bounds are said nearer to the message than the list.
        ({"backoff": [3000]}, {"min_backoff": 2000, "max_backoff": 2000, "jitter": "none"}, {}, 2000),
        ({"backoff": [3000]}, {"backoff": [2000]}, {"min_backoff": 1000, "jitter": "none"}, 1000),
    ],
)
def test_backoff_is_the_nearest_one(
    trial: Trial, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any], delay: int
) -> None:
    trial.run(middleware, actor, message)
    assert trial.first_delay() == delay


def test_a_rule_of_none_gives_up_at_once(trial: Trial) -> None:
    trial.run({"backoff": {ValueError: None}}, {}, {})
    trial.finish()
    assert trial.runs == 1
    assert trial.broker.dead_letters.one(queue="default").reason == "exhausted"


@pytest.mark.parametrize(
    ("middleware", "actor", "attempts"),
    [
        (lambda retries, error: retries < 3, NOTHING, 4),
        (lambda retries, error: retries < 3, {"retry_when": lambda retries, error: retries < 1}, 2),
        (None, {"retry_when": lambda retries, error: retries < 1}, 2),
        # In place of max_retries, however near that is.
        (lambda retries, error: retries < 3, {"max_retries": 0}, 4),
        # None takes the middleware's away, as in Dramatiq.
        (lambda retries, error: retries < 3, {"retry_when": None, "max_retries": 1}, 2),
    ],
)
def test_retry_when_is_the_nearest_one(trial: Trial, middleware: Any, actor: dict[str, Any], attempts: int) -> None:
    trial.run({"retry_when": middleware}, actor, {})
    trial.finish()
    assert trial.runs == attempts


def test_retry_when_is_told_the_retries_so_far_and_the_error(trial: Trial) -> None:
    told: list[Any] = []

    def enough(retries: int, error: BaseException) -> bool:
        told.append((retries, type(error)))
        return retries < 2

    trial.run({"retry_when": enough}, {}, {})
    trial.finish()
    assert told == [(0, ValueError), (1, ValueError), (2, ValueError)]


@pytest.mark.parametrize(
    ("middleware", "actor", "message", "told"),
    [
        ({"dead_letter_actor": "far"}, {}, {}, ["far"]),
        ({"dead_letter_actor": "far"}, {"dead_letter_actor": "near"}, {}, ["near"]),
        ({"dead_letter_actor": "far"}, {"dead_letter_actor": "near"}, {"dead_letter_actor": "nearest"}, ["nearest"]),
        ({"dead_letter_actor": "far"}, {}, {"dead_letter_actor": "nearest"}, ["nearest"]),
        ({}, {"dead_letter_actor": "near"}, {}, ["near"]),
        ({}, {}, {"dead_letter_actor": "nearest"}, ["nearest"]),
        ({}, {}, {}, []),
    ],
)
def test_the_dead_letter_actor_is_the_nearest_one(
    trial: Trial, middleware: dict[str, Any], actor: dict[str, Any], message: dict[str, Any], told: list[str]
) -> None:
    trial.run({"max_retries": 0, **middleware}, actor, message)
    trial.finish()
    assert trial.told() == told


@pytest.mark.parametrize(
    ("actor", "message", "told"),
    [
        ({"on_retry_exhausted": "near"}, {}, ["near"]),
        ({"on_retry_exhausted": "near"}, {"on_retry_exhausted": "nearest"}, ["nearest"]),
        ({}, {"on_retry_exhausted": "nearest"}, ["nearest"]),
        ({}, {}, []),
    ],
)
def test_on_retry_exhausted_is_the_nearest_one(
    trial: Trial, actor: dict[str, Any], message: dict[str, Any], told: list[str]
) -> None:
    trial.run({"max_retries": 0}, actor, message)
    trial.finish()
    assert trial.told() == told


@pytest.mark.parametrize(
    ("actor", "message", "reason"),
    [
        ({"max_age": 60_000}, {}, "expired"),
        ({"max_age": 60_000}, {"max_age": 7_200_000}, "exhausted"),
        ({"max_age": 7_200_000}, {"max_age": 60_000}, "expired"),
        ({}, {"max_age": 60_000}, "expired"),
        ({}, {}, "exhausted"),
    ],
)
def test_max_age_is_the_nearest_one(trial: Trial, actor: dict[str, Any], message: dict[str, Any], reason: str) -> None:
    trial.run({"max_retries": 1, "backoff": [3_600_000]}, actor, message)
    trial.finish()
    assert trial.broker.dead_letters.one().reason == reason


def test_max_age_is_that_of_the_age_limit_middleware_where_nobody_says_another(clock: VirtualClock, drain: Any) -> None:
    broker = MemoryBroker([AgeLimit(max_age=60_000), RetryQueue(backoff=[3_600_000])], clock=clock)

    @dramatiq.actor(broker=broker)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    drain(broker)
    assert broker.dead_letters.one().reason == "expired"
