"""``retryq dead``: what died and why, and how to bring it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from dramatiq_retryq.clock import MAX_DURATION
from dramatiq_retryq.errors import ConfigError, LetterNotFound
from dramatiq_retryq.records import REASONS, DeadLetter
from dramatiq_retryq.time_words import ago

from .app import (
    DURATION,
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
from .message import show_letter
from .output import Column, Format, cut, listing, note, write_json

__all__ = ["dead"]

_LETTERS = ("dead letter", "dead letters")


@click.group(short_help="What died: list, show, replay, discard.")
def dead() -> None:
    """What died and why, and how to bring it back.

    \b
    Example: retryq dead list app:broker --since 2h
    """


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filters of DeadLetters.list(), as options."""
    for option in reversed(
        (
            click.option("--actor", metavar="NAME", help="Only of this actor."),
            click.option("--queue", metavar="NAME", help="Only of this queue."),
            click.option("--reason", type=click.Choice(REASONS), help="Only those that died of it."),
            click.option("--error", metavar="CLASS", help="Only those whose last error is of this class."),
            click.option(
                "--since",
                type=Instant("past"),
                metavar="TIME",
                help="Only those that died since: 2h, 09:00, 2026-01-31.",
            ),
        )
    ):
        function = option(function)
    return function


def columns(now: int) -> list[Column[DeadLetter]]:
    return [
        Column(name="id", value=lambda letter: letter.id, header="id", right=True),
        Column(
            name="died_at", value=lambda letter: letter.died_at, header="died", cell=lambda x: ago(x.died_at, now=now)
        ),
        Column(name="reason", value=lambda letter: letter.reason, header="reason"),
        Column(name="actor_name", value=lambda letter: letter.actor_name, header="actor"),
        Column(name="queue_name", value=lambda letter: letter.queue_name, expendable=2, header="queue"),
        Column(name="attempts", value=lambda letter: len(letter.attempts), expendable=1, header="attempts", right=True),
        Column(name="replays", value=lambda letter: letter.replays, expendable=3, header="replays", right=True),
        Column(name="message_id", value=lambda letter: letter.message_id),
        Column(
            name="error",
            value=lambda letter: letter.error.type if letter.error else None,
            header="error",
            cell=lambda letter: cut(str(letter.error), 200) if letter.error else "–",
            elastic=True,
        ),
        Column(name="error_message", value=lambda letter: letter.error.message if letter.error else None),
        Column(name="place", value=lambda letter: letter.error.place if letter.error else None),
    ]


def find(at: Opened, chosen: dict[str, Any], limit: int | None = None) -> Sequence[DeadLetter]:
    """The letters that the filters leave, newest first."""
    if type(at.broker).__name__ == "RabbitmqBroker":
        at.require_queues()  # their letters lie beside them
    since = chosen.get("since")
    if since is not None:
        since = _past(since(at.now()), at.now())
    return at.operations.dead_letters.list(**{**chosen, "since": since}, limit=limit)


def _past(instant: int, now: int) -> int:
    if instant > now:
        raise click.BadParameter("that is yet to come, and nothing has died since then", param_hint="'--since'")
    return instant


@dead.command("list", short_help="The dead letters, newest first.")
@broker_argument
@filters
@limit_option
@format_option
def list_(broker: str, path: str, limit: int | None, format: Format, **chosen: Any) -> None:
    """The dead letters, newest first.

    \b
    Examples: retryq dead list app:broker --actor deliver --error ConnectionError
              retryq dead list jobs.db --since 'yesterday 18:00' --format csv
    """
    with opened(broker, path) as at:
        most = 101 if limit is None and format == "table" else limit
        found = find(at, chosen, most)
        if not listing(found, columns(at.now()), format, limit=limit, empty="No dead letter matches."):
            warn_of_strangers(at, filter(None, [chosen["queue"]]), filter(None, [chosen["actor"]]))


@dead.command(short_help="One letter: its attempts as a table, and the traceback.")
@broker_argument
@click.argument("id")
@click.option("--full", is_flag=True, help="All of the arguments and the traceback, however long.")
@show_format_option
def show(broker: str, path: str, id: str, full: bool, format: Format) -> None:
    """One dead letter: what it was, its attempts as a table, and the traceback. ID is the letter's or the message's.

    \b
    Example: retryq dead show app:broker 17
    """
    with opened(broker, path) as at:
        letter = _letter(at, id)
        if format == "json":
            write_json(letter.asdict())
        else:
            show_letter(letter, now=at.now(), full=full)


def _letter(at: Opened, id: str) -> DeadLetter:
    found = at.operations.by_id(id)
    if found is None:
        raise LetterNotFound(id)
    if not isinstance(found, DeadLetter):
        fail(f"message {id} is not dead: it is {found.state}; see retryq pending show", ExitCode.FOUND)
    return found


