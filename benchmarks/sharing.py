"""Several writers of one SQLite file: processes that compete for it, threads that commit together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import dramatiq

from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.database import Synchronous
from dramatiq_retryq.sqlite_store import SQLiteStore

WRITERS = 3
WRITING_S = 10.0
#: What an encoded message of an actor with one small argument weighs.
BODY = b"x" * 190

SENDERS = 8
SENDING_S = 3.0


def fairness(synchronous: Synchronous) -> dict[str, float]:
    """Three processes put entries flat out for 10 s: the least part of a fair share, and the longest single write.

    The machine has its say in the longest: what it is when the same processes write to a file each is measured
    just before.
    """
    with tempfile.TemporaryDirectory() as directory:
        alone = _write_at_once([Path(directory, f"own-{n}.db") for n in range(WRITERS)], synchronous, 3.0)
        shared = _write_at_once([Path(directory, "shared.db")] * WRITERS, synchronous, WRITING_S)
    counts = [run["writes"] for run in shared]
    return {
        "per_second": sum(counts) / WRITING_S,
        "least_share": min(counts) * WRITERS / sum(counts),
        "p99_ms": max(run["p99_ms"] for run in shared),
        "longest_ms": max(run["longest_ms"] for run in shared),
        "over_100_ms": sum(run["over_100_ms"] for run in shared),
        "longest_alone_ms": max(run["longest_ms"] for run in alone),
    }


def _write_at_once(paths: list[Path], synchronous: Synchronous, seconds: float) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.sharing", synchronous, str(seconds)]
    writers = [
        subprocess.Popen([*command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for path in paths
    ]
    for writer in writers:
        assert writer.stdout
        writer.stdout.readline()  # It has opened its file.
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    return [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]


def _write(synchronous: Synchronous, seconds: float, path: Path) -> None:
    store = SQLiteStore(path, synchronous=synchronous)
    print("ready", flush=True)
    sys.stdin.readline()
    waits: list[float] = []
    now = before = time.perf_counter()
    end = now + seconds
    while now < end:
        store.put("default", BODY, due_at=0, now=0)
        now = time.perf_counter()
        waits.append(now - before)
        before = now
    waits.sort()
    figures = {
        "writes": len(waits),
        "p99_ms": waits[len(waits) * 99 // 100] * 1_000,
        "longest_ms": waits[-1] * 1_000,
        "over_100_ms": sum(wait > 0.1 for wait in waits),
    }
    print(json.dumps(figures), flush=True)


def grouped_commits() -> dict[str, float]:
    """Eight threads send under "full", against one thread, and against what the disk syncs of one page each."""
    with tempfile.TemporaryDirectory() as directory:
        syncs: list[float] = []
        one: list[float] = []
        eight: list[float] = []
        for number in range(3):  # In turn, since the disk is not the same from one second to the next.
            syncs.append(_sync_rate(Path(directory, f"sync-{number}")))
            one.append(_send_rate(Path(directory, f"one-{number}.db"), 1))
            eight.append(_send_rate(Path(directory, f"eight-{number}.db"), SENDERS))
    return {
        "syncs_per_second": median(syncs),
        "one_per_second": median(one),
        "eight_per_second": median(eight),
        "eight_by_one": median(more / less for more, less in zip(eight, one, strict=True)),
        "eight_by_syncs": median(more / less for more, less in zip(eight, syncs, strict=True)),
    }


def _sync_rate(path: Path) -> float:
    """What one commit costs the disk at least: a page of a log written over, and a sync."""
    with path.open("w+b", buffering=0) as file:
        file.write(bytes(4096 * 1_000))
        os.fsync(file.fileno())
        times, end = 0, time.perf_counter() + SENDING_S / 2
        while time.perf_counter() < end:
            os.pwrite(file.fileno(), os.urandom(4096), times % 1_000 * 4096)
            os.fdatasync(file.fileno())
            times += 1
    return times / (SENDING_S / 2)


def _send_rate(path: Path, threads: int) -> float:
    broker = SQLiteBroker(path, synchronous="full")
    counts = [0] * threads

    @dramatiq.actor(broker=broker)
    def noop(number: int) -> None:
        pass

    for number in range(1_000):
        noop.send(number)
    end = time.perf_counter() + SENDING_S

    def send(sender: int) -> None:
        while time.perf_counter() < end:
            noop.send(sender)
            counts[sender] += 1

    senders = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    broker.close()
    return sum(counts) / SENDING_S


if __name__ == "__main__":
    level, length, name = sys.argv[1:]
    _write("full" if level == "full" else "normal", float(length), Path(name))
