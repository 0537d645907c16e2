"""What becomes of a message that will not be attempted again, and how to bring it back.

Every death goes the same way, whatever caused it: it has a reason, it makes one self-contained
:class:`~dramatiq_retryq.records.DeadLetter`, and that is stored where the message was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from dramatiq import Actor, ActorNotFound, Broker, Message, MessageProxy, get_encoder

from ._dramatiq import exception_of, plain_message
from .clock import MAX_DURATION, Clock, clock_of, milliseconds
from .errors import ConfigError, LetterNotFound
from .history import Redact, describe, full_traceback
from .hops import HOP_OPTION, REDELIVERED_OPTION
from .records import REASONS, Claim, DeadLetter, ErrorInfo, Reason
from .shelf import DueAt, Shelf, StoreShelf
from .side import side_of
from .store import Store

__all__ = ["LETTER_OPTION", "DeadLetters", "compose", "is_as_sent", "renewed", "undecodable"]

#: The option that marks a message to a dead-letter actor, holding the letter's id. The death of such a message
#: is told to no dead-letter actor: two that fail would write to each other for ever.
LETTER_OPTION = "dead_letter"


def compose(
    message: MessageProxy,
    *,
    now: int,
    reason: Reason | None = None,
    letter_id: str | None = None,
    data: bytes | None = None,
    redact: Redact | None = None,
) -> DeadLetter:
    """The dead letter of a message that is about to be rejected.

    Args:
        message: as the worker has it, with the exception that was stuffed into it.
        now: when it died.
        reason: why; found out where nobody decided on it.
        letter_id: the message's id if not given.
        data: the stored payload, kept where the message as it is now cannot be encoded.
        redact: takes secrets out of texts.
    """
    error = exception_of(message)
    if reason is None:
        reason = "unknown_actor" if issubclass(type(error), ActorNotFound) else "rejected"
    return DeadLetter(
        id=message.message_id if letter_id is None else letter_id,
        reason=reason,
        queue_name=message.queue_name,
        actor_name=message.actor_name,
        died_at=now,
        error=describe(error, redact) if error is not None else None,
        traceback=full_traceback(error, redact) if error is not None else None,
        data=_encoded(plain_message(message), data),
    )


def undecodable(claim: Claim, error: BaseException, *, now: int) -> DeadLetter:
    """The dead letter of a payload that is no message."""
    return DeadLetter(
        id=str(claim.id),
        reason="undecodable",
        queue_name=claim.queue_name,
        actor_name=None,
        died_at=now,
        # The class only: a decoder's error quotes the payload.
        error=ErrorInfo(type=type(error).__name__, message="the payload is no message"),
        data=claim.data,
    )


def _encoded(message: Message[Any], stored: bytes | None) -> bytes:
    """The message with its history as bytes; the stored payload where that cannot be had."""
    try:
        original = message if stored is None or is_as_sent(message) else Message.decode(stored)
        # Not original.copy(): dataclasses.replace takes as long as decoding.
        fields = original.asdict()
        fields["options"] = {**original.options, **message.options}
        return get_encoder().encode(fields)
    except Exception:
        return stored if stored is not None else repr(message.message_id).encode()


def is_as_sent(message: Message[Any]) -> bool:
    """Whether its arguments cannot be others than those that were sent, so that nobody has to decode these again.

    An actor may change a list that it was given, and a hook may put something among the keyword arguments.
    """
    return not message.kwargs and all(type(argument) in _SCALARS for argument in message.args)


_SCALARS = frozenset({int, str, float, bool, type(None)})


def renewed(message: Message[Any], *, now: int) -> Message[Any]:
    """A dead message as it is sent again: a new budget of retries and a new age, its history kept."""
    options = dict(message.options)
    for spent in ("retries", "snoozes", "traceback", "requeue_timestamp", "eta", HOP_OPTION, REDELIVERED_OPTION):
        options.pop(spent, None)
    replays = options.get("replays", 0)
    options["replays"] = (replays if isinstance(replays, int) else 0) + 1
    # A new timestamp, since an age limit counts from it: an expired message would expire again at once.
    return message._replace(options=options, message_timestamp=now)


class DeadLetters:
    """The dead letters of one broker: see, replay and discard them.

    Iterating gives them newest first. Everything here may be interrupted and run again, by several processes
    at once: a letter is replayed or discarded by one of them only.
    """

    def __init__(self, store: Store, clock: Clock, wake: Callable[[str, int], None]) -> None:
        self._shelf: Shelf = StoreShelf(store, wake)
        self._clock = clock

    @classmethod
    def on(cls, shelf: Shelf, clock: Clock) -> DeadLetters:
        """The dead letters that lie on a shelf."""
        letters = cls.__new__(cls)
        letters._shelf = shelf
        letters._clock = clock
        return letters

    @classmethod
    def of(cls, broker: Broker) -> DeadLetters:
        """The dead letters of any broker that keeps some: ours, ``RedisBroker``, ``RabbitmqBroker``, ``StubBroker``.

        Raises:
            ConfigError: another kind of broker.
        """
        own = getattr(broker, "dead_letters", None)
        if isinstance(own, DeadLetters):
            return own
        return cls.on(side_of(broker).shelf, clock_of(broker))

    def __iter__(self) -> Iterator[DeadLetter]:
        return self._shelf.letters()

    def __len__(self) -> int:
        return self._shelf.count(now=self._clock.now())

    def __repr__(self) -> str:
        return f"<DeadLetters: {len(self)}>"

    def list(
        self,
        *,
        actor: str | Actor[..., Any] | None = None,
        queue: str | None = None,
        reason: Reason | None = None,
        error: str | type[BaseException] | None = None,
        since: int | datetime | timedelta | None = None,
        limit: int | None = None,
    ) -> Sequence[DeadLetter]:
        """The letters that match all of the filters, newest first.

        Args:
            actor: the actor, or its name.
            queue: the queue's name.
            reason: one of :data:`~dramatiq_retryq.records.REASONS`.
            error: the last error's class, or its name.
            since: died at or after this instant (ms since the epoch, or a datetime), or at most this long
                ago (a timedelta).
            limit: at most so many.

        Raises:
            ConfigError: a reason that does not exist, a ``since`` that is no time, or a ``limit`` that is no number.
        """
        if reason is not None and reason not in REASONS:
            raise ConfigError(f"reason is {reason!r}: give one of {', '.join(REASONS)}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise ConfigError(f"limit is {limit!r}: give a whole number")
        if isinstance(actor, Actor):
            actor = actor.actor_name
        error_name = error.__name__ if isinstance(error, type) else error
        earliest = self._instant(since)
        found: Any = []
        if limit is not None and limit <= 0:
            return found  # type: ignore[no-any-return]
        for letter in self if queue is None else self._shelf.letters(queue):
            if (
                (actor is None or letter.actor_name == actor)
                and (reason is None or letter.reason == reason)
                and (error_name is None or (letter.error is not None and letter.error.type == error_name))
                and (earliest is None or letter.died_at >= earliest)
            ):
                found.append(letter)
                if limit is not None and len(found) >= limit:
                    break
        return found  # type: ignore[no-any-return]

    def get(self, letter_id: str) -> DeadLetter:
        """One letter by its id.

        Raises:
            LetterNotFound: it is not among the dead (any more).
        """
        return self._shelf.letter(str(letter_id))

    def one(self, **filters: Any) -> DeadLetter:
        """The only letter that matches the filters of :meth:`list`.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = self.list(**filters, limit=2)
        if len(found) != 1:
            raise LookupError(f"one dead letter was expected, there {'are several' if found else 'is none'}")
        return found[0]

    def replay(self, letter: DeadLetter | str, *, delay: int | timedelta = 0) -> DeadLetter:
        """Send a dead message again, with a new budget of retries. Its history goes on.

        Args:
            letter: the letter, or its id.
            delay: milliseconds (or a timedelta) to wait before it is due.

        Returns:
            The letter as it was.

        Raises:
            LetterNotFound: somebody else replayed or discarded it.
            LetterTooNew: a newer version of this package wrote it.
            LetterUnreadable: it lies on a server and is torn.
        """
        if not isinstance(letter, DeadLetter):
            letter = self.get(letter)
        due_at = self._clock.due_in(milliseconds(delay, "delay"))
        if not self._revive([letter], lambda n: due_at):
            raise LetterNotFound(letter.id)
        return letter

    def replay_all(self, *, rate: float | None = None, **filters: Any) -> int:
        """Replay all letters that match the filters of :meth:`list`, oldest first.

        Args:
            rate: how many may become due in a second. They are all brought back at once, each due a little later
                than the one before, so nothing has to keep running.

        Returns:
            How many were brought back by this call; those that somebody else took meanwhile are not counted.
        """
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate > 0):
            raise ConfigError(f"rate is {rate!r}: give the number of messages a second, more than 0")
        letters = self.list(**filters)
        if rate is not None and len(letters) * 1000 / rate > MAX_DURATION:
            raise ConfigError(f"rate is {rate!r}: {len(letters)} messages would take more than a thousand years")
        start = self._clock.due_in(0)
        return self._revive(letters[::-1], lambda n: start if rate is None else start + int(n * 1000 / rate))

    def discard(self, letter: DeadLetter | str) -> None:
        """Drop a letter for good.

        Raises:
            LetterNotFound: somebody else replayed or discarded it.
        """
        letter_id = letter.id if isinstance(letter, DeadLetter) else str(letter)
        if not self._shelf.discard([letter_id]):
            raise LetterNotFound(letter_id)

    def discard_all(self, **filters: Any) -> int:
        """Drop all letters that match the filters of :meth:`list`. Returns how many this call dropped."""
        return self._shelf.discard([letter.id for letter in self.list(**filters)])

    def _revive(self, wanted: Sequence[DeadLetter], due_at: DueAt) -> int:
        now = self._clock.now()

        def renew(lying: DeadLetter) -> Message[Any] | None:
            # What could not be decoded goes back as it is: perhaps the right encoder is in place by now.
            message = lying.message
            return None if message is None else renewed(message, now=now)

        return len(self._shelf.revive(wanted, renew, due_at=due_at, now=now))

    def _instant(self, since: int | datetime | timedelta | None) -> int | None:
        if since is None or (isinstance(since, int) and not isinstance(since, bool)):
            return since
        if isinstance(since, timedelta):
            return self._clock.now() - milliseconds(since, "since")
        if isinstance(since, datetime):
            return int(since.timestamp() * 1000)
        raise ConfigError(f"since is {since!r}: give ms since the epoch, a datetime or a timedelta")
