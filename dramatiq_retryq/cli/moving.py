"""``retryq move``: what waits, from one broker to another."""

from __future__ import annotations

from typing import Any

import click

from dramatiq_retryq.errors import NotSupported, RetryQueueError, StoreUnavailable

from .app import ExitCode, Opened, confirm, fail, format_option, names, opened
from .bulk import Interrupt, bar
from .output import Column, Format, listing, note

__all__ = ["move"]

#: At so many messages that wait a dry run looks for what the target does not know.
_LOOKED_AT = 10_000


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--path", "-P", default=".", show_default=True, metavar="DIR", help="Where modules are looked for first.")
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only this queue; may be given again.")
@click.option(
    "--batch", type=click.IntRange(1, 5_000), default=500, show_default=True, metavar="N", help="So many at once."
)
@click.option("--dead-letters", is_flag=True, help="What lies dead, too.")
@click.option("--create", is_flag=True, help="Make TARGET's file if it is not there.")
@click.option("--give-back", is_flag=True, help="Put back what an interrupted move left on its way.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what waits and what TARGET lacks, and move nothing.")
@format_option
def move(
    source: str,
    target: str,
    path: str,
    queues: tuple[str, ...],
    batch: int,
    dead_letters: bool,
    create: bool,
    give_back: bool,
    yes: bool,
    dry_run: bool,
    format: Format,
) -> None:
    """Move what waits, due or later, from SOURCE to TARGET. Ids, attempts and due times stay.

    Nothing is lost if it is interrupted; run the same command again to go on. What workers hold stays where it is.
    Name the queues of a RabbitMQ broker by --queue, or the broker by its module.

    \b
    Examples: retryq move jobs.db redis://localhost:6379/0
              retryq move jobs.db app:broker --queue mail --dry-run
    """
    from dramatiq_retryq import moving

    with opened(source, path, to_act=True) as here:
        if dry_run:
            _would(here, queues, dead_letters, format)
            _say_what_lacks(here, target, path, queues, create)
            return
        with opened(target, path, create=create, to_act=True) as there:
            chosen = list(queues) or None
            if give_back:
                count = moving.give_back(here.broker, there.broker, queues=chosen)
                click.echo(f"{count:,} messages put back.")
                return
            moving.check(here.broker, there.broker, queues=chosen, batch=batch)
            if not yes:
                confirm(f"Move what waits at {_shown(source)} to {_shown(target)}?")
            options = {"queues": chosen, "batch": batch, "dead_letters": dead_letters}
            _move(moving, here, there, options)


def _move(moving: Any, here: Opened, there: Opened, options: dict[str, Any]) -> None:
    last = moving.Moved()
    with Interrupt().heard() as interrupt, bar("moved") as advance:

        def progress(done: Any) -> None:
            nonlocal last
            last = done
            advance(done.messages, done.total)
            if interrupt.came:
                raise KeyboardInterrupt

        try:
            last = moving.move(here.broker, there.broker, **options, progress=progress)
        except KeyboardInterrupt:
            click.echo(f"{last.messages:,} of {last.total:,} messages moved.")
            fail("interrupted: nothing is lost; run the same command again to go on", ExitCode.INTERRUPTED)
        except RetryQueueError:
            if last.messages:
                click.echo(f"{last.messages:,} of {last.total:,} messages moved.")
            raise
    click.echo(f"{last.messages:,} of {last.total:,} messages moved.")
    if last.letters:
        click.echo(f"{last.letters:,} dead letter{'' if last.letters == 1 else 's'} moved.")
    if last.resumed:
        note(f"{last.resumed:,} of them had been left on their way by an interrupted move.")
    if last.repeated:
        note(f"{last.repeated:,} of those may lie there twice: RabbitMQ cannot tell.")
    if last.claimed:
        note(f"{last.claimed:,} are held by workers of the source and stay there.")
    if last.left:
        fail(f"{last.left:,} stay where they are: the target cannot hold them; the log says why", ExitCode.FOUND)


def _would(here: Opened, queues: tuple[str, ...], dead_letters: bool, format: Format) -> None:
    found = [queue for queue in here.operations.status().queues if not queues or queue.name in queues]
    dead = "dead" if dead_letters else "dead: stay"
    columns: list[Column[Any]] = [
        Column(name="name", value=lambda queue: queue.name, header="queue"),
        Column(name="due", value=lambda queue: queue.due, header="due", right=True),
        Column(name="later", value=lambda queue: queue.later, header="later", right=True),
        Column(name="claimed", value=lambda queue: queue.claimed, header="running: stay", right=True),
        Column(name="dead", value=lambda queue: queue.dead, header=dead, right=True),
    ]
    listing(found, columns, format, empty="Nothing waits there.")
    note("This waits there; nothing was moved.")


def _say_what_lacks(here: Opened, target: str, path: str, queues: tuple[str, ...], create: bool) -> None:
    """What a move would come to grief over at the target, or a message after it."""
    try:
        with opened(target, path) as there:
            waiting = [queue.name for queue in there.operations.status().queues if queue.due or queue.later]
            known, actors = there.broker.get_declared_queues(), there.broker.get_declared_actors()
    except click.ClickException as error:
        if not (create and "there is no file" in error.message):
            note(f"TARGET cannot be used: {error.message}")
        return
    except (NotSupported, StoreUnavailable) as error:
        note(f"TARGET cannot be used: {error}")
        return
    if waiting:
        note(f"At TARGET something waits already, in {names(waiting)}.")
    if not actors:
        return  # a file or a URL, by which nobody's actors are known
    try:
        first = [*here.operations.pending(state="waiting", limit=_LOOKED_AT)]
    except NotSupported:
        return  # RabbitMQ shows nobody what waits
    wanted = [one for one in first if not queues or one.queue_name in queues]
    for what, missing in (
        ("queue", {one.queue_name for one in wanted} - known),
        ("actor", {one.actor_name for one in wanted if one.actor_name is not None} - actors),
    ):
        if missing:
            note(f"TARGET does not declare {what} {names(sorted(missing))}: what is moved there is not run.")


def _shown(name: str) -> str:
    """The name without a password that may be in a URL."""
    scheme, separator, rest = name.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else name
