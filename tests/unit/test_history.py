"""What is kept of an error, and of the attempts of a message."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dramatiq_retryq.history import (
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_TEXT,
    MAX_TRACEBACK,
    append,
    describe,
    full_traceback,
    last_number,
    short_traceback,
)
from dramatiq_retryq.records import Attempt, ErrorInfo, read_attempts


def raised(error: BaseException) -> BaseException:
    """The error with a traceback that ends here."""
    try:
        raise error
    except BaseException as caught:
        return caught


def raised_in(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as caught:
        return caught
    raise AssertionError("nothing was raised")


def attempt(n: int, **fields: Any) -> Attempt:
    return Attempt(**{"n": n, "started_at": 1_000 * n, "duration": 5, "error": "ValueError", "message": "no", **fields})


# describe.


def test_an_error_is_described_by_its_class_its_text_and_its_place() -> None:
    info = describe(raised(ValueError("bad input")))
    assert (info.type, info.message) == ("ValueError", "bad input")
    assert info.place.startswith("test_history.py:")
    assert info.place.endswith(" in raised")


def test_the_place_is_the_innermost_one() -> None:
    def inner() -> None:
        raise KeyError("x")

    def outer() -> None:
        inner()

    assert describe(raised_in(outer)).place.endswith(" in inner")


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert describe(ValueError("x")).place == ""


def test_a_description_reads_as_python_prints_an_error() -> None:
    assert str(describe(ValueError("bad input"))) == "ValueError: bad input"
    assert str(describe(ValueError())) == "ValueError"


def test_a_text_of_500_characters_is_kept_whole_and_a_longer_one_is_cut() -> None:
    assert describe(ValueError("x" * 500)).message == "x" * 500
    assert describe(ValueError("x" * 501)).message == "x" * 499 + "…"


def test_a_long_class_name_is_cut() -> None:
    assert describe(type("E" * 101, (Exception,), {})()).type == "E" * 99 + "…"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("naïve 😀", "naïve 😀"),
        ("a\ud800b", "a?b"),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("a\0ü\ud800", "a\N{REPLACEMENT CHARACTER}ü?"),
        ("line\nbreak\ttab", "line\nbreak\ttab"),
    ],
)
def test_lone_surrogates_and_nuls_are_repaired_and_all_else_is_kept(text: str, kept: str) -> None:
    assert describe(ValueError(text)).message == kept


def test_a_class_name_of_any_characters_is_kept() -> None:
    assert describe(type("Größe 😀", (Exception,), {})()).type == "Größe 😀"


class NoText(Exception):
    def __init__(self, raises: BaseException) -> None:
        self.raises = raises

    def __str__(self) -> str:
        raise self.raises


@pytest.mark.parametrize("raises", [RuntimeError("x"), RecursionError(), UnicodeError(), SystemExit(1)])
def test_an_error_whose_text_cannot_be_had_is_described_all_the_same(raises: BaseException) -> None:
    info = describe(raised(NoText(raises)))
    assert info.type == "NoText"
    assert info.message.startswith("<its text cannot be had")
    assert info.place.startswith("test_history.py:")


class NoName(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError


def test_an_error_whose_class_has_no_name_is_described_all_the_same() -> None:
    info = describe(NoName("X", (Exception,), {})("text"))
    assert info.message == "text"
    assert info.type


class HostileText(str):
    __slots__ = ()

    def isascii(self) -> bool:
        raise RuntimeError

    def encode(self, *args: Any) -> bytes:  # type: ignore[override]
        raise RuntimeError


def test_an_error_whose_text_has_hostile_methods_is_described_all_the_same() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            return HostileText("text")

    assert describe(Hostile()).type == "Hostile"


# redact.


def test_redact_takes_secrets_out_of_the_text() -> None:
    info = describe(ValueError("token=hunter2"), lambda text: text.replace("hunter2", "***"))
    assert info.message == "token=***"


def test_redact_sees_the_whole_text_before_it_is_cut() -> None:
    secret = "x" * 495 + "hunter2"
    assert "hun" not in describe(ValueError(secret), lambda text: text.replace("hunter2", "")).message


def test_a_redact_that_raises_keeps_nothing_of_the_text() -> None:
    def broken(text: str) -> str:
        raise RuntimeError(text)

    assert describe(ValueError("hunter2"), broken).message == "<withheld: redact raised RuntimeError>"
    assert "hunter2" not in full_traceback(raised(ValueError("hunter2")), broken)


def test_redact_sees_the_full_traceback_too() -> None:
    text = full_traceback(raised(ValueError("hunter2")), lambda text: text.replace("hunter2", "***"))
    assert "ValueError: ***" in text
    assert "hunter2" not in text


# Tracebacks.


def test_a_short_traceback_has_the_place_of_the_actor_and_that_of_the_error() -> None:
    def inner() -> None:
        raise KeyError("x")

    def middle() -> None:
        inner()

    error = raised_in(lambda: middle())
    lines = short_traceback(error, describe(error)).splitlines()
    assert lines[0] == "Traceback (shortened, most recent call last):"
    assert [line.rpartition(" in ")[2] for line in lines[1:-1]] == ["raised_in", "inner"]
    assert lines[-1] == "KeyError: 'x'"


def test_a_short_traceback_of_one_frame_has_it_once() -> None:
    error = raised(ValueError("x"))
    text = short_traceback(error, describe(error))
    assert text.count(" in raised") == 1


def test_a_short_traceback_of_an_error_that_was_never_raised_has_its_text() -> None:
    text = short_traceback(ValueError("x"), describe(ValueError("x")))
    assert text == "Traceback (shortened, most recent call last):\nValueError: x\n"


def test_a_short_traceback_can_be_had_of_code_in_a_module_without_a_name() -> None:
    module: dict[str, Any] = {"__name__": None}
    exec("def run():\n    raise ValueError('x')", module)
    error = raised_in(module["run"])
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert "ValueError: x" in short_traceback(error, describe(error))


def test_a_full_traceback_is_the_one_that_python_prints_with_its_causes() -> None:
    def outer() -> None:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError("effect") from error

    text = full_traceback(raised_in(outer))
    assert text.startswith("Traceback (most recent call last):")
    assert "KeyError: 'cause'" in text
    assert "The above exception was the direct cause of the following exception:" in text
    assert text.endswith("ValueError: effect\n")


def test_a_full_traceback_that_is_too_long_is_kept_in_its_end() -> None:
    text = full_traceback(raised(ValueError("x" * 100_000 + " the end")))
    assert len(text) == MAX_TRACEBACK
    assert text.startswith("…x")
    assert text.endswith("x the end\n")


def test_a_full_traceback_of_a_deep_recursion_has_thirty_frames() -> None:
    def there() -> None:
        back()

    def back() -> None:  # two of them, since Python counts lines that repeat instead of repeating them
        there()

    assert full_traceback(raised_in(there)).count('  File "') == 30


@pytest.mark.parametrize("raises", [RuntimeError("x"), SystemExit(1)])
def test_a_full_traceback_of_an_error_without_a_text_can_be_had(raises: BaseException) -> None:
    text = full_traceback(raised(NoText(raises)))
    assert text
    text.encode("utf-8")


# append.


def test_attempts_are_appended_in_order() -> None:
    options: dict[str, Any] = {}
    for n in (1, 2, 3):
        append(options, attempt(n))
    assert read_attempts(options) == (attempt(1), attempt(2), attempt(3))
    assert last_number(options) == 3


def test_the_history_of_twenty_attempts_is_whole() -> None:
    options: dict[str, Any] = {}
    for n in range(1, 21):
        append(options, attempt(n))
    assert [a.n for a in read_attempts(options)] == list(range(1, 21))


def test_of_more_attempts_the_first_and_the_latest_stay() -> None:
    options: dict[str, Any] = {}
    for n in range(1, 31):
        append(options, attempt(n))
    assert [a.n for a in read_attempts(options)] == [1, *range(12, 31)]
    assert len(options["attempts"]) == MAX_ENTRIES


def test_a_history_that_takes_too_many_bytes_loses_the_attempts_after_the_first() -> None:
    options: dict[str, Any] = {}
    for n in range(1, 21):
        append(options, attempt(n, message="\x01" * MAX_TEXT))  # 6 bytes each, as JSON
    kept = [a.n for a in read_attempts(options)]
    assert len(json.dumps(options["attempts"])) <= MAX_BYTES
    assert len(kept) >= 4
    assert kept == [1, *range(20 - len(kept) + 2, 21)]


def test_the_other_options_are_left_alone() -> None:
    options: dict[str, Any] = {"retries": 3, "attempts": []}
    append(options, attempt(1))
    assert options["retries"] == 3


@pytest.mark.parametrize("written", [None, 5, "text", {}, {"n": 3}, True])
def test_what_is_no_list_is_replaced(written: object) -> None:
    options: dict[str, Any] = {"attempts": written}
    append(options, attempt(1))
    assert read_attempts(options) == (attempt(1),)


def test_a_history_that_an_encoder_made_a_tuple_goes_on() -> None:
    options: dict[str, Any] = {"attempts": (attempt(1).asdict(),)}
    append(options, attempt(2))
    assert read_attempts(options) == (attempt(1), attempt(2))


def test_what_json_cannot_carry_does_not_stop_a_history() -> None:
    options: dict[str, Any] = {"attempts": [{"n": 1, "odd": object()}] * 10}
    append(options, attempt(2))
    assert read_attempts(options)[-1] == attempt(2)


# last_number.


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (None, 0),
        ([], 0),
        ([{"n": 7}], 7),
        ([{"n": 7}, {"n": "8"}], 8),
        ([{"n": None}], 0),
        ([{"n": "x"}], 0),
        ([{}], 0),
        ([5], 0),
        ("text", 0),
        ({"n": 3}, 0),
    ],
)
def test_the_last_number_is_that_of_the_last_attempt_or_0_where_it_cannot_be_read(written: object, number: int) -> None:
    assert last_number({"attempts": written}) == number


def test_the_last_number_of_a_message_without_a_history_is_0() -> None:
    assert last_number({}) == 0


def test_an_error_info_is_a_value() -> None:
    assert describe(ValueError("x")) == ErrorInfo(type="ValueError", message="x")
