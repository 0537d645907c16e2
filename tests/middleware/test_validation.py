"""A bad value is an error where it is said, and the error names who, which option, the value and what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AgeLimit, MiddlewareError

from dramatiq_retryq import Backoff, MemoryBroker, RetryQueue, run_worker
from dramatiq_retryq.errors import ConfigError

NO_DURATION = "give milliseconds as a whole number, or a datetime.timedelta"
NO_POLICY = (
    "give a Backoff, a list of delays in ms, a function (attempt, error) -> ms, or a dict of these by exception class"
)
NOT_TOGETHER = (
    "backoff and min_backoff, max_backoff or jitter cannot be given together: "
    "say all of it with backoff=Backoff(min_backoff, max_backoff, jitter=…)"
)
JITTERS = "additive, full, equal, decorrelated, proportional, none"

#: Options that make no sense, and what is said about them after "actor 'x': " or the like.
BAD_OPTIONS = [
    ({"jitter": "ful"}, f"jitter is 'ful': give one of {JITTERS}"),
    ({"jitter": ["full"]}, f"jitter is ['full']: give one of {JITTERS}"),
    ({"min_backoff": -1}, "min_backoff is -1 ms: a duration cannot be negative"),
    ({"max_backoff": -1}, "max_backoff is -1 ms: a duration cannot be negative"),
    ({"min_backoff": timedelta(seconds=-1)}, "min_backoff is -1000.0 ms: a duration cannot be negative"),
    (
        {"min_backoff": 200, "max_backoff": 100},
        "max_backoff is 100 ms, below min_backoff (200 ms): raise it or lower min_backoff",
    ),
    ({"min_backoff": "100"}, f"min_backoff is '100': {NO_DURATION}"),
    ({"min_backoff": True}, f"min_backoff is True: {NO_DURATION}"),
    ({"max_backoff": float("nan")}, f"max_backoff is nan: {NO_DURATION}"),
    ({"max_backoff": float("inf")}, f"max_backoff is inf: {NO_DURATION}"),
    ({"max_retries": -1}, "max_retries is -1: give a whole number, 0 for no retry, or None for no limit"),
    ({"max_retries": "3"}, "max_retries is '3': give a whole number, 0 for no retry, or None for no limit"),
    ({"max_retries": 2.5}, "max_retries is 2.5: give a whole number, 0 for no retry, or None for no limit"),
    ({"max_retries": True}, "max_retries is True: give a whole number, 0 for no retry, or None for no limit"),
    ({"backoff": []}, "backoff is an empty list: give at least one delay, or max_retries=0 for no retry"),
    ({"backoff": [100, -1]}, "backoff[1] is -1 ms: a duration cannot be negative"),
    ({"backoff": ["1s"]}, f"backoff[0] is '1s': {NO_DURATION}"),
    ({"backoff": "fast"}, f"backoff is 'fast': {NO_POLICY}"),
    ({"backoff": 100}, f"backoff is 100: {NO_POLICY}"),
    ({"backoff": {}}, "backoff is an empty dict: give at least one exception class with its policy"),
    (
        {"backoff": {"ValueError": [1]}},
        "backoff: 'ValueError' is no exception class: rules go by exception class",
    ),
    ({"backoff": [1], "min_backoff": 100}, NOT_TOGETHER),
    ({"backoff": [1], "max_backoff": 100}, NOT_TOGETHER),
    ({"backoff": [1], "jitter": "full"}, NOT_TOGETHER),
    ({"dead_letter_actor": 5}, "dead_letter_actor is 5: give an actor or its name"),
]

#: Those that only actors have.
BAD_ACTOR_OPTIONS = [
    ({"backoff": {ValueError: "fast"}}, f"backoff[ValueError] is 'fast': {NO_POLICY}"),
    ({"retry_when": True}, "retry_when is True: give a function (retries, error) -> bool"),
    ({"throws": "ValueError"}, "throws is 'ValueError': give an exception class or a tuple of them"),
    ({"throws": int}, "throws is <class 'int'>: give an exception class or a tuple of them"),
    (
        {"throws": (ValueError, "KeyError")},
        "throws is (<class 'ValueError'>, 'KeyError'): give an exception class or a tuple of them",
    ),
    ({"on_retry_exhausted": 5}, "on_retry_exhausted is 5: give an actor or its name"),
    ({"max_age": -1}, "max_age is -1: give milliseconds, 0 or None for no limit"),
    ({"max_age": "1h"}, "max_age is '1h': give milliseconds, 0 or None for no limit"),
]

#: And those that only the middleware itself has.
BAD_MIDDLEWARE_OPTIONS = [
    ({"retry_when": True}, "RetryQueue: retry_when is True: give a function (retries, error) -> bool"),
    ({"redact": "secret"}, "RetryQueue: redact is 'secret': give a function that takes and returns a text"),
    ({"store_timeout": -1}, "RetryQueue: store_timeout is -1 ms: a duration cannot be negative"),
    ({"store_timeout": "5s"}, f"RetryQueue: store_timeout is '5s': {NO_DURATION}"),
]

# The largest durations that are numbers at all.
HUGE = 10**400


def show(value: Any) -> str:
    return str(value)[:60]


def stub() -> StubBroker:
    broker = StubBroker()
    broker.add_middleware(RetryQueue())
    return broker


@pytest.fixture(params=[MemoryBroker, stub], ids=["memory", "stub"])
def broker(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A broker with RetryQueue, of either kind."""
    make: Callable[[], Any] = request.param
    broker = make()
    yield broker
    broker.close()


