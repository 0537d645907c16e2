"""Our brokers under gevent, where a thread that blocks in the kernel blocks all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dramatiq_retryq import SQLiteBroker
from tests.interop import four

APPLICATION = """
    import os
    import sys

    import dramatiq

    from dramatiq_retryq import RetryQueue, SQLiteBroker, current_attempt

    broker = SQLiteBroker("jobs.db", retry_queue=RetryQueue(backoff=[20]))
    dramatiq.set_broker(broker)


    @dramatiq.actor
    def work(number):
        if number % 10 == 0 and current_attempt().number == 1:
            raise ConnectionError("nobody answers")
        with open("ran.txt", "a") as file:
            print(number, os.getpid(), file=file)
"""


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_greenlets_work_retry_time_out_and_get_results(run: Callable[..., list[str]], kind: str) -> None:
    assert run("gevent_script.py", kind) == ["220 True", "hang exhausted TimeLimitExceeded 3"]


def test_the_command_runs_what_another_process_sends_once_each_and_stops_in_order(tmp_path: Path) -> None:
    (tmp_path / "small_app.py").write_text(textwrap.dedent(APPLICATION))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(four.ROOT)])}
    command = subprocess.Popen(
        [Path(sys.executable).with_name("dramatiq-gevent"), "small_app", "--processes", "2", "--threads", "20"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    ran = tmp_path / "ran.txt"
    try:
        send = "import small_app\nfor n in range(300): small_app.work.send(n)"
        subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environment, check=True)
        four.eventually(lambda: ran.exists() and len(ran.read_text().splitlines()) >= 300)
        command.send_signal(signal.SIGTERM)
        output, _ = command.communicate(timeout=four.PATIENCE)
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
            command.communicate()
    assert command.returncode == 0, output
    assert Counter(int(line.split()[0]) for line in ran.read_text().splitlines()) == Counter(range(300))
    broker = SQLiteBroker(tmp_path / "jobs.db")
    assert broker.check() == []
    assert broker.counts() == {}
    broker.close()


def test_two_that_write_to_one_file_do_not_wait_for_each_other_for_ever(run: Callable[..., list[str]]) -> None:
    assert run("gevent_turn_script.py") == ["[False, False]", "1 7"]
