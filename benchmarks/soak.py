"""A file under fire: `python -m benchmarks.soak --minutes 3`.

Three worker processes and two senders share one SQLite file. Every second one of the five is killed with SIGKILL, and
started again. The messages succeed at once, or slowly, or after some failures, or die. At the end every message that a
sender was told is stored must have been done or lie dead, exactly those that should; a message may run more often
than it should only where a worker was killed. Prints the counts; exits with 1 if one is lost or misplaced.

What the actors did and what the senders sent stands in files beside, one line an event, appended in one write.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import dramatiq

from dramatiq_retryq import GiveUp, RetryQueue, SQLiteBroker

WORKERS = 3
SENDERS = 2
#: Kinds of message by their weight in the mix.
KINDS = {"plain": 60, "slow": 8, "flaky": 20, "doomed": 6, "refused": 6}
MAX_RETRIES = 3
KILL_EVERY_S = 1.0
SEND_EVERY_S = 0.008
DRAIN_WITHIN_S = 90.0


class Journal:
    """A file to which many processes append lines; what was written outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)

    def write(self, *words: str) -> None:
        os.write(self._fd, (" ".join(words) + "\n").encode())

    def read(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]


class Planned(Exception):
    """A failure that is part of the mix."""


def make_broker(directory: Path, synchronous: str) -> tuple[SQLiteBroker, dict[str, dramatiq.Actor[..., None]]]:
    """The broker and its actors, one for each kind of message."""
    journal = Journal(directory / "runs")
    broker = SQLiteBroker(
        directory / "jobs.db",
        synchronous="full" if synchronous == "full" else "normal",
        retry_queue=RetryQueue(max_retries=MAX_RETRIES, min_backoff=50, max_backoff=400),
    )

    def plain(key: str) -> None:
        journal.write("done", key)

    def slow(key: str) -> None:
        time.sleep(0.2)
        journal.write("done", key)

    def flaky(key: str) -> None:
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        if message is None or message.options.get("retries", 0) < 1 + hash_of(key) % MAX_RETRIES:
            journal.write("failed", key)
            raise Planned("another time")
        journal.write("done", key)

    def doomed(key: str) -> None:
        journal.write("failed", key)
        raise Planned("never")

    def refused(key: str) -> None:
        journal.write("failed", key)
        raise GiveUp("not wanted")

    broker.add_middleware(dramatiq.middleware.CurrentMessage())
    functions = (plain, slow, flaky, doomed, refused)
    return broker, {function.__name__: dramatiq.actor(broker=broker)(function) for function in functions}


def hash_of(key: str) -> int:
    return sum(key.encode())


def work(directory: Path, synchronous: str) -> None:
    """A worker process, until it is told to stop or killed."""
    broker, _ = make_broker(directory, synchronous)
    worker = dramatiq.Worker(broker, worker_threads=4)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    worker.start()
    try:
        while True:
            time.sleep(1)
    finally:
        worker.stop()
        broker.close()


def send(directory: Path, synchronous: str) -> None:
    """A sender, until it is told to stop or killed: "will" is written before each send, and "sent" after."""
    _, actors = make_broker(directory, synchronous)
    journal = Journal(directory / "sent")
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    name, dice, number = f"{os.getpid()}-{time.time_ns()}", random.Random(), 0
    while not stopping:
        number += 1
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        key = f"{kind}:{name}:{number}"
        journal.write("will", key)
        if number % 10:
            actors[kind].send(key)
        else:
            actors[kind].send_with_options(args=(key,), delay=dice.randrange(3_000))
        journal.write("sent", key)
        time.sleep(SEND_EVERY_S)


