"""``retryq dead``: what died, and how it is brought back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import dramatiq
import pytest
from dramatiq import Broker

from dramatiq_retryq.dead_letters import DeadLetters
from dramatiq_retryq.errors import LetterUnreadable
from dramatiq_retryq.records import DeadLetter, ErrorInfo

HOSTILE = "[bold]bold[/bold] :smile: \x1b[31mred\x1b[0m\x07 line\nanother\ttab \x9b2J \u202eevil \ud800 ünï"


@pytest.fixture
def bury(shop: ModuleType) -> Callable[..., list[str]]:
    """Makes dead letters of the shop: ``bury(3, reason="rejected")``; gives their ids."""
    from tests.cli.conftest import letters_of

    return lambda count, **fields: letters_of(shop.broker, count, **fields)


@pytest.fixture
def died(shop: ModuleType, drain: Any) -> str:
    """One letter that died in the ordinary way; its id."""
    shop.deliver.send({"card": "4711"})
    drain(shop.broker)
    return str(shop.broker.dead_letters.one().id)


def ids(ended: Any) -> list[str]:
    return [row["id"] for row in json.loads(ended.out)]


# -- list ------------------------------------------------------------------------------------------------------------


def test_letters_are_listed_newest_first_with_what_one_wants_to_know(run: Any, clock: Any, bury: Any) -> None:
    bury(1)
    clock.advance(60_000)
    bury(1, reason="rejected", error=ErrorInfo(type="ValueError", message="no such customer"))
    clock.advance(60_000)
    ended = run("dead", "list", "shop:broker")
    assert (ended.code, ended.err) == (0, "")
    newest, oldest = (line for line in ended.out.splitlines() if "deliver" in line)
    assert ["1 min ago" in newest, "rejected" in newest, "ValueError: no such customer" in newest] == [True] * 3
    assert ["2 min ago" in oldest, "exhausted" in oldest, "ConnectionError: nobody answers" in oldest] == [True] * 3


def test_every_format_holds_the_same_letters_under_the_librarys_names(run: Any, bury: Any) -> None:
    wanted = [*reversed(bury(3))]
    as_json = json.loads(run("dead", "list", "shop:broker", "--format", "json").out)
    as_lines = [json.loads(line) for line in run("dead", "list", "shop:broker", "--format", "jsonl").out.splitlines()]
    as_csv = [*csv.DictReader(io.StringIO(run("dead", "list", "shop:broker", "--format", "csv").out))]
    assert [row["id"] for row in as_json] == [row["id"] for row in as_csv] == wanted
    assert as_lines == as_json
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in as_json] == as_csv
    assert as_json[0]["died_at"] == 1_767_225_600_000
    assert as_json[0]["error"] == "ConnectionError"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--reason", "rejected"], 1),
        (["--error", "ValueError"], 1),
        (["--actor", "deliver"], 3),
        (["--actor", "deliver", "--error", "KeyError"], 0),
        (["--queue", "orders", "--since", "90s"], 2),
        (["--since", "2025-12-31T23:59Z"], 3),
        (["--limit", "1"], 1),
        (["--limit", "0"], 0),
    ],
)
def test_filters_leave_those_that_match_all_of_them(
    run: Any, clock: Any, bury: Any, filters: list[str], found: int
) -> None:
    bury(1)
    clock.advance(120_000)
    bury(1, reason="rejected")
    bury(1, error=ErrorInfo(type="ValueError", message=""))
    assert len(ids(run("dead", "list", "shop:broker", *filters, "--format", "json"))) == found


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_filters_that_match_nothing_are_no_error_and_said_beside_the_output(run: Any, shop: Any, format: str) -> None:
    ended = run("dead", "list", "shop:broker", "--error", "Nothing", "--format", format)
    assert (ended.code, ended.err) == (0, "No dead letter matches.\n")
    empty = {"table": "", "json": "[]\n", "jsonl": ""}
    assert ended.out == empty.get(format, ended.out)
    assert len(ended.out.splitlines()) <= 1


@pytest.mark.parametrize(
    ("since", "said"),
    [
        ("soon", "'soon' is no time: give a duration with its unit (2h"),
        ("in 2h", "that is yet to come"),
        ("5", "'5' is no time"),
    ],
)
def test_a_time_that_nobody_understands_is_a_usage_error(run: Any, shop: Any, since: str, said: str) -> None:
    ended = run("dead", "list", "shop:broker", "--since", since)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_reason_that_does_not_exist_is_a_usage_error_that_names_those_there_are(run: Any, shop: Any) -> None:
    ended = run("dead", "list", "shop:broker", "--reason", "tired")
    assert ended.code == 2
    assert "exhausted" in ended.err


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_the_text_of_an_error_can_do_nothing_to_a_terminal(run: Any, bury: Any, format: str) -> None:
    bury(1, error=ErrorInfo(type="ValueError", message=HOSTILE))
    out = run("dead", "list", "shop:broker", "--format", format).out
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\ud800"} & set(out)
    assert "[bold]bold[/bold] :smile:" in out
    if format == "table":
        assert "\\x1b[31mred\\x1b[0m\\x07 line\\nanother\\ttab \\x9b2J \\u202eevil \\ud800 ünï" in out
    if format == "json":
        assert json.loads(out)[0]["error_message"] == HOSTILE  # nothing is lost


def test_a_table_in_a_pipe_is_as_wide_as_it_needs_to_be(run: Any, bury: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    bury(1, error=ErrorInfo(type="ValueError", message="x" * 150))
    assert "x" * 150 in run("dead", "list", "shop:broker").out


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120])
def test_a_narrow_terminal_is_told_why_all_the_same(
    run: Any, bury: Any, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    from rich.console import Console

    def narrow(stream: Any = None) -> Console:
        return Console(file=sys.stdout, width=columns, force_terminal=True, color_system=None, markup=False)

    monkeypatch.setattr("dramatiq_retryq.cli.output.console", narrow)
    (id,) = bury(1)
    ended = run("dead", "list", "shop:broker")
    assert ended.code == 0
    for text in (id, "now", "exhausted", "deliver", "Connect"):
        assert text in ended.out
    if columns < 60:
        assert "  reason    exhausted\n" in ended.out


def test_a_table_shows_a_hundred_and_says_that_there_are_more(run: Any, bury: Any) -> None:
    bury(101)
    ended = run("dead", "list", "shop:broker")
    assert ended.out.count("deliver") == 100
    assert "These are the first 100; there are more" in ended.err
    assert run("dead", "list", "shop:broker", "--limit", 101).out.count("deliver") == 101


def test_ten_thousand_letters_are_listed_and_replayed(run: Any, shop: Any, bury: Any) -> None:
    bury(10_000)
    assert len(ids(run("dead", "list", "shop:broker", "--format", "json"))) == 10_000
    ended = run("dead", "replay", "shop:broker", "--yes")
    assert (ended.code, ended.out) == (0, "10,000 of 10,000 dead letters replayed.\n")
    assert shop.broker.counts()["orders"].waiting == 10_000


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_has_the_attempts_as_a_table_and_the_traceback(run: Any, shop: Any, died: str) -> None:
    ended = run("dead", "show", "shop:broker", died)
    assert ended.code == 0
    for text in ("exhausted", "ConnectionError: nobody answers", "orders", "({'card': '4711'},)", "conftest.py:"):
        assert text in ended.out
    attempts = [line.split() for line in ended.out.splitlines() if line.strip()[:2] in ("1 ", "2 ", "3 ")]
    assert [attempt[0] for attempt in attempts] == ["1", "2", "3"]
    assert ended.out.rstrip().endswith("ConnectionError: nobody answers")
    assert "Traceback (most recent call last):" in ended.out


def test_show_takes_the_messages_own_id(run: Any, shop: Any, died: str) -> None:
    message_id = shop.broker.dead_letters.one().message_id
    assert run("dead", "show", "shop:broker", message_id).out == run("dead", "show", "shop:broker", died).out


def test_show_gives_the_whole_letter_as_json(run: Any, shop: Any, died: str) -> None:
    shown = json.loads(run("dead", "show", "shop:broker", died, "--format", "json").out)
    assert shown == json.loads(json.dumps(shop.broker.dead_letters.one().asdict()))


def test_a_traceback_of_a_megabyte_is_cut_unless_all_of_it_is_asked_for(run: Any, bury: Any) -> None:
    (id,) = bury(1, traceback="Traceback\n" + "x" * 1_000_000 + "\nValueError: the end\n")
    ended = run("dead", "show", "shop:broker", id)
    assert len(ended.out) < 6_000
    assert ended.out.rstrip().endswith("ValueError: the end")
    assert "--full" in ended.err
    assert len(run("dead", "show", "shop:broker", id, "--full").out) > 1_000_000


def test_what_show_writes_can_do_nothing_to_a_terminal(run: Any, shop: Any, drain: Any) -> None:
    shop.deliver.send(HOSTILE.replace("\ud800", ""), text=HOSTILE.replace("\ud800", ""))
    drain(shop.broker)
    out = run("dead", "show", "shop:broker", shop.broker.dead_letters.one().id).out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)


def test_a_payload_that_is_no_message_is_shown_as_it_is(run: Any, shop: Any) -> None:
    now = shop.broker.clock.now()
    shop.broker.store.put("orders", b"\x00rubbish\x1b", due_at=now, now=now)
    (claim,) = shop.broker.store.claim("orders", now=now, limit=1, owner="test")
    letter = DeadLetter(
        id=str(claim.id), reason="undecodable", queue_name="orders", actor_name=None, died_at=now, data=claim.data
    )
    shop.broker.store.bury(claim, letter)
    out = run("dead", "show", "shop:broker", letter.id).out
    assert "unknown: the payload is no message" in out
    assert "rubbish" in out
    assert "\x1b" not in out
    assert run("dead", "list", "shop:broker").code == 0


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), True, "soon", None], ids=["vast", "negative", "true", "text", "none"]
)
def test_numbers_that_somebody_else_wrote_are_shown_all_the_same(run: Any, shop: Any, number: Any) -> None:
    fields = {"n": 1, "started_at": number, "duration": number, "error": "E", "message": "m", "delay": number}
    message = shop.remind.message()
    options = {"attempts": [fields], "retries": number, "replays": number, "eta": number, "requeue_timestamp": number}
    message = message.copy(options=options, message_timestamp=number)
    now = shop.broker.clock.now()
    for _ in range(2):
        shop.broker.store.put("default", message.encode(), due_at=now, now=now)
    (claim,) = shop.broker.store.claim("default", now=now, limit=1, owner="test")
    letter = DeadLetter(
        id=str(claim.id), reason="rejected", queue_name="default", actor_name="remind", died_at=now, data=claim.data
    )
    shop.broker.store.bury(claim, letter)
    for group, id in (("dead", letter.id), ("pending", str(claim.id + 1))):
        for arguments in (("list", "shop:broker"), ("show", "shop:broker", id)):
            for format in ("table", "json"):
                ended = run(group, *arguments, "--format", format)
                assert (ended.code, ended.err) == (0, "")


def test_a_letter_that_cannot_be_replayed_does_not_keep_the_others_back(
    run: Any, shop: Any, bury: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second, _ = bury(3)
    replay = DeadLetters.replay

    def replay_some(letters: DeadLetters, letter: DeadLetter, **kwargs: Any) -> DeadLetter:
        if letter.id == second:
            raise LetterUnreadable(letter.id)
        return replay(letters, letter, **kwargs)

    monkeypatch.setattr(DeadLetters, "replay", replay_some)
    ended = run("dead", "replay", "shop:broker", "--yes")
    assert (ended.code, ended.out) == (1, "2 of 3 dead letters replayed.\n")
    assert f"dead letter '{second}' is torn" in ended.err
    assert "1 could not be replayed, and is as before" in ended.err
    assert [letter.id for letter in shop.broker.dead_letters] == [second]


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(0)", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1"]
)
def test_no_cell_of_a_csv_is_a_formula(run: Any, shop: Any, bury: Any, text: str) -> None:
    (id,) = bury(1, actor_name=text, error=ErrorInfo(type=text, message=text, place="1=2"))
    out = run("dead", "list", "shop:broker", "--format", "csv").out
    (row,) = csv.DictReader(io.StringIO(out))
    assert {row[name][0] for name in ("actor_name", "error", "error_message")} == {"'"}
    assert (row["id"], row["place"]) == (id, "1=2")


def test_a_number_below_0_is_no_formula_in_a_csv(run: Any, shop: Any, bury: Any) -> None:
    bury(1, died_at=-5)
    (row,) = csv.DictReader(io.StringIO(run("dead", "list", "shop:broker", "--format", "csv").out))
    assert row["died_at"] == "-5"


@pytest.mark.parametrize("arguments", [["show"], ["replay"], ["discard", "--yes"]])
def test_an_id_that_could_be_that_of_two_is_refused(run: Any, shop: Any, bury: Any, arguments: list[str]) -> None:
    first, second = bury(2)
    letter = shop.broker.dead_letters.get(second)
    shop.broker.dead_letters.discard(letter)
    shop.broker.enqueue(letter.message.copy(message_id=first))
    command, *options = arguments
    ended = run("dead", command, "shop:broker", first, *options)
    assert (ended.code, ended.out) == (2, "")
    assert f"the message id of another, which has the id '{int(second) + 1}': give one of these two" in ended.err
    assert [letter.id for letter in shop.broker.dead_letters] == [first]
    shop.broker.flush("orders")


def test_an_id_that_is_not_there_ends_with_1(run: Any, shop: Any) -> None:
    ended = run("dead", "show", "shop:broker", "4711")
    assert (ended.code, ended.out) == (1, "")
    assert "no dead letter with id '4711'" in ended.err


def test_a_message_that_waits_is_said_to_wait(run: Any, shop: Any) -> None:
    message = shop.remind.send()
    ended = run("dead", "show", "shop:broker", message.message_id)
    assert ended.code == 1
    assert "is not dead: it is waiting" in ended.err


# -- replay ----------------------------------------------------------------------------------------------------------


def test_a_letter_is_replayed_by_its_id_without_a_question(run: Any, shop: Any, bury: Any) -> None:
    one, other = bury(2)
    ended = run("dead", "replay", "shop:broker", one)
    assert (ended.code, ended.out) == (0, "1 of 1 dead letter replayed.\n")
    assert [letter.id for letter in shop.broker.dead_letters] == [other]


def test_what_was_replayed_runs(run: Any, shop: Any, died: str, drain: Any) -> None:
    run("dead", "replay", "shop:broker", died)
    shop.is_broken = False
    assert drain(shop.broker) == 1
    assert len(shop.broker.dead_letters) == 0


def test_many_are_replayed_once_somebody_says_yes(run: Any, shop: Any, bury: Any) -> None:
    bury(3)
    bury(2, reason="rejected")
    refused = run("dead", "replay", "shop:broker", "--reason", "exhausted", typed="n\n")
    assert (refused.code, len(shop.broker.dead_letters)) == (1, 5)
    assert "Replay 3 dead letters?" in refused.err
    assert run("dead", "replay", "shop:broker", "--reason", "exhausted", typed="y\n").code == 0
    assert len(shop.broker.dead_letters) == 2


def test_where_nobody_can_answer_nothing_is_done(run: Any, shop: Any, bury: Any) -> None:
    bury(3)
    ended = run("dead", "replay", "shop:broker", typed="")
    assert (ended.code, len(shop.broker.dead_letters)) == (1, 3)


def test_a_dry_run_lists_what_would_be_replayed_and_does_nothing(run: Any, shop: Any, bury: Any) -> None:
    wanted = bury(3)
    bury(1, reason="rejected")
    ended = run("dead", "replay", "shop:broker", "--reason", "exhausted", "--dry-run", "--format", "json")
    assert ids(ended) == wanted
    assert "3 dead letters would be replayed" in ended.err
    assert len(shop.broker.dead_letters) == 4


def test_a_rate_spreads_them_oldest_first_from_the_delay_on(run: Any, shop: Any, bury: Any) -> None:
    bury(3)
    run("dead", "replay", "shop:broker", "--rate", "2", "--delay", "10s", "--yes")
    due = run("pending", "list", "shop:broker", "--format", "json")
    now = shop.broker.clock.now()
    assert [row["due_at"] - now for row in json.loads(due.out)] == [10_000, 10_500, 11_000]


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e-300"])
def test_a_rate_that_makes_no_sense_is_a_usage_error(run: Any, shop: Any, bury: Any, rate: str) -> None:
    bury(2)
    assert run("dead", "replay", "shop:broker", "--rate", rate, "--yes").code == 2
    assert len(shop.broker.dead_letters) == 2


def test_filters_that_match_nothing_replay_nothing_and_are_no_error(run: Any, shop: Any, bury: Any) -> None:
    bury(2)
    ended = run("dead", "replay", "shop:broker", "--actor", "nobody")
    assert (ended.code, ended.out) == (0, "")
    assert "No dead letter matches: nothing was replayed." in ended.err


def test_ids_and_filters_together_are_a_usage_error(run: Any, shop: Any, bury: Any) -> None:
    (id,) = bury(1)
    assert run("dead", "replay", "shop:broker", id, "--actor", "deliver").code == 2
    assert len(shop.broker.dead_letters) == 1


def test_ids_that_are_not_there_are_named_and_the_others_replayed(run: Any, shop: Any, bury: Any) -> None:
    (id,) = bury(1)
    ended = run("dead", "replay", "shop:broker", "4711", id)
    assert (ended.code, ended.out) == (1, "1 of 1 dead letter replayed.\n")
    assert "'4711'" in ended.err
    assert run("dead", "replay", "shop:broker", "4711").code == 1


def test_an_interrupted_replay_says_how_far_it_came_and_goes_on_when_run_again(
    run: Any, shop: Any, bury: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(10)
    replay, times = DeadLetters.replay, []

    def interrupted(self: DeadLetters, *args: Any, **kwargs: Any) -> DeadLetter:
        times.append(1)
        if len(times) == 4:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C in the middle of the fourth
        return replay(self, *args, **kwargs)

    monkeypatch.setattr(DeadLetters, "replay", interrupted)
    ended = run("dead", "replay", "shop:broker", "--yes")
    assert (ended.code, ended.out) == (130, "4 of 10 dead letters replayed.\n")
    assert "interrupted: 6 are as they were; run the same command again" in ended.err
    assert len(shop.broker.dead_letters) == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run("dead", "replay", "shop:broker", "--yes").out == "6 of 6 dead letters replayed.\n"
    assert shop.broker.counts()["orders"].waiting == 10


def test_an_interrupt_that_comes_as_an_exception_is_heard_too(
    run: Any, shop: Any, bury: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(3)

    def interrupted(self: DeadLetters, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DeadLetters, "replay", interrupted)
    ended = run("dead", "replay", "shop:broker", "--yes")
    assert (ended.code, ended.out) == (130, "0 of 3 dead letters replayed.\n")


def test_what_another_replay_took_meanwhile_is_passed_over(
    run: Any, shop: Any, bury: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(10)
    replay = DeadLetters.replay
    others = iter([*reversed(shop.broker.dead_letters.list())][5:])

    def with_another(self: DeadLetters, *args: Any, **kwargs: Any) -> DeadLetter:
        for other in others:  # once: the last five
            replay(self, other)
        return replay(self, *args, **kwargs)

    monkeypatch.setattr(DeadLetters, "replay", with_another)
    ended = run("dead", "replay", "shop:broker", "--yes")
    assert (ended.code, ended.out) == (0, "5 of 10 dead letters replayed.\n")
    assert "5 were not there any more: somebody else was faster." in ended.err
    assert shop.broker.counts()["orders"].waiting == 10


# -- discard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_a_letter_that_died_anew_since_it_was_listed_is_left_alone(
    run: Any, shop: Any, bury: Any, clock: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (letter_id,) = bury(1)

    def confirm(question: str, **_: Any) -> bool:
        """While somebody thinks it over, it is replayed and dies again."""
        letter = shop.broker.dead_letters.replay(letter_id)
        clock.advance(1_000)
        store, now = shop.broker.store, clock.now()
        (claim,) = store.claim("orders", now=now, limit=1, owner="test")
        store.bury(claim, dataclasses.replace(letter, died_at=now))
        return True

    monkeypatch.setattr(click, "confirm", confirm)
    ended = run("dead", command, "shop:broker")
    assert "0 of 1 dead letter" in ended.out
    assert "1 was not there any more" in ended.err
    assert len(shop.broker.dead_letters) == 1


def test_show_is_json_whatever_an_argument_is(run: Any, shop: Any, bury: Any) -> None:
    shop.broker.store.put(
        "orders",
        shop.deliver.message(float("nan"), [float("inf"), {"deep": float("-inf")}]).encode(),
        due_at=0,
        now=0,
    )
    (claim,) = shop.broker.store.claim("orders", now=0, limit=1, owner="test")
    bury(1)
    letter = dataclasses.replace(shop.broker.dead_letters.one(), id=str(claim.id), data=claim.data)
    shop.broker.store.bury(claim, letter)

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    shown = json.loads(run("dead", "show", "shop:broker", claim.id, "--format", "json").out, parse_constant=refuse)
    assert shown["message"]["args"] == ["nan", ["inf", {"deep": "-inf"}]]


def test_a_letter_is_discarded_once_somebody_says_yes(run: Any, shop: Any, bury: Any) -> None:
    one, other = bury(2)
    refused = run("dead", "discard", "shop:broker", one, typed="n\n")
    assert (refused.code, len(shop.broker.dead_letters)) == (1, 2)
    assert "Drop 1 dead letter for good?" in refused.err
    ended = run("dead", "discard", "shop:broker", one, "--yes")
    assert (ended.code, ended.out) == (0, "1 of 1 dead letter discarded.\n")
    assert [letter.id for letter in shop.broker.dead_letters] == [other]


def test_those_that_match_are_discarded(run: Any, shop: Any, bury: Any) -> None:
    bury(3)
    (kept,) = bury(1, reason="rejected")
    assert (
        "3 dead letters would be discarded"
        in run("dead", "discard", "shop:broker", "--reason", "exhausted", "--dry-run").err
    )
    assert len(shop.broker.dead_letters) == 4
    run("dead", "discard", "shop:broker", "--reason", "exhausted", "--yes")
    assert [letter.id for letter in shop.broker.dead_letters] == [kept]


# -- Brokers ---------------------------------------------------------------------------------------------------------


def test_a_file_needs_no_application(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    from tests.cli.conftest import letters_of

    one, other = letters_of(file_shop.broker, 2)
    assert ids(run("dead", "list", tmp_path / "jobs.db", "--format", "json")) == [other, one]
    assert run("dead", "replay", tmp_path / "jobs.db", one).code == 0
    assert run("dead", "discard", tmp_path / "jobs.db", other, "--yes").code == 0
    assert file_shop.broker.counts()["orders"].waiting == 1


class Unlisted(Broker):
    """A broker of somebody else's."""

    def close(self) -> None: ...


