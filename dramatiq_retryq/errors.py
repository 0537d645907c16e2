"""Every error this package raises, and the two that actors raise to steer their own retries.

::

    RetryQueueError                 the root: catch this to catch them all
    ├── ConfigError                 an option that makes no sense; also a MiddlewareError and a ValueError
    ├── QueueFull                   max_messages is reached, nothing was stored
    ├── EncodeError                 a message that its encoder refuses; also a TypeError
    ├── StoreUnavailable            the file or server cannot be used now; also what Dramatiq calls a lost connection
    ├── ClaimLost                   a move on a claim that is no longer held
    ├── LetterNotFound              no dead letter with that id (any more); also a LookupError
    ├── LetterTooNew                a dead letter that a newer version of this package wrote
    ├── LetterUnreadable            a dead letter on a server that is torn, and cannot be replayed
    ├── MessageNotFound             no message with that id waits (any more); also a LookupError
    ├── NotSupported                this broker cannot tell or do that; also a NotImplementedError
    ├── MessageDied                 raised by join() for a death whose own exception is gone
    ├── MoveRefused                 a move to another broker that cannot begin; nothing was moved
    ├── MoveInterrupted             a move that broke off on its way, and goes on where it is called again
    ├── KitError                    the testing kit is asked for what it cannot do
    ├── UnknownActor                no such actor on the broker under test; also a KitError and a LookupError
    ├── Runaway                     drain() has met its limit, and there is more; also a KitError
    ├── LeftoverMessages            a test forgot what it sent; also a KitError and an AssertionError
    ├── MissingExtra                an optional dependency is not installed; also an ImportError
    ├── GiveUp                      raised by an actor: no more attempts
    └── Snooze                      raised by an actor: later, without using up an attempt; also a dramatiq.Retry
"""

from __future__ import annotations

from datetime import timedelta

from dramatiq import Retry
from dramatiq.errors import BrokerError, ConnectionClosed
from dramatiq.middleware import MiddlewareError

__all__ = [
    "ClaimLost",
    "ConfigError",
    "EncodeError",
    "GiveUp",
    "KitError",
    "LeftoverMessages",
    "LetterNotFound",
    "LetterTooNew",
    "LetterUnreadable",
    "MessageDied",
    "MessageNotFound",
    "MissingExtra",
    "MoveInterrupted",
    "MoveRefused",
    "NotSupported",
    "QueueFull",
    "RetryQueueError",
    "Runaway",
    "Snooze",
    "StoreUnavailable",
    "UnknownActor",
]


class RetryQueueError(Exception):
    """The root of all errors of this package."""


# A MiddlewareError, because that is the only kind that Dramatiq lets through when a middleware refuses
# an actor's declaration; a ValueError, because that is what a bad argument is everywhere else.
class ConfigError(RetryQueueError, MiddlewareError, ValueError):
    """An option that makes no sense. The text names the option, its value and what was wanted."""


class QueueFull(RetryQueueError, BrokerError):
    """The broker holds ``max_messages`` messages already; this one was not stored."""

    def __init__(self, queue_name: str, max_messages: int) -> None:
        self.queue_name = queue_name
        self.max_messages = max_messages
        super().__init__(  # type: ignore[no-untyped-call]
            f"queue {queue_name!r}: the broker already holds max_messages={max_messages} messages: "
            "this one was not stored; send it later, start more workers or raise max_messages"
        )


class EncodeError(RetryQueueError, TypeError):
    """A message that the encoder refuses, raised by ``send()``; nothing was stored."""


class ClaimLost(RetryQueueError):
    """A claim that is no longer held: what it claimed was finished, moved or claimed anew."""

    def __init__(self, entry_id: int) -> None:
        self.entry_id = entry_id
        super().__init__(f"entry {entry_id} is no longer claimed by this claim: nothing was changed")

    def __reduce__(self) -> tuple[type[ClaimLost], tuple[int]]:
        return type(self), (self.entry_id,)


