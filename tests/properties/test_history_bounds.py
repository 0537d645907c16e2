"""The history stays within its bounds, whatever texts the errors have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dramatiq.encoder import JSONEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

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
from dramatiq_retryq.records import Attempt, read_attempts

#: All that a Python text may hold, lone surrogates and NULs included.
#: Pieces and no st.text(), which hardly ever gives one of the few characters that matter here.
odd_characters = st.sampled_from(["\ud800", "\udfff", "\0", "\n", "ü", "\uffff", "😀"])
any_text = st.lists(odd_characters | st.characters(exclude_categories=()), max_size=40).map("".join)
#: The same, many times over.
long_text = st.builds(lambda text, times: text * times, any_text, st.integers(1, 200))


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except Exception as error:
        return error


def append_all(errors: list[Exception]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for n, error in enumerate(errors, start=1):
        info = describe(error)
        append(
            options,
            Attempt(
                n=n,
                started_at=1_767_225_600_000 + n,
                duration=10**9,
                error=info.type,
                message=info.message,
                place=info.place,
                delay=604_800_000,
                worker="a-rather-long-host-name.in-a-rather-long.domain.example.org:4194304",
            ),
        )
    return options


def size(options: dict[str, Any]) -> int:
    return len(JSONEncoder().encode(options["attempts"]))


@given(text=long_text)
def test_what_is_kept_of_an_error_is_short_and_valid_utf_8(text: str) -> None:
    info = describe(raised(text))
    assert len(info.message) <= MAX_TEXT == 500
    assert "\0" not in info.message
    for kept in (info.type, info.message, info.place, short_traceback(raised(text), info)):
        kept.encode("utf-8")


@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=MAX_TEXT))
def test_a_text_that_needs_no_repair_is_kept_as_it_is(text: str) -> None:
    assert describe(raised(text)).message == text


@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=10))
def test_a_text_that_is_too_long_is_kept_in_its_beginning(text: str) -> None:
    kept = describe(raised(text * 600)).message
    assert kept == (text * 600)[: MAX_TEXT - 1] + "…"


@given(text=long_text, secret=st.text(min_size=1, max_size=10))
def test_what_redact_returns_is_bounded_and_repaired_too(text: str, secret: str) -> None:
    info = describe(raised("x"), redact=lambda _: text + secret)
    assert len(info.message) <= MAX_TEXT
    info.message.encode("utf-8")


@given(text=long_text)
@settings(max_examples=30)
def test_the_full_traceback_is_bounded_and_valid_utf_8(text: str) -> None:
    kept = full_traceback(raised(text * 20))
    assert len(kept) <= MAX_TRACEBACK
    kept.encode("utf-8")


@given(texts=st.lists(long_text, min_size=1, max_size=45))
@settings(max_examples=60)
def test_a_history_has_at_most_20_entries_and_16_kib_with_the_first_and_the_latest(texts: list[str]) -> None:
    options = append_all([raised(text) for text in texts])
    attempts = read_attempts(options)
    assert len(attempts) == len(options["attempts"]) <= MAX_ENTRIES == 20
    assert size(options) <= MAX_BYTES == 16 * 1024
    assert attempts[0].n == 1
    assert attempts[-1].n == len(texts) == last_number(options)
    kept = [attempt.n for attempt in attempts]
    assert kept == sorted(set(kept))
    if len(attempts) > 1:
        # Those that went are the ones that followed the first.
        assert kept[1:] == list(range(kept[1], len(texts) + 1))


@given(count=st.integers(1, 60))
@settings(max_examples=30)
def test_short_errors_fill_all_of_the_entries_there_are(count: int) -> None:
    kept = [attempt.n for attempt in read_attempts(append_all([raised("no")] * count))]
    assert kept == ([*range(1, count + 1)] if count <= 20 else [1, *range(count - 18, count + 1)])


@pytest.mark.parametrize("character", ["x", "\n", "ü", "\ud800", "\0", "\x7f", "\uffff", "😀"])
def test_the_longest_texts_of_any_character_stay_within_the_bytes(character: str) -> None:
    for count in range(1, 25):
        assert size(append_all([raised(character * 600)] * count)) <= MAX_BYTES


@pytest.mark.parametrize("character", ["E", "ü", "\uffff", "😀"])
def test_the_longest_names_and_places_of_any_character_stay_within_the_bytes(character: str) -> None:
    error_class = type(character * 200, (Exception,), {})
    code = compile("raise error_class(character * 600)", f"{character * 200}.py", "exec")
    try:
        exec(code, {"error_class": error_class, "character": character})
    except error_class as caught:
        error = caught
    for count in range(1, 25):
        options = append_all([error] * count)
        assert size(options) <= MAX_BYTES
        assert read_attempts(options)[-1].n == count


@given(texts=st.lists(any_text, min_size=1, max_size=5))
def test_a_list_that_another_copy_of_the_message_shares_is_not_changed(texts: list[str]) -> None:
    options = append_all([raised(text) for text in texts])
    shared = options["attempts"]
    before = [*shared]
    append(options, Attempt(n=9, started_at=0, duration=0, error="E", message=""))
    assert shared == before
    assert options["attempts"] is not shared


# Whatever somebody else wrote into the options.

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
mappings = st.dictionaries(st.text(max_size=5) | st.just("n"), leaves, max_size=4)
json_values = leaves | mappings | st.lists(leaves | mappings | st.lists(leaves, max_size=2), max_size=4)


@given(written=json_values)
def test_an_attempt_is_appended_to_whatever_is_there(written: object) -> None:
    options: dict[str, Any] = {"attempts": written}
    append(options, Attempt(n=last_number(options) + 1, started_at=0, duration=0, error="ValueError", message="no"))
    assert len(options["attempts"]) <= MAX_ENTRIES
    assert read_attempts(options)[-1].error == "ValueError"


def test_an_attempt_is_appended_after_one_whose_number_is_infinite() -> None:
    options = JSONEncoder().decode(b'{"attempts": [{"n": Infinity}]}')
    assert isinstance(last_number(options), int)


# Hostile errors.


class Hostile(Exception):
    def __init__(self, text: Callable[[], Any]) -> None:
        self.text = text

    def __str__(self) -> Any:  # type: ignore[override]
        return self.text()


@given(text=st.one_of(st.none(), st.integers(), st.binary(), st.lists(st.text())))
def test_an_error_whose_text_is_no_text_is_described_all_the_same(text: object) -> None:
    info = describe(Hostile(lambda: text))
    assert info.type == "Hostile"
    assert info.message.startswith("<its text cannot be had")


@given(value=st.none() | st.integers() | any_text)
def test_whatever_redact_returns_is_kept_as_text(value: object) -> None:
    message = describe(raised("secret"), redact=lambda _: value).message  # type: ignore[arg-type, return-value]
    assert "secret" not in message
    message.encode("utf-8")