def test_a_broker_that_keeps_no_letters_says_so_in_a_sentence(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("some_shop")
    module.broker = Unlisted([])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_shop", module)
    ended = run("dead", "list", "some_shop:broker")
    assert (ended.code, ended.out) == (4, "")
    assert len(ended.err.splitlines()) == 1
    module.broker.close()


def test_a_memory_broker_of_another_process_is_said_to_be_empty(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dramatiq_retryq import MemoryBroker

    module = ModuleType("memory_shop")
    module.broker = MemoryBroker()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "memory_shop", module)
    ended = run("dead", "list", "memory_shop:broker")
    assert ended.code == 0
    assert "A MemoryBroker's messages are in the process that made it" in ended.err
    module.broker.close()


def test_the_global_broker_is_meant_by_the_module_alone(run: Any, shop: ModuleType, bury: Any) -> None:
    assert dramatiq.get_broker() is shop.broker
    bury(1)
    assert len(ids(run("dead", "list", "shop", "--format", "json"))) == 1


@pytest.mark.parametrize("format", ["table", "json"])
def test_a_filter_by_a_name_that_nobody_knows_is_hinted_at(run: Any, shop: ModuleType, format: str) -> None:
    for option, known, hint in (
        ("--queue", "orders", "Queue nosuch has no message here, and is not declared: is that its name?"),
        ("--actor", "deliver", "Actor nosuch is not declared on this broker: is that its name?"),
    ):
        ended = run("dead", "list", "shop:broker", option, "nosuch", "--format", format)
        assert (ended.code, ended.out) == (0, "" if format == "table" else "[]\n")
        assert hint in ended.err
        assert "is that its name" not in run("dead", "list", "shop:broker", option, known).err


def test_a_file_knows_no_actors_and_hints_at_none(run: Any, file_shop: ModuleType, tmp_path: Path) -> None:
    ended = run("dead", "list", tmp_path / "jobs.db", "--actor", "nosuch", "--queue", "nosuch")
    assert ended.code == 0
    assert "Actor" not in ended.err
    assert "Queue nosuch has no message here" in ended.err
