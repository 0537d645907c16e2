"""A process is killed before and after each writing statement of each move, and the verdict is always the same.

Nothing is lost, everything is delivered at least once, a retry is never forked, and the history never shrinks. What is
done to the processes stands in killed.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dramatiq_retryq import schema

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")

MOVES = (
    "open",
    "put",
    "claim",
    "claim again",
    "acks",
    "a worker's end",
    "finish",
    "reschedule",
    "release",
    "bury",
    "revive",
    "discard",
    "recover",
    "recover and bury",
    "recover by age",
    "migrate",
    "pause",
    "hold",
    "resume",
    "move",
    "cancel",
    "flush",
    "keep counts",
)
#: These end with a statement that returns rows, and is committed when they have been read.
RETURNING = {"claim", "claim again"}
#: These have several transactions on purpose, so there are states between before and after.
IN_STEPS = {"a worker's end", "recover", "recover and bury", "recover by age", "resume"}
#: What a move is to let go, by the message's name; without having run it, where it waits.
UNWANTED = {"cancel": {"a"}, "flush": {"a", "c"}}
UNWANTED_LETTERS = {"discard": {"a"}, "bury": {"oldest"}, "recover by age": {"old"}}

Case = dict[str, Any]
Run = Callable[[str], list[Case]]


@pytest.fixture(scope="module")
def run(start_python: Callable[..., subprocess.Popen[str]], quick_directory: Path) -> Run:
    """All cases of a move: killed before and after each statement, and, last of each, killed when it was complete."""
    process: subprocess.Popen[str] | None = None
    known: dict[str, list[Case]] = {}

    def one(path: Path, move: str, moment: str, number: int) -> Case:
        nonlocal process
        if process is None:
            process = start_python("killed.py")
        assert process.stdin is not None
        assert process.stdout is not None
        print(
            json.dumps({"path": str(path), "move": move, "moment": moment, "number": number}),
            file=process.stdin,
            flush=True,
        )
        case: Case = json.loads(process.stdout.readline())
        assert "error" not in case, case["error"]
        case["where"] = f"killed {moment} statement {number}: {case.get('statement', 'complete')}"
        return case

    def run(move: str) -> list[Case]:
        if move not in known:
            cases: list[Case] = []
            for moment in ("before", "after"):
                for number in range(1, 50):
                    folder = quick_directory / f"{move}-{moment}-{number}"
                    folder.mkdir()
                    cases.append(one(folder / "jobs.db", move, moment, number))
                    if cases[-1]["status"] == 0:
                        break
            known[move] = cases
        return known[move]

    return run


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["message"]: row for row in rows}


def before(case: Case) -> dict[str, dict[str, Any]]:
    """What lay in the file before the move, by the message's name."""
    return by_name(case.get("before", []))


each_move = pytest.mark.parametrize("move", MOVES)


@each_move
def test_the_process_is_killed_before_and_after_each_statement_that_writes(run: Run, move: str) -> None:
    cases = run(move)
    for moment in ("before", "after"):
        killed = [case for case in cases if f"killed {moment}" in case["where"]]
        assert [case["status"] for case in killed[:-1]] == [-signal.SIGKILL] * (len(killed) - 1)
        assert killed[-1]["status"] == 0
        assert len(killed) > 1


@each_move
def test_no_message_is_lost(run: Run, move: str) -> None:
    asked_for = (UNWANTED | UNWANTED_LETTERS).get(move, set())
    for case in run(move):
        done = set(case["ran"]) | set(case["ran_later"])
        dead = {name for name, row in by_name(case["done"]).items() if row["state"] == "dead"}
        assert before(case).keys() - asked_for <= done | dead, case["where"]


@each_move
def test_every_message_is_delivered_at_least_once(run: Run, move: str) -> None:
    for case in run(move):
        sent = before(case).keys() | by_name(case["left"]).keys()
        unwanted = UNWANTED.get(move, set())
        assert sent - unwanted - {"undertaker"} <= {*case["ran"], *case["ran_later"]}, case["where"]


@each_move
def test_no_message_is_there_twice(run: Run, move: str) -> None:
    for case in run(move):
        for rows in (case["left"], case["recovered"], case["done"]):
            assert set(Counter(row["message"] for row in rows).values()) <= {1}, case["where"]


