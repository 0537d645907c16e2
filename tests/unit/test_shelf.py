"""Letters as they lie on a server that other versions of this package use too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dramatiq import Message
from hypothesis import given
from hypothesis import strategies as st

from dramatiq_retryq.errors import LetterTooNew, LetterUnreadable
from dramatiq_retryq.records import REASONS, DeadLetter, ErrorInfo
from dramatiq_retryq.shelf import LETTER_VERSION, check_readable, pack, plain_letter, unpack

MESSAGE: Message[Any] = Message("q", "work", (1,), {}, {"retries": 2}, "m-1", 1_000)


def letter(**fields: Any) -> DeadLetter:
    return DeadLetter(
        **{
            "id": "7",
            "reason": "exhausted",
            "queue_name": "q",
            "actor_name": "work",
            "died_at": 5_000,
            "data": MESSAGE.encode(),
            **fields,
        }
    )


@given(
    reason=st.sampled_from(REASONS),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    data=st.binary(),
    actor=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_letter_comes_back_as_it_was_laid_down(reason: Any, text: str, data: bytes, actor: str | None) -> None:
    before = letter(
        reason=reason,
        actor_name=actor,
        data=data,
        error=ErrorInfo(type="E", message=text, place="a.py:1 in f"),
        traceback=text,
    )
    assert unpack(pack(before)) == before


def test_a_letter_says_in_which_form_it_is() -> None:
    assert json.loads(pack(letter()))["version"] == LETTER_VERSION == 1


def test_what_a_newer_version_wrote_is_read_as_far_as_it_is_understood() -> None:
    fields = {**json.loads(pack(letter())), "version": 2, "reason": "bored", "weather": "fine"}
    found = unpack(json.dumps(fields))
    assert (found.id, found.version, found.reason, found.message) == ("7", 2, "rejected", MESSAGE)
    with pytest.raises(LetterTooNew, match="'7' is of form 2"):
        check_readable(found)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"version":"x"}', b'{"version":1}'])
def test_what_is_no_letter_is_listed_all_the_same(data: bytes) -> None:
    found = unpack(data, letter_id="7", queue_name="q", died_at=3)
    assert (found.id, found.queue_name, found.died_at) == ("7", "q", 3)


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b'{"version":1,"id":"to',
        b"[]",
        b'{"version":1,"queue_name":"q"}',
        b'{"version":1,"queue_name":"q","data":"%%%"}',
        b'{"version":1,"data":"e30="}',
        b'{"version":1,"queue_name":"\\ud800","data":"e30="}',
    ],
)
def test_a_torn_letter_is_not_replayed(torn: bytes) -> None:
    with pytest.raises(LetterUnreadable, match="dead letter '7' is torn"):
        check_readable(unpack(torn, letter_id="7"))


def test_a_letter_has_the_id_under_which_it_lies() -> None:
    assert unpack(pack(letter(id="9")), letter_id="7").id == "7"


@pytest.mark.parametrize("died_at", [10**400, -(10**400), "now", 1.5, None])
def test_an_instant_that_is_none_is_not_believed(died_at: object) -> None:
    fields = {**json.loads(pack(letter())), "died_at": died_at}
    assert unpack(json.dumps(fields), died_at=3).died_at == 3


@given(st.recursive(st.none() | st.integers() | st.text() | st.booleans(), lambda inner: st.lists(inner)))
def test_nothing_in_a_field_makes_reading_fail(value: Any) -> None:
    fields = json.loads(pack(letter()))
    for name in fields:
        unpack(json.dumps({**fields, name: value}), letter_id="7")


def test_a_plain_message_tells_what_it_can() -> None:
    message = MESSAGE.copy(options={"traceback": "Traceback…\n  File …\napp.errors.Busy: come later\n"})
    found = plain_letter(message.encode(), letter_id="7", queue_name="q", died_at=9)
    assert (found.reason, found.actor_name, found.message) == ("rejected", "work", message)
    assert (found.error.type, found.error.message) == ("Busy", "come later")  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{}, {"traceback": None}, {"traceback": ""}, {"traceback": 7}])
def test_a_plain_message_without_a_traceback_has_no_error(options: dict[str, Any]) -> None:
    assert plain_letter(MESSAGE.copy(options=options).encode(), letter_id="7", queue_name="q", died_at=9).error is None


def test_a_plain_payload_that_is_no_message_is_undecodable() -> None:
    found = plain_letter(b"nonsense", letter_id="7", queue_name="q", died_at=9)
    assert (found.reason, found.actor_name, found.data) == ("undecodable", None, b"nonsense")
