"""A SQLite broker under the ``dramatiq`` command, with several worker processes and a sender in yet another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dramatiq_retryq
from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.records import QueueCounts

APPLICATION = """
    import logging
    import os
    import sys
    import threading

    import dramatiq

    from dramatiq_retryq import SQLiteBroker, current_attempt

    dramatiq.set_broker(SQLiteBroker(os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs.db")))
    logger = logging.getLogger("small_app")


    @dramatiq.actor
    def work(name):
        logger.info("ran %s in %d", name, os.getpid())


    @dramatiq.actor
    def hang(name):
        crashes = [attempt.error for attempt in current_attempt().previous]
        logger.info("began %s in %d after %r", name, os.getpid(), crashes)
        if not crashes:
            threading.Event().wait()


    if __name__ == "__main__":
        actor = {"work": work, "hang": hang}[sys.argv[1]]
        for name in sys.argv[2:]:
            actor.send(name)
"""
PATIENCE = 60


def send(directory: Path, *arguments: str) -> None:
    """Send from a process of its own."""
    root = Path(dramatiq_retryq.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "small_app.py", *arguments], cwd=directory, env=environment, check=True)


def start(command: Any, processes: int = 2) -> Any:
    running = command(APPLICATION, "--processes", str(processes), "--threads", "2")
    running.wait_for("ready for action", times=processes)
    return running


def counts(directory: Path) -> QueueCounts:
    broker = SQLiteBroker(directory / "jobs.db")
    assert broker.check() == []
    found = broker.counts().get("default", QueueCounts())
    broker.close()
    return found


def names(running: Any) -> list[str]:
    return [line.split(" ran ")[1].split(" in ")[0] for line in running.with_text(" ran ")]


def test_what_another_process_sends_is_run_once_each_though_the_command_is_stopped_in_between(
    command: Any, tmp_path: Path
) -> None:
    sent = [f"m{number}" for number in range(300)]
    first = start(command)
    send(tmp_path, "work", *sent)
    first.wait_for(" ran ", times=50)
    assert first.terminate() == 0
    left = counts(tmp_path)
    # What was run is gone, what was fetched waits again, and the workers have taken their side files away.
    assert (left.waiting, left.claimed) == (len(sent) - len(names(first)), 0)
    assert sorted(path.name for path in tmp_path.glob("jobs.db*")) == ["jobs.db", "jobs.db-turn"]
    second = start(command)
    send(tmp_path, "work", "one more")
    second.wait_for(" ran ", times=left.waiting + 1)
    assert second.terminate() == 0
    assert Counter(names(first) + names(second)) == Counter([*sent, "one more"])
    assert counts(tmp_path) == QueueCounts()
    assert [*first.with_text("Traceback"), *second.with_text("Traceback")] == []


def test_both_worker_processes_share_the_work(command: Any, tmp_path: Path) -> None:
    running = start(command)
    send(tmp_path, "work", *[f"m{number}" for number in range(300)])
    running.wait_for(" ran ", times=300)
    assert running.terminate() == 0
    assert len({line.rsplit(" in ")[1] for line in running.with_text(" ran ")}) == 2


def test_what_a_killed_worker_process_was_running_is_run_when_the_command_is_started_again(
    command: Any, tmp_path: Path
) -> None:
    first = start(command, processes=1)
    send(tmp_path, "hang", "it")
    first.wait_for("began it")
    [line] = first.with_text("began it")
    assert line.endswith("after []")
    os.kill(int(line.split(" in ")[1].split()[0]), signal.SIGKILL)
    # The command ends when one of its processes has died, for a supervisor to start it again.
    assert first.process.wait(PATIENCE) != 0
    second = start(command, processes=1)
    second.wait_for("began it")
    assert second.with_text("began it")[0].endswith("after ['WorkerCrashed']")
    send(tmp_path, "work", "one more")
    second.wait_for(" ran one more")
    assert second.terminate() == 0
    assert counts(tmp_path) == QueueCounts()
