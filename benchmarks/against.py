"""This checkout beside another one, in turn: `python -m benchmarks.against ../other --rounds 7`.

For what a change costs on the path of a message. Both must have this folder; CPU time is the steadier figure. Where the
machine is busy, `--instructions` counts what the processor executes, by valgrind: the same figure in every run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from .harness import Figures, _spread, progress

ITEMS = ("enqueue", "drain")
CONTESTANTS = ("memory", "sqlite")
#: How many messages are sent where instructions are counted; the difference is what counts.
FEW_AND_MANY = (100, 600)


def run(root: Path, item: str, contestant: str, cpu: int) -> Figures:
    """Run one item in a fresh process of the checkout at `root`."""
    command = [sys.executable, "-m", "benchmarks.run_one", item, contestant, "--logs", "null", "--cpu", str(cpu)]
    ended = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    return figures


def instructions(root: Path, contestant: str) -> float:
    """How many instructions a message takes, sent and run on one thread; without what comes before the first."""
    counted = []
    for number in FEW_AND_MANY:
        script = Path(__file__).with_name("one_thread.py")
        valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
        ended = subprocess.run(
            [*valgrind, str(script), contestant, str(number)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
        )
        counted.append(int(ended.stderr.rpartition("Collected :")[2].split()[0]))
    return (counted[1] - counted[0]) / (FEW_AND_MANY[1] - FEW_AND_MANY[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each side (default: 7)")
    parser.add_argument("--cpu", type=int, default=1, help="the one CPU to run on (default: 1)")
    parser.add_argument("--instructions", action="store_true", help="count instructions by valgrind, once each")
    args = parser.parse_args()
    here, there = Path(__file__).parent.parent, args.other.resolve()
    if args.instructions:
        print("| thousand instructions a message | there | here | ratio |\n| --- | --- | --- | --- |")
        for contestant in CONTESTANTS:
            theirs, ours = (instructions(root, contestant) / 1_000 for root in (there, here))
            print(f"| {contestant}, sent and run | {theirs:.1f} | {ours:.1f} | {ours / theirs:.3f} |")
        return
    print("| CPU time of each message, µs | there | here | ratio | of the least |\n| --- | --- | --- | --- | --- |")
    for contestant in CONTESTANTS:
        both: dict[Path, list[list[float]]] = {here: [], there: []}
        for number in range(args.rounds):
            for root in (here, there) if number % 2 else (there, here):
                progress(f"{contestant}: round {number + 1} of {args.rounds}, {root.name}")
                both[root].append([run(root, item, contestant, args.cpu)["cpu_us"] for item in ITEMS])
        progress("")
        for title, pick in (("enqueue", (0,)), ("drain", (1,)), ("both", (0, 1))):
            theirs, ours = ([sum(figures[i] for i in pick) for figures in both[root]] for root in (there, here))
            ratio = median(our / their for our, their in zip(ours, theirs, strict=True))
            least = min(ours) / min(theirs)
            print(f"| {contestant}, {title} | {_spread(theirs)} | {_spread(ours)} | {ratio:.3f} | {least:.3f} |")


if __name__ == "__main__":
    main()
