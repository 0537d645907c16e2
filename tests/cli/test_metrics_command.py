"""Health and metrics under the ``dramatiq`` command: one endpoint beside the workers, and each retry counted once."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import dramatiq_retryq
from dramatiq_retryq.clock import SystemClock
from tests.metrics.scraping import Samples, get, health, of, read, scrape, value

APPLICATION = """
    import logging
    import os
    import sys

    import dramatiq

    from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker, current_attempt

    here = os.path.dirname(os.path.abspath(__file__))
    retry_queue = RetryQueue(max_retries=2, backoff=[10], health="127.0.0.1:0")
    broker = SQLiteBroker(os.path.join(here, "jobs.db"), retry_queue=retry_queue)
    dramatiq.set_broker(broker)
    logger = logging.getLogger("small_app")


    @dramatiq.actor
    def flaky(name):
        if current_attempt().number < 3:
            raise ConnectionError
        logger.info("done %s in %d", name, os.getpid())


    @dramatiq.actor(max_retries=0)
    def fail(name):
        raise ConnectionError


    if __name__ == "__main__":
        actor = {"flaky": flaky, "fail": fail}[sys.argv[1]]
        for name in sys.argv[2:]:
            actor.send(name)
"""
PATIENCE = 30


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command's processes count."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setenv("dramatiq_prom_db", str(directory / "prometheus"))
    return directory


def send(directory: Path, *arguments: str) -> None:
    """Send from a process of its own."""
    root = Path(dramatiq_retryq.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "small_app.py", *arguments], cwd=directory, env=environment, check=True)


def url_of(running: Any) -> str:
    running.wait_for("Health is served at")
    [line] = running.with_text("Health is served at")
    found = re.search(r"http://\S+?:\d+(?=/healthz)", line)
    assert found is not None
    return found[0]


def wait_until(is_so: Callable[[], bool]) -> None:
    began = monotonic()
    while not is_so():
        assert monotonic() - began < PATIENCE
        SystemClock().sleep(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sum_of(found: Samples, name: str) -> float:
    return sum(of(found, name).values())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_processes_count_each_retry_once_and_are_scraped_at_one_place(
    command: Any, tmp_path: Path, temporary: Path, method: str
) -> None:
    spawn = ["--use-spawn"] if method == "spawn" else []
    running = command(APPLICATION, "--processes", "2", "--threads", "2", *spawn)
    url = url_of(running)
    send(tmp_path, "flaky", *[f"m{number}" for number in range(40)])
    send(tmp_path, "fail", "x", "y")
    running.wait_for(" done m", times=40)
    wait_until(lambda: sum_of(scrape(url), "retryq_deaths_total") == 2)
    found = scrape(url)
    assert of(found, "retryq_retries_total") == {"flaky default": 80}
    assert of(found, "retryq_attempts_total") == {
        "flaky retried default": 80,
        "flaky succeeded default": 40,
        "fail died default": 2,
    }
    assert of(found, "retryq_deaths_total") == {"fail default exhausted": 2}
    assert of(found, "retryq_attempt_duration_seconds_count") == {"flaky default": 120, "fail default": 2}
    assert of(found, "retryq_dead_letters") == {"exhausted": 2}
    assert value(found, "retryq_messages", queue_name="default", state="dead") == 2
    assert value(found, "retryq_workers") == 2
    # Both had a part in it.
    assert len({line.rsplit(" in ")[1] for line in running.with_text(" done ")}) == 2
    status, told = health(url)
    assert (status, told["workers"], told["dead"]) == (200, 2, 2)
    assert running.terminate() == 0
    assert len(running.with_text("Traceback")) == 2  # the two deaths
    assert list(temporary.iterdir()) == []


def test_with_dramatiqs_prometheus_middleware_all_is_on_its_endpoint(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("dramatiq_prom_port", str(port))
    monkeypatch.setenv("dramatiq_prom_host", "127.0.0.1")
    application = APPLICATION.replace(
        "dramatiq.set_broker(broker)",
        "from dramatiq.middleware.prometheus import Prometheus\n"
        "    broker.add_middleware(Prometheus())\n"
        "    dramatiq.set_broker(broker)",
    )
    running = command(application, "--processes", "2", "--threads", "2")
    url = url_of(running)
    send(tmp_path, "flaky", *[f"m{number}" for number in range(10)])
    running.wait_for(" done m", times=10)

    def reads() -> Samples:
        return read(get(f"http://127.0.0.1:{port}/")[1].decode())

    wait_until(lambda: sum_of(reads(), "retryq_attempts_total") == 30)
    found = reads()
    assert of(found, "retryq_retries_total") == {"flaky default": 20}
    assert of(found, "dramatiq_messages_total") == {"flaky default": 30}
    assert of(found, "dramatiq_message_retries_total") == {"flaky default": 20}
    assert value(found, "retryq_workers") == 2
    assert value(found, "retryq_messages", queue_name="default", state="due") == 0
    # What is scraped at two places counts twice.
    assert get(f"{url}/metrics") == (404, b"There is nothing here but /healthz.\n")
    assert running.terminate() == 0


def test_a_memory_broker_is_served_from_the_worker_process_which_has_the_messages(command: Any) -> None:
    application = APPLICATION.replace(
        'broker = SQLiteBroker(os.path.join(here, "jobs.db"), retry_queue=retry_queue)',
        """class SendsAtBoot(dramatiq.Middleware):
        def after_worker_boot(self, broker, worker):
            flaky.send("m")
            fail.send("x")


    broker = MemoryBroker(retry_queue=retry_queue)
    broker.add_middleware(SendsAtBoot())""",
    )
    running = command(application, "--processes", "1", "--threads", "1")
    url = url_of(running)
    running.wait_for(" done m")
    wait_until(lambda: health(url)[1]["dead"] == 1)
    assert of(scrape(url), "retryq_retries_total") == {"flaky default": 2}
    assert running.terminate() == 0


def test_a_port_that_is_taken_is_said_once_and_the_workers_go_on(command: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        application = APPLICATION.replace("127.0.0.1:0", f"127.0.0.1:{port}")
        running = command(application, "--processes", "2", "--threads", "1")
        running.wait_for("Health is not served: ")
        send(tmp_path, "flaky", "m")
        running.wait_for(" done m")
        [line] = running.with_text("Health is not served: ")
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in line
    assert "[ERROR]" in line
    assert running.terminate() == 0
    assert running.with_text("Traceback") == []


def test_the_endpoint_ends_with_a_command_that_is_killed(command: Any) -> None:
    running = command(APPLICATION, "--processes", "1", "--threads", "1")
    url = url_of(running)
    assert health(url)[0] == 200
    os.kill(running.process.pid, signal.SIGKILL)

    def is_gone() -> bool:
        try:
            get(f"{url}/healthz")
        except OSError:
            return True
        return False

    try:
        wait_until(is_gone)
    finally:  # its workers go on
        os.killpg(running.process.pid, signal.SIGKILL)


def test_without_health_no_process_is_started_beside_the_workers(command: Any) -> None:
    application = APPLICATION.replace(', health="127.0.0.1:0"', "")
    running = command(application, "--processes", "1", "--threads", "1")
    running.wait_for("ready for action")
    assert running.terminate() == 0
    assert running.with_text("ForkProcess") == []
