"""What happened in a test, and assertions about it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from dramatiq import Actor, Broker

from .clock import milliseconds
from .dead_letters import DeadLetters
from .errors import UnknownActor
from .kit_clock import KitClock
from .store_broker import StoreBroker
from .timeline import Run, Sent, call_text, duration_text, picture

__all__ = ["ActorOrName", "Record"]

ActorOrName = Actor[..., Any] | str


class Record:
    """What was sent to a broker under test, and what was run of it.

    Attributes:
        broker: the broker under test.
        clock: its clock.
        is_over: whether the broker was given back.
    """

    def __init__(self, broker: StoreBroker, clock: KitClock, replaced: Broker | None) -> None:
        self.broker = broker
        self.clock = clock
        self.is_over = False
        self._replaced = replaced
        self._events: list[Sent | Run] = []
        #: Sent since something was run last, and the ids of what was asked for since.
        self._fresh: list[Sent] = []
        self._looked_at: set[str] = set()

    def saw_sent(self, sent: Sent) -> None:
        self._events.append(sent)
        self._fresh.append(sent)

    def saw_run(self, run: Run) -> None:
        self._events.append(run)

    def _forget_leftovers(self) -> None:
        self._fresh.clear()
        self._looked_at.clear()

    # -- Time ----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The present instant of the test, as a datetime in UTC."""
        return datetime.fromtimestamp(self.clock.now() / 1000, timezone.utc)

    @property
    def elapsed(self) -> timedelta:
        """How much time has passed in this test."""
        return timedelta(milliseconds=self._passed())

    def _passed(self) -> int:
        return self.clock.passed()

    # -- What happened -------------------------------------------------------------------------------------------

    def runs(self, actor: ActorOrName | None = None) -> list[Run]:
        """Every run of an actor, or of all of them, in order: snoozed and skipped ones too."""
        name = self._name(actor)
        return [
            event for event in self._events if isinstance(event, Run) and (name is None or event.actor_name == name)
        ]

    def attempts(self, actor: ActorOrName | None = None) -> list[Run]:
        """The runs of an actor, or of all of them, that used up an attempt, in order; the one that went well too."""
        return [run for run in self.runs(actor) if run.is_attempt]

    def delays(self, actor: ActorOrName | None = None) -> list[int]:
        """How long an actor's messages were made to wait after each run that did not finish them, in ms, in order."""
        return [run.delay for run in self.runs(actor) if run.delay is not None]

    def enqueued(
        self,
        actor: ActorOrName | None = None,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        delay: int | timedelta | None = None,
    ) -> list[Sent]:
        """What was sent in this test, by it or by an actor, that matches; in order. Retries are no sending.

        Args:
            actor: to this actor.
            args: with these positional arguments.
            kwargs: with these keyword arguments.
            delay: due so much later, in ms or as a timedelta; 0 for what was due at once.
        """
        name = self._name(actor)
        wanted_delay = None if delay is None else milliseconds(delay, "enqueued: delay")
        found = [
            sent
            for sent in self._events
            if isinstance(sent, Sent)
            and (name is None or sent.actor_name == name)
            and (args is None or sent.args == tuple(args))
            and (kwargs is None or sent.kwargs == dict(kwargs))
            and (wanted_delay is None or sent.delay == wanted_delay)
        ]
        self._looked_at.update(sent.message_id for sent in found)
        return found

    def waiting(self, actor: ActorOrName | None = None) -> list[Sent]:
        """Of what was sent to an actor, or to all of them, that which waits now: to be run, or to be tried again."""
        name = self._name(actor)
        found: dict[str, Sent] = {}
        for sent in self._events:
            if isinstance(sent, Sent) and (name is None or sent.actor_name == name):
                found[sent.message_id] = sent
        return [sent for sent in found.values() if self.broker.lookup(sent.message_id).state == "waiting"]

    @property
    def dead_letters(self) -> DeadLetters:
        """What has died: ``one()``, ``list()``, ``replay()`` and so on."""
        return self.broker.dead_letters

    def timeline(self, actor: ActorOrName | None = None, *, limit: int = 25) -> str:
        """The life of each message as text, of one actor or of all of them; ``limit`` messages at the most."""
        name = self._name(actor)
        events = [event for event in self._events if name is None or event.actor_name == name]
        last = {event.message_id: event for event in events}
        now = self.clock.now()
        due = {}
        for message_id, event in last.items():
            if isinstance(event, Sent):
                due[message_id] = event.due_at - now
            elif event.delay is not None:
                due[message_id] = event.started_at + event.duration + event.delay - now
            elif event.outcome == "crashed":
                due[message_id] = 0
        return picture(events, passed=self._passed(), due=due, limit=limit)

    def leftovers(self) -> list[Sent]:
        """What was sent since something was run last, waits, and was not asked for."""
        fresh = [sent for sent in self._fresh if sent.message_id not in self._looked_at]
        if not fresh or not any(count.waiting for count in self.broker.counts().values()):
            return []
        return [sent for sent in fresh if self.broker.lookup(sent.message_id).state == "waiting"]

    def clear(self) -> None:
        """Drop everything that waits, all dead letters, and the record of what happened. The clock stays."""
        self.broker.flush_all()
        self._events.clear()
        self._forget_leftovers()

    # -- Assertions ----------------------------------------------------------------------------------------------

    def assert_enqueued(
        self,
        actor: ActorOrName | None = None,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        delay: int | timedelta | None = None,
        count: int | None = None,
    ) -> Sent:
        """Fail unless such a message was sent; see :meth:`enqueued`.

        Args:
            count: exactly so many of them; at least one if not given.

        Returns:
            The first of them.

        Raises:
            AssertionError: it was not; the text shows what was sent instead.
        """
        __tracebackhide__ = True
        found = self.enqueued(actor, args=args, kwargs=kwargs, delay=delay)
        if found if count is None else len(found) == count:
            return found[0] if found else None  # type: ignore[return-value]
        wanted = self._wanted(actor, args, kwargs, delay)
        expected = "was expected" if count is None else f"was expected {count} times, and sent {len(found)} times"
        raise AssertionError(f"{wanted} {expected}, {self._instead(actor)}")

    def refute_enqueued(
        self,
        actor: ActorOrName | None = None,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        delay: int | timedelta | None = None,
    ) -> None:
        """Fail if such a message was sent; see :meth:`enqueued`.

        Raises:
            AssertionError: it was; the text shows them.
        """
        __tracebackhide__ = True
        found = self.enqueued(actor, args=args, kwargs=kwargs, delay=delay)
        if found:
            wanted = self._wanted(actor, args, kwargs, delay)
            raise AssertionError(f"{wanted} was not expected, and was sent:\n{_sent_lines(found)}")

    def _wanted(self, actor: ActorOrName | None, args: Any, kwargs: Any, delay: Any) -> str:
        name = self._name(actor)
        parts = [f"a message to {name}" if name is not None else "a message"]
        if args is not None:
            parts.append(f"args={tuple(args)!r}")
        if kwargs is not None:
            parts.append(f"kwargs={dict(kwargs)!r}")
        if delay is not None:
            parts.append(f"delay={duration_text(milliseconds(delay, 'delay'))}")
        return parts[0] if len(parts) == 1 else f"{parts[0]} with {', '.join(parts[1:])}"

    def _instead(self, actor: ActorOrName | None) -> str:
        name = self._name(actor)
        every = [event for event in self._events if isinstance(event, Sent)]
        self._looked_at.update(sent.message_id for sent in every)  # they are about to be shown
        there = [sent for sent in every if name is None or sent.actor_name == name]
        if there:
            return f"and these were sent:\n{_sent_lines(there)}"
        if not every:
            return "and nothing was sent"
        others = Counter(sent.actor_name for sent in every)
        return "and none was sent; others were: " + ", ".join(f"{other} ({n})" for other, n in others.items())

    # -- Actors --------------------------------------------------------------------------------------------------

    def _name(self, actor: ActorOrName | None) -> str | None:
        if actor is None:
            return None
        if isinstance(actor, str):
            if actor not in self.broker.actors and not any(event.actor_name == actor for event in self._events):
                raise UnknownActor(self._unknown(actor))
            return actor
        name, broker = getattr(actor, "actor_name", None), getattr(actor, "broker", None)
        if not isinstance(name, str):
            raise UnknownActor(f"{actor!r} is no actor: give one, or its name")
        if broker is not self.broker and not (self.is_over and self.broker.actors.get(name) is not None):
            raise UnknownActor(
                f"actor {name!r} belongs to another broker, a {type(broker).__name__}: under test is "
                f"{self._who()}; name the one that the actor was declared on with swap_broker(…), the "
                "marker retryq(broker=…) or the ini option retryq_broker"
            )
        return name

    def _who(self) -> str:
        mine = f"a {type(self.broker).__name__}"
        replaced = self._replaced
        if replaced is None or replaced is self.broker:
            return mine
        return f"{mine} in the place of a {type(replaced).__name__}"

    def _unknown(self, name: str) -> str:
        known = sorted(self.broker.actors)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        elif known:
            hint = f"there are {', '.join(map(repr, known[:10]))}{' and more' if len(known) > 10 else ''}"
        else:
            hint = "none is declared at all: import the module that does"
        return f"no actor {name!r} is declared on the broker under test: {hint}"


def _sent_lines(found: Sequence[Sent]) -> str:
    lines = [
        f"  {call_text(sent.actor_name, sent.args, sent.kwargs)}, sent at +{duration_text(sent.at)}, "
        f"{f'due in {duration_text(sent.delay)}' if sent.delay else 'due at once'}"
        for sent in found[:10]
    ]
    if len(found) > len(lines):
        lines.append(f"  … and {len(found) - len(lines)} more")
    return "\n".join(lines)
