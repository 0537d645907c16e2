"""docs/operating.md names every command and option, and what it shows is so."""

from __future__ import annotations

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import dramatiq
import pytest

from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.cli import retryq
from dramatiq_retryq.clock import SystemClock, VirtualClock

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(group: click.Group = retryq, *path: str) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, *path, name)
        else:
            found[" ".join([*path, name])] = command
    return found


def section(name: str) -> str:
    """The part of the page that a command's options are in."""
    top = {
        "resume": "pause and resume",
        "pause": "pause and resume",
        "check": "check and backup",
        "backup": "check and backup",
    }
    heading = name.split()[0]
    found = re.search(rf"^## {top.get(heading, heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section for {name}"
    return found[1]


@pytest.mark.parametrize("name", commands())
def test_every_command_is_named(name: str) -> None:
    assert re.search(rf"[`\n](retryq )?{name}\b", PAGE)


@pytest.mark.parametrize(("name", "command"), commands().items(), ids=[*commands()])
def test_every_option_is_named_where_its_command_is(name: str, command: click.Command) -> None:
    general = PAGE[PAGE.index("## The command") : PAGE.index("## status")]
    options = [option for p in command.params if isinstance(p, click.Option) for option in (*p.opts, *p.secondary_opts)]
    for option in options:
        assert f"`{option}" in section(name) + general, f"{name} {option}"


def test_every_option_that_is_named_exists() -> None:
    known = {
        option for command in commands().values() for p in command.params for option in (*p.opts, *p.secondary_opts)
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    # Of the dramatiq command.
    assert named - known - {"--help", "--version"} == {"--queues"}


def lines() -> list[str]:
    found = [line for language, code in BLOCK.findall(PAGE) if language == "sh" for line in code.splitlines()]
    return [line for line in found if line.startswith("retryq ")]


@pytest.fixture
def demo(tmp_path: Path, clock: VirtualClock, drain: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The application that the page shows, with something of everything in its file."""
    clock.move_to(SystemClock().now() - 60_000)  # by that one goes who opens the file itself
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    module = ModuleType("shop")

    def deliver(order: int) -> None:
        raise ConnectionError("connection refused")

    def invoice(order: int) -> None:
        raise TimeoutError("the printer does not answer")

    def remind(customer: int) -> None: ...

    vars(module).update(
        broker=broker,
        deliver=dramatiq.actor(
            deliver, broker=broker, max_retries=3, min_backoff=100, max_backoff=400, queue_name="orders"
        ),
        invoice=dramatiq.actor(invoice, broker=broker, max_retries=10, min_backoff=600_000, max_backoff=21_600_000),
        remind=dramatiq.actor(remind, broker=broker),
    )
    monkeypatch.setitem(sys.modules, "shop", module)
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        module.deliver.send(number)
        module.invoice.send(number)
        module.remind.send_with_options(args=(number,), delay=86_400_000)
    drain(broker, until=clock.now() + 60_000)
    yield module
    assert broker.check() == []
    broker.close()


def test_every_line_that_is_shown_runs(run: Any, demo: ModuleType) -> None:
    letter = demo.broker.dead_letters.list()[0].id
    assert len(lines()) > 15
    for line in lines():
        ended = run(*shlex.split(line.replace("62567991293771776", letter))[1:])
        assert ended.code == 0, f"{line}\n{ended.err}"
        if " dead replay " in line and "--yes" in line:
            assert ended.out == "3 of 3 dead letters replayed.\n"
            demo.broker.flush("orders")


def test_the_schedules_and_simulations_that_are_shown_are_what_is_written(run: Any, demo: ModuleType) -> None:
    blocks = BLOCK.findall(PAGE)
    shown = [
        (code.strip(), following)
        for (language, code), (_, following) in pairwise(blocks)
        if language == "sh" and code.startswith("retryq plan") and following.startswith(("Retries of", "A dependency"))
    ]
    assert len(shown) == 2
    for line, text in shown:
        assert without_margins(run(*shlex.split(line)[1:]).out) == without_margins(text)


def without_margins(text: str) -> list[str]:
    """The lines; releases of rich before 15 pad the first and last column, and make the rule longer."""
    return [re.sub("(─| )+", r"\1", line.strip()) for line in text.splitlines()]
