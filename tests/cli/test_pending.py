"""``retryq pending``: what waits, and how it is moved about."""

from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dramatiq_retryq.operations import Operations

NOW = 1_767_225_600_000


@pytest.fixture
def waiting(shop: ModuleType, drain: Any) -> ModuleType:
    """A shop in which one message waits for its retry, one for tomorrow, and one is due."""
    shop.deliver.send(7)
    drain(shop.broker, limit=10, until=NOW)
    shop.remind.send_with_options(delay=86_400_000)
    shop.remind.send()
    return shop


def rows(run: Any, *arguments: object) -> list[dict[str, Any]]:
    ended = run("pending", "list", "shop:broker", *arguments, "--format", "json")
    assert ended.code == 0, ended.err
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


# -- list ------------------------------------------------------------------------------------------------------------


def test_what_waits_is_listed_in_due_order_with_the_last_error(run: Any, waiting: ModuleType) -> None:
    ended = run("pending", "list", "shop:broker")
    assert (ended.code, ended.err) == (0, "")
    due, retry, later = (line for line in ended.out.splitlines() if "waiting" in line)
    assert [" now " in due, "remind" in due, "default" in due] == [True] * 3
    assert ["in 1 s" in retry, "deliver" in retry, "ConnectionError: nobody answers" in retry] == [True] * 3
    assert "in 1 d" in later


def test_every_format_holds_the_same_messages(run: Any, waiting: ModuleType) -> None:
    as_json = rows(run)
    out = run("pending", "list", "shop:broker", "--format", "jsonl").out
    assert [json.loads(line) for line in out.splitlines()] == as_json
    as_csv = csv.DictReader(io.StringIO(run("pending", "list", "shop:broker", "--format", "csv").out))
    assert [row["id"] for row in as_csv] == [row["id"] for row in as_json]
    assert [row["due_at"] - NOW for row in as_json] == [0, 1_000, 86_400_000]
    assert [row["error"] for row in as_json] == [None, "ConnectionError", None]


@pytest.mark.parametrize(
    ("filters", "actors"),
    [
        ([], ["remind", "deliver", "remind"]),
        (["--actor", "deliver"], ["deliver"]),
        (["--queue", "default"], ["remind", "remind"]),
        (["--error", "ConnectionError"], ["deliver"]),
        (["--error", "KeyError"], []),
        (["--due-before", "10m"], ["remind", "deliver"]),
        (["--due-after", "10m"], ["remind"]),
        (["--due-after", "1s ago", "--due-before", "1s"], ["remind"]),
        (["--retrying"], ["deliver"]),
        (["--fresh"], ["remind", "remind"]),
        (["--state", "claimed"], []),
        (["--limit", "2"], ["remind", "deliver"]),
        (["--limit", "0"], []),
    ],
)
def test_filters_leave_those_that_match_all_of_them(
    run: Any, waiting: ModuleType, filters: list[str], actors: list[str]
) -> None:
    assert [row["actor_name"] for row in rows(run, *filters)] == actors


def test_filters_that_match_nothing_are_no_error(run: Any, shop: ModuleType) -> None:
    ended = run("pending", "list", "shop:broker", "--error", "Nothing")
    assert (ended.code, ended.out, ended.err) == (0, "", "No message that waits matches.\n")


def test_a_time_that_nobody_understands_is_a_usage_error(run: Any, shop: ModuleType) -> None:
    ended = run("pending", "list", "shop:broker", "--due-before", "later on")
    assert ended.code == 2
    assert "'later on' is no time: give a duration with its unit" in ended.err


def test_the_text_of_an_error_can_do_nothing_to_a_terminal(run: Any, shop: ModuleType, drain: Any) -> None:
    shop.deliver.send(text="[red]\x1b[31m\n\u202e")
    drain(shop.broker, until=NOW)
    out = run("pending", "list", "shop:broker").out
    assert "[red]\\x1b[31m\\n\\u202e" in out


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_has_the_due_instant_and_the_attempts(run: Any, waiting: ModuleType) -> None:
    (row,) = rows(run, "--actor", "deliver")
    for id in (row["id"], row["message_id"]):
        ended = run("pending", "show", "shop:broker", id)
        assert ended.code == 0, ended.err
        for text in (
            "waiting, due ",
            "in 1 s",
            "(7,)",
            "retries     1",
            "ConnectionError: nobody answers",
            "conftest.py:",
        ):
            assert text in ended.out


