"""``retryq move``: what waits, from one file to another."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import SQLiteBroker, moving
from dramatiq_retryq.operations import Operations
from tests.cli.conftest import letters_of


@pytest.fixture
def files(file_shop: ModuleType, tmp_path: Path) -> tuple[Path, Path]:
    """A file with ten messages, due and later, and one with none."""
    for number in range(5):
        file_shop.remind.send()
        file_shop.deliver.send_with_options(args=(number,), delay=3_600_000)
    SQLiteBroker(tmp_path / "new.db").close()
    return tmp_path / "jobs.db", tmp_path / "new.db"


def waiting(path: Path) -> list[tuple[str | None, int | None]]:
    broker = SQLiteBroker(path)
    assert broker.check() == []
    found = [(message.message_id, message.due_at) for message in Operations.of(broker).pending()]
    broker.close()
    return found


def test_what_waits_is_moved_with_its_due_times(run: Any, files: tuple[Path, Path]) -> None:
    before = waiting(files[0])
    ended = run("move", *files, "--yes")
    assert (ended.code, ended.out) == (0, "10 of 10 messages moved.\n"), ended.err
    assert waiting(files[0]) == []
    assert sorted(waiting(files[1])) == sorted(before)


def test_nothing_is_moved_before_somebody_says_yes(run: Any, files: tuple[Path, Path]) -> None:
    ended = run("move", *files, typed="n\n")
    assert ended.code == 1
    assert len(waiting(files[0])) == 10


def test_source_and_target_that_are_the_same_are_refused_before_anything_is_asked(
    run: Any, files: tuple[Path, Path], file_shop: ModuleType
) -> None:
    for source, target in ((files[0], files[0]), (files[0], files[0].parent / "." / "jobs.db"), ("shop:broker",) * 2):
        ended = run("move", source, target, typed="")
        assert ended.code == 2
        assert "the same" in ended.err
        assert "Move what waits" not in ended.err
    assert len(waiting(files[0])) == 10


def test_a_dry_run_shows_what_waits_and_needs_no_target(run: Any, files: tuple[Path, Path]) -> None:
    ended = run("move", files[0], "nowhere.db", "--dry-run", "--format", "json")
    assert ended.code == 0
    assert [(row["name"], row["due"] + row["later"]) for row in json.loads(ended.out)] == [
        ("default", 5),
        ("orders", 5),
    ]
    assert len(waiting(files[0])) == 10


@pytest.mark.parametrize(("options", "said"), [([], "dead: stay"), (["--dead-letters"], "dead")])
def test_a_dry_run_says_whether_dead_letters_would_stay(
    run: Any, files: tuple[Path, Path], options: list[str], said: str
) -> None:
    ended = run("move", *files, "--dry-run", *options)
    assert ended.out.splitlines()[0].endswith(f"   {said}")


def test_a_dry_run_says_that_the_target_is_not_there(run: Any, files: tuple[Path, Path]) -> None:
    ended = run("move", files[0], "nowhere.db", "--dry-run")
    assert (ended.code, "TARGET cannot be used: there is no file nowhere.db" in ended.err) == (0, True)
    assert "TARGET" not in run("move", files[0], "nowhere.db", "--dry-run", "--create").err
    assert not Path("nowhere.db").exists()


def test_a_dry_run_says_what_the_target_does_not_declare(
    run: Any, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ModuleType("new_shop")
    target.broker = SQLiteBroker(files[1])  # type: ignore[attr-defined]
    dramatiq.actor(lambda: None, broker=target.broker, actor_name="remind")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "new_shop", target)
    ended = run("move", files[0], "new_shop:broker", "--dry-run")
    assert ended.code == 0
    assert "TARGET does not declare queue orders: what is moved there is not run." in ended.err
    assert "TARGET does not declare actor deliver: what is moved there is not run." in ended.err
    only = run("move", files[0], "new_shop:broker", "--dry-run", "--queue", "default")
    assert "TARGET" not in only.err
    assert (len(waiting(files[0])), waiting(files[1])) == (10, [])
    target.broker.close()  # type: ignore[attr-defined]


def test_a_dry_run_says_that_something_waits_at_the_target(run: Any, files: tuple[Path, Path]) -> None:
    run("move", *files, "--queue", "orders", "--yes")
    assert "At TARGET something waits already, in orders." in run("move", *files, "--dry-run").err


def test_only_the_queues_that_are_named_are_moved(run: Any, files: tuple[Path, Path]) -> None:
    run("move", *files, "--queue", "orders", "--yes")
    assert (len(waiting(files[0])), len(waiting(files[1]))) == (5, 5)


def test_a_target_that_is_not_there_is_made_only_if_that_is_said(
    run: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "other.db"
    assert run("move", files[0], target, "--yes").code == 3
    assert not target.exists()
    assert run("move", files[0], target, "--create", "--yes").code == 0
    assert len(waiting(target)) == 10


def test_dead_letters_stay_unless_they_are_asked_for(run: Any, files: tuple[Path, Path], file_shop: ModuleType) -> None:
    letters_of(file_shop.broker, 2)
    assert run("move", *files, "--yes").code == 0
    assert len(file_shop.broker.dead_letters) == 2
    assert "2 dead letters moved." in run("move", *files, "--dead-letters", "--yes").out
    assert len(file_shop.broker.dead_letters) == 0


def test_an_interrupted_move_says_how_far_it_came_and_goes_on_when_run_again(
    run: Any, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = waiting(files[0])
    move = moving.move

    def interrupted(*brokers: Any, progress: Any, **options: Any) -> Any:
        def then(done: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            progress(done)

        return move(*brokers, progress=then, **options)

    monkeypatch.setattr(moving, "move", interrupted)
    ended = run("move", *files, "--batch", 2, "--yes")
    assert (ended.code, ended.out) == (130, "2 of 10 messages moved.\n")
    assert "nothing is lost; run the same command again" in ended.err
    monkeypatch.undo()
    assert run("move", *files, "--yes").code == 0
    assert sorted(waiting(files[1])) == sorted(before)


def test_what_is_on_its_way_can_be_given_back(run: Any, files: tuple[Path, Path]) -> None:
    assert run("move", *files, "--give-back").out == "0 messages put back.\n"


def test_moving_to_itself_is_a_clear_error(run: Any, files: tuple[Path, Path]) -> None:
    ended = run("move", files[0], files[0], "--yes")
    assert ended.code != 0
    assert len(ended.err.splitlines()) == 1
    assert len(waiting(files[0])) == 10
