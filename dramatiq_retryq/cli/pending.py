"""``retryq pending``: what waits, until when, and after which error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import click

from dramatiq_retryq.errors import MessageNotFound
from dramatiq_retryq.records import DeadLetter
from dramatiq_retryq.status import Pending, PendingKey
from dramatiq_retryq.time_words import ago, iso

from .app import (
    ExitCode,
    Instant,
    Opened,
    broker_argument,
    confirm,
    fail,
    format_option,
    limit_option,
    opened,
    show_format_option,
    warn_of_strangers,
    yes_option,
)
from .bulk import for_each
from .message import show_pending
from .output import Column, Format, cut, listing, note, write_json

__all__ = ["pending"]

_MESSAGES = ("message", "messages")


@click.group(short_help="What waits: list, show, run-now, move, cancel.")
def pending() -> None:
    """What waits, until when, and after which error.

    \b
    Example: retryq pending list app:broker --actor deliver --retrying
    """


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filters of Operations.pending(), as options."""
    for option in reversed(
        (
            click.option("--actor", metavar="NAME", help="Only of this actor."),
            click.option("--queue", metavar="NAME", help="Only of this queue."),
            click.option("--error", metavar="CLASS", help="Only those whose last error is of this class."),
            click.option(
                "--due-before", type=Instant("future"), metavar="TIME", help="Only those due before: 2h, 09:00."
            ),
            click.option("--due-after", type=Instant("future"), metavar="TIME", help="Only those due then or later."),
            click.option(
                "--retrying/--fresh",
                default=None,
                help="Only those that have failed before, or only those that have not.",
            ),
        )
    ):
        function = option(function)
    return function


def columns(now: int) -> list[Column[Pending]]:
    return [
        Column(name="id", value=lambda x: x.id, header="id", right=True),
        Column(name="state", value=lambda x: x.state, expendable=2, header="state", cell=_state),
        Column(
            name="due_at",
            value=lambda x: x.due_at,
            header="due",
            cell=lambda x: "–" if x.due_at is None else ago(x.due_at, now=now),
        ),
        Column(name="actor_name", value=lambda x: x.actor_name, header="actor"),
        Column(name="queue_name", value=lambda x: x.queue_name, expendable=3, header="queue"),
        Column(name="retries", value=lambda x: x.retries, expendable=1, header="retries", right=True),
        Column(name="message_id", value=lambda x: x.message_id),
        Column(
            name="error",
            value=lambda x: x.error.type if x.error else None,
            header="last error",
            cell=lambda x: cut(str(x.error), 200) if x.error else "–",
            elastic=True,
        ),
        Column(name="error_message", value=lambda x: x.error.message if x.error else None),
        Column(name="claimed_at", value=lambda x: x.claimed_at),
        Column(name="claimed_by", value=lambda x: x.claimed_by),
        Column(name="held", value=lambda x: x.held),
    ]


def _state(message: Pending) -> str:
    return f"{message.state} (held)" if message.held else message.state


def find(at: Opened, chosen: dict[str, Any], limit: int | None, state: Any = None) -> Iterator[Pending]:
    at.require_queues()
    now = at.now()
    instants = {name: chosen[name](now) for name in ("due_before", "due_after") if chosen[name] is not None}
    return at.operations.pending(**{**chosen, **instants}, state=state, limit=limit)


@pending.command("list", short_help="What waits, in the order in which it is due.")
@broker_argument
@filters
@click.option("--state", type=click.Choice(("waiting", "claimed")), help="Only what waits, or only what a worker has.")
@limit_option
@format_option
def list_(
    broker: str,
    path: str,
    limit: int | None,
    format: Format,
    state: Literal["waiting", "claimed"] | None,
    **chosen: Any,
) -> None:
    """What waits or is being worked on, in the order in which it is due.

    \b
    Examples: retryq pending list app:broker --error ConnectionError
              retryq pending list jobs.db --due-before 10m --limit 20
              retryq pending list jobs.db --due-before 'now' --format jsonl
    """
    with opened(broker, path) as at:
        most = 101 if limit is None and format == "table" else limit
        found = find(at, chosen, most, state)
        if not listing(found, columns(at.now()), format, limit=limit, empty="No message that waits matches."):
            warn_of_strangers(at, filter(None, [chosen["queue"]]), filter(None, [chosen["actor"]]))


