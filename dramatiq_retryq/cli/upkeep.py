"""``retryq pause``, ``resume``, ``check`` and ``backup``."""

from __future__ import annotations

import os

import click

from dramatiq_retryq.broker import MemoryBroker
from dramatiq_retryq.errors import ConfigError, NotSupported

from .app import ExitCode, broker_argument, fail, names, opened, warn_of_strangers
from .output import note, one_line

__all__ = ["backup", "check", "pause", "resume"]


def _targets(queues: tuple[str, ...], actors: tuple[str, ...]) -> str:
    return one_line(names([*(f"queue {name}" for name in queues), *(f"actor {name}" for name in actors)]))


@click.command()
@broker_argument
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="This queue; may be given again.")
@click.option("--actor", "actors", multiple=True, metavar="NAME", help="This actor; may be given again.")
def pause(broker: str, path: str, queues: tuple[str, ...], actors: tuple[str, ...]) -> None:
    """Let no worker take messages of a queue or an actor, until it is resumed.

    It holds within a second for the workers of every process, and across restarts. What runs already runs on; what is
    sent meanwhile waits. Nothing is lost.

    \b
    Examples: retryq pause app:broker --queue mail
              retryq pause app:broker --actor deliver
    """
    if not queues and not actors:
        raise click.UsageError("Say what to pause: --queue NAME or --actor NAME.")
    with opened(broker, path, to_act=True) as at:
        at.require_shared("pause it in that process: Operations.of(broker).pause(…)")
        for queue in queues:
            at.operations.pause(queue=queue)
        for actor in actors:
            at.operations.pause(actor=actor)
        warn_of_strangers(at, queues, actors)
        click.echo(f"Paused: {_targets(queues, actors)}.")


@click.command()
@broker_argument
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="This queue; may be given again.")
@click.option("--actor", "actors", multiple=True, metavar="NAME", help="This actor; may be given again.")
@click.option("--all", "everything", is_flag=True, help="All that is paused.")
def resume(broker: str, path: str, queues: tuple[str, ...], actors: tuple[str, ...], everything: bool) -> None:
    """Let workers take it again.

    \b
    Examples: retryq resume app:broker --queue mail
              retryq resume app:broker --all
    """
    with opened(broker, path, to_act=True) as at:
        at.require_shared("resume it in that process: Operations.of(broker).resume(…)")
        paused = at.operations.paused()
        if everything:
            queues, actors = tuple(sorted(paused.queues)), tuple(sorted(paused.actors))
        if not queues and not actors:
            there = _targets(tuple(sorted(paused.queues)), tuple(sorted(paused.actors)))
            if everything:
                note("Nothing is paused.")
                return
            raise click.UsageError(
                f"Say what to resume: --queue NAME, --actor NAME or --all. Paused now: {there or 'nothing'}."
            )
        for queue in queues:
            at.operations.resume(queue=queue)
        for actor in actors:
            at.operations.resume(actor=actor)
        for name in (*(q for q in queues if q not in paused.queues), *(a for a in actors if a not in paused.actors)):
            note(f"{name} was not paused.")
        click.echo(f"Resumed: {_targets(queues, actors)}.")


@click.command()
@broker_argument
def check(broker: str, path: str) -> None:
    """Verify all that is stored; a line for each thing that is wrong, and exit code 1.

    \b
    Example: retryq check jobs.db
    """
    with opened(broker, path) as at:
        findings = at.operations.check()
        for finding in findings:
            click.echo(one_line(finding))
        if findings:
            fail(f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}", ExitCode.FOUND)
        click.echo("All is sound.")


@click.command()
@broker_argument
@click.argument("target", type=click.Path(dir_okay=False))
def backup(broker: str, path: str, target: str) -> None:
    """Copy the file of a SQLiteBroker while it is in use, to TARGET, which must not exist yet.

    \b
    Example: retryq backup jobs.db jobs-backup.db
    """
    with opened(broker, path, to_act=True) as at:
        copy = getattr(at.broker, "backup", None)
        if copy is None:
            rest = (
                "what it holds is gone with its process"
                if isinstance(at.broker, MemoryBroker)
                else "back up the server as its own documentation says"
            )
            raise NotSupported(f"{type(at.broker).__name__} has no file to back up: {rest}")
        try:
            copy(target)
        except ConfigError as error:
            fail(str(error), ExitCode.FOUND)
        click.echo(f"Copied to {one_line(target)}, {os.path.getsize(target):,} bytes.")