def test_show_as_json_has_the_message_and_its_attempts(run: Any, waiting: ModuleType) -> None:
    (row,) = rows(run, "--actor", "deliver")
    shown = json.loads(run("pending", "show", "shop:broker", row["message_id"], "--format", "json").out)
    assert shown["message"]["args"] == [7]
    assert [attempt["error"] for attempt in shown["attempts"]] == ["ConnectionError"]
    assert shown["due_at"] == NOW + 1_000


def test_long_arguments_are_cut_unless_all_of_them_are_asked_for(run: Any, shop: ModuleType) -> None:
    message = shop.deliver.send("x" * 100_000)
    assert len(run("pending", "show", "shop:broker", message.message_id).out) < 2_000
    assert len(run("pending", "show", "shop:broker", message.message_id, "--full").out) > 100_000


def test_a_message_that_is_gone_ends_with_1(run: Any, shop: ModuleType) -> None:
    ended = run("pending", "show", "shop:broker", "4711")
    assert (ended.code, ended.out) == (1, "")
    assert "no message with id '4711' waits" in ended.err


def test_a_message_that_is_dead_is_said_to_be_dead(run: Any, shop: ModuleType, drain: Any) -> None:
    message = shop.deliver.send()
    drain(shop.broker)
    ended = run("pending", "show", "shop:broker", message.message_id)
    assert ended.code == 1
    assert f"is dead: see retryq dead show shop:broker {shop.broker.dead_letters.one().id}" in ended.err


# -- run-now, move, cancel -------------------------------------------------------------------------------------------


def test_a_message_is_made_due_now_by_its_id(run: Any, waiting: ModuleType) -> None:
    (row,) = rows(run, "--actor", "deliver")
    ended = run("pending", "run-now", "shop:broker", row["message_id"])
    assert (ended.code, ended.out) == (0, "1 of 1 message due now.\n")
    assert rows(run, "--actor", "deliver")[0]["due_at"] == NOW


def test_those_that_match_are_made_due_now_once_somebody_says_yes(run: Any, waiting: ModuleType) -> None:
    refused = run("pending", "run-now", "shop:broker", "--actor", "remind", "--due-after", "1h", typed="n\n")
    assert (refused.code, rows(run)[-1]["due_at"]) == (1, NOW + 86_400_000)
    assert "Make 1 message due now?" in refused.err
    assert run("pending", "run-now", "shop:broker", "--actor", "remind", "--due-after", "1h", "--yes").code == 0
    assert {row["due_at"] for row in rows(run, "--actor", "remind")} == {NOW}


def test_a_message_is_moved_to_another_time(run: Any, waiting: ModuleType) -> None:
    ended = run("pending", "move", "shop:broker", "--actor", "deliver", "--to", "in 2h", "--yes")
    assert ended.code == 0
    assert rows(run, "--actor", "deliver")[0]["due_at"] == NOW + 7_200_000


def test_a_message_is_cancelled_once_somebody_says_yes(run: Any, waiting: ModuleType) -> None:
    (row,) = rows(run, "--actor", "deliver")
    assert run("pending", "cancel", "shop:broker", row["id"], typed="n\n").code == 1
    assert len(rows(run)) == 3
    ended = run("pending", "cancel", "shop:broker", row["id"], "--yes")
    assert (ended.code, ended.out) == (0, "1 of 1 message cancelled.\n")
    assert [row["actor_name"] for row in rows(run)] == ["remind", "remind"]


@pytest.mark.parametrize("command", [["run-now"], ["move", "--to", "2h"], ["cancel"]])
def test_a_dry_run_lists_and_changes_nothing(run: Any, waiting: ModuleType, command: list[str]) -> None:
    before = rows(run)
    name, *options = command
    ended = run("pending", name, "shop:broker", *options, "--dry-run", "--format", "json")
    assert ended.code == 0
    assert json.loads(ended.out) == before
    assert "3 messages would be" in ended.err
    assert rows(run) == before


@pytest.mark.parametrize("command", [["run-now"], ["move", "--to", "2h"], ["cancel"]])
def test_filters_that_match_nothing_change_nothing_and_are_no_error(
    run: Any, waiting: ModuleType, command: list[str]
) -> None:
    name, *options = command
    ended = run("pending", name, "shop:broker", *options, "--actor", "nobody")
    assert (ended.code, ended.out) == (0, "")
    assert "nothing was changed" in ended.err


