"""What an operator may ask of a broker and do to it: the one seam under the command, the page and the metrics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from dramatiq import Actor, Broker, get_encoder
from dramatiq.common import q_name
from dramatiq.encoder import JSONEncoder

from .clock import clock_of, milliseconds
from .dead_letters import DeadLetters
from .due import LAST_INSTANT
from .errors import ConfigError, LetterNotFound, MessageNotFound, NotSupported
from .foreign_view import view_of
from .options import actor_name_of
from .pending import pending_of, place_of
from .records import DeadLetter, Entry, Reason, entry_number
from .status import Minute, Paused, Pending, PendingKey, Rates, Status, WorkerStatus
from .store_broker import StoreBroker
from .store_view import StoreView
from .view import View

__all__ = ["Operations"]

T = TypeVar("T")

_LAST_HOUR = timedelta(hours=1)
_LAST_MINUTE = timedelta(minutes=1)


class Operations:
    """What an operator may ask of a broker and do to it: ``Operations.of(broker)``.

    The brokers of this package answer everything. What another broker cannot tell or do raises
    :class:`~dramatiq_retryq.errors.NotSupported`, whose text is the one sentence that a person reads.
    """

    broker: Broker

    def __init__(self, broker: Broker, view: View) -> None:
        self.broker = broker
        self._view = view
        self._clock = clock_of(broker)

    @classmethod
    def of(cls, broker: Broker) -> Operations:
        """The operations of any broker.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(broker, Broker):
            raise ConfigError(f"Operations.of: {broker!r} is no broker: give one, or broker_from_url(…) for its URL")
        return cls(broker, StoreView(broker) if isinstance(broker, StoreBroker) else view_of(broker))

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: see, replay and discard them."""
        try:
            return DeadLetters.of(self.broker)
        except ConfigError as error:
            raise NotSupported(str(error)) from error

    # -- Looking -------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """The broker at this instant: its queues, its workers, and what happened in the last minute and hour.

        Raises:
            NotSupported: it does not even tell how many messages it holds.
        """
        now, paused = self._clock.now(), self._view.paused()
        queues = self._view.queues(now=now)
        return Status(
            now=now,
            queues=tuple(dataclasses.replace(queue, paused=queue.name in paused.queues) for queue in queues),
            workers=_if_supported(lambda: tuple(self.workers())),
            last_minute=_if_supported(lambda: self.rates(_LAST_MINUTE)),
            last_hour=_if_supported(lambda: self.rates(_LAST_HOUR)),
            paused=paused,
        )

    def dead_by_reason(self) -> Mapping[Reason, int]:
        """How many dead letters there are for each reason; reasons without any are left out."""
        return self._view.dead_by_reason()

    def rates(self, since: timedelta) -> Rates:
        """How often what happened, the time from ``since`` ago until now.

        It is counted by the minute, so up to one minute more than ``since`` is in it.
        """
        return Rates.sum(minute.rates for minute in self.minutes(since))

    def minutes(self, since: timedelta) -> Sequence[Minute]:
        """The same by minute and queue, oldest first; minutes in which nothing happened are left out.

        The last 24 hours are kept. A worker process that is killed takes what it counted in its last second with it.
        """
        now = self._clock.now()
        return self._view.minutes(since_at=now - milliseconds(since, "since"), now=now)

    def workers(self) -> Sequence[WorkerStatus]:
        """The worker processes that live, and what each of them runs at this moment and since when."""
        return self._view.workers()

    def pending(
        self,
        *,
        actor: str | Actor[..., Any] | None = None,
        queue: str | None = None,
        error: str | type[BaseException] | None = None,
        due_before: int | datetime | None = None,
        due_after: int | datetime | None = None,
        retrying: bool | None = None,
        state: Literal["waiting", "claimed"] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Pending]:
        """What waits or is being worked on and matches all of the filters, in the order in which it is due.

        It is read as it is asked for, some hundred messages at a time: what changes meanwhile may or may not be in it.

        Args:
            actor: the actor, or its name.
            queue: the queue's name.
            error: the last error's class, or its name.
            due_before: due before this instant (ms since the epoch, or a datetime).
            due_after: due at or after this instant.
            retrying: whether it has failed before.
            state: ``"waiting"`` or ``"claimed"``; both if not given.
            after: the ``cursor`` of the last one of the page before.
            limit: at most so many.

        Raises:
            ConfigError: a state, a cursor or an instant that is none.
        """
        if state not in (None, "waiting", "claimed"):
            raise ConfigError(
                f'state is {state!r}: give "waiting" or "claimed"; dead letters are listed by dead_letters'
            )
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise ConfigError(f"limit is {limit!r}: give a whole number of 0 or more")
        actor_name = actor_name_of(actor)
        error_name = error.__name__ if isinstance(error, type) else error
        for what, name in (("actor", actor_name), ("queue", queue), ("error", error_name)):
            if name is not None and not isinstance(name, str):
                raise ConfigError(f"{what} is {name!r}: give a name")
        first = None if due_after is None else _instant(due_after, "due_after")
        end = None if due_before is None else _instant(due_before, "due_before")
        place = None if after is None else place_of(after)
        if first is not None:
            # Ids are greater than 0: everything that is due then is behind it.
            place = (first, 0) if place is None else max(place, (first, 0))
        entries = self._view.entries(
            queue_name=None if queue is None else q_name(queue),
            state=state,
            after=place,
            containing=_wanted_bytes(actor_name, error_name, retrying),
        )

        def found() -> Iterator[Pending]:
            left = limit
            for entry in entries:
                if left == 0 or (end is not None and entry.due_at >= end):
                    return
                pending = pending_of(entry)
                if (
                    (actor_name is None or pending.actor_name == actor_name)
                    and (error_name is None or (pending.error is not None and pending.error.type == error_name))
                    and (retrying is None or (pending.retries > 0) == retrying)
                ):
                    left = None if left is None else left - 1
                    yield pending

        return found()

    def find(self, message_id: str) -> Pending | DeadLetter | None:
        """The message with this id, wherever it is; ``None`` if it is done or never was. Looks at everything.

        Args:
            message_id: the message's own id; where no message has it, the ``id`` of one that ``pending()`` gave.
        """
        if not _can_be_stored(message_id):
            return None
        found = self._view.find(message_id) or self._view.entry(message_id)
        return pending_of(found) if isinstance(found, Entry) else found

    def by_id(self, id: str) -> Pending | DeadLetter | None:
        """What a person means who types an id: the ``id`` of what waits or of a letter, or a message's own.

        Raises:
            ConfigError: it is the ``id`` of one message and the message id of another.
        """
        self._refuse_if_ambiguous(id)
        return self._own(id) or self.find(id)

    def _own(self, id: str) -> Pending | DeadLetter | None:
        """What has this id itself, whatever the ids of messages are."""
        if not _can_be_stored(id):
            return None
        try:
            return self.dead_letters.get(id)
        except (LetterNotFound, NotSupported):
            entry = self._view.entry(id)
        return None if entry is None else pending_of(entry)

    def _refuse_if_ambiguous(self, id: str) -> None:
        if not _can_be_stored(id) or entry_number(id) is None:
            return  # only a number can be both, and to look at everything takes its time
        try:
            own = self._own(id)
            other = None if own is None or own.message_id == id else self._view.find(id)
        except NotSupported:
            return
        if own is not None and other is not None:
            raise ConfigError(
                f"{id!r} is the id of message {own.message_id!r} and the message id of another, which has the id "
                f"{str(other.id)!r}: give one of these two"
            )

    def paused(self) -> Paused:
        """The queues and actors that are paused."""
        return self._view.paused()

    def check(self) -> list[str]:
        """Verify every invariant of what is stored; a sentence for each that is broken."""
        return self._view.check()

    # -- Acting --------------------------------------------------------------------------------------------------

    def run_now(self, pending: Pending | PendingKey | str) -> None:
        """Make a message that waits due at once. One that is due already keeps its place.

        While its queue or its actor is paused it waits all the same.

        Args:
            pending: what ``pending()`` gave, or its key, or its id, or a message id.

        Raises:
            MessageNotFound: it waits no more: a worker has it, it is done, dead or cancelled.
            ConfigError: that is the id of one message and the message id of another.
        """
        now = self._clock.now()

        def move(entry_id: str) -> None:
            entry = self._view.entry(entry_id)
            if entry is None:
                raise MessageNotFound(entry_id)
            self._view.move(entry_id, due_at=min(now, entry.due_at), now=now)

        self._act(pending, move)

    def move(self, pending: Pending | PendingKey | str, *, due_at: int | datetime) -> None:
        """Make a message that waits due at another instant (ms since the epoch, or a datetime).

        Raises:
            MessageNotFound: it waits no more.
            ConfigError: that is no instant, or the id could be that of two messages.
        """
        instant, now = _instant(due_at, "due_at"), self._clock.now()
        self._act(pending, lambda entry_id: self._view.move(entry_id, due_at=instant, now=now))

    def cancel(self, pending: Pending | PendingKey | str) -> None:
        """Drop a message that waits. It will not run, and lies nowhere any more.

        Raises:
            MessageNotFound: it waits no more.
            ConfigError: the id could be that of two messages.
        """
        self._act(pending, self._view.cancel)

    def _act(self, pending: Pending | PendingKey | str, act: Callable[[str], object]) -> None:
        """Do it to the message that is meant."""
        if isinstance(pending, (Pending, PendingKey)):
            try:
                self._check_place(pending)
                act(pending.id)
            except MessageNotFound:
                raise MessageNotFound(pending.message_id or pending.id) from None
            return
        if not _can_be_stored(pending):
            raise MessageNotFound(pending)
        self._refuse_if_ambiguous(pending)
        try:
            act(pending)
        except MessageNotFound:
            found = self._view.find(pending)
            if not isinstance(found, Entry):
                raise
            try:
                act(str(found.id))
            except MessageNotFound:
                raise MessageNotFound(pending) from None

    def _check_place(self, listed: Pending | PendingKey) -> None:
        """See that another message has not got the id meanwhile: that of the newest may be given again once it is gone.

        Raises:
            MessageNotFound: it has, or nothing has this id.
        """
        try:
            entry = self._view.entry(listed.id)
        except NotSupported:
            return  # nor can it be acted on
        if entry is None or pending_of(entry).message_id != listed.message_id:
            raise MessageNotFound(listed.id)

    def pause(self, *, queue: str | None = None, actor: str | Actor[..., Any] | None = None) -> None:
        """Let no worker of any process take messages of a queue, or of an actor, until it is resumed.

        It holds within a second and across restarts. What runs already runs on; what is sent or fails meanwhile waits.
        Pausing what is paused is no error.

        Raises:
            ConfigError: neither of the two or both are given.
        """
        queue_name, actor_name = _one_of("pause", queue, actor)
        self._view.pause(queue_name=queue_name, actor_name=actor_name, now=self._clock.now())

    def resume(self, *, queue: str | None = None, actor: str | Actor[..., Any] | None = None) -> None:
        """Let workers take it again, in the old order. Resuming what is not paused is no error.

        Raises:
            ConfigError: neither of the two or both are given.
        """
        queue_name, actor_name = _one_of("resume", queue, actor)
        self._view.resume(queue_name=queue_name, actor_name=actor_name, now=self._clock.now())


def _if_supported(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except NotSupported:
        return None


def _one_of(what: str, queue: str | None, actor: str | Actor[..., Any] | None) -> tuple[str | None, str | None]:
    actor_name = actor_name_of(actor)
    if (queue is None) == (actor_name is None):
        raise ConfigError(f"{what}: give a queue or an actor, and not both: queue={queue!r}, actor={actor_name!r}")
    if not isinstance(queue if actor_name is None else actor_name, str) or "" in (queue, actor_name):
        raise ConfigError(f"{what}: queue={queue!r}, actor={actor_name!r}: give the name of one")
    if not _can_be_stored(queue if actor_name is None else actor_name):
        raise ConfigError(f"{what}: queue={queue!r}, actor={actor_name!r}: this is no text, and no name of anything")
    return None if queue is None else q_name(queue), actor_name


def _can_be_stored(name: object) -> bool:
    """Whether it is a text: what a terminal sends that is none comes as halves of surrogate pairs."""
    if not isinstance(name, str):
        raise ConfigError(f"{name!r} is no id and no name: give a text")
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _instant(value: int | datetime, what: str) -> int:
    if isinstance(value, datetime):
        try:
            return int(value.timestamp() * 1000)
        except (ValueError, OverflowError, OSError):  # the first and the last year, in some time zones
            raise ConfigError(f"{what} is {value!r}: this is out of what the platform can tell") from None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= LAST_INSTANT:
        raise ConfigError(f"{what} is {value!r}: give ms since the epoch, or a datetime")
    return value


def _wanted_bytes(actor_name: str | None, error_name: str | None, retrying: bool | None) -> list[bytes]:
    """What the payload of a match has in it for certain: to decode a million of them takes seconds."""
    if type(get_encoder()) is not JSONEncoder:
        return []
    wanted = []
    if actor_name is not None:
        wanted.append(json.dumps(actor_name).encode())
    if error_name is not None:
        wanted.append(json.dumps(error_name)[1:-1].encode())
    if retrying:
        wanted.append(b'"retries"')
    return wanted
