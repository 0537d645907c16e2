"""Interleaved runs of two contestants, and the table that comes of them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from .contestants import CONTESTANTS
from .run_one import LOGS

RUN_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)  # Positional, as Row: a table of them should read as a table.
class Wanted:
    """A bound on the median of the ratios, on the subject's median, or on the subject's every run."""

    of: Literal["ratio", "median", "every run"]
    sign: Literal["≥", "≤"]
    bound: float

    def __str__(self) -> str:
        unit = {"ratio": " ×", "median": "", "every run": " in every run"}[self.of]
        return f"{self.sign} {self.bound:g}{unit}"

    def met(self, figures: Sequence[float], ratios: Sequence[float]) -> bool:
        values = {"ratio": ratios, "median": figures, "every run": figures}[self.of]
        if not values:
            return False
        if self.of != "every run":
            values = [median(values)]
        return all(value >= self.bound if self.sign == "≥" else value <= self.bound for value in values)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a figure of a work item, in words, and what is wanted of it."""

    item: str
    key: str
    title: str
    wanted: Wanted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    rounds: int
    cpu: int | None
    logs: str


#: The figures of one run: {key: figure}.
Figures = dict[str, float]


def run(item: str, contestant: str, settings: Settings) -> Figures:
    """Run one item on one contestant in a fresh process.

    Raises:
      RuntimeError: If the process fails; the message carries what it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.run_one", item, contestant, "--logs", settings.logs]
    if settings.cpu is not None:
        command += ["--cpu", str(settings.cpu)]
    root = Path(__file__).parent.parent
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{ended.stderr}")
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    return figures


def interleave(item: str, contestants: Sequence[str], settings: Settings) -> dict[str, list[Figures]]:
    """Run `item` on each contestant in turn, round by round, every second round in the reverse order."""
    runs: dict[str, list[Figures]] = {name: [] for name in contestants}
    for number in range(settings.rounds):
        for name in contestants if number % 2 == 0 else reversed(contestants):
            progress(f"{item}: round {number + 1} of {settings.rounds}, {name}")
            runs[name].append(run(item, name, settings))
    progress("")
    return runs


def progress(text: str) -> None:
    """Replace the line on the terminal, if there is one."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(rows: Iterable[Row], runs: dict[str, dict[str, list[Figures]]], subject: str, other: str) -> list[str]:
    """Markdown: the median (least – greatest) of each side and of the rounds' ratios, and the verdict."""
    lines = [f"| work | {other} | {subject} | ratio | wanted | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        if row.item not in runs:
            continue
        pairs = [
            (theirs.get(row.key), ours.get(row.key))
            for theirs, ours in zip(runs[row.item][other], runs[row.item][subject], strict=True)
        ]
        theirs = [their for their, _ in pairs if their is not None]
        ours = [our for _, our in pairs if our is not None]
        ratios = [our / their for their, our in pairs if their and our is not None]
        wanted = verdict = ""
        if row.wanted:
            wanted, verdict = str(row.wanted), "met" if row.wanted.met(ours, ratios) else "**missed**"
        cells = (row.title, _spread(theirs), _spread(ours), _spread(ratios), wanted, verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    if min(values) == max(values):
        return _number(values[0])
    return f"{_number(median(values))} ({_number(min(values))} – {_number(max(values))})"


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1_000:.1f}k"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def command_line(rows: Sequence[Row], *, description: str, subject: str, other: str) -> None:
    """The command of a table: measure the items that `rows` name and print them."""
    items = list(dict.fromkeys(row.item for row in rows))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--only", nargs="+", choices=items, metavar="NAME", help=f"some of: {', '.join(items)}")
    parser.add_argument("--cpu", type=_cpu, default=1, help='the one CPU to run on, or "all" (default: 1)')
    parser.add_argument(
        "--logs", choices=LOGS, default="null", help='how log records end (default: "null", unformatted)'
    )
    parser.add_argument(
        "--subject",
        choices=CONTESTANTS,
        default=subject,
        help=f"the contestant that is judged (default: {subject})",
    )
    parser.add_argument(
        "--other",
        choices=CONTESTANTS,
        default=other,
        help=f"the contestant that it is compared with (default: {other})",
    )
    parser.add_argument("--json", type=Path, help="write every figure of every run to this file")
    arguments = parser.parse_args()
    if arguments.subject == arguments.other:
        parser.error(f"{arguments.subject} cannot be compared with itself")

    settings = Settings(rounds=arguments.rounds, cpu=arguments.cpu, logs=arguments.logs)
    runs = {
        item: interleave(item, (arguments.other, arguments.subject), settings)
        for item in items
        if not arguments.only or item in arguments.only
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(runs, indent=2) + "\n")
    print("\n".join(table(rows, runs, arguments.subject, arguments.other)))


def _cpu(text: str) -> int | None:
    return None if text == "all" else int(text)
