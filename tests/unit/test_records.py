"""The records: what can be read from them, and that it can be passed on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from dramatiq import Message

from dramatiq_retryq import Attempt, DeadLetter
from dramatiq_retryq.records import REASONS, CurrentAttempt, Entry, ErrorInfo, QueueCounts, read_attempts

NOW = 1_767_225_600_000


def message(**fields: Any) -> Message[Any]:
    return Message(
        **{
            "queue_name": "default",
            "actor_name": "add",
            "args": (1, 2),
            "kwargs": {"c": 3},
            "options": {},
            "message_id": "m-1",
            "message_timestamp": NOW,
            **fields,
        }
    )


def letter(data: bytes, **fields: Any) -> DeadLetter:
    return DeadLetter(
        **{
            "id": "7",
            "reason": "exhausted",
            "queue_name": "default",
            "actor_name": "add",
            "died_at": NOW + 9,
            "error": ErrorInfo(type="ValueError", message="bad input", place="app.py:3 in add"),
            "traceback": "Traceback …",
            "data": data,
            **fields,
        }
    )


def attempt(n: int) -> Attempt:
    return Attempt(
        n=n,
        started_at=NOW,
        duration=12,
        error="ValueError",
        message="naïve 😀",
        place="app.py:3 in add",
        delay=100,
        worker="host:1",
    )


DEAD = message(options={"attempts": [attempt(1).asdict(), attempt(2).asdict()], "replays": 2, "retries": 2})

# What a worker could not handle, and what is no message at all.
UNDECODABLE = [
    b"",
    b"\xff\xfe",
    b"no json",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b'{"queue_name": "default"}',
    message().encode().replace(b'"options":{}', b'"options":null'),
    message().encode().replace(b'"options":{}', b'"options":[]'),
    message().encode().replace(b'"args":[1,2]', b'"args":5'),
    message().encode().replace(b'"kwargs":{"c":3}', b'"kwargs":null'),
    message().encode().replace(b'"m-1"', b"5"),
    message().encode().replace(b'"add"', b"null"),
    message().encode().replace(b'"args"', b'"arguments"'),
]


# DeadLetter.


def test_a_letter_gives_the_message_as_it_was_when_it_died() -> None:
    assert letter(DEAD.encode()).message == DEAD
    assert letter(DEAD.encode()).message_id == "m-1"


def test_a_letter_gives_the_attempts_and_how_often_it_was_replayed() -> None:
    dead = letter(DEAD.encode())
    assert dead.attempts == (attempt(1), attempt(2))
    assert dead.replays == 2


def test_a_letter_of_a_message_that_was_never_attempted_has_no_attempts_and_no_replays() -> None:
    dead = letter(message().encode())
    assert dead.attempts == ()
    assert dead.replays == 0


@pytest.mark.parametrize("replays", ["two", None, 1.5, [], {}])
def test_a_number_of_replays_that_somebody_else_wrote_as_something_else_is_0(replays: object) -> None:
    assert letter(message(options={"replays": replays}).encode()).replays == 0


@pytest.mark.parametrize("data", UNDECODABLE)
def test_a_letter_whose_payload_is_no_message_can_be_looked_at(data: bytes) -> None:
    dead = letter(data, reason="undecodable", actor_name=None)
    assert dead.message is None
    assert dead.message_id is None
    assert dead.attempts == ()
    assert dead.replays == 0


def test_a_letter_as_a_dict_has_all_that_is_known() -> None:
    assert letter(DEAD.encode()).asdict() == {
        "id": "7",
        "reason": "exhausted",
        "queue_name": "default",
        "actor_name": "add",
        "died_at": NOW + 9,
        "error": {"type": "ValueError", "message": "bad input", "place": "app.py:3 in add"},
        "traceback": "Traceback …",
        "attempts": [attempt(1).asdict(), attempt(2).asdict()],
        "replays": 2,
        "message": {
            "queue_name": "default",
            "actor_name": "add",
            "args": (1, 2),
            "kwargs": {"c": 3},
            "options": DEAD.options,
            "message_id": "m-1",
            "message_timestamp": NOW,
        },
        "data": None,
    }


@pytest.mark.parametrize(
    "dead",
    [
        letter(DEAD.encode()),
        letter(message().encode(), error=None, traceback=None),
        letter(message(options={"attempts": "nonsense", "replays": "many"}).encode()),
        *[letter(data, reason="undecodable", actor_name=None) for data in UNDECODABLE],
    ],
)
def test_a_letter_as_a_dict_can_be_sent_as_json(dead: DeadLetter) -> None:
    as_dict = dead.asdict()
    as_dict["message"] = None if as_dict["message"] is None else {**as_dict["message"], "args": [*dead.message.args]}  # type: ignore[union-attr]
    assert json.loads(json.dumps(dead.asdict())) == as_dict


@pytest.mark.parametrize("data", UNDECODABLE)
def test_the_payload_of_a_letter_that_is_no_message_is_in_the_dict_as_base64(data: bytes) -> None:
    as_dict = letter(data, reason="undecodable", actor_name=None).asdict()
    assert as_dict["message"] is None
    assert base64.b64decode(as_dict["data"]) == data


def test_a_letter_can_be_sent_on_as_the_argument_of_a_message() -> None:
    as_dict = letter(DEAD.encode()).asdict()
    sent = Message.decode(message(args=(as_dict,)).encode())
    assert sent.args[0]["attempts"][1]["n"] == 2


def test_a_letter_in_a_log_has_neither_its_payload_nor_its_traceback() -> None:
    text = repr(letter(b"secret", traceback="secret"))
    assert "secret" not in text
    assert "exhausted" in text


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        letter(b"").reason = "rejected"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        attempt(1).n = 2  # type: ignore[misc]


def test_there_are_seven_reasons() -> None:
    assert REASONS == (
        "exhausted",
        "rejected",
        "expired",
        "unknown_actor",
        "undecodable",
        "crashed",
        "unschedulable",
    )


# read_attempts.


def test_attempts_are_read_as_they_were_written() -> None:
    assert read_attempts({"attempts": [attempt(1).asdict()]}) == (attempt(1),)


def test_attempts_are_read_after_a_journey_through_json() -> None:
    assert read_attempts(json.loads(json.dumps({"attempts": [attempt(1).asdict()]}))) == (attempt(1),)


def test_attempts_are_read_from_a_tuple_too_as_some_encoders_give() -> None:
    assert read_attempts({"attempts": (attempt(1).asdict(), attempt(2).asdict())}) == (attempt(1), attempt(2))


@pytest.mark.parametrize("written", [None, [], (), {}, "attempts", 5, True, {"n": 1}])
def test_what_is_no_list_of_attempts_is_none(written: object) -> None:
    assert read_attempts({"attempts": written}) == ()
    assert read_attempts({}) == ()


@pytest.mark.parametrize("odd", [None, 5, "n", [], ["n"], {}, {"n": 1}, {"n": 1, "error": "E"}, True, 1.5])
def test_an_attempt_that_cannot_be_read_is_left_out_and_the_others_are_kept(odd: object) -> None:
    written = [attempt(1).asdict(), odd, attempt(2).asdict()]
    assert read_attempts({"attempts": written}) == (attempt(1), attempt(2))


def test_a_field_of_a_later_version_is_passed_over() -> None:
    assert read_attempts({"attempts": [{**attempt(1).asdict(), "mood": "bad"}]}) == (attempt(1),)


def test_a_field_that_an_earlier_version_did_not_write_has_its_default() -> None:
    written = {"n": 1, "started_at": NOW, "duration": 12, "error": "ValueError", "message": "x"}
    [read] = read_attempts({"attempts": [written]})
    assert (read.place, read.delay, read.worker) == ("", None, "")


@pytest.mark.parametrize("field", ["n", "started_at", "duration", "delay"])
def test_an_attempt_with_a_field_of_the_wrong_type_is_left_out(field: str) -> None:
    written = {**attempt(1).asdict(), field: "soon"}
    assert read_attempts({"attempts": [written]}) == ()


# The rest.


@pytest.mark.parametrize(
    ("number", "limit", "is_last"), [(1, 3, False), (2, 3, False), (3, 3, True), (4, 3, True), (1, 1, True)]
)
def test_an_attempt_is_the_last_where_no_retry_is_left(number: int, limit: int, is_last: bool) -> None:
    current = CurrentAttempt(number=number, limit=limit, previous=(), first_started_at=NOW)
    assert current.is_last is is_last


def test_an_attempt_without_a_limit_is_never_the_last() -> None:
    assert not CurrentAttempt(number=10**6, limit=None, previous=(), first_started_at=NOW).is_last


def test_what_waits_is_what_is_due_and_what_comes_later() -> None:
    assert QueueCounts(due=2, later=3, claimed=5, dead=7).waiting == 5


def test_an_entry_is_a_value() -> None:
    entry = Entry(id=1, queue_name="default", state="waiting", data=b"x", due_at=NOW, deliveries=0)
    assert entry == Entry(id=1, queue_name="default", state="waiting", data=b"x", due_at=NOW, deliveries=0)
    assert (entry.claimed_at, entry.owner) == (None, None)


def test_an_error_reads_as_python_prints_it() -> None:
    assert str(ErrorInfo(type="KeyError", message="'x'")) == "KeyError: 'x'"
    assert str(ErrorInfo(type="KeyError", message="")) == "KeyError"
