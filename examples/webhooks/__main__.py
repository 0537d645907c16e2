"""Deliver a few hundred events to a flaky receiver and account for every one: `python -m examples.webhooks`.

It starts the receiver as a process of its own, sends the events of `events.jsonl` to the queue, runs the
worker right here and waits until each event is delivered or dead. Then the receiver's bug is fixed, and what
died of it is replayed. In the end it prints what became of the events and what the attempts led to. The exit
code is 1 if an event is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from dramatiq import QueueJoinTimeout
from rich.console import Console

from dramatiq_retryq import DeadLetters, SQLiteBroker, run_worker

from . import app, report
from .display import PATIENCE, Display
from .events import load_events
from .journal import Delivery, Journal


def main() -> int:
    args = parse_arguments()
    events = load_events(args.events)
    prepare_output(args.output)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if args.send_only:
        return send_only(events, console, fast=args.fast)
    journal = Journal()
    app.broker.add_middleware(journal)
    try:
        with (
            closing(app.broker),
            running_receiver(outage=0.5 if args.fast else 2) as receiver,
            run_worker(app.broker, threads=args.threads),
            app.new_session() as http,
            Display(console, journal, total=len(events)) as display,
        ):
            console.print(f"The receiver listens on {receiver['hooks']}; sending {len(events)} events to it.")
            send(events, receiver["hooks"], journal, display, fast=args.fast)
            display.wait_until_settled()
            if dead := [delivery for delivery in journal.deliveries if delivery.is_dead and not delivery.gave_up]:
                for delivery in dead:
                    console.print(f"Dead after {delivery.attempts} attempts: {delivery.event['id']}, {delivery.error}")
                http.post(receiver["admin"] + "/fix", timeout=5).raise_for_status()
                console.print("The receiver's bug is fixed; replaying.")
                replay(dead)
                display.wait_until_settled()
            received = http.get(receiver["admin"], timeout=5).json()
    except KeyboardInterrupt:
        console.print(f"Stopped; {len(events) - journal.settled} of {len(events)} events were still on their way.")
        return 130

    report.print_tables(console, journal, received)
    if missing := report.unexplained(journal, received):
        console.print(f"MISSING, neither delivered nor explained: {', '.join(missing)}")
        return 1
    console.print("Every event was delivered or explained.")
    return 0


def send_only(events: list[dict[str, Any]], console: Console, *, fast: bool) -> int:
    """Send the events, and wait until the workers of other processes have settled them."""
    with closing(app.broker), running_receiver(outage=0.5 if fast else 2) as receiver, app.new_session() as http:
        console.print(f"The receiver listens on {receiver['hooks']}; sending {len(events)} events to it.")
        send(events, receiver["hooks"], fast=fast)
        with suppress(QueueJoinTimeout):  # What is missing then is said below.
            for queue_name in ("webhooks", "dead-letters"):
                app.broker.join(queue_name, timeout=PATIENCE * 1000, fail_fast=False)
        stored = set(http.get(receiver["admin"], timeout=5).json()["stored"])
        letters = [letter.message for letter in DeadLetters.of(app.broker)]
    dead = {message.kwargs["event"]["id"] for message in letters if message is not None}
    missing = {event["id"] for event in events} - stored - dead
    console.print(f"The receiver stored {len(stored)} events, {len(dead)} are dead, {len(missing)} are missing.")
    return 1 if missing else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.webhooks", description="Deliver webhooks to a flaky receiver."
    )
    parser.add_argument(
        "--events",
        type=Path,
        default=Path(__file__).with_name("events.jsonl"),
        metavar="FILE",
        help="the events, one JSON object a line (default: events.jsonl beside this program)",
    )
    parser.add_argument("--threads", type=int, default=8, metavar="N", help="threads of the worker (default: 8)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("webhooks-output"),
        metavar="DIR",
        help="where dead_letters.jsonl and worker.log are written (default: webhooks-output)",
    )
    parser.add_argument("--fast", action="store_true", help="a shorter outage and less patience, for tests")
    parser.add_argument(
        "--send-only", action="store_true", help="leave the work to workers of other processes, on a SQLite file"
    )
    args = parser.parse_args()
    if args.send_only and not isinstance(app.broker, SQLiteBroker):
        parser.error("--send-only: set RETRYQ_BROKER to a file that the workers share, as in sqlite:///jobs.db")
    return args


def prepare_output(directory: Path) -> None:
    """Start without dead letters, and log to a file: a flaky receiver makes for hundreds of warnings."""
    directory.mkdir(parents=True, exist_ok=True)
    dead_letters = directory / "dead_letters.jsonl"
    dead_letters.unlink(missing_ok=True)
    os.environ["WEBHOOKS_DEAD_LETTERS"] = str(dead_letters)
    logging.basicConfig(filename=directory / "worker.log", filemode="w", format="%(asctime)s %(levelname)s %(message)s")


@contextmanager
def running_receiver(*, outage: float) -> Iterator[dict[str, str]]:
    """Run the receiver and give its addresses. It ends with its stdin, so also if this process is killed."""
    command = [sys.executable, "-m", f"{__package__}.receiver", "--until-stdin-closes", f"--outage={outage}"]
    # A session of its own, since Ctrl-C is for this process: the receiver goes when the worker has stopped.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())


def send(
    events: list[dict[str, Any]],
    hooks_url: str,
    journal: Journal | None = None,
    display: Display | None = None,
    *,
    fast: bool,
) -> None:
    """Send the events as they come in, a hundred a second."""
    # What a message says about its own retries goes before what its actor says.
    options: dict[str, Any] = {"min_backoff": 50, "max_backoff": 200} if fast else {}
    for event in events:
        url = f"{hooks_url}/{event['customer']}"
        message = app.deliver.message_with_options(kwargs={"url": url, "event": event}, **options)
        if journal is not None:
            journal.expect(message)
        app.broker.enqueue(message)
        if display is not None:
            display.show()
        time.sleep(0.003 if fast else 0.01)


def replay(dead: list[Delivery]) -> None:
    """Bring these back from the dead, with a new budget of retries."""
    letters = DeadLetters.of(app.broker)  # Which broker it is, RETRYQ_BROKER says.
    for delivery in dead:
        delivery.replays += 1
        letters.replay(delivery.letters[-1]["id"])


if __name__ == "__main__":
    sys.exit(main())
