"""The real ``dramatiq`` command, in a directory with a small application."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dramatiq_retryq

#: How long (s) a test waits for the command to say or do something.
PATIENCE = 30


class Command:
    """A running ``dramatiq`` command, and all that it and its worker processes have written."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        root = Path(dramatiq_retryq.__file__).parent.parent
        self.lines: list[str] = []
        self._said = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "dramatiq", *arguments],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(root)])},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until so many lines have this text in them."""
        with self._said:
            said = self._said.wait_for(lambda: len(self.with_text(text)) >= times, PATIENCE)
        assert said, "\n".join([f"{text!r} was not written {times} times:", *self.lines])

    def with_text(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    def terminate(self) -> int:
        """Ask it to stop; returns its exit code once it has."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def end(self) -> None:
        """End what is left of it, its worker processes included."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts the command on an application given as text: ``command(application, "--processes", "1")``."""
    started: list[Command] = []

    def command(application: str, *arguments: str) -> Command:
        (tmp_path / "small_app.py").write_text(textwrap.dedent(application))
        started.append(Command(tmp_path, "small_app", *arguments))
        return started[-1]

    yield command
    for running in started:
        running.end()