@each_move
def test_the_history_never_shrinks(run: Run, move: str) -> None:
    for case in run(move):
        known = {name: row["attempts"] for name, row in before(case).items()}
        for rows in (case["left"], case["recovered"], case["done"]):
            for name, row in by_name(rows).items():
                assert row["attempts"] >= known.get(name, 0), case["where"]
                known[name] = row["attempts"]


@each_move
def test_check_finds_nothing_when_the_file_is_opened_again_nor_later(run: Run, move: str) -> None:
    for case in run(move):
        assert case["findings"] == [], case["where"]


@each_move
def test_the_file_works_on_and_all_work_gets_done(run: Run, move: str) -> None:
    for case in run(move):
        assert {row["state"] for row in case["done"]} <= {"dead"}, case["where"]
        assert case["ran_later"][-1] == "one more", case["where"]


@each_move
def test_what_a_dead_process_had_claimed_waits_once_another_worker_has_started(run: Run, move: str) -> None:
    for case in run(move):
        assert [row for row in case["recovered"] if row["state"] == "claimed"] == [], case["where"]


@pytest.mark.parametrize("move", [move for move in MOVES if move not in IN_STEPS])
def test_a_move_is_made_wholly_or_not_at_all(run: Run, move: str) -> None:
    cases = run(move)
    complete = cases[-1]["left"]
    for case in cases:
        assert case["left"] in (case.get("before", []), complete), case["where"]


@each_move
def test_a_move_that_was_made_stays_made(run: Run, move: str) -> None:
    """Killed after the last statement, it is as if the process had been killed any time later."""
    cases = run(move)
    killed_after_the_last = cases[-2]
    expected = [cases[-1]["left"]]
    if move in RETURNING:
        expected.append(killed_after_the_last["before"])
    assert killed_after_the_last["left"] in expected


def test_a_worker_that_came_to_its_end_has_acked_what_is_done_and_holds_nothing(run: Run) -> None:
    left = run("a worker's end")[-1]["left"]
    assert [(row["message"], row["state"]) for row in left] == [("b", "waiting"), ("c", "waiting"), ("d", "waiting")]


def test_a_flush_drops_what_waits_and_what_was_set_aside_and_leaves_what_is_claimed(run: Run) -> None:
    left = run("flush")[-1]["left"]
    assert [(row["message"], row["state"]) for row in left] == [("b", "claimed")]


def test_a_letter_that_is_too_old_goes_and_one_that_is_younger_is_there_whenever_the_process_is_killed(
    run: Run,
) -> None:
    cases = run("recover by age")
    for case in cases:
        assert by_name(case["left"])["young"]["state"] == "dead", case["where"]
    assert by_name(cases[-1]["left"]).keys() == {"young", "a", "b"}
    assert schema.TRIM_BY_AGE in {case.get("statement") for case in cases}


def test_only_the_message_that_was_being_run_has_a_crash_in_its_history(run: Run) -> None:
    for case in run("recover"):
        assert {name: row["attempts"] for name, row in by_name(case["recovered"]).items()} == {
            "a": 2,  # begun
            "b": 1,
            "c": 2,  # begun
            "d": 1,
        }, case["where"]


def test_a_message_that_was_only_fetched_is_as_if_never_delivered(run: Run) -> None:
    for move in ("claim", "claim again", "release", "recover"):
        for case in run(move):
            deliveries = {name: row["deliveries"] for name, row in by_name(case["recovered"]).items()}
            begun = {"a", "c"} if move == "recover" else set()
            assert deliveries == {name: int(name in begun) for name in deliveries}, case["where"]


def test_the_dead_letter_actor_is_told_of_every_death_that_lies_there(run: Run) -> None:
    for case in run("bury"):
        died = "a" in by_name(case["left"]) and by_name(case["left"])["a"]["state"] == "dead"
        assert case["told"] == (["a"] if died else []), case["where"]


def test_the_dead_letter_actor_is_told_of_a_crash_whenever_the_recovering_process_is_killed(run: Run) -> None:
    for case in run("recover and bury"):
        died = by_name(case["done"]).get("a", {}).get("state") == "dead"
        assert case["told"] == (["a"] if died else []), case["where"]


@each_move
def test_no_side_file_is_left_behind(run: Run, move: str) -> None:
    for case in run(move):
        assert case["files"] == ["", "-turn"], case["where"]
