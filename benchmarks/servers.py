"""RetryQueue beside Retries on Dramatiq's brokers: `python -m benchmarks.servers --rounds 3`.

Each run is a process of its own, the two sides in turn, on all CPUs, since the servers need theirs. RabbitmqBroker has
`confirm_delivery` on both sides: without it, a retry of Retries is acked before anybody has it.
"""

from __future__ import annotations

import argparse

from .contestants import missing
from .harness import Row, Settings, Wanted, _spread, interleave, table

ROWS = (
    Row("server_drain", "per_second", "drain 4000, messages/s", Wanted("ratio", "≥", 0.98)),
    Row("server_drain", "cpu_us", "– CPU time of each, µs"),
    Row("server_storm", "per_second", "retry storm of 500, attempts/s", Wanted("ratio", "≥", 1.2)),
    Row("server_storm", "cpu_us", "– CPU time of each, µs"),
)
LETTERS = (
    Row("letters", "laid_down", "10,000 letters laid down, letters/s"),
    Row("letters", "page_ms", "– first page of 50, ms", Wanted("median", "≤", 50)),
    Row("letters", "get_ms", "– one of them by its id, ms"),
    Row("letters", "replayed", "– replay_all, letters/s", Wanted("median", "≥", 2_000)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], action="append", help="one of them only")
    parser.add_argument("--only", choices=["server_drain", "server_storm", "letters"], action="append")
    arguments = parser.parse_args()
    settings = Settings(rounds=arguments.rounds, cpu=None, logs="null")
    for broker in arguments.broker or ["redis", "rabbitmq"]:
        if lack := missing(broker):
            print(f"{broker} is left out: {lack}")
            continue
        # Confirmed on both sides.
        other, subject = {"redis": "redis", "rabbitmq": "rabbitmq-confirmed"}[broker], f"{broker}+retryq"
        items = [item for item in ("server_drain", "server_storm") if item in (arguments.only or (item,))]
        if items:
            runs = {item: interleave(item, (other, subject), settings) for item in items}
            print("\n".join(table(ROWS, runs, subject, other)), end="\n\n")
        if "letters" in (arguments.only or ("letters",)):
            figures = interleave("letters", (subject,), settings)[subject]
            print(f"| work | {subject} | wanted | |", "| --- | --- | --- | --- |", sep="\n")
            for row in LETTERS:
                values = [run[row.key] for run in figures]
                verdict = "" if row.wanted is None else "met" if row.wanted.met(values, []) else "**missed**"
                print(f"| {row.title} | {_spread(values)} | {row.wanted or ''} | {verdict} |")
            print()


if __name__ == "__main__":
    main()