@dead.command(short_help="Send them again, with a new budget of retries.")
@broker_argument
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many, the newest.")
@click.option("--rate", type=float, metavar="N", help="At most so many become due in a second.")
@click.option("--delay", type=DURATION, default=0, metavar="DURATION", help="Wait so long before the first is due.")
@yes_option
@format_option
def replay(
    broker: str,
    path: str,
    ids: tuple[str, ...],
    rate: float | None,
    delay: int,
    limit: int | None,
    yes: bool,
    dry_run: bool,
    format: Format,
    **chosen: Any,
) -> None:
    """Send dead messages again, oldest first, with a new budget of retries: those with these IDs, or all that match.

    They are all brought back at once, each due a little later than the one before if there is a --rate, so nothing has
    to keep running. It may be interrupted and run again, and two at a time bring each letter back once.

    \b
    Examples: retryq dead replay app:broker 17
              retryq dead replay app:broker --error ConnectionError --since 2h --rate 50
    """
    if rate is not None and not 0 < rate < float("inf"):
        raise click.BadParameter("give the number of messages a second, more than 0", param_hint="'--rate'")
    with opened(broker, path, to_act=True) as at:
        letters = _chosen(at, ids, chosen, limit)
        if dry_run or not letters:
            _would(letters, at, format, "replayed")
            return
        if rate is not None and len(letters) * 1000 / rate + delay > MAX_DURATION:
            raise ConfigError(f"--rate {rate:g}: {len(letters):,} messages would take more than a thousand years")
        if not ids and not yes:
            confirm(f"Replay {_count(letters)}?")
        start = at.now() + delay

        def revive(done: int, letter: DeadLetter) -> None:
            due_at = start + (int(done * 1000 / rate) if rate is not None else 0)
            at.operations.dead_letters.replay(_as_seen(at, letter), delay=max(0, due_at - at.now()))

        for_each(letters, revive, done="replayed", what=_LETTERS)
        _missing(ids, letters)


@dead.command(short_help="Drop them for good.")
@broker_argument
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many, the newest.")
@yes_option
@format_option
def discard(
    broker: str,
    path: str,
    ids: tuple[str, ...],
    limit: int | None,
    yes: bool,
    dry_run: bool,
    format: Format,
    **chosen: Any,
) -> None:
    """Drop dead letters for good: those with these IDs, or all that match.

    \b
    Example: retryq dead discard app:broker --actor deliver --reason rejected --dry-run
    """
    with opened(broker, path, to_act=True) as at:
        letters = _chosen(at, ids, chosen, limit)
        if dry_run or not letters:
            _would(letters, at, format, "discarded")
            return
        if not yes:
            confirm(f"Drop {_count(letters)} for good?")
        for_each(
            letters,
            lambda _, letter: at.operations.dead_letters.discard(_as_seen(at, letter)),
            done="discarded",
            what=_LETTERS,
        )
        _missing(ids, letters)


def _as_seen(at: Opened, letter: DeadLetter) -> DeadLetter:
    """The letter, if it is still that death: since it was listed somebody may have replayed it, and it died anew."""
    lying = at.operations.dead_letters.get(letter.id)
    if lying.died_at != letter.died_at:
        raise LetterNotFound(letter.id)
    return lying


def _chosen(at: Opened, ids: Sequence[str], chosen: dict[str, Any], limit: int | None) -> list[DeadLetter]:
    """What to act on, oldest first."""
    if not ids:
        return [*reversed(find(at, chosen, limit))]
    if any(value is not None for value in (*chosen.values(), limit)):
        raise click.UsageError("Give IDs, or filters that choose; not both.")
    letters = []
    for id in dict.fromkeys(ids):
        try:
            letters.append(_letter(at, id))
        except LetterNotFound as error:
            note(f"retryq: {error}")
    if not letters:
        fail("none of these is a dead letter", ExitCode.FOUND)
    return letters


def _missing(ids: Sequence[str], letters: Sequence[DeadLetter]) -> None:
    missing = len(dict.fromkeys(ids)) - len(letters)
    if ids and missing > 0:
        fail(f"{missing} of these IDs {'is' if missing == 1 else 'are'} no dead letter", ExitCode.FOUND)


def _would(letters: Sequence[DeadLetter], at: Opened, format: Format, done: str) -> None:
    listing(letters, columns(at.now()), format, empty=f"No dead letter matches: nothing was {done}.")
    if letters:
        note(f"{_count(letters)} would be {done}; nothing was.")


def _count(letters: Sequence[DeadLetter]) -> str:
    return f"{len(letters):,} {_LETTERS[0] if len(letters) == 1 else _LETTERS[1]}"
