"""The command ``retryq`` in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest

import dramatiq_retryq
from dramatiq_retryq import SQLiteBroker
from tests.cli.conftest import PATIENCE, letters_of

ROOT = Path(dramatiq_retryq.__file__).parent.parent

WITHOUT_CLICK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("click", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
sys.argv = ["retryq", "status"]
from dramatiq_retryq.__main__ import main
main()
"""


@pytest.fixture
def retryq(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def retryq(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dramatiq_retryq", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield retryq
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SQLiteBroker]:
    broker = SQLiteBroker(tmp_path / "jobs.db")

    def deliver(order: int) -> None: ...

    dramatiq.actor(deliver, broker=broker, queue_name="orders")
    yield broker
    assert broker.check() == []
    broker.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_it_is_a_module_and_a_script(retryq: Any) -> None:
    code, out, err = ended(retryq("--version"))
    assert (code, err) == (0, "")
    script = Path(sysconfig.get_path("scripts")) / "retryq"
    if not script.exists():
        assert shutil.which("retryq") is None, "installed without its script"
        pytest.skip("dramatiq_retryq is not installed here")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout == out


def test_without_its_extra_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CLICK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "retryq: this needs an optional dependency: pip install 'dramatiq_retryq[cli]'\n"


def test_a_module_of_the_working_directory_is_found(retryq: Any, tmp_path: Path) -> None:
    (tmp_path / "small_shop.py").write_text(
        "import dramatiq\nfrom dramatiq_retryq import SQLiteBroker\n"
        "dramatiq.set_broker(SQLiteBroker('jobs.db'))\n@dramatiq.actor\ndef work(): ...\nwork.send()\n"
    )
    code, out, err = ended(retryq("status", "small_shop", "--format", "json"))
    assert (code, err) == (0, "")
    assert [(queue["name"], queue["due"]) for queue in json.loads(out)["queues"]] == [("default", 1)]


def test_where_nobody_can_answer_it_says_what_to_say(retryq: Any, broker: SQLiteBroker) -> None:
    letters_of(broker, 2)
    code, out, err = ended(retryq("dead", "discard", "jobs.db"))
    assert (code, out.strip(), len(broker.dead_letters)) == (1, "", 2)
    assert "nobody answered, and nothing was done: say --yes" in err


def test_ctrl_c_ends_a_replay_between_two_letters_and_the_same_command_does_the_rest(
    retryq: Any, broker: SQLiteBroker
) -> None:
    letters_of(broker, 3_000)
    process = retryq("dead", "replay", "jobs.db", "--yes")
    while not broker.counts()["orders"].waiting:
        assert process.poll() is None
        threading.Event().wait(0.002)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130, err
    replayed = broker.counts()["orders"].waiting
    assert 0 < replayed < 3_000
    assert out == f"{replayed:,} of 3,000 dead letters replayed.\n"
    assert ended(retryq("dead", "replay", "jobs.db", "--yes"))[0] == 0
    assert (broker.counts()["orders"].waiting, len(broker.dead_letters)) == (3_000, 0)


def read_terminal(end: int) -> str:
    """What was written to a terminal until nobody had it open any more."""
    written = b""
    with contextlib.suppress(OSError):  # Linux says so in this way
        while data := os.read(end, 65536):
            written += data
    return written.decode()


def test_a_terminal_is_shown_the_progress_of_many(tmp_path: Path, broker: SQLiteBroker) -> None:
    letters_of(broker, 50)
    here, there = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "dramatiq_retryq", "dead", "replay", "jobs.db", "--yes"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=there,
        text=True,
    ) as process:
        os.close(there)
        shown = read_terminal(here)
        out, _ = process.communicate(timeout=PATIENCE)
    os.close(here)
    assert (process.returncode, out) == (0, "50 of 50 dead letters replayed.\n")
    assert "50/50" in shown
    assert "\x1b[2K" in shown, "it is taken away in the end"


def test_a_pipe_gets_no_progress(retryq: Any, broker: SQLiteBroker) -> None:
    letters_of(broker, 50)
    code, out, err = ended(retryq("dead", "replay", "jobs.db", "--yes"))
    assert (code, out, err) == (0, "50 of 50 dead letters replayed.\n", "")


