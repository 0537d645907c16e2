"""Every example is run by its documented command, and does what its documentation says.

Most of what the examples do is waiting, so they are all run at the same time; the tests look at what came of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from dramatiq_retryq import SQLiteBroker
from examples.webhooks import signing
from examples.webhooks.events import load_events
from examples.webhooks.receiver import Receiver

ROOT = Path(__file__).parents[2]
EVENTS = [json.loads(line) for line in (ROOT / "examples/webhooks/events.jsonl").read_text("utf-8").splitlines()]
TIMEOUT = 90
SETTINGS = {"RETRYQ_BROKER", "REDIS_URL", "WEBHOOKS_SECRET", "WEBHOOKS_DEAD_LETTERS"}


@dataclass(frozen=True)
class Run:
    """What a run of an example has left."""

    exit_code: int
    output: str
    letters: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""

    def table(self, title: str) -> dict[str, int]:
        """The table with this title in the output, its total included."""
        lines = self.output[self.output.index(title) :].splitlines()[1:]
        rows = {}
        for line in lines:
            if row := re.fullmatch(r" *(\S.*?) {2,}(\d+) *", line):
                rows[row[1]] = int(row[2])
            if "total" in rows:
                break
        return rows


@contextmanager
def started(*arguments: object, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start `python …` in the checkout, as the documentation says, and leave nothing behind."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in SETTINGS} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    deadline = threading.Timer(TIMEOUT, process.kill)
    deadline.start()
    with process:
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints, to the end of the first line with this text in it."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"{text!r} was never printed:\n{output}")


def finish(process: subprocess.Popen[str]) -> Run:
    # A child of the process writes to the same pipe: this runs into the time-out if one lives on.
    output, _ = process.communicate(timeout=TIMEOUT)
    return Run(process.returncode, output)


def run(*arguments: object) -> Run:
    with started(*arguments) as process:
        return finish(process)


# -- The runs --------------------------------------------------------------------------------------------------------


def run_webhooks(output: Path, *options: object) -> Run:
    result = run("-m", "examples.webhooks", "--fast", "--output", output, *options)
    letters = load_letters(output / "dead_letters.jsonl")
    return Run(result.exit_code, result.output, letters, (output / "worker.log").read_text("utf-8"))


def load_letters(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def run_webhooks_with_a_hopeless_event(output: Path) -> Run:
    fine = {"id": "evt_fine", "customer": "harbour-coffee", "data": {"amount": "1,00"}}
    hopeless = {"id": "evt_hopeless", "customer": "harbour-coffee", "data": {"amount": "a lot"}}
    events = output / "events.jsonl"
    output.mkdir()
    events.write_text(f"{json.dumps(fine)}\n{json.dumps(hopeless)}\n", "utf-8")
    return run_webhooks(output, "--events", events)


def end_webhooks(output: Path, by: signal.Signals) -> Run:
    with started("-m", "examples.webhooks", "--output", output) as process:
        read_until(process, "sending 300 events")
        process.send_signal(by)
        return finish(process)


def run_webhooks_app(output: Path) -> Run:
    with started("-m", "dramatiq", "examples.webhooks.app", "--processes", 1, "--threads", 2) as process:
        read_until(process, "ready for action")
        process.terminate()
        return finish(process)


def serve_embedded(output: Path) -> Run:
    with started("-m", "examples.embedded", "--port", 0) as process:
        (url,) = re.findall(r"http://127.0.0.1:\d+/", read_until(process, "Serving"))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, data=b"ada@example.com", timeout=5) as response:
            assert response.status == HTTPStatus.ACCEPTED
        printed = read_until(process, "mailed")
        process.send_signal(signal.SIGINT)
        result = finish(process)
    return Run(result.exit_code, printed + result.output)


RUNS = {
    "webhooks": run_webhooks,
    "webhooks with a hopeless event": run_webhooks_with_a_hopeless_event,
    "webhooks until Ctrl-C": lambda output: end_webhooks(output, signal.SIGINT),
    "webhooks until SIGKILL": lambda output: end_webhooks(output, signal.SIGKILL),
    "webhooks by the dramatiq command": run_webhooks_app,
    "embedded": lambda output: run("-m", "examples.embedded"),
    "embedded until Ctrl-C": serve_embedded,
    "existing_app": lambda output: run("-m", "examples.existing_app"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    directory = tmp_path_factory.mktemp("examples")
    with ThreadPoolExecutor(max_workers=len(RUNS)) as pool:
        yield {name: pool.submit(act, directory / name.replace(" ", "-")) for name, act in RUNS.items()}


@pytest.fixture
def webhooks(runs: dict[str, Future[Run]]) -> Run:
    return runs["webhooks"].result()


# -- Webhooks --------------------------------------------------------------------------------------------------------


def test_webhooks_delivers_or_explains_every_event(webhooks: Run) -> None:
    assert webhooks.exit_code == 0, webhooks.output
    assert "Every event was delivered or explained." in webhooks.output


def test_webhooks_accounts_for_as_many_events_as_there_are(webhooks: Run) -> None:
    rows = webhooks.table("What became of the events")
    assert rows.pop("total") == sum(rows.values()) == len(EVENTS)
    assert rows["delivered at the first attempt"] > 0
    assert any(name.startswith("delivered after") for name in rows)


def test_webhooks_meets_every_kind_of_failure(webhooks: Run) -> None:
    rows = webhooks.table("What the attempts led to")
    assert rows.pop("total") == sum(rows.values())
    assert set(rows) - {"connection lost"} == {
        "delivered",
        "connection refused",
        "time-out",
        "410 Gone",
        "500 Internal Server Error",
        "503 Service Unavailable",
    }


def test_webhooks_delivers_the_poisoned_event_after_it_died_and_was_replayed(webhooks: Run) -> None:
    assert webhooks.table("What became of the events")["died, was replayed, and delivered at attempt 11"] == 1
    (letter,) = (letter for letter in webhooks.letters if letter["reason"] == "exhausted")
    assert letter["message"]["kwargs"]["event"]["data"]["amount"] == "1.299,00"
    assert letter["error"]["type"] == letter["attempts"][-1]["error"] == "HTTPError"
    assert "500 Server Error" in letter["error"]["message"]
    assert "raise_for_status" in letter["traceback"]
    assert [attempt["n"] for attempt in letter["attempts"]] == list(range(1, 11))


def test_webhooks_gives_up_at_once_on_the_customer_who_has_closed_the_endpoint(webhooks: Run) -> None:
    closed = [event["id"] for event in EVENTS if event["customer"] == "old-mill-antiques"]
    reason = "old-mill-antiques has closed its endpoint (410 Gone)"
    assert webhooks.table("What became of the events")[f"gave up: {reason}"] == len(closed)
    letters = [letter for letter in webhooks.letters if letter["reason"] == "rejected"]
    assert sorted(letter["message"]["kwargs"]["event"]["id"] for letter in letters) == sorted(closed)
    assert {letter["error"]["message"] for letter in letters} == {reason}


def test_webhooks_logs_no_payload_and_no_secret(webhooks: Run) -> None:
    assert "of actor deliver" in webhooks.log
    for private in ("@example.", "1.299,00", signing.shared_secret().decode()):
        assert private not in webhooks.log


def test_webhooks_names_the_events_that_are_missing(runs: dict[str, Future[Run]]) -> None:
    result = runs["webhooks with a hopeless event"].result()
    assert result.exit_code == 1
    assert "neither delivered nor explained: evt_hopeless" in result.output
    assert result.table("What became of the events") == {
        "died, was replayed, and delivered at attempt 11": 1,
        "dead after all attempts": 1,
        "total": 2,
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        ('{"id": "evt_2", "data": {}}', "line 2: the event has no customer"),
        ('{"id": "evt_1", "customer": "acme-tools", "data": {}}', "line 2: a second event evt_1"),
    ],
)
def test_webhooks_says_what_is_wrong_with_a_file_of_events(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "evt_1", "customer": "acme-tools", "data": {}}\n' + line, "utf-8")
    with pytest.raises(SystemExit, match=complaint):
        load_events(path)


def test_webhooks_says_that_there_is_no_such_file_of_events(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.jsonl: No such file"):
        load_events(tmp_path / "nowhere.jsonl")


def test_webhooks_stops_cleanly_on_ctrl_c(runs: dict[str, Future[Run]]) -> None:
    result = runs["webhooks until Ctrl-C"].result()
    assert result.exit_code == 130
    assert re.search(r"Stopped; \d+ of 300 events were still on their way", result.output)
    assert "Traceback" not in result.output


def test_webhooks_leaves_no_receiver_behind_when_it_is_killed(runs: dict[str, Future[Run]]) -> None:
    assert runs["webhooks until SIGKILL"].result().exit_code == -signal.SIGKILL


def test_webhooks_app_runs_under_the_dramatiq_command(runs: dict[str, Future[Run]]) -> None:
    result = runs["webhooks by the dramatiq command"].result()
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output


def test_webhooks_are_delivered_by_two_worker_processes_while_another_process_sends(tmp_path: Path) -> None:
    settings = {
        "RETRYQ_BROKER": f"sqlite:///{tmp_path}/jobs.db",
        "WEBHOOKS_DEAD_LETTERS": str(tmp_path / "dead_letters.jsonl"),
    }
    workers = ("-m", "dramatiq", "examples.webhooks.app", "--processes", 2, "--threads", 8)
    sender = ("-m", "examples.webhooks", "--send-only", "--fast", "--output", tmp_path / "sender")
    with started(*workers, **settings) as process:
        reading = threading.Thread(target=process.communicate)
        reading.start()  # so that what it logs does not fill the pipe
        with started(*sender, **settings) as other:
            result = finish(other)
        process.terminate()
        reading.join(TIMEOUT)
    assert result.exit_code == 0, result.output
    assert "0 are missing" in result.output
    with closing(SQLiteBroker(tmp_path / "jobs.db")) as broker:
        assert broker.check() == []
        assert all(counts.waiting + counts.claimed == 0 for counts in broker.counts().values())


def test_webhooks_that_are_only_sent_need_a_file_that_is_shared(tmp_path: Path) -> None:
    result = run("-m", "examples.webhooks", "--send-only", "--output", tmp_path)
    assert result.exit_code == 2
    assert "RETRYQ_BROKER" in result.output


def test_the_receiver_takes_a_request_only_with_a_valid_signature() -> None:
    receiver = Receiver(b"key")
    body = json.dumps(EVENTS[0]).encode()
    now = int(time.time())

    def status(signature: str) -> HTTPStatus:
        return receiver.receive("harbour-coffee", signature, body).status

    assert status("") == HTTPStatus.UNAUTHORIZED
    assert status("t=1,v2=x") == HTTPStatus.UNAUTHORIZED
    assert status(signing.sign(b"other key", body, sent_at=now)) == HTTPStatus.UNAUTHORIZED
    assert status(signing.sign(b"key", body + b" ", sent_at=now)) == HTTPStatus.UNAUTHORIZED
    assert status(signing.sign(b"key", body, sent_at=now - 2 * signing.MAX_AGE)) == HTTPStatus.UNAUTHORIZED
    assert receiver.report()["stored"] == []
    assert status(signing.sign(b"key", body, sent_at=now)) == HTTPStatus.ACCEPTED
    assert receiver.report()["stored"] == [EVENTS[0]["id"]]


def test_the_receiver_stores_an_event_once() -> None:
    receiver = Receiver(b"key")
    body = json.dumps(EVENTS[0]).encode()
    for expected in (HTTPStatus.ACCEPTED, HTTPStatus.OK):
        signature = signing.sign(b"key", body, sent_at=int(time.time()))
        assert receiver.receive("harbour-coffee", signature, body).status == expected
    assert receiver.report() == {"requests": 2, "duplicates": 1, "stored": [EVENTS[0]["id"]]}


# -- The embedded worker ---------------------------------------------------------------------------------------------


def test_embedded_answers_at_once_and_mails_at_the_third_attempt(runs: dict[str, Future[Run]]) -> None:
    result = runs["embedded"].result()
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if not line.startswith("Attempt ")]
    for line in lines[:2]:
        assert re.fullmatch(
            r"(ada|alan)@example.com has signed up; the mail (waits for attempt \d|is being sent)", line
        )
    assert sorted(lines[2:4]) == ["mailed ada@example.com at attempt 3", "mailed alan@example.com at attempt 3"]
    assert lines[4:] == ["ada@example.com: the mail is out", "alan@example.com: the mail is out"]


def test_embedded_serves_until_ctrl_c(runs: dict[str, Future[Run]]) -> None:
    result = runs["embedded until Ctrl-C"].result()
    assert result.exit_code == 0, result.output
    first, second, third = result.output.splitlines()
    assert "ConnectionError: the mail server does not answer" in first
    assert "ConnectionError: the mail server does not answer" in second
    assert third == "mailed ada@example.com at attempt 3"


# -- The existing application ----------------------------------------------------------------------------------------


def test_existing_app_retries_and_is_told_of_the_death(runs: dict[str, Future[Run]]) -> None:
    result = runs["existing_app"].result()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    attempts = Counter(line.split()[1].rstrip(",") for line in lines if line.startswith("shrinking"))
    assert attempts == {"cat.jpg": 1, "dog.jpg": 3, "broken.jpg": 4}
    letter = lines.index("dead: broken.jpg (exhausted)")
    assert lines[letter + 1 :] == [f"  attempt {n}: ValueError: not a picture" for n in (1, 2, 3, 4)]


def test_existing_app_shows_the_lines_that_it_really_has() -> None:
    docstring, code = (ROOT / "examples/existing_app.py").read_text("utf-8").split("from __future__", 1)
    new_import, new_statement = re.findall(r"^    \+(.+)$", docstring, re.MULTILINE)
    assert new_import in code
    assert new_statement in code


# -- What the documentation says -------------------------------------------------------------------------------------


def test_the_index_names_every_example() -> None:
    index = (ROOT / "examples/README.md").read_text("utf-8")
    named = set(re.findall(r"`python -m examples\.(\w+)`", index))
    there = [path for path in (ROOT / "examples").glob("[!_]*") if path.suffix == ".py" or path.is_dir()]
    runs = {path.stem for path in there if path.suffix == ".py" or (path / "__main__.py").exists()}
    assert named == runs
    assert [path.name for path in there if path.stem not in runs and f"({path.name}/README.md)" not in index] == []


def test_the_readme_of_webhooks_shows_an_output_like_the_real_one(webhooks: Run) -> None:
    shown = Run(0, (ROOT / "examples/webhooks/README.md").read_text("utf-8"))
    # How many retries an event needs, and whether a connection breaks, differs from run to run.
    varies = re.compile("delivered after|connection lost")
    for title in ("What became of the events", "What the attempts led to"):
        rows = shown.table(title)
        assert rows["total"] == sum(rows.values()) - rows["total"]
        assert {row for row in rows if not varies.match(row)} == {
            row for row in webhooks.table(title) if not varies.match(row)
        }
