"""``retryq web`` and ``retryq health``: what they hand to the page and to health, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dramatiq_retryq
from dramatiq_retryq import MemoryBroker, SQLiteBroker
from tests.cli.conftest import PATIENCE, letters_of

ROOT = Path(dramatiq_retryq.__file__).parent.parent


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts ``retryq`` in a process, and gives it with the URL that it says."""
    SQLiteBroker(tmp_path / "jobs.db").close()
    started: list[subprocess.Popen[str]] = []

    def serving(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "dramatiq_retryq", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Serving (http://\S+); Ctrl-C ends it\.\n", line)
        assert found is not None, line or process.communicate()[1]
        return process, found[1]

    yield serving
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def healthz(url: str) -> str:
    return f"{url.rstrip('/').removesuffix('/healthz')}/healthz"


@pytest.mark.parametrize("command", [["web", "--port", "0"], ["health", "--address", "127.0.0.1:0"]])
def test_it_serves_until_ctrl_c_and_ends_well(serving: Any, command: list[str]) -> None:
    name, *options = command
    process, url = serving(name, "jobs.db", *options)
    with urllib.request.urlopen(healthz(url) if name == "health" else url, timeout=PATIENCE) as response:
        assert response.status == 200
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [["web", "--port", "{}"], ["health", "--address", "127.0.0.1:{}"]])
def test_a_port_that_is_taken_ends_with_3_and_a_sentence(run: Any, shop: ModuleType, command: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        name, *options = (part.format(port) for part in command)
        ended = run(name, "shop:broker", *options)
    assert (ended.code, ended.out) == (3, "")
    assert port in ended.err
    assert len(ended.err.splitlines()) == 1


def test_the_page_does_not_listen_beyond_loopback_unless_told_twice(run: Any, shop: ModuleType) -> None:
    ended = run("web", "shop:broker", "--host", "0.0.0.0", "--port", "0")
    assert (ended.code, ended.out) == (2, "")
    assert "--allow-anyone" in ended.err


def test_the_pages_options_are_handed_on(run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Page:
        def __init__(self, operations: Any, **options: Any) -> None:
            given.update(options, broker=operations.broker)

    def serve(page: Any, host: str, port: int, *, ready: Any) -> None:
        given.update(host=host, port=port)

    monkeypatch.setattr("dramatiq_retryq.web.RetryQueueWeb", Page)
    monkeypatch.setattr("dramatiq_retryq.web.serve", serve)
    options = [
        "--read-only",
        "--allow-anyone",
        "--allow-host",
        "a.example",
        "--base-url",
        "/retryq",
        "--hide-arguments",
    ]
    assert run("web", "shop:broker", "--host", "0.0.0.0", "--port", "80", *options).code == 0
    assert given == {
        "broker": shop.broker,
        "host": "0.0.0.0",
        "port": 80,
        "read_only": True,
        "allow_anyone": True,
        "hosts": ["a.example"],
        "base_url": "/retryq",
        "show_arguments": False,
    }


@pytest.mark.parametrize("options", [["--once"], ["--address", "127.0.0.1:0"]])
def test_a_server_of_whose_queues_nothing_is_known_is_not_said_to_be_well(run: Any, options: list[str]) -> None:
    pytest.importorskip("redis")
    ended = run("health", "redis://127.0.0.1:1/0", *options)
    assert (ended.code, ended.out) == (4, "")
    assert "knows no queues" in ended.err


def test_a_memory_broker_of_another_process_is_not_said_to_be_well(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("memory_shop")
    module.broker = MemoryBroker()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "memory_shop", module)
    ended = run("health", "memory_shop:broker", "--once")
    assert (ended.code, ended.out) == (4, "")
    assert "RetryQueue(health=…)" in ended.err
    module.broker.close()


def test_health_is_said_once(run: Any, shop: ModuleType) -> None:
    ended = run("health", "shop:broker", "--once")
    assert ended.code == 0
    assert json.loads(ended.out)["status"] == "ok"


@pytest.mark.parametrize("limit", [["--max-dead", "2"], ["--min-workers", "1"]])
def test_health_past_a_limit_ends_with_1_and_says_which(run: Any, shop: ModuleType, limit: list[str]) -> None:
    letters_of(shop.broker, 3)
    ended = run("health", "shop:broker", "--once", *limit)
    assert ended.code == 1
    assert json.loads(ended.out)["status"] != "ok"
    assert ended.err.startswith("retryq: ")


def test_health_past_a_limit_is_served_as_503(serving: Any) -> None:
    _, url = serving("health", "jobs.db", "--address", "127.0.0.1:0", "--min-workers", "1")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(healthz(url), timeout=PATIENCE)
    assert raised.value.code == 503
    raised.value.close()


@pytest.mark.parametrize(
    "options",
    [
        ["--max-failure-rate", "2"],
        ["--max-oldest-due-age", "soon"],
        ["--address", "nowhere:port"],
        ["--min-attempts", "0"],
    ],
)
def test_limits_and_addresses_that_make_no_sense_are_errors(run: Any, shop: ModuleType, options: list[str]) -> None:
    ended = run("health", "shop:broker", *options)
    assert ended.code in (2, 3)
    assert ended.out == ""
    assert options[1] in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["web", "shop:broker", "--host", "0.0.0.0", "--port", "0"], "--allow-anyone"),
        (["web", "shop:broker", "--base-url", "retryq"], "base_url"),
        (["health", "shop:broker", "--address", "foo"], "'foo'"),
    ],
)
def test_what_makes_no_sense_to_serve_is_a_usage_error(
    run: Any, shop: ModuleType, arguments: list[str], said: str
) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


@pytest.mark.parametrize("command", ["web", "health"])
def test_a_port_that_is_taken_is_something_that_is_not_there(run: Any, shop: ModuleType, command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        where = ["--port", port] if command == "web" else ["--address", f"127.0.0.1:{port}"]
        ended = run(command, "shop:broker", *where)
    assert (ended.code, ended.out) == (3, "")
    assert str(port) in ended.err
