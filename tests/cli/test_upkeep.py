"""``retryq pause``, ``resume``, ``check`` and ``backup``; and what holds for all commands."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.cli import retryq
from dramatiq_retryq.errors import StoreUnavailable
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.patience import patience

NOW = 1_767_225_600_000


@pytest.fixture
def stub_shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("stub_shop")
    module.broker = StubBroker()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stub_shop", module)
    yield module
    module.broker.close()


# -- pause, resume ---------------------------------------------------------------------------------------------------


def test_what_is_paused_is_not_taken_until_it_is_resumed(run: Any, shop: ModuleType) -> None:
    shop.remind.send()
    ended = run("pause", "shop:broker", "--queue", "default")
    assert (ended.code, ended.out, ended.err) == (0, "Paused: queue default.\n", "")
    consumer = shop.broker.consume("default", timeout=0)
    assert next(consumer) is None
    ended = run("resume", "shop:broker", "--queue", "default")
    assert (ended.code, ended.out) == (0, "Resumed: queue default.\n")
    consumer.ack(next(consumer))


def test_an_actor_is_paused_beside_others_of_its_queue(run: Any, shop: ModuleType, drain: Any) -> None:
    shop.remind.send()
    run("pause", "shop:broker", "--actor", "remind", "--actor", "deliver")
    assert Operations.of(shop.broker).paused().actors == {"remind", "deliver"}
    assert run("resume", "shop:broker", "--all").out == "Resumed: actor deliver and actor remind.\n"
    assert not Operations.of(shop.broker).paused()
    assert drain(shop.broker) == 1


def test_a_name_that_nobody_knows_is_paused_with_a_doubt(run: Any, shop: ModuleType) -> None:
    ended = run("pause", "shop:broker", "--queue", "defualt", "--actor", "remnid")
    assert ended.code == 0
    assert "Queue defualt has no message here, and is not declared: is that its name?" in ended.err
    assert "Actor remnid is not declared on this broker: is that its name?" in ended.err


def test_resuming_what_was_not_paused_is_no_error_and_said(run: Any, shop: ModuleType) -> None:
    ended = run("resume", "shop:broker", "--queue", "default")
    assert (ended.code, ended.err) == (0, "default was not paused.\n")
    assert run("resume", "shop:broker", "--all").err == "Nothing is paused.\n"


def test_pausing_and_resuming_want_to_be_told_what(run: Any, shop: ModuleType) -> None:
    run("pause", "shop:broker", "--queue", "default")
    assert run("pause", "shop:broker").code == 2
    ended = run("resume", "shop:broker")
    assert ended.code == 2
    assert "Paused now: queue default." in " ".join(ended.err.split())


def test_a_pause_is_kept_in_the_file(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    run("pause", tmp_path / "jobs.db", "--queue", "orders")
    assert Operations.of(file_shop.broker).paused().queues == {"orders"}


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_memory_broker_of_another_process_is_not_said_to_be_paused(
    run: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    module = ModuleType("memory_shop")
    module.broker = MemoryBroker()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "memory_shop", module)
    ended = run(command, "memory_shop:broker", "--queue", "default")
    assert (ended.code, ended.out) == (4, "")
    assert "A MemoryBroker's messages are in the process that made it" in ended.err
    module.broker.close()


def test_a_broker_that_cannot_be_paused_says_so_in_a_sentence(run: Any, stub_shop: Any) -> None:
    ended = run("pause", "stub_shop:broker", "--queue", "default")
    assert (ended.code, ended.out) == (4, "")
    assert "StubBroker" in ended.err


# -- check, backup ---------------------------------------------------------------------------------------------------


def test_what_is_sound_is_said_to_be_sound(run: Any, shop: ModuleType) -> None:
    shop.remind.send()
    assert run("check", "shop:broker").out == "All is sound.\n"


def test_findings_are_listed_and_end_with_1(run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operations, "check", lambda self: ["entry 1 is in no state", "entry 2 likewise"])
    ended = run("check", "shop:broker")
    assert (ended.code, ended.out) == (1, "entry 1 is in no state\nentry 2 likewise\n")
    assert "2 findings" in ended.err


def test_a_backup_opens_and_holds_everything(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    file_shop.remind.send()
    ended = run("backup", tmp_path / "jobs.db", tmp_path / "copy.db")
    assert ended.code == 0
    assert ended.out.startswith(f"Copied to {tmp_path / 'copy.db'}, ")
    copy = SQLiteBroker(tmp_path / "copy.db")
    assert copy.counts()["default"].waiting == 1
    copy.close()


def test_a_backup_overwrites_nothing(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    ended = run("backup", tmp_path / "jobs.db", tmp_path / "copy.db")
    assert (ended.code, ended.out) == (1, "")
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_broker_without_a_file_has_no_backup(run: Any, shop: ModuleType, tmp_path: Path) -> None:
    ended = run("backup", "shop:broker", tmp_path / "copy.db")
    assert ended.code == 4
    assert "MemoryBroker has no file to back up: what it holds is gone with its process" in ended.err


# -- All commands ----------------------------------------------------------------------------------------------------


def commands(group: click.Group = retryq, *path: str) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, *path, name)
    return found


@pytest.mark.parametrize(("path", "command"), commands(), ids=[" ".join(path) for path, _ in commands()])
def test_every_command_has_a_help_text_with_an_example(run: Any, path: tuple[str, ...], command: click.Command) -> None:
    ended = run(*path, "--help")
    assert ended.code == 0
    assert "Example" in ended.out
    assert f"retryq {path[0]}" in ended.out
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_errors_of_the_store_end_with_3(run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Operations) -> None:
        raise StoreUnavailable("jobs.db: disk I/O error: check the disk; nothing was stored")

    monkeypatch.setattr(Operations, "check", broken)
    ended = run("check", "shop:broker")
    assert (ended.code, ended.err) == (3, "retryq: jobs.db: disk I/O error: check the disk; nothing was stored\n")


def test_ctrl_c_ends_with_130(run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Operations) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Operations, "check", interrupted)
    ended = run("check", "shop:broker")
    assert (ended.code, ended.err) == (130, "retryq: interrupted\n")


def test_a_mistake_of_ours_is_not_hidden(run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operations, "check", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run("check", "shop:broker")


def test_a_newer_file_is_refused_and_left_alone(run: Any, tmp_path: Path) -> None:
    SQLiteBroker(tmp_path / "jobs.db").close()
    connection = sqlite3.connect(tmp_path / "jobs.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for command in ("status", "check"):
        ended = run(command, tmp_path / "jobs.db")
        assert (ended.code, ended.out) == (3, "")
        assert "newer dramatiq_retryq" in ended.err


@pytest.mark.parametrize(
    "arguments", [["status"], ["health", "--once"], ["dead", "list"], ["pending", "list"], ["check"]], ids=" ".join
)
def test_a_file_that_another_process_holds_is_told_within_seconds(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("dramatiq_retryq.cli.app._LOOK_PATIENCE", 0.1)
    SQLiteBroker(tmp_path / "jobs.db").close()
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        group, *rest = arguments
        ended = (
            run(group, *rest[:1], tmp_path / "jobs.db") if rest == ["list"] else run(group, tmp_path / "jobs.db", *rest)
        )
        assert (ended.code, ended.out) == (3, "")
        assert "another process has held the database's lock" in ended.err


def test_who_is_to_act_waits_as_long_as_a_worker_does(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    broker = SQLiteBroker

    def noted(path: str) -> SQLiteBroker:
        seen.append(patience())
        return broker(path)

    SQLiteBroker(tmp_path / "jobs.db").close()
    monkeypatch.setattr("dramatiq_retryq.naming.SQLiteBroker", noted)
    assert run("pause", tmp_path / "jobs.db", "--queue", "mail").code == 0
    assert run("status", tmp_path / "jobs.db").code == 0
    assert (seen, patience()) == ([60.0, 3.0], 60.0)


def test_ctrl_c_at_a_question_ends_with_130(run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def confirm(*_: Any, **options: Any) -> bool:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None  # as click does

    shop.remind.send()
    monkeypatch.setattr(click, "confirm", confirm)
    ended = run("pending", "cancel", "shop:broker")
    assert (ended.code, ended.out) == (130, "")
    assert "interrupted: nothing was done" in ended.err
    shop.broker.flush("default")


EVIL = "mail\x1b[2J\u202e[red]\x07"


def test_a_name_of_a_queue_does_nothing_to_the_terminal(run: Any, shop: ModuleType) -> None:
    shop.broker.store.put(EVIL, b"{}", due_at=0, now=shop.broker.clock.now())
    said = [run("pause", "shop:broker", "--queue", EVIL, "--actor", EVIL)]
    for arguments in (["status"], ["resume"], ["check"], ["pending", "list"], ["resume", "--all"]):
        group, *rest = arguments
        said.append(
            run(group, *[one for one in rest if one == "list"], "shop:broker", *[one for one in rest if one != "list"])
        )
    for ended in said:
        assert "mail" in ended.out + ended.err or "sound" in ended.out
        assert not set("\x1b\u202e\x07") & set(ended.out + ended.err)
    assert r"queue mail\x1b[2J\u202e[red]\x07 and actor mail" in said[0].out
    shop.broker.store.flush(EVIL)


def test_the_version_is_that_of_the_package(run: Any) -> None:
    from importlib.metadata import version

    assert run("--version").out == f"retryq, version {version('dramatiq_retryq')}\n"
