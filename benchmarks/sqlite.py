"""SQLiteBroker beside Dramatiq's brokers on servers and dramatiq-sqlite: `python -m benchmarks.sqlite --rounds 3`.

Each run is a process of its own, on all CPUs, since the servers need theirs. With `--alone`, what only a file has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .contestants import missing
from .harness import Figures, Row, Settings, Wanted, _spread, progress, run

SUBJECT = "sqlite"
OTHERS = ("redis", "rabbitmq", "dramatiq-sqlite")

ROWS = (
    Row("enqueue", "per_second", "enqueue, messages/s", Wanted("median", "≥", 20_000)),
    Row("drain", "per_second", "drain 20,000 with 8 threads, messages/s", Wanted("median", "≥", 8_000)),
    Row("command", "per_second", "the command, 2 × 4, beside a sender, messages/s", Wanted("median", "≥", 5_000)),
    Row("storm", "per_second", "retry storm, attempts/s", Wanted("median", "≥", 2_500)),
    Row("lateness", "p50_ms", "lateness of 2000 delayed messages, p50 ms", Wanted("median", "≤", 10)),
    Row("lateness", "p99_ms", "– p99 ms", Wanted("median", "≤", 30)),
    Row("killed", "missing", "SIGKILL in mid-work: missing after 30 s, of 200", Wanted("every run", "≤", 0)),
    Row("killed", "seconds", "– all done after, s", Wanted("median", "≤", 5)),
    Row("stored_bytes", "bytes", "file (Redis: memory) a waiting message, bytes", Wanted("median", "≤", 450)),
)
#: Beside the bounds above: a multiple of what Redis does.
BY_REDIS = {"enqueue": 4.0, "drain": 3.0}

ALONE = (
    Row("waking", "p50_ms", "sent by another process, idle worker: p50 ms", Wanted("median", "≤", 20)),
    Row("waking", "p99_ms", "– p99 ms", Wanted("median", "≤", 60)),
    Row("waking", "retry_p99_ms", "a due retry, p99 ms late", Wanted("median", "≤", 15)),
    Row("twenty_queues", "cpu_percent", "20 idle queues, % of one CPU", Wanted("median", "≤", 1)),
    Row("fairness", "per_second", "3 processes writing flat out, writes/s"),
    Row("fairness", "least_share", "– least part of a fair share", Wanted("every run", "≥", 0.5)),
    Row("fairness", "p99_ms", "– p99 of a write, ms"),
    Row("fairness", "longest_ms", "– longest write, ms", Wanted("every run", "≤", 100)),
    Row("fairness", "longest_alone_ms", "– longest write on a file each, ms"),
    Row("growth", "early_kb", "file after 20,000 sent and done, kB"),
    Row("growth", "late_kb", "– after 200,000, kB"),
    Row("growth", "log_kb", "– its log at the most, kB"),
    Row("growth", "closed_kb", "– all of it once closed, kB"),
)
FULL = (
    *(row for row in ALONE if row.item == "fairness"),
    Row("grouped_commits", "syncs_per_second", "syncs of the disk/s"),
    Row("grouped_commits", "one_per_second", "enqueue from 1 thread, messages/s"),
    Row("grouped_commits", "eight_per_second", "enqueue from 8 threads, messages/s"),
    # Within three times of one sync for each group.
    Row("grouped_commits", "eight_by_syncs", "– by the syncs of the disk", Wanted("median", "≥", 0.33)),
)
#: What some cannot do, and why.
SKIPPED = {("rabbitmq", "stored_bytes"): "its server does not tell what a message weighs"}

Runs = dict[str, dict[str, list[Figures]]]


def measure(items: Sequence[str], contestants: Sequence[str], rounds: int) -> Runs:
    """Run every item on every contestant, in turn, every second round in the reverse order."""
    settings = Settings(rounds=rounds, cpu=None, logs="null")
    runs: Runs = {item: {name: [] for name in contestants} for item in items}
    skipped = dict(SKIPPED)
    for name in contestants:
        reason = missing(name)
        if reason:
            print(f"{name} is skipped: {reason}")
            skipped |= {(name, item): reason for item in items}
    for item in items:
        for number in range(rounds):
            for name in contestants if number % 2 == 0 else reversed(contestants):
                if (name, item) in skipped:
                    continue
                progress(f"{item}: round {number + 1} of {rounds}, {name}")
                try:
                    runs[item][name].append(run(item, name, settings))
                except RuntimeError as error:
                    if name == SUBJECT:
                        raise
                    reason = skipped[name, item] = str(error).strip().splitlines()[-1]
                    print(f"{name}, {item}: skipped, {reason}")
    progress("")
    return runs


def compared(runs: Runs, contestants: Sequence[str]) -> list[str]:
    """Markdown: the median of each contestant, ours with least and greatest, and the ratio to Redis."""
    others = [name for name in contestants if name != SUBJECT]
    lines = [f"| work | {' | '.join(others)} | {SUBJECT} | by redis | wanted | |", "| --- " * (len(others) + 5) + "|"]
    for row in ROWS:
        if row.item not in runs:
            continue
        ours = _figures(runs, row, SUBJECT)
        pairs = zip(_figures(runs, row, "redis"), ours, strict=False)
        ratios = [our / their for their, our in pairs if their]
        cells = [row.title, *(_spread(_figures(runs, row, name)) for name in others), _spread(ours), _spread(ratios)]
        met, wanted = row.wanted is None or row.wanted.met(ours, ratios), str(row.wanted or "")
        if row.item in BY_REDIS and ratios:
            bound = Wanted("ratio", "≥", BY_REDIS[row.item])
            met, wanted = met and bound.met(ours, ratios), f"{wanted}, {bound}"
        lines.append(f"| {' | '.join(cells)} | {wanted} | {'met' if met else '**missed**'} |")
    return lines


def alone(runs: Runs, rows: Sequence[Row], contestant: str) -> list[str]:
    """Markdown: what one contestant does by itself."""
    lines = [f"| work | {contestant} | wanted | |", "| --- | --- | --- | --- |"]
    for row in rows:
        if row.item in runs:
            figures = _figures(runs, row, contestant)
            verdict = "" if row.wanted is None else "met" if row.wanted.met(figures, []) else "**missed**"
            lines.append(f"| {row.title} | {_spread(figures)} | {row.wanted or ''} | {verdict} |")
    return lines


def _figures(runs: Runs, row: Row, contestant: str) -> list[float]:
    return [figures[row.key] for figures in runs[row.item].get(contestant, []) if row.key in figures]


def main() -> None:
    items = list(dict.fromkeys(row.item for row in (*ROWS, *ALONE, *FULL)))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--only", nargs="+", choices=items, metavar="NAME", help=f"some of: {', '.join(items)}")
    parser.add_argument("--against", nargs="*", choices=OTHERS, default=OTHERS, help="the others (default: all)")
    parser.add_argument("--alone", action="store_true", help="what SQLiteBroker does by itself")
    parser.add_argument("--json", type=Path, help="write every figure of every run to this file")
    arguments = parser.parse_args()

    def chosen(rows: Sequence[Row]) -> list[str]:
        names = dict.fromkeys(row.item for row in rows)
        return [name for name in names if not arguments.only or name in arguments.only]

    kept: dict[str, Runs] = {}
    if arguments.alone:
        for contestant, rows in ((SUBJECT, ALONE), ("sqlite-full", FULL)):
            runs = kept[contestant] = measure(chosen(rows), [contestant], arguments.rounds)
            print("\n".join(alone(runs, rows, contestant)), end="\n\n", flush=True)
    else:
        contestants = [*arguments.against, SUBJECT]
        runs = kept["compared"] = measure(chosen(ROWS), contestants, arguments.rounds)
        print("\n".join(compared(runs, contestants)))
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
