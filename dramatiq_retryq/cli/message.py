"""One message for reading: what it is, its attempts as a table, its traceback."""

from __future__ import annotations

from collections.abc import Sequence

import click
from dramatiq import Message

from dramatiq_retryq.records import Attempt, DeadLetter
from dramatiq_retryq.status import Pending
from dramatiq_retryq.time_words import ago, iso, spoken

from .output import Column, cut, facts, plain, table

__all__ = ["show_letter", "show_pending"]

#: How much of a traceback and of arguments is shown unless all is asked for, in characters.
_TRACEBACK, _ARGUMENTS = 4_000, 500

_ATTEMPTS: list[Column[Attempt]] = [
    Column(name="n", value=lambda attempt: attempt.n, header="attempt", right=True),
    Column(
        name="started_at", value=lambda attempt: attempt.started_at, header="started", cell=lambda x: iso(x.started_at)
    ),
    Column(
        name="duration",
        value=lambda x: x.duration,
        expendable=1,
        header="took",
        cell=lambda x: spoken(x.duration),
        right=True,
    ),
    Column(
        name="delay",
        value=lambda attempt: attempt.delay,
        header="next after",
        cell=lambda attempt: "–" if attempt.delay is None else spoken(attempt.delay),
        right=True,
    ),
    Column(name="worker", value=lambda attempt: attempt.worker, expendable=3, header="worker"),
    Column(name="place", value=lambda attempt: attempt.place, expendable=2, header="place"),
    Column(
        name="error",
        value=lambda attempt: attempt.error,
        header="error",
        cell=lambda x: cut(f"{x.error}: {x.message}" if x.message else x.error, 200),
        elastic=True,
    ),
]


def show_letter(letter: DeadLetter, *, now: int, full: bool) -> None:
    click.echo(f"Dead letter {plain(letter.id)}")
    message = letter.message
    facts(
        [
            ("reason", letter.reason),
            ("died", f"{iso(letter.died_at)}, {ago(letter.died_at, now=now)}"),
            ("actor", letter.actor_name or "unknown: the payload is no message"),
            ("queue", letter.queue_name),
            ("message", message.message_id if message is not None else None),
            ("sent", _sent(message, now)),
            ("replays", str(letter.replays) if letter.replays else None),
            *_arguments(message, full),
            ("payload", None if message is not None else repr(_shortened(repr(letter.data), full))),
            ("error", str(letter.error) if letter.error is not None else None),
            ("raised in", letter.error.place or None if letter.error is not None else None),
        ]
    )
    _attempts(letter.attempts)
    if letter.traceback:
        click.echo()
        text = letter.traceback if full else cut(letter.traceback, _TRACEBACK, end=True)
        click.echo(plain(text).rstrip("\n"))
        if text != letter.traceback:
            click.echo("This is the end of it; --full shows all.", err=True)


def show_pending(pending: Pending, *, now: int, full: bool) -> None:
    click.echo(f"Message {plain(pending.message_id or pending.id)}")
    message = pending.message
    facts(
        [
            ("id", pending.id),
            ("state", _state(pending, now)),
            ("actor", pending.actor_name or "unknown: the payload is no message"),
            ("queue", pending.queue_name),
            ("sent", _sent(message, now)),
            ("retries", str(pending.retries)),
            *_arguments(message, full),
            ("payload", None if message is not None else _shortened(repr(pending.data), full)),
            ("last error", str(pending.error) if pending.error is not None else None),
        ]
    )
    _attempts(pending.attempts)


def _state(pending: Pending, now: int) -> str:
    if pending.state == "claimed":
        since = f" since {iso(pending.claimed_at)}" if pending.claimed_at is not None else ""
        return f"claimed by {pending.claimed_by or 'a worker'}{since}"
    due = ", due " + f"{iso(pending.due_at)}, {ago(pending.due_at, now=now)}" if pending.due_at is not None else ""
    return f"waiting{due}{', set aside because its actor is paused' if pending.held else ''}"


def _sent(message: Message[object] | None, now: int) -> str | None:
    if message is None or not isinstance(message.message_timestamp, int):
        return None
    return f"{iso(message.message_timestamp)}, {ago(message.message_timestamp, now=now)}"


def _arguments(message: Message[object] | None, full: bool) -> list[tuple[str, str | None]]:
    if message is None:
        return []
    return [
        ("arguments", _shortened(repr(tuple(message.args)), full)),
        ("keywords", _shortened(repr(dict(message.kwargs)), full) if message.kwargs else None),
    ]


def _shortened(text: str, full: bool) -> str:
    return text if full else cut(text, _ARGUMENTS)


def _attempts(attempts: Sequence[Attempt]) -> None:
    if attempts:
        click.echo()
        table(attempts, _ATTEMPTS)