@pytest.mark.parametrize("command", [["run-now"], ["move", "--to", "2h"], ["cancel"]])
def test_an_id_that_does_not_wait_ends_with_1(run: Any, waiting: ModuleType, command: list[str]) -> None:
    name, *options = command
    ended = run("pending", name, "shop:broker", *options, "4711", "--yes")
    assert (ended.code, ended.out) == (1, "0 of 1 message " + {"run-now": "due now.\n"}.get(name, ended.out[15:]))
    assert "1 of these IDs does not wait" in ended.err
    assert "faster" not in ended.err  # it may never have been there


def test_what_a_worker_has_is_not_touched(run: Any, shop: ModuleType) -> None:
    shop.remind.send()
    (claim,) = shop.broker.store.claim("default", now=NOW, limit=1, owner="worker:1")
    assert rows(run)[0]["state"] == "claimed"
    assert rows(run)[0]["claimed_by"] == "worker:1"
    assert "nothing was changed" in run("pending", "cancel", "shop:broker", "--yes").err
    assert run("pending", "cancel", "shop:broker", str(claim.id), "--yes").code == 1
    shop.broker.store.finish(claim)


def test_an_id_that_is_no_text_is_one_that_is_not_there(run: Any, file_shop: ModuleType) -> None:
    for command in (["pending", "show"], ["pending", "run-now"], ["dead", "show"]):
        assert run(*command, "shop:broker", "\udcff").code == 1
    for what in ("--queue", "--actor"):
        ended = run("pause", "shop:broker", what, "\udcff")
        assert (ended.code, "this is no text" in ended.err) == (2, True)


def test_move_needs_a_time(run: Any, waiting: ModuleType) -> None:
    assert run("pending", "move", "shop:broker").code == 2
    ended = run("pending", "move", "shop:broker", "--to", "sometime")
    assert ended.code == 2
    assert "'sometime' is no time" in ended.err


def test_ids_and_filters_together_are_a_usage_error(run: Any, waiting: ModuleType) -> None:
    assert run("pending", "cancel", "shop:broker", "1", "--fresh", "--yes").code == 2
    assert len(rows(run)) == 3


def test_an_interrupted_cancel_says_how_far_it_came_and_goes_on_when_run_again(
    run: Any, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        shop.remind.send()
    cancel, times = Operations.cancel, []

    def interrupted(self: Operations, pending: Any) -> None:
        times.append(1)
        if len(times) == 4:
            signal.raise_signal(signal.SIGINT)
        cancel(self, pending)

    monkeypatch.setattr(Operations, "cancel", interrupted)
    ended = run("pending", "cancel", "shop:broker", "--yes")
    assert (ended.code, ended.out) == (130, "4 of 10 messages cancelled.\n")
    assert len(rows(run)) == 6
    assert run("pending", "cancel", "shop:broker", "--yes").out == "6 of 6 messages cancelled.\n"


def test_a_file_needs_no_application(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    file_shop.remind.send_with_options(delay=3_600_000)
    message = file_shop.remind.send_with_options(delay=7_200_000)
    path = tmp_path / "jobs.db"
    assert run("pending", "cancel", path, message.message_id, "--yes").code == 0
    assert run("pending", "run-now", path, "--yes").code == 0
    (left,) = json.loads(run("pending", "list", path, "--format", "json").out)
    assert left["actor_name"] == "remind"


@pytest.mark.parametrize("format", ["table", "json"])
def test_a_filter_by_a_name_that_nobody_knows_is_hinted_at(run: Any, shop: ModuleType, format: str) -> None:
    for option, known, hint in (
        ("--queue", "orders", "Queue nosuch has no message here, and is not declared: is that its name?"),
        ("--actor", "deliver", "Actor nosuch is not declared on this broker: is that its name?"),
    ):
        ended = run("pending", "list", "shop:broker", option, "nosuch", "--format", format)
        assert (ended.code, ended.out) == (0, "" if format == "table" else "[]\n")
        assert hint in ended.err
        assert "is that its name" not in run("pending", "list", "shop:broker", option, known).err


def test_a_file_knows_no_actors_and_hints_at_none(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    ended = run("pending", "list", tmp_path / "jobs.db", "--actor", "nosuch", "--queue", "nosuch")
    assert ended.code == 0
    assert "Actor" not in ended.err
    assert "Queue nosuch has no message here" in ended.err
