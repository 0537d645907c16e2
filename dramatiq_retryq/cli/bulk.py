"""The same for many: with a progress bar, to be interrupted and run again."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from dramatiq_retryq.errors import LetterNotFound, LetterTooNew, LetterUnreadable, MessageNotFound

from .app import ExitCode, fail
from .output import console, note

__all__ = ["Interrupt", "bar", "for_each"]


class Interrupt:
    """Ctrl-C, heard between one item and the next, so that what is said to be done is done and no more."""

    def __init__(self) -> None:
        self.came = False

    def _hear(self, *_: Any) -> None:
        if self.came:
            raise KeyboardInterrupt  # the second time, at once: a server may not answer
        self.came = True

    @contextmanager
    def heard(self) -> Iterator[Interrupt]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._hear)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


def for_each(
    items: Sequence[Any],
    act: Callable[[int, Any], object],
    *,
    done: str,
    what: tuple[str, str],
    were_seen: bool = True,
) -> int:
    """Act on each item, and say how many it was done to. What is not there any more is passed over.

    Args:
        items: what to act on.
        act: called with how many it was done to before, and the item. ``LetterNotFound`` and ``MessageNotFound`` mean
            that somebody else was faster; ``LetterTooNew`` and ``LetterUnreadable``, that it cannot be done.
        done: the word for it, as in "12 of 15 letters *replayed*".
        what: the items' name for one and for several.
        were_seen: whether they were there a moment ago, so that it is known why one is not.

    Returns:
        How many were not there any more.
    """
    count = gone = 0
    refused: list[str] = []
    with Interrupt().heard() as interrupt, bar(done) as advance:
        for item in items:
            if interrupt.came:
                break
            try:
                act(count, item)
                count += 1
            except (LetterNotFound, MessageNotFound):
                gone += 1
            except (LetterTooNew, LetterUnreadable) as error:
                refused.append(str(error))
            except KeyboardInterrupt:
                interrupt.came = True
                break
            advance(count + gone + len(refused), len(items))
    name = what[0] if len(items) == 1 else what[1]
    click.echo(f"{count:,} of {len(items):,} {name} {done}.")
    if gone and were_seen:
        click.echo(f"{gone:,} {'was' if gone == 1 else 'were'} not there any more: somebody else was faster.", err=True)
    for sentence in refused:
        note(f"retryq: {sentence}")
    left = len(items) - count - gone - len(refused)
    if interrupt.came and left:
        fail(
            f"interrupted: {left:,} are as they were; run the same command again to go on",
            ExitCode.INTERRUPTED,
        )
    if refused:
        fail(
            f"{len(refused):,} could not be {done}, and {'is' if len(refused) == 1 else 'are'} as before",
            ExitCode.FOUND,
        )
    return gone


@contextmanager
def bar(description: str) -> Iterator[Callable[[int, int], object]]:
    """A progress bar on stderr, if that is a terminal: call what it gives with how many are done, of how many."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
