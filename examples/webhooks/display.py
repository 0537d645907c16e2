"""The progress of the deliveries: a bar on a terminal, else a line a second."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .journal import Journal

PATIENCE = 120
"""Seconds after which an event that is still on its way counts as lost."""


class Display:
    """Shows how many of the events are settled, that is delivered or dead."""

    def __init__(self, console: Console, journal: Journal, *, total: int) -> None:
        self._console = console
        self._journal = journal
        self._total = total
        self._progress = Progress(
            TextColumn("Delivering"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[attempts]} attempts"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, attempts=0)
        self._started = time.monotonic()
        self._lines = 0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def show(self) -> None:
        settled, attempts = self._journal.settled, sum(self._journal.attempts.values())
        self._progress.update(self._task, completed=settled, attempts=attempts)
        seconds = int(time.monotonic() - self._started)
        if seconds > self._lines and not self._console.is_terminal:
            self._lines = seconds
            self._console.print(f"{seconds:3} s: {settled} of {self._total} settled, {attempts} attempts")

    def wait_until_settled(self) -> None:
        """Return when every event is settled, or there is no hope left."""
        deadline = time.monotonic() + PATIENCE
        while self._journal.settled < self._total and time.monotonic() < deadline:
            self.show()
            time.sleep(0.1)
        self.show()
