"""``retryq status``: is it stuck, what fails, who works."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq.clock import VirtualClock

NOW = 1_767_225_600_000


@pytest.fixture
def busy(shop: ModuleType, drain: Any, clock: VirtualClock) -> ModuleType:
    """A shop with two messages due for 90 s, one for later, one that has just died."""
    shop.remind.send()
    shop.deliver.send()
    shop.remind.send()
    # What runs in between are the three attempts of deliver.
    for _ in range(3):
        claims = shop.broker.store.claim("default", now=clock.now(), limit=10, owner="elsewhere")
        drain(shop.broker, until=clock.now())
        shop.broker.store.release(claims, now=clock.now())
        clock.advance(1_000)
    clock.advance(87_000)
    shop.remind.send_with_options(delay=60_000)
    return shop


def status(run: Any, *arguments: object) -> dict[str, Any]:
    ended = run("status", "shop:broker", *arguments, "--format", "json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_the_table_has_queues_workers_and_rates(run: Any, busy: ModuleType) -> None:
    ended = run("status", "shop:broker")
    assert ended.code == 0
    lines = {line.split()[0]: line.split() for line in ended.out.splitlines() if line.strip()}
    assert lines["default"] == ["default", "2", "1", "0", "0", "1", "min", "30", "s", "ago"]
    assert lines["orders"][:5] == ["orders", "0", "0", "0", "1"]
    assert "last hour" in ended.out
    assert "exhausted 1" in ended.out
    assert "No worker lives." in ended.out


def test_json_has_all_of_it_under_the_librarys_names(run: Any, busy: ModuleType) -> None:
    found = status(run)
    default, orders = found["queues"]
    assert (default["name"], default["due"], default["later"], default["oldest_due_at"]) == ("default", 2, 1, NOW)
    assert (orders["dead"], orders["paused"]) == (1, False)
    assert found["last_hour"]["retried"] == 2
    assert found["last_hour"]["deaths"] == {"exhausted": 1}
    assert found["last_hour"]["failure_rate"] == 1.0
    assert found["workers"] == []
    assert found["paused"] == {"queues": {}, "actors": {}}


def test_jsonl_is_one_line_and_csv_a_line_for_each_queue(run: Any, busy: ModuleType) -> None:
    assert json.loads(run("status", "shop:broker", "--format", "jsonl").out.strip()) == status(run)
    rows = [*csv.DictReader(io.StringIO(run("status", "shop:broker", "--format", "csv").out))]
    assert [(row["name"], row["due"]) for row in rows] == [("default", "2"), ("orders", "0")]


def test_an_empty_broker_is_said_to_be_empty(run: Any, shop: ModuleType) -> None:
    ended = run("status", "shop:broker")
    assert ended.code == 0
    assert "last minute" in ended.out


def test_what_is_paused_is_marked(run: Any, busy: ModuleType) -> None:
    run("pause", "shop:broker", "--queue", "default", "--actor", "deliver")
    ended = run("status", "shop:broker")
    (line,) = (line for line in ended.out.splitlines() if line.split()[:1] == ["default"])
    assert line.endswith("paused")
    assert "Paused actors: deliver." in ended.err
    assert status(run)["paused"] == {"queues": {"default": NOW + 90_000}, "actors": {"deliver": NOW + 90_000}}


def test_watching_goes_on_until_ctrl_c_and_ends_well(
    run: Any, busy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[int] = []

    def sleep(self: VirtualClock, delay: int) -> None:
        slept.append(delay)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(VirtualClock, "sleep", sleep)
    ended = run("status", "shop:broker", "--watch", "--every", "5s", "--format", "jsonl")
    assert (ended.code, slept) == (0, [5_000] * 3)
    assert len(ended.out.splitlines()) == 3
    slept.clear()
    assert run("status", "shop:broker", "--watch").out.count("last hour") == 3


@pytest.mark.parametrize("every", ["0", "5", "often", "50ms"])
def test_an_interval_that_makes_no_sense_is_a_usage_error(run: Any, shop: ModuleType, every: str) -> None:
    assert run("status", "shop:broker", "--watch", "--every", every).code == 2


def test_a_file_needs_no_application(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    file_shop.remind.send()
    found = json.loads(run("status", tmp_path / "jobs.db", "--format", "json").out)
    assert [queue["name"] for queue in found["queues"] if queue["due"]] == ["default"]
    assert found["workers"] == []  # whoever looks is no worker


def test_a_name_of_no_file_makes_none_and_ends_with_3(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("status", "typo.db")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err == "retryq: there is no file typo.db: give the path that the application gives to SQLiteBroker\n"
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_is_not_ours_ends_with_3(run: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database " * 100)
    ended = run("status", tmp_path / "notes.db")
    assert (ended.code, ended.out) == (3, "")
    assert len(ended.err.splitlines()) == 1


def test_a_module_that_raises_is_shown_with_its_traceback_and_ends_with_3(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raising_shop.py").write_text("settings = {}\nsettings['url']\n")
    ended = run("status", "raising_shop")
    assert ended.code == 3
    assert 'raising_shop.py", line 2' in ended.err
    assert ended.err.endswith("retryq: importing raising_shop failed: KeyError: 'url'\n")


def test_another_broker_tells_what_it_can_and_says_what_it_cannot(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stub_shop")
    module.broker = StubBroker()  # type: ignore[attr-defined]
    module.broker.declare_queue("default")
    monkeypatch.setitem(sys.modules, "stub_shop", module)
    ended = run("status", "stub_shop:broker")
    assert ended.code == 0
    assert ended.out.splitlines()[2].split()[0] == "default"
    assert "StubBroker does not tell which workers live" in ended.err
    module.broker.close()


def test_a_server_whose_queues_nobody_names_is_not_said_to_be_empty(run: Any) -> None:
    for command in (["status"], ["pending", "list"], ["pending", "run-now"]):
        ended = run(*command, "redis://127.0.0.1:1/0")
        assert (ended.code, ended.out) == (4, "")
        assert "knows no queues" in ended.err
    assert run("dead", "list", "amqp://guest:secret@127.0.0.1:1").code == 4


def test_a_worker_is_shown_with_what_it_runs(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    import dramatiq

    from dramatiq_retryq import SQLiteBroker, run_worker

    broker = SQLiteBroker(tmp_path / "jobs.db")
    began, may_end = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker)
    def hang() -> None:
        began.set()
        may_end.wait(30)

    message = hang.send()
    try:
        with run_worker(broker, threads=1):
            assert began.wait(30)
            found = json.loads(run("status", tmp_path / "jobs.db", "--format", "json").out)
            table = run("status", tmp_path / "jobs.db").out
            may_end.set()
    finally:
        may_end.set()
        broker.close()
    (worker,) = found["workers"]
    assert worker["owner"] == f"{socket.gethostname()}:{os.getpid()}"
    assert [running["message_id"] for running in worker["running"]] == [message.message_id]
    assert message.message_id in table
