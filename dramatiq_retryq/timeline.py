"""What happened to messages under the testing kit: the records, and a picture of them as text."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from dramatiq import Message

from .history import describe
from .records import ErrorInfo, Reason

__all__ = ["Outcome", "Run", "RunOutcome", "Sent", "call_text", "duration_text", "picture"]

#: What came of one run. ``succeeded``; ``retried``: it raised, and is tried again; ``died``: it will not be;
#: ``snoozed``: put off without using an attempt; ``interrupted``: by a shutdown, likewise; ``skipped``: a middleware
#: passed it over; ``crashed``: the process died meanwhile, and it waits again; ``dropped``: it raised, and there is no
#: middleware that retries, so that it is gone.
RunOutcome = Literal["succeeded", "retried", "died", "snoozed", "interrupted", "skipped", "crashed", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that was sent; retries are no sending.

    Attributes:
        message: as it was sent.
        sent_at: ms since the epoch.
        at: how much of the test's time had passed, in ms.
        delay: how long it had to wait, in ms; 0 if it was due at once.
        is_replay: whether it came back from the dead letters.
    """

    message: Message[Any]
    sent_at: int
    at: int
    delay: int
    is_replay: bool = False

    @property
    def actor_name(self) -> str:
        return self.message.actor_name

    @property
    def queue_name(self) -> str:
        return self.message.queue_name

    @property
    def args(self) -> tuple[Any, ...]:
        return self.message.args

    @property
    def kwargs(self) -> dict[str, Any]:
        return self.message.kwargs

    @property
    def options(self) -> dict[str, Any]:
        return self.message.options

    @property
    def message_id(self) -> str:
        return self.message.message_id

    @property
    def due_at(self) -> int:
        """When it was due first, in ms since the epoch."""
        return self.sent_at + self.delay


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One time that a message was run.

    Attributes:
        n: the number of the attempt, 1 for the first; a replay starts again at 1.
        started_at: ms since the epoch.
        at: how much of the test's time had passed by then, in ms.
        duration: milliseconds by the test's clock: 0 unless the actor moved it.
        outcome: what came of it.
        exception: what was raised, with its traceback.
        delay: ms until it is tried again; ``None`` if it is not.
        reason: why it died, if it did.
    """

    actor_name: str
    message_id: str
    queue_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int
    started_at: int
    at: int
    duration: int
    outcome: RunOutcome
    exception: BaseException | None = field(default=None, repr=False)
    delay: int | None = None
    reason: Reason | None = None

    @property
    def error(self) -> ErrorInfo | None:
        """What was raised: its type, its text and the place; as in a dead letter."""
        return describe(self.exception) if self.exception is not None else None

    @property
    def is_attempt(self) -> bool:
        """Whether it used up an attempt."""
        return self.outcome not in ("snoozed", "interrupted", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was run, counted by what came of each run.

    Attributes:
        elapsed: how much time passed.
        runs: the runs themselves, in order.
    """

    succeeded: int = 0
    retried: int = 0
    died: int = 0
    snoozed: int = 0
    interrupted: int = 0
    skipped: int = 0
    crashed: int = 0
    dropped: int = 0
    elapsed: timedelta = timedelta(0)
    runs: tuple[Run, ...] = field(default=(), repr=False)

    @property
    def processed(self) -> int:
        """How many runs there were in all."""
        return sum(self.counts().values())

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """What was raised, in order."""
        return tuple(run.exception for run in self.runs if run.exception is not None)

    def counts(self) -> dict[str, int]:
        """How often each outcome was met, those never met left out."""
        counts = {
            "succeeded": self.succeeded,
            "retried": self.retried,
            "died": self.died,
            "snoozed": self.snoozed,
            "interrupted": self.interrupted,
            "skipped": self.skipped,
            "crashed": self.crashed,
            "dropped": self.dropped,
        }
        return {name: count for name, count in counts.items() if count}

    def __bool__(self) -> bool:
        """Whether anything was run."""
        return self.processed > 0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        return f"{counts or 'nothing was run'}, {duration_text(self.elapsed // timedelta(milliseconds=1))} elapsed"

    @classmethod
    def of(cls, runs: Sequence[Run], elapsed: int) -> Outcome:
        counts: dict[str, int] = {}
        for run in runs:
            counts[run.outcome] = counts.get(run.outcome, 0) + 1
        return cls(elapsed=timedelta(milliseconds=elapsed), runs=tuple(runs), **counts)