# A ConnectionClosed, on which Dramatiq's worker waits and tries again.
class StoreUnavailable(RetryQueueError, ConnectionClosed):
    """The store cannot be used: the disk is full, the file is damaged, locked or gone, the server does not answer.

    Nothing was changed; but where a server did not answer, it may have done what it was asked to.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)  # type: ignore[no-untyped-call]


class LetterNotFound(RetryQueueError, LookupError):
    """No dead letter has this id: it never existed, or was replayed, discarded or dropped since."""

    def __init__(self, letter_id: str) -> None:
        self.letter_id = letter_id
        super().__init__(f"no dead letter with id {letter_id!r}: it was replayed, discarded or never existed")

    def __reduce__(self) -> tuple[type[LetterNotFound], tuple[str]]:
        return type(self), (self.letter_id,)


class LetterTooNew(RetryQueueError):
    """A newer version of this package wrote this dead letter; this one cannot replay it, and left it as it is."""

    def __init__(self, letter_id: str, version: int, known: int) -> None:
        self.letter_id = letter_id
        self.version = version
        self.known = known
        super().__init__(
            f"dead letter {letter_id!r} is of form {version}, and this version of dramatiq_retryq understands forms up "
            f"to {known}: upgrade it here to replay the letter; it stays where it is"
        )

    def __reduce__(self) -> tuple[type[LetterTooNew], tuple[str, int, int]]:
        return type(self), (self.letter_id, self.version, self.known)


class LetterUnreadable(RetryQueueError):
    """What lies on the server as this dead letter has no message in it that could be sent. It was left as it is."""

    def __init__(self, letter_id: str) -> None:
        self.letter_id = letter_id
        super().__init__(
            f"dead letter {letter_id!r} is torn, so there is no message to replay: see what is left of it, and discard "
            "it; it stays where it is"
        )

    def __reduce__(self) -> tuple[type[LetterUnreadable], tuple[str]]:
        return type(self), (self.letter_id,)


class MessageNotFound(RetryQueueError, LookupError):
    """No message with this id waits: a worker has taken it, or it is done, dead or cancelled, or never existed."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        super().__init__(
            f"no message with id {message_id!r} waits: it is being run, done, dead or cancelled, or never existed"
        )

    def __reduce__(self) -> tuple[type[MessageNotFound], tuple[str]]:
        return type(self), (self.message_id,)


class NotSupported(RetryQueueError, NotImplementedError):
    """This broker cannot tell or do that. The text is one sentence for people."""


class MessageDied(RetryQueueError):
    """Raised by ``join(fail_fast=True)`` when a message died and its own exception is gone."""


class MoveRefused(RetryQueueError):
    """A move to another broker cannot begin: another one is under way, or has not been ended. Nothing was moved."""


class MoveInterrupted(RetryQueueError):
    """A move to another broker broke off. Nothing is lost: the same call goes on with it."""


class KitError(RetryQueueError):
    """The testing kit is asked for what it cannot do. The text says what to do in its place."""


class UnknownActor(KitError, LookupError):
    """No actor of that name is declared on the broker under test, or it is one of another broker."""


class Runaway(KitError):
    """``drain()`` has run as many messages as its limit says, and there is more to run."""


class LeftoverMessages(KitError, AssertionError):
    """A test ended with messages that it sent and never ran."""


class MissingExtra(RetryQueueError, ImportError):
    """An optional dependency is not installed. The text says what to install."""

    def __init__(self, extra: str) -> None:
        self.extra = extra
        super().__init__(f"this needs an optional dependency: pip install 'dramatiq_retryq[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str]]:
        return type(self), (self.extra,)


class GiveUp(RetryQueueError):
    """Raised by an actor: this message is beyond help, no further attempt is made.

    The message becomes a dead letter, reason ``rejected``.

    Args:
        reason: what the dead letter says; shown to people.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason or "the actor gave up")


# A dramatiq.Retry, so that an actor which snoozes still waits where plain Retries is in use,
# and so that Dramatiq's worker does not log it as an error.
class Snooze(RetryQueueError, Retry):
    """Raised by an actor: try again after ``delay``, and count this run as no attempt.

    For rate limits, closed maintenance windows, a lock that somebody else holds. A message may snooze
    for ever, unless ``max_age`` says otherwise.

    Args:
        delay: milliseconds, or a timedelta.
        message: shown in the log line; optional.
    """

    def __init__(self, delay: int | timedelta, message: str = "") -> None:
        Retry.__init__(self, message or "snoozed")
        self.delay = delay  # type: ignore[assignment]