def nothing() -> None:
    pass


# -- At declaration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "text"), BAD_OPTIONS + BAD_ACTOR_OPTIONS, ids=show)
def test_a_bad_option_of_an_actor_is_told_at_declaration(broker: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dramatiq.actor(nothing, actor_name="x", broker=broker, **options)
    assert str(caught.value) == f"actor 'x': {text}"


@pytest.mark.parametrize(("options", "text"), BAD_OPTIONS + BAD_ACTOR_OPTIONS, ids=show)
def test_an_actor_with_a_bad_option_is_not_declared(broker: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError):
        dramatiq.actor(nothing, actor_name="x", broker=broker, **options)
    assert broker.get_declared_actors() == set()
    dramatiq.actor(nothing, actor_name="x", broker=broker)  # and its name is still free


def test_a_config_error_is_what_dramatiq_and_python_call_a_bad_value() -> None:
    assert issubclass(ConfigError, MiddlewareError)
    assert issubclass(ConfigError, ValueError)


def test_an_option_that_nobody_knows_is_dramatiqs_error(broker: Any) -> None:
    with pytest.raises(ValueError, match="max_retry"):
        dramatiq.actor(nothing, actor_name="x", broker=broker, max_retry=3)


@pytest.mark.parametrize(
    "options",
    [
        {"min_backoff": 0, "max_backoff": 0},
        {"min_backoff": timedelta(seconds=1), "max_backoff": timedelta(minutes=1)},
        {"min_backoff": 1.5},
        {"max_retries": None, "retry_when": None, "throws": None, "dead_letter_actor": None, "backoff": None},
        {"backoff": [timedelta(seconds=1), 5]},
        {"backoff": {ValueError: None, KeyError: [1, 2]}},
        {"max_age": 0},
        {"min_backoff": 40_000},  # above the inherited max_backoff, which it bends
        {"max_backoff": 50},  # below the inherited min_backoff, likewise
    ],
    ids=show,
)
def test_an_option_that_makes_sense_is_no_error(broker: Any, options: dict[str, Any]) -> None:
    dramatiq.actor(nothing, actor_name="x", broker=broker, **options)
    assert broker.get_declared_actors() == {"x"}


@pytest.mark.parametrize("options", [{"min_backoff": HUGE}, {"backoff": [HUGE]}], ids=["min_backoff", "backoff"])
def test_a_duration_too_great_for_a_number_is_an_error_at_declaration(broker: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="actor 'x'"):
        dramatiq.actor(nothing, actor_name="x", broker=broker, **options)
    assert broker.get_declared_actors() == set()


def test_a_max_age_that_is_no_number_is_an_error_at_declaration(broker: Any) -> None:
    with pytest.raises(ConfigError, match="max_age is nan"):
        dramatiq.actor(nothing, actor_name="x", broker=broker, max_age=float("nan"))


# -- In the constructor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"), [(options, text) for options, text in BAD_OPTIONS if len(options) == 1], ids=show
)
def test_a_bad_option_of_the_middleware_is_told_by_the_constructor(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RetryQueue(**options)
    assert str(caught.value) == f"RetryQueue: {text}"


@pytest.mark.parametrize(("options", "text"), BAD_MIDDLEWARE_OPTIONS, ids=show)
def test_a_bad_option_that_only_the_middleware_has_is_told_too(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RetryQueue(**options)
    assert str(caught.value) == text


def test_reversed_bounds_of_the_middleware_are_told_by_the_constructor() -> None:
    with pytest.raises(ConfigError) as caught:
        RetryQueue(min_backoff=200, max_backoff=100)
    assert str(caught.value).endswith(
        "max_backoff is 100 ms, below min_backoff (200 ms): raise it or lower min_backoff"
    )


def test_backoff_together_with_bounds_is_told_by_the_constructor() -> None:
    with pytest.raises(ConfigError) as caught:
        RetryQueue(backoff=[1], min_backoff=200)
    assert str(caught.value) == f"RetryQueue: {NOT_TOGETHER}"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"factor": 0.5}, "factor is 0.5: give a number of 1 or more"),
        ({"factor": "2"}, "factor is '2': give a number of 1 or more"),
        ({"jitter": "ful"}, f"jitter is 'ful': give one of {JITTERS}"),
        ({"min_backoff": -1}, "min_backoff is -1 ms: a duration cannot be negative"),
        (
            {"min_backoff": 2, "max_backoff": 1},
            "max_backoff is 1 ms, below min_backoff (2 ms): raise it or lower min_backoff",
        ),
    ],
    ids=show,
)
def test_a_backoff_that_makes_no_sense_is_told_by_its_constructor(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Backoff(**options)
    assert str(caught.value) == text


# -- At send ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "text"), BAD_OPTIONS, ids=show)
def test_a_bad_option_of_a_message_is_told_at_send(broker: Any, options: dict[str, Any], text: str) -> None:
    actor = dramatiq.actor(nothing, actor_name="x", broker=broker)
    with pytest.raises(ConfigError) as caught:
        actor.send_with_options(**options)
    assert str(caught.value) == f"message to actor 'x': {text}"


def test_a_message_with_a_bad_option_is_not_stored(broker: Any) -> None:
    actor = dramatiq.actor(nothing, actor_name="x", broker=broker)
    with pytest.raises(ConfigError):
        actor.send_with_options(jitter="ful")
    assert broker.queues["default"].qsize() == 0


def test_a_message_whose_bounds_cross_its_actors_is_no_error(broker: Any) -> None:
    actor = dramatiq.actor(nothing, actor_name="x", broker=broker, min_backoff=100, max_backoff=200)
    actor.send_with_options(min_backoff=500)
    assert broker.queues["default"].qsize() == 1


# -- At the worker's start -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("middleware", "actor", "whose"),
    [
        ({"dead_letter_actor": "morgue"}, {}, "RetryQueue"),
        ({}, {"dead_letter_actor": "morgue"}, "actor 'x'"),
    ],
    ids=["middleware", "actor"],
)
def test_a_worker_does_not_start_where_a_dead_letter_actor_does_not_exist(
    middleware: dict[str, Any], actor: dict[str, Any], whose: str
) -> None:
    broker = MemoryBroker([RetryQueue(**middleware)])
    dramatiq.actor(nothing, actor_name="x", broker=broker, **actor)
    with pytest.raises(ConfigError) as caught:
        Worker(broker, worker_threads=1).start()
    assert str(caught.value) == (
        f"{whose}: dead_letter_actor is 'morgue', and no such actor is declared on this broker: "
        "declare it, or import the module that does, before the worker starts"
    )


