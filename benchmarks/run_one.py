"""Run one work item on one contestant in this process and print its figures as one line of JSON.

For instance `python -m benchmarks.run_one drain memory --cpu 1`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dramatiq

from . import delays, idle, retries, servers_items, sqlite_items, throughput
from .contestants import CONTESTANTS, clean_up

#: A work item: does its work on an empty broker and returns its figures.
Item = Callable[[dramatiq.Broker], dict[str, float]]

ITEMS: dict[str, Item] = {
    "enqueue": throughput.enqueue,
    "drain": throughput.drain,
    "latency": throughput.latency,
    "storm": retries.storm,
    "small_storm": retries.small_storm,
    "dying": retries.dying,
    "lateness": delays.lateness,
    "behind_far_off": delays.behind_far_off,
    "weight": delays.weight,
    "many_queues": idle.many_queues,
    "twenty_queues": idle.twenty_queues,
    "command": sqlite_items.command,
    "killed": sqlite_items.killed,
    "stored_bytes": sqlite_items.stored_bytes,
    "waking": sqlite_items.waking,
    "growth": sqlite_items.growth,
    "fairness": sqlite_items.fairness,
    "grouped_commits": sqlite_items.grouped_commits,
    "server_drain": servers_items.server_drain,
    "server_storm": servers_items.server_storm,
    "letters": servers_items.letters,
}

#: Log records: "text" writes them as applications do, "null" drops them unformatted, "off" has none.
LOGS = ("text", "null", "off")


def configure_logs(how: str) -> None:
    """The same for both sides: the root logger at WARNING, records going where `how` says."""
    if how == "off":
        logging.disable()
        return
    handler: logging.Handler = logging.NullHandler()
    if how == "text":
        handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process
        handler.setFormatter(logging.Formatter("[%(asctime)s] [%(threadName)s] [%(name)s] [%(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_one", description=__doc__)
    parser.add_argument("item", choices=ITEMS)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("--cpu", type=int, help="the one CPU to run on; all, if not given")
    parser.add_argument("--logs", choices=LOGS, default="null")
    arguments = parser.parse_args()

    if arguments.cpu is not None:
        os.sched_setaffinity(0, {arguments.cpu})
    configure_logs(arguments.logs)
    with tempfile.TemporaryDirectory() as directory:
        os.environ |= {"BENCHMARKS_CONTESTANT": arguments.contestant, "BENCHMARKS_DIRECTORY": directory}
        broker = CONTESTANTS[arguments.contestant](Path(directory))
        dramatiq.set_broker(broker)
        try:
            figures = ITEMS[arguments.item](broker)
        finally:
            clean_up(broker)
        figures["process_cpu_s"] = time.process_time()
        print(json.dumps(figures), flush=True)
        broker.close()
    # Nobody needs what lies in the broker: leave without freeing a million messages one by one.
    os._exit(0)


if __name__ == "__main__":
    main()