def test_two_replays_at_once_bring_each_letter_back_once(retryq: Any, broker: SQLiteBroker) -> None:
    letters_of(broker, 1_000)
    both = [retryq("dead", "replay", "jobs.db", "--yes") for _ in range(2)]
    outcomes = [ended(process) for process in both]
    assert [code for code, _, _ in outcomes] == [0, 0]
    assert broker.counts()["orders"].waiting == 1_000
    replayed = [int(out.split()[0].replace(",", "")) for _, out, _ in outcomes if out]
    assert sum(replayed) == 1_000


def test_a_replay_beside_a_worker_at_work_runs_each_letter_once(
    command: Any, retryq: Any, broker: SQLiteBroker, tmp_path: Path
) -> None:
    letters_of(broker, 300)
    running = command(
        """
        import dramatiq
        from dramatiq_retryq import SQLiteBroker

        dramatiq.set_broker(SQLiteBroker("jobs.db"))

        @dramatiq.actor(queue_name="orders")
        def deliver(order):
            with open("delivered", "ab", buffering=0) as lines:
                lines.write(b"%d\\n" % order)
        """,
        "--processes",
        "1",
    )
    running.wait_for("ready for action")
    assert ended(retryq("dead", "replay", "jobs.db", "--yes"))[:2] == (0, "300 of 300 dead letters replayed.\n")
    broker.join("orders", timeout=PATIENCE * 1000)
    assert running.terminate() == 0
    delivered = (tmp_path / "delivered").read_text().split()
    assert sorted(map(int, delivered)) == list(range(300))
    assert len(broker.dead_letters) == 0


def test_a_reader_that_has_read_enough_is_no_reason_for_a_traceback(retryq: Any, broker: SQLiteBroker) -> None:
    letters_of(broker, 500)
    process = retryq("dead", "list", "jobs.db", "--format", "jsonl")
    assert json.loads(process.stdout.readline())["reason"] == "exhausted"
    process.stdout.close()
    process.wait(PATIENCE)
    assert "Traceback" not in process.stderr.read()


def test_a_reader_that_has_gone_before_a_short_output_is_written_is_no_reason_for_a_complaint(
    retryq: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # so that it is written at the end
    process = retryq("plan", "--format", "csv")
    process.stdout.close()
    assert (process.stderr.read(), process.wait(PATIENCE)) == ("", 1)


@pytest.mark.parametrize("closed", [0, 1, 2])
@pytest.mark.parametrize("arguments", [["status"], ["dead", "discard"], ["dead", "list", "--format", "json"]])
def test_a_stream_that_is_closed_is_no_reason_for_a_traceback(
    broker: SQLiteBroker, tmp_path: Path, closed: int, arguments: list[str]
) -> None:
    letters_of(broker, 1)
    command = [sys.executable, "-m", "dramatiq_retryq", *arguments, "jobs.db"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "discard" in arguments else 0)
    assert len(broker.dead_letters) == 1


def test_what_an_application_prints_is_no_part_of_the_listing(retryq: Any, tmp_path: Path) -> None:
    (tmp_path / "chatty_shop.py").write_text(
        "import dramatiq\nfrom dramatiq_retryq import SQLiteBroker\nprint('starting the shop')\n"
        "dramatiq.set_broker(SQLiteBroker('jobs.db'))\n@dramatiq.actor(max_retries=1)\ndef work(): ...\n"
    )
    for arguments in (["status", "chatty_shop"], ["plan", "chatty_shop:work"]):
        code, out, err = ended(retryq(*arguments, "--format", "json"))
        assert (code, err) == (0, "starting the shop\n")
        assert json.loads(out)


def test_what_was_paused_before_the_workers_start_waits_until_it_is_resumed(
    command: Any, retryq: Any, tmp_path: Path
) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    work = dramatiq.actor(lambda name: None, actor_name="work", broker=broker)
    work.send("it")
    assert ended(retryq("pause", "jobs.db", "--actor", "work"))[0] == 0
    running = command(
        """
        import logging
        import dramatiq
        from dramatiq_retryq import SQLiteBroker

        dramatiq.set_broker(SQLiteBroker("jobs.db"))

        @dramatiq.actor
        def work(name):
            logging.getLogger("small_app").info("ran %s", name)
        """,
        "--processes",
        "1",
    )
    running.wait_for("ready for action")
    # Until a worker has seen it, and set it aside.
    while json.loads(ended(retryq("status", "jobs.db", "--format", "json"))[1])["queues"][0]["held"] != 1:
        assert running.process.poll() is None
    assert not running.with_text("ran it")
    assert ended(retryq("resume", "jobs.db", "--all"))[0] == 0
    running.wait_for("ran it")
    broker.close()