@pending.command(short_help="One message: when it is due, and its attempts as a table.")
@broker_argument
@click.argument("id")
@click.option("--full", is_flag=True, help="All of the arguments, however long.")
@show_format_option
def show(broker: str, path: str, id: str, full: bool, format: Format) -> None:
    """One message that waits or is being worked on: when it is due, and its attempts as a table.

    \b
    Example: retryq pending show app:broker 3c1b8a4e-0e5f-4d0a-8d0c-8a8f3d1f6b52
    """
    with opened(broker, path) as at:
        found = at.operations.by_id(id)
        if isinstance(found, DeadLetter):
            fail(f"message {id} is dead: see retryq dead show {broker} {found.id}", ExitCode.FOUND)
        if found is None:
            raise MessageNotFound(id)
        if format == "json":
            flat = {column.name: column.value(found) for column in columns(at.now())}
            message = dict(found.message.asdict()) if found.message is not None else None
            write_json({**flat, "attempts": [attempt.asdict() for attempt in found.attempts], "message": message})
        else:
            show_pending(found, now=at.now(), full=full)


def _bulk(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the three commands that change something have in common."""
    for option in (
        format_option,
        yes_option,
        click.option(
            "--limit", type=click.IntRange(min=1), metavar="N", help="At most so many, the first that are due."
        ),
        filters,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        broker_argument,
    ):
        function = option(function)
    return function


@pending.command("run-now", short_help="Make them due at once.")
@_bulk
def run_now(broker: str, path: str, **given: Any) -> None:
    """Make messages that wait due at once: those with these IDs, or all that match.

    \b
    Examples: retryq pending run-now app:broker 17
              retryq pending run-now app:broker --error ConnectionError --yes
    """
    with opened(broker, path, to_act=True) as at:
        _act(at, given, at.operations.run_now, question="Make {} due now?", done="due now")


@pending.command(short_help="Make them due at another time.")
@_bulk
@click.option(
    "--to", "to", type=Instant("future"), required=True, metavar="TIME", help="When: 2h, 'tomorrow 09:00', now."
)
def move(broker: str, path: str, to: Callable[[int], int], **given: Any) -> None:
    """Make messages that wait due at another time: those with these IDs, or all that match.

    \b
    Example: retryq pending move app:broker --actor deliver --to 'tomorrow 09:00'
    """
    with opened(broker, path, to_act=True) as at:
        due_at = to(at.now())
        _act(
            at,
            given,
            lambda message: at.operations.move(message, due_at=due_at),
            question=f"Make {{}} due {iso(due_at)}?",
            done=f"moved to {iso(due_at)}",
        )


@pending.command(short_help="Drop them for good.")
@_bulk
def cancel(broker: str, path: str, **given: Any) -> None:
    """Drop messages that wait, for good: those with these IDs, or all that match. They lie nowhere any more.

    \b
    Example: retryq pending cancel app:broker --actor remind --due-after tomorrow --dry-run
    """
    with opened(broker, path, to_act=True) as at:
        _act(at, given, at.operations.cancel, question="Drop {} for good?", done="cancelled", always_ask=True)


def _act(
    at: Opened,
    given: dict[str, Any],
    act: Callable[[Any], object],
    *,
    question: str,
    done: str,
    always_ask: bool = False,
) -> None:
    ids, limit, format = given.pop("ids"), given.pop("limit"), given.pop("format")
    yes, dry_run = given.pop("yes"), given.pop("dry_run")
    if ids and any(value is not None for value in (*given.values(), limit)):
        raise click.UsageError("Give IDs, or filters that choose; not both.")
    if dry_run:
        found = _by_id(at, ids) if ids else [*find(at, given, limit, "waiting")]
        listing(found, columns(at.now()), format, empty="No message that waits matches.")
        note(f"{_count(len(found))} would be {done}; nothing was changed.")
        return
    # Their keys only: a million of them are no reason to hold a million messages.
    chosen: Sequence[str | PendingKey] = tuple(dict.fromkeys(ids)) or [
        message.key for message in find(at, given, limit, "waiting")
    ]
    if not chosen:
        note("No message that waits matches: nothing was changed.")
        return
    if not yes and (always_ask or not ids):
        confirm(question.format(_count(len(chosen))))
    missing = for_each(chosen, lambda _, id: act(id), done=done, what=_MESSAGES, were_seen=not ids)
    if ids and missing:
        fail(f"{missing} of these IDs {'does' if missing == 1 else 'do'} not wait (any more)", ExitCode.FOUND)


def _by_id(at: Opened, ids: Sequence[str]) -> list[Pending]:
    found = [at.operations.by_id(id) for id in dict.fromkeys(ids)]
    return [message for message in found if isinstance(message, Pending) and message.state == "waiting"]


def _count(number: int) -> str:
    return f"{number:,} {_MESSAGES[0] if number == 1 else _MESSAGES[1]}"