def start(role: str, directory: Path, synchronous: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.soak", "--role", role, "--directory", str(directory)]
    log = open(directory / "log", "ab")  # noqa: SIM115 - the child's from here on
    with log:
        return subprocess.Popen([*command, "--synchronous", synchronous], stderr=log, cwd=Path(__file__).parent.parent)


def fire(directory: Path, synchronous: str, minutes: float, seed: int) -> Counter[str]:
    """Run the processes and kill them; then let the workers finish what is left. Returns how many were killed."""
    dice = random.Random(seed)
    roles = ["work"] * WORKERS + ["send"] * SENDERS
    processes = [start(role, directory, synchronous) for role in roles]
    kills: Counter[str] = Counter()
    try:
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            time.sleep(KILL_EVERY_S)
            for number, process in enumerate(processes):
                if process.poll() is not None:
                    kills["ended by themselves"] += 1
                    processes[number] = start(roles[number], directory, synchronous)
            victim = dice.randrange(len(processes))
            processes[victim].kill()
            processes[victim].wait()
            kills[roles[victim]] += 1
            processes[victim] = start(roles[victim], directory, synchronous)
        stop(processes[WORKERS:])
        broker, _ = make_broker(directory, synchronous)
        end = time.monotonic() + DRAIN_WITHIN_S
        while any(count.waiting + count.claimed for count in broker.counts().values()) and time.monotonic() < end:
            time.sleep(0.1)
        broker.close()
    finally:
        stop(processes)
    return kills


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def account(directory: Path, synchronous: str) -> tuple[dict[str, object], list[str]]:
    """What became of every message, and what is wrong with it."""
    sent_lines = Journal(directory / "sent").read()
    will = {key for what, key in sent_lines if what == "will"}
    sent = {key for what, key in sent_lines if what == "sent"}
    runs = Journal(directory / "runs").read()
    done = Counter(key for what, key in runs if what == "done")
    failed = Counter(key for what, key in runs if what == "failed")

    broker, _ = make_broker(directory, synchronous)
    letters = [(letter.message.args[0], letter.reason) for letter in broker.dead_letters if letter.message]
    left = sum(count.waiting + count.claimed for count in broker.counts().values())
    findings = [f"check: {finding}" for finding in broker.check()]
    broker.close()
    reason = dict(letters)

    lost = sent - done.keys() - reason.keys()
    findings += [f"lost: {key}" for key in sorted(lost)]
    findings += [f"never sent: {key}" for key in sorted((done.keys() | failed.keys() | reason.keys()) - will)]
    findings += [f"two letters of one message: {key}" for key, n in Counter(key for key, _ in letters).items() if n > 1]
    if left:
        findings.append(f"{left} messages are still waiting or claimed")
    for key in done.keys() & reason.keys():
        if reason[key] != "crashed":  # done, and its worker killed before the ack, for the last time
            findings.append(f"done and dead ({reason[key]}): {key}")
    wanted = {"doomed": "exhausted", "refused": "rejected"}
    for key, why in reason.items():
        if why not in ("crashed", wanted.get(key.partition(":")[0])):
            findings.append(f"dead ({why}), and should not be: {key}")

    attempts = {"doomed": MAX_RETRIES + 1, "refused": 1}
    extra = sum(times - 1 for times in done.values())
    extra += sum(max(0, n - attempts.get(key.partition(":")[0], MAX_RETRIES)) for key, n in failed.items())
    counts: dict[str, object] = {
        "sent": len(sent),
        "sender killed in the middle of it": len(will - sent),
        "– of which stored": len((will - sent) & (done.keys() | reason.keys())),
        "done": len(done),
        "done more than once": sum(times > 1 for times in done.values()),
        "runs too many, after kills": extra,
        "failed and retried": sum(key in done or n > 1 for key, n in failed.items()),
        "attempts that failed": sum(failed.values()),
        **{f"dead, {why}": n for why, n in sorted(Counter(reason.values()).items())},
        "lost": len(lost),
    }
    return counts, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3, help="how long to kill (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="who is killed (default: 1)")
    parser.add_argument("--synchronous", choices=("normal", "full"), default="normal")
    parser.add_argument("--role", choices=("work", "send"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        return {"work": work, "send": send}[arguments.role](arguments.directory, arguments.synchronous)

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        kills = fire(directory, arguments.synchronous, arguments.minutes, arguments.seed)
        counts, findings = account(directory, arguments.synchronous)
        left = sorted(path.name for path in directory.glob("jobs.db-worker-*"))
        for what, count in [*((f"killed, {role}", n) for role, n in kills.items()), *counts.items()]:
            print(f"{what:36} {count}")
        findings += [f"a worker's file was left behind: {file}" for file in left]
        if kills["ended by themselves"]:
            findings.append(f"processes ended by themselves:\n{(directory / 'log').read_text()[-2_000:]}")
        print("\n".join(findings[:50]) or "nothing is wrong")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
