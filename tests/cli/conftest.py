"""The real ``dramatiq`` command, in a directory with a small application; and ``retryq``, within the process."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import dramatiq
import pytest
from click.testing import CliRunner

import dramatiq_retryq
from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.broker import StoreBroker
from dramatiq_retryq.cli import retryq
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.records import DeadLetter, ErrorInfo

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


# -- The command retryq ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a run of ``retryq`` ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs ``retryq`` within the test's own process: ``run("status", "shop:broker", typed="y\\n")``."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: object, typed: str | None = None) -> Ended:
        # click 8.1 mixes the two outputs unless it is told not to; 8.2 cannot be told.
        separate = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
        ended = CliRunner(**separate).invoke(retryq, [str(argument) for argument in arguments], input=typed)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def shop(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An application: the module ``shop`` with a memory broker on the virtual clock, and actors that fail on demand."""
    return application(broker, monkeypatch)


@pytest.fixture
def file_shop(tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The same with a file."""
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    yield application(broker, monkeypatch)
    assert broker.check() == []
    broker.close()


def application(broker: StoreBroker, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("shop")

    def deliver(order: object = None, *, error: str = "ConnectionError", text: str = "nobody answers") -> None:
        if module.is_broken:  # type: ignore[attr-defined]
            raise {"ConnectionError": ConnectionError, "ValueError": ValueError}[error](text)

    def remind() -> None: ...

    vars(module).update(
        is_broken=True,
        broker=broker,
        deliver=dramatiq.actor(deliver, broker=broker, max_retries=2, backoff=[1_000], queue_name="orders"),
        remind=dramatiq.actor(remind, broker=broker),
    )
    monkeypatch.setitem(sys.modules, "shop", module)
    return module


def letters_of(broker: StoreBroker, count: int, **fields: object) -> list[str]:
    """Dead letters without their lives; gives their ids. ``fields`` are those of ``DeadLetter``."""
    ids = []
    for number in range(count):
        now = broker.clock.now()
        message = broker.get_actor("deliver").message(number)
        broker.store.put("orders", message.encode(), due_at=now, now=now)
        (claim,) = broker.store.claim("orders", now=now, limit=1, owner="test")
        given = {
            "reason": "exhausted",
            "actor_name": "deliver",
            "died_at": now,
            "error": ErrorInfo(type="ConnectionError", message="nobody answers", place="shop.py:1 in deliver"),
            **fields,
        }
        broker.store.bury(
            claim,
            DeadLetter(id=str(claim.id), queue_name="orders", data=claim.data, **given),  # type: ignore[arg-type]
        )
        ids.append(str(claim.id))
    return ids