def test_an_embedded_worker_does_not_start_where_a_dead_letter_actor_does_not_exist() -> None:
    broker = MemoryBroker([RetryQueue(dead_letter_actor="morgue")])
    with pytest.raises(ConfigError, match="no such actor"), run_worker(broker, threads=1, worker_timeout=1):
        raise AssertionError("it started")


@pytest.mark.parametrize("max_age", [timedelta(days=1), "1d"])
def test_a_worker_does_not_start_where_the_age_limit_is_no_number(max_age: Any) -> None:
    broker = MemoryBroker([AgeLimit(max_age=max_age), RetryQueue()])
    dramatiq.actor(nothing, actor_name="x", broker=broker)
    with pytest.raises(ConfigError) as caught:
        Worker(broker, worker_threads=1).start()
    assert str(caught.value) == (
        f"AgeLimit: max_age is {max_age!r}, and Dramatiq's own middleware counts in milliseconds: give a number of them"
    )


def test_a_dead_letter_actor_may_be_declared_after_the_actor_that_names_it() -> None:
    broker = MemoryBroker()
    dramatiq.actor(nothing, actor_name="x", broker=broker, dead_letter_actor="morgue")
    dramatiq.actor(nothing, actor_name="morgue", broker=broker)
    with run_worker(broker, threads=1, worker_timeout=1):
        pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "run_worker: threads is 0: give a whole number of 1 or more"),
        ({"threads": True}, "run_worker: threads is True: give a whole number of 1 or more"),
        ({"queues": "default"}, "run_worker: queues is 'default': give a list of queue names, as ['default']"),
        (
            {"queues": ["defualt"]},
            "run_worker: queues has 'defualt', which this broker does not know: declare an actor on it first, or "
            "correct the name",
        ),
        ({"stop_timeout": -1}, "run_worker: stop_timeout is -1 ms: a duration cannot be negative"),
        ({"worker_timeout": "1s"}, f"run_worker: worker_timeout is '1s': {NO_DURATION}"),
    ],
    ids=show,
)
def test_a_bad_option_of_run_worker_is_told_before_anything_starts(options: dict[str, Any], text: str) -> None:
    broker = MemoryBroker()
    broker.declare_queue("default")
    with pytest.raises(ConfigError) as caught, run_worker(broker, **options):
        raise AssertionError("it started")
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["max_messages", "max_dead_letters"])
@pytest.mark.parametrize("value", [0, -1, True, "10", 1.5])
def test_a_bad_bound_of_a_memory_broker_is_told_by_its_constructor(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MemoryBroker(**{name: value})
    assert str(caught.value) == f"MemoryBroker: {name} is {value!r}: give a whole number of 1 or more, or None"
