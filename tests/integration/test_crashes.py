"""Workers that are killed: nothing is lost, and a message that kills them is dead after ``max_crashes``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import DeadLetters
from tests.integration import worker_process
from tests.integration.conftest import forget_rabbitmq, forget_redis, running
from tests.integration.servers import wait_until


class Place:
    """A queue on a server, and processes that work on it."""

    def __init__(self, kind: str, url: str, name: str, file: Path) -> None:
        self.kind, self.url, self.name, self.file = kind, url, name, file
        self.processes: list[subprocess.Popen[bytes]] = []
        self.broker: Any
        self.actor: Any

    def use(self, code: str = "", **options: Any) -> None:
        self.close()
        self.broker, self.actor = worker_process.make(self.url, self.name, self.name, str(self.file), code, **options)
        dramatiq.set_broker(self.broker)

    def close(self) -> None:
        if hasattr(self, "broker"):
            self.broker.close()
            if self.kind == "redis":
                self.broker.client.close()

    def start(self, code: str) -> subprocess.Popen[bytes]:
        arguments = [self.url, self.name, self.name, str(self.file), code]
        command = [sys.executable, "-m", "tests.integration.worker_process", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def runs(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def letters(self) -> list[Any]:
        return list(DeadLetters.of(self.broker).list(queue=self.name))


@pytest.fixture(params=["redis", "rabbitmq"])
def place(request: pytest.FixtureRequest, name: str, tmp_path: Path, global_broker: Any) -> Any:
    url = request.getfixturevalue(f"{request.param}_url")
    place = Place(request.param, url, name, tmp_path / "runs")
    place.use()
    yield place
    for process in place.processes:
        process.kill()
        process.wait()
    place.close()
    if place.kind == "redis":
        forget_redis(url, name)
    else:
        forget_rabbitmq(url, {name})


def test_a_message_that_kills_its_worker_is_dead_after_max_crashes(place: Place) -> None:
    place.actor.send(1)
    for _ in range(3):
        assert place.start("die").wait(30) == -9
    place.use("die")
    with running(place.broker):
        wait_until(place.letters, 30, "a dead letter")
    assert place.runs() == ["1 1"] * 3
    (letter,) = place.letters()
    assert letter.reason == "crashed"
    assert letter.error.type == "WorkerCrashed"
    assert [attempt.error for attempt in letter.attempts] == ["WorkerCrashed"]


def test_what_was_fetched_beside_it_is_run(place: Place) -> None:
    place.actor.send(13)
    place.actor.send(1)
    for _ in range(3):
        assert place.start("die of 13").wait(30) == -9
    place.use("die of 13")
    with running(place.broker):
        wait_until(lambda: place.letters() and "1 1" in place.runs(), 30, "a dead letter and a run")
    assert place.runs().count("13 1") == 3
    if place.kind == "redis":
        assert place.runs().count("1 1") == 1
    else:
        # Its ack may still be on the way to RabbitMQ when the other one kills the process: it is run again, as the same
        # message and attempt.
        assert set(place.runs()) == {"13 1", "1 1"}
    assert [letter.message.args for letter in place.letters()] == [(13,)]


def test_a_run_that_ends_forgives_what_was_before(place: Place) -> None:
    place.actor.send(1)
    for _ in range(2):
        assert place.start("die").wait(30) == -9
    place.use()
    with running(place.broker):
        wait_until(lambda: len(place.runs()) == 3, 30, "a run that goes well")
    place.actor.send(1)
    assert place.letters() == []


def test_a_replayed_crash_is_counted_anew(place: Place) -> None:
    place.actor.send(1)
    for _ in range(3):
        place.start("die").wait(30)
    place.use()
    with running(place.broker):
        wait_until(place.letters, 30, "a dead letter")
        DeadLetters.of(place.broker).replay_all()
        wait_until(lambda: len(place.runs()) == 4, 30, "a run")
    assert place.letters() == []


def test_a_worker_killed_between_storing_a_retry_and_the_ack_doubles_it_at_most_once(place: Place) -> None:
    place.use(max_retries=1)
    place.actor.send(1)
    assert place.start("raise, and die before the ack").wait(30) == -9
    place.use("raise", max_retries=1)
    with running(place.broker):
        wait_until(place.letters, 30, "a dead letter")
        if place.kind == "redis":
            # The retry was there and the original gone in one move.
            assert place.runs() == ["1 1", "1 2"]
        else:
            # The same message and attempt again, by which a doublet is known.
            wait_until(lambda: len(place.runs()) == 4, 30, "the doublet to be done")
            assert sorted(place.runs()) == ["1 1", "1 1", "1 2", "1 2"]
    assert len(place.letters()) == 1
