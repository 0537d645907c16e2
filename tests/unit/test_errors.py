"""The tree of errors: what one can catch them as, what they say and what they carry."""

from __future__ import annotations

import inspect
import pickle
import re
from datetime import timedelta

import dramatiq
import pytest
from dramatiq.errors import BrokerError
from dramatiq.middleware import MiddlewareError

from dramatiq_retryq import errors
from dramatiq_retryq.errors import (
    ClaimLost,
    ConfigError,
    EncodeError,
    GiveUp,
    LetterNotFound,
    MessageDied,
    MessageNotFound,
    MissingExtra,
    NotSupported,
    QueueFull,
    RetryQueueError,
    Snooze,
)

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_of_this_package_can_be_caught_as_its_root(cls: type[Exception]) -> None:
    assert issubclass(cls, RetryQueueError)
    assert issubclass(cls, Exception)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_says_what_it_is(cls: type[Exception]) -> None:
    assert inspect.getdoc(cls)


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = re.findall(r"^    (?:├──|└──) (\w+)", errors.__doc__ or "", re.M)
    assert sorted(["RetryQueueError", *drawn]) == sorted(errors.__all__)


@pytest.mark.parametrize(
    ("cls", "also"),
    [
        (ConfigError, MiddlewareError),
        (ConfigError, ValueError),
        (QueueFull, BrokerError),
        (EncodeError, TypeError),
        (LetterNotFound, LookupError),
        (MessageNotFound, LookupError),
        (NotSupported, NotImplementedError),
        (MissingExtra, ImportError),
        (Snooze, dramatiq.Retry),
    ],
)
def test_an_error_can_also_be_caught_as_what_it_is_elsewhere(cls: type[Exception], also: type[Exception]) -> None:
    assert issubclass(cls, also)


def test_giving_up_is_no_retry() -> None:
    assert not issubclass(GiveUp, dramatiq.Retry)


def test_queue_full_names_the_queue_and_the_bound_and_says_what_to_do() -> None:
    error = QueueFull("mail", 5)
    assert (error.queue_name, error.max_messages) == ("mail", 5)
    assert str(error) == (
        "queue 'mail': the broker already holds max_messages=5 messages: this one was not stored; "
        "send it later, start more workers or raise max_messages"
    )


def test_claim_lost_names_the_entry() -> None:
    error = ClaimLost(7)
    assert error.entry_id == 7
    assert str(error) == "entry 7 is no longer claimed by this claim: nothing was changed"


def test_letter_not_found_names_the_letter() -> None:
    error = LetterNotFound("7")
    assert error.letter_id == "7"
    # Not in quotes, as a KeyError's text is.
    assert str(error) == "no dead letter with id '7': it was replayed, discarded or never existed"


def test_missing_extra_says_what_to_install() -> None:
    error = MissingExtra("prometheus")
    assert error.extra == "prometheus"
    assert str(error) == "this needs an optional dependency: pip install 'dramatiq_retryq[prometheus]'"


def test_giving_up_carries_its_reason() -> None:
    assert (GiveUp("no such user").reason, str(GiveUp("no such user"))) == ("no such user", "no such user")
    assert (GiveUp().reason, str(GiveUp())) == ("", "the actor gave up")


def test_snoozing_carries_its_delay_and_a_message() -> None:
    assert (Snooze(500).delay, str(Snooze(500))) == (500, "snoozed")
    assert str(Snooze(500, "rate limited")) == "rate limited"
    assert Snooze(timedelta(minutes=1)).delay == timedelta(minutes=1)
    assert Snooze(0).delay == 0


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("max_retries is -1"),
        EncodeError("cannot be encoded"),
        MessageDied("died"),
        GiveUp(),
        GiveUp("no such user"),
        Snooze(500, "rate limited"),
        QueueFull("mail", 5),
        ClaimLost(7),
        LetterNotFound("7"),
        MissingExtra("prometheus"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_comes_out_of_another_process_says_the_same(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
