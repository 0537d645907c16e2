"""``retryq plan``: schedules and the simulation, as they are written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import Backoff


def test_an_actors_schedule_says_each_delay_the_total_and_the_end(run: Any, shop: ModuleType) -> None:
    ended = run("plan", "shop:deliver")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "Retries of actor deliver"
    rows = [line.split() for line in lines if line.lstrip()[:1].isdigit()]
    assert [row[:3] for row in rows] == [["1", "1", "s"], ["2", "1", "s"]]
    assert "●" in ended.out
    assert lines[-1].startswith("Dead (exhausted) when attempt 3 fails, 2 s after the first.")


def test_an_actor_is_found_by_its_declared_name(run: Any, shop: ModuleType) -> None:
    assert "actor remind" in run("plan", "shop:remind").out


def test_options_have_a_schedule_without_any_application(run: Any) -> None:
    ended = run(
        "plan", "--min-backoff", "1s", "--max-backoff", "1m", "--jitter", "full", "--max-retries", 3, "--format", "json"
    )
    (schedule,) = json.loads(ended.out)
    assert [(row["least"], row["greatest"]) for row in schedule["rows"]] == [(0, 1_000), (0, 2_000), (0, 4_000)]
    assert schedule["dies"] == "exhausted"
    assert run("plan").out.startswith("Retries with these options\n")


def test_a_schedule_is_a_csv_file_with_the_librarys_names(run: Any) -> None:
    ended = run("plan", "--max-retries", 2, "--jitter", "none", "--format", "csv")
    rows = [*csv.DictReader(io.StringIO(ended.out))]
    assert [row["greatest"] for row in rows] == ["100", "200"]
    assert rows[1]["total_mean"] == "300"


def test_rules_have_a_schedule_each(run: Any, shop: ModuleType) -> None:
    broker = shop.broker

    @dramatiq.actor(broker=broker, throws=KeyError, backoff={OSError: [5], ValueError: None}, max_retries=2)
    def ruled() -> None: ...

    shop.ruled = ruled  # type: ignore[attr-defined]
    out = run("plan", "shop:ruled").out
    assert "Retries of actor ruled after KeyError\nNo retry: the first failure is the end (rejected)." in out
    assert "after OSError\n" in out
    assert "after ValueError\nNo retry: the first failure is the end (exhausted)." in out
    assert "after any other error\n" in out


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({"max_retries": None}, "And so on without an end; these 20 take"),
        ({"max_retries": 0}, "No retry: the first failure is the end (exhausted)."),
        ({"retry_when": lambda retries, error: True}, "As long as its retry_when says yes."),
        (
            {"backoff": [1_000], "max_age": 2_500},
            "Dead (expired) after 3 attempts at the most: none is made at an age of 2.5 s.",
        ),
        (
            {"jitter": "full", "max_retries": 2, "max_age": 250},
            "By then it may be 250 ms old, and dead before (expired).",
        ),
        ({"backoff": lambda attempt, error: None}, "No retry: the first failure is the end (exhausted)."),
    ],
)
def test_the_end_is_said(run: Any, shop: ModuleType, options: dict[str, Any], ending: str) -> None:
    shop.it = dramatiq.actor(lambda: None, actor_name="it", broker=shop.broker, **options)  # type: ignore[attr-defined]
    assert ending in run("plan", "shop:it").out


def test_more_retries_than_anybody_reads_are_those_of_one_without_a_limit(run: Any) -> None:
    ended = run("plan", "--max-retries", 10**9)
    assert ended.code == 0
    assert "And so on without an end; these 20 take" in ended.out


def test_a_policy_that_raises_is_said_on_stderr(run: Any, shop: ModuleType) -> None:
    shop.it = dramatiq.actor(lambda: None, actor_name="it", broker=shop.broker, backoff=lambda a, e: e.code)  # type: ignore[attr-defined]
    ended = run("plan", "shop:it")
    assert ended.code == 0
    assert "the policy raised AttributeError" in ended.err


def test_an_actor_without_retries_is_a_clear_error(run: Any, shop: ModuleType) -> None:
    shop.it = dramatiq.actor(lambda: None, actor_name="it", broker=StubBroker(middleware=[]))  # type: ignore[attr-defined]
    ended = run("plan", "shop:it")
    assert ended.code == 2
    assert "nothing on its StubBroker retries messages" in ended.err


@pytest.mark.parametrize("name", ["shop", "shop:nothing", "shop:broker", "nowhere:actor"])
def test_what_is_no_actor_ends_with_3(run: Any, shop: ModuleType, name: str) -> None:
    ended = run("plan", name)
    assert (ended.code, ended.out) == (3, "")


# -- The outage ------------------------------------------------------------------------------------------------------


def loads(run: Any, *arguments: object) -> dict[str, dict[str, Any]]:
    ended = run("plan", "--outage", "10m", *arguments, "--format", "json")
    assert ended.code == 0
    return {load["name"]: load for load in json.loads(ended.out)}


def test_all_jitters_are_drawn_side_by_side_and_the_same_each_time(run: Any) -> None:
    ended = run("plan", "--outage", "10m", "--messages", 500, "--max-retries", 40)
    assert ended.code == 0
    for jitter in ("additive", "full", "equal", "decorrelated", "proportional", "none"):
        assert sum(line.startswith((jitter, f" {jitter}")) for line in ended.out.splitlines()) >= 2
    assert "█" in ended.out
    assert "A dependency is down for 10 min: 500 messages, sent at once." in ended.out
    assert run("plan", "--outage", "10m", "--messages", 500, "--max-retries", 40) == ended
    assert run("plan", "--outage", "10m", "--messages", 500, "--max-retries", 40, "--seed", 1) != ended


def test_what_dies_before_the_end_is_said_with_the_retries_it_would_take(run: Any) -> None:
    out = run("plan", "--outage", "10m", "--jitter", "none").out
    assert "none: 10,000 died before the dependency was back; on average 28 retries outlast it." in out


def test_only_the_jitters_asked_for_are_simulated(run: Any) -> None:
    assert [*loads(run, "--jitter", "full", "--jitter", "none")] == ["full", "none"]


def test_an_actors_numbers_are_simulated_and_its_own_jitter_is_marked(run: Any, shop: ModuleType) -> None:
    shop.it = dramatiq.actor(  # type: ignore[attr-defined]
        lambda: None,
        actor_name="it",
        broker=shop.broker,
        max_retries=50,
        min_backoff=60_000,
        max_backoff=60_000,
        jitter="none",
    )
    found = loads(run, "shop:it")
    assert found["none *"]["attempts"] == 11 * 10_000
    assert "* the actor's own." in run("plan", "shop:it", "--outage", "10m").out


def test_a_policy_without_jitter_stands_beside_the_jitters(run: Any, shop: ModuleType) -> None:
    found = loads(run, "shop:deliver", "--max-retries", 1_000)
    assert [*found][:2] == ["actor deliver", "additive"]
    assert found["actor deliver"]["in_vain"] == 600 * 10_000


def test_messages_may_be_sent_over_a_time(run: Any) -> None:
    found = loads(run, "--over", "10m", "--jitter", "none", "--max-retries", 100)
    assert found["none"]["busiest"] < 1_000
    assert "sent over 10 min" in run("plan", "--outage", "10m", "--over", "10m").out


def test_the_picture_is_written_as_svg(run: Any, tmp_path: Path) -> None:
    ended = run("plan", "--outage", "10m", "--svg", tmp_path / "outage.svg")
    assert ended.code == 0
    root = ElementTree.parse(tmp_path / "outage.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "outage.svg" in ended.err


def test_a_picture_that_cannot_be_written_is_an_error(run: Any, tmp_path: Path) -> None:
    ended = run("plan", "--outage", "10m", "--svg", tmp_path / "nowhere" / "outage.svg")
    assert ended.code == 3
    assert "No such file or directory" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--messages", "5"], "--messages goes with --outage"),
        (["--over", "5s"], "--over goes with --outage"),
        (["--svg", "x.svg"], "--svg goes with --outage"),
        (["--jitter", "full", "--jitter", "none"], "Several --jitter go with --outage"),
        (["--outage", "a while"], "'a while' is no duration: give 90s, 15m, 2h"),
        (["--outage", "10"], "a number needs its unit"),
        (["--outage", "0"], "give 1 ms or more"),
        (["--outage", "10m", "--messages", "0"], "messages"),
        (["--min-backoff", "1m"], "max_backoff is 30000 ms, below min_backoff (60000 ms)"),
        (["--factor", "0.5"], "factor is 0.5"),
        (["--factor", "nan"], "factor is nan"),
        (["shop:deliver", "--min-backoff", "1s"], "--min-backoff goes without an ACTOR"),
        (
            ["--outage", "10m", "--min-backoff", "0", "--max-backoff", "0", "--max-retries", "1000000"],
            "raise min_backoff",
        ),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run: Any, shop: ModuleType, arguments: list[str], said: str) -> None:
    ended = run("plan", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in " ".join(ended.err.split())


def test_a_terminal_without_block_characters_gets_others(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq_retryq.cli.planning._is_unicode", lambda: False)
    assert "█" not in run("plan", "--outage", "10m", "--jitter", "full").out
    assert "●" not in run("plan").out


def test_the_default_options_are_those_of_the_library(run: Any) -> None:
    (schedule,) = json.loads(run("plan", "--format", "json").out)
    assert schedule["rows"][3]["greatest"] == Backoff().preview(4)[3].greatest
    assert len(schedule["rows"]) == 20