# -- Text --------------------------------------------------------------------------------------------------------

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1))

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def duration_text(ms: int) -> str:
    """A duration as people write it, to the second largest unit that counts: ``1 min 40 s``."""
    if ms < 0:
        return f"-{duration_text(-ms)}"
    parts = []
    for name, size in _UNITS:
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break  # 2 d 0 h 3 min: what comes after the gap is not worth its place
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 ms"


def call_text(name: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> str:
    """A message as the call that it stands for, long values cut."""
    shown = [*map(_repr.repr, args), *(f"{key}={_repr.repr(value)}" for key, value in kwargs.items())]
    text = f"{name}({', '.join(shown)})"
    return text if len(text) <= 100 else f"{text[:98]}…)"


def picture(events: Iterable[Sent | Run], *, passed: int, due: Mapping[str, int], limit: int = 25) -> str:
    """The lives of messages, one below the other.

    Args:
        events: what happened, in order.
        passed: how much of the test's time has passed by now, in ms.
        due: by message, in how many ms it is due, for those that wait.
        limit: how many messages are shown.
    """
    lives: dict[str, list[Sent | Run]] = {}
    for event in events:
        lives.setdefault(event.message_id, []).append(event)
    if not lives:
        return "no message was sent"
    # What did not go well is what somebody looks for: where not all have their place, those come first.
    shown = list(lives)
    if len(shown) > limit:
        shown = sorted(sorted(shown, key=lambda life: _is_dull(lives[life]))[:limit], key=shown.index)
    blocks = [_life(lives[life], passed, due.get(life)) for life in shown]
    if len(lives) > limit:
        blocks.append(f"… and {len(lives) - limit} more messages")
    return "\n\n".join(blocks)


def _is_dull(life: Sequence[Sent | Run]) -> bool:
    return isinstance(life[-1], Run) and life[-1].outcome == "succeeded" and len(life) <= 2


def _life(life: Sequence[Sent | Run], passed: int, due_in: int | None) -> str:
    first = life[0]
    rows: list[tuple[str, str, str]] = []
    for event in life:
        rows.append((f"+{duration_text(event.at)}", *_row(event)))
    if due_in is not None:
        rows.append(
            (f"+{duration_text(passed)}", "waiting", f"due in {duration_text(due_in)}" if due_in > 0 else "due now")
        )
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    title = call_text(first.actor_name, first.args, first.kwargs)
    lines = [f"  {at:>{widths[0]}}  {what:<{widths[1]}}  {rest}".rstrip() for at, what, rest in rows]
    return "\n".join([f"{title}  [{first.message_id[:8]}, queue {first.queue_name}]", *lines])


def _row(event: Sent | Run) -> tuple[str, str]:
    if isinstance(event, Sent):
        text = "replayed" if event.is_replay else "sent"
        return text, f"due in {duration_text(event.delay)}" if event.delay else ""
    what = f"attempt {event.n}" if event.is_attempt else event.outcome
    if event.outcome == "succeeded":
        return what, "ok"
    if event.outcome == "crashed":
        return what, "the process died; due again at once"
    parts = []
    if event.error is not None:
        parts.append(f"{event.error} ({event.error.place})" if event.error.place else str(event.error))
    if event.outcome == "died":
        parts.append(f"dead: {event.reason}")
    elif event.outcome == "dropped":
        parts.append("gone: no middleware retries it")
    elif event.delay is not None:
        parts.append(f"again in {duration_text(event.delay)}")
    return what, " → ".join(parts)
