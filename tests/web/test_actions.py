"""What is done by the forms, and what is asked for a second time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from dramatiq_retryq.dead_letters import DeadLetters
from dramatiq_retryq.errors import LetterUnreadable, NotSupported, StoreUnavailable
from dramatiq_retryq.records import DeadLetter

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from .conftest import Desk


def after(desk: Desk, response: TestResponse) -> str:
    """What the page says to which the answer leads."""
    assert response.status_code == 303
    document = desk.look(response.headers["Location"])
    return next((one.text for one in document.all("p", role="status")), "")


def confirmed(desk: Desk, response: TestResponse, read: Any) -> TestResponse:
    """Say yes to what is asked."""
    assert response.status_code == 200
    document = read(response.get_data(as_text=True))
    [form] = document.all("form", method="post")
    fields = [(one.attributes["name"], one.attributes["value"]) for one in document.all("input", type="hidden")]
    data: dict[str, list[str]] = {}
    for name, value in fields:
        data.setdefault(name, []).append(value)
    return desk.client.post(form.attributes["action"], data=data)


def due_in(desk: Desk) -> list[int]:
    """The milliseconds until each message is due that waits in the broker; they are gone then."""
    store, now = desk.broker.store, desk.clock.now()
    claims = store.claim("default", now=now + 10**12, limit=1_000, owner="test")
    for claim in claims:
        store.finish(claim)
    return [claim.due_at - now for claim in claims]


# Pause and resume.


def test_a_queue_is_paused_and_resumed(desk: Desk) -> None:
    assert after(desk, desk.post("/pause", {"queue": "default"})).startswith("Paused.")
    assert after(desk, desk.post("/resume", {"queue": "default"})) == "Resumed."
    assert desk.operations.done == [("pause", "default", None), ("resume", "default", None)]


def test_an_actor_is_paused(desk: Desk) -> None:
    desk.post("/pause", {"actor": " deliver "})
    assert desk.operations.done == [("pause", None, "deliver")]


@pytest.mark.parametrize("form", [{}, {"queue": " "}, {"queue": "a", "actor": "b"}])
def test_pausing_what_is_not_named_is_refused(desk: Desk, form: dict[str, str]) -> None:
    assert desk.post("/pause", form).status_code == 400
    assert desk.operations.done == []


@pytest.mark.parametrize(
    ("back", "path"), [("/", "/"), ("queue", "/queue?name=default"), ("//evil.example", "/queues")]
)
def test_one_comes_back_to_the_page_one_was_on_and_to_no_other_site(desk: Desk, back: str, path: str) -> None:
    response = desk.post("/pause", {"queue": "default", "back": back})
    assert response.headers["Location"] == path


# What waits.


def test_messages_that_were_selected_are_due_at_once(desk: Desk) -> None:
    for _ in range(3):
        desk.wait()
    first, _, third = desk.waiting()
    response = desk.post("/pending/run-now", {"id": [first, third, "9 gone"], "back": "actor=deliver&after=c1"})
    assert response.headers["Location"] == "/pending?actor=deliver&after=c1"
    assert after(desk, response) == "2 messages are due now. 1 message was no longer there."
    assert desk.operations.done == [("run_now", "1"), ("run_now", "3")]


@pytest.mark.parametrize("message_id", ["a b+c%20d", "line\r\nfeed", "", "<b>&amp;\"'", "größer \u202e"])
def test_a_message_is_known_by_its_id_whatever_is_in_it(desk: Desk, message_id: str) -> None:
    desk.wait(desk.message(1).copy(message_id=message_id))
    ids = desk.waiting()
    if message_id:
        ids += desk.look(f"/message?{urlencode({'id': message_id})}").inputs("id")
    for one in ids:
        assert desk.post("/pending/run-now", {"id": one}).status_code == 303
        assert desk.operations.done.pop() == ("run_now", "1")


def test_a_message_that_cannot_be_decoded_is_known_by_its_place(desk: Desk) -> None:
    desk.wait(message=desk.message(1), message_id=None, actor_name=None)
    desk.post("/pending/run-now", {"id": desk.waiting()})
    assert desk.operations.done == [("run_now", "1")]


def test_a_letter_that_cannot_be_replayed_does_not_keep_the_others_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        desk.die()
    replay = DeadLetters.replay

    def replay_some(letters: DeadLetters, letter: DeadLetter, **kwargs: Any) -> DeadLetter:
        if letter.id == "2":
            raise LetterUnreadable(letter.id)
        return replay(letters, letter, **kwargs)

    monkeypatch.setattr(DeadLetters, "replay", replay_some)
    said = after(desk, desk.post("/dead/replay", {"id": ["1", "2", "3"]}))
    assert said.startswith("2 messages were replayed and wait again. 1 message could not be: torn")
    assert desk.dead == ["2"]


@pytest.mark.parametrize("id", ["", " ", "1", "1 ", "1 %ff%fe", "x y z", "\x00 \x00"])
def test_a_form_with_an_id_that_nobody_wrote_does_nothing(desk: Desk, id: str) -> None:
    desk.wait()
    said = after(desk, desk.post("/pending/run-now", {"id": id}))
    assert said == "0 messages are due now. 1 message was no longer there."
    assert desk.operations.done == []


def test_what_has_the_place_of_a_message_now_is_left_alone(desk: Desk) -> None:
    desk.wait()
    form = {"id": desk.waiting()}
    desk.operations.waiting.clear()
    desk.wait()
    assert after(desk, desk.post("/pending/run-now", form)) == "0 messages are due now. 1 message was no longer there."
    assert desk.operations.done == []


def test_what_was_done_is_said_once(desk: Desk) -> None:
    desk.wait()
    response = desk.post("/pending/run-now", {"id": desk.waiting()})
    assert after(desk, response) == "1 message is due now."
    assert "is due now." not in desk.look("/pending").text


@pytest.mark.parametrize(
    "cookie", ["replayed.1.1", "x.1.1.0", "replayed.-1.0.0", "<b>.1.1.0", "replayed." + "9" * 50 + ".0.0", ""]
)
def test_a_cookie_that_somebody_else_wrote_says_nothing(desk: Desk, cookie: str) -> None:
    desk.client.set_cookie("retryq_done", cookie)
    assert desk.look("/").all("p", role="status") == []


@pytest.mark.parametrize(("due", "wait"), [("2h", 7_200_000), ("now", 0), ("in 90s", 90_000), ("1h 30m", 5_400_000)])
def test_a_message_is_moved_to_an_instant_in_words(desk: Desk, due: str, wait: int) -> None:
    waiting = desk.wait()
    response = desk.post("/pending/move", {"id": desk.waiting(), "due": due, "back": f"message={waiting.message_id}"})
    assert response.headers["Location"] == f"/message?id={waiting.message_id}"
    assert desk.operations.done == [("move", "1", wait)]


@pytest.mark.parametrize("due", ["", "soon", "9" * 500 + "d", "-1h", "1000000w"])
def test_a_message_is_not_moved_to_an_instant_nobody_understands(desk: Desk, due: str) -> None:
    desk.wait()
    response = desk.post("/pending/move", {"id": desk.waiting(), "due": due})
    assert response.status_code == 400
    assert "Nothing was done." in response.get_data(as_text=True)
    assert desk.operations.done == []


def test_cancelling_is_asked_for_twice(desk: Desk, read: Any) -> None:
    desk.wait()
    desk.wait()
    asked = desk.post("/pending/cancel", {"id": desk.waiting(), "back": "queue=default"})
    assert "Cancel 2 messages?" in asked.get_data(as_text=True)
    assert desk.operations.done == []
    response = confirmed(desk, asked, read)
    assert response.headers["Location"] == "/pending?queue=default"
    assert after(desk, response) == "2 messages were cancelled."
    assert desk.operations.done == [("cancel", "1"), ("cancel", "2")]


@pytest.mark.parametrize("path", ["/pending/run-now", "/pending/cancel", "/dead/replay", "/dead/discard"])
def test_nothing_selected_is_said_and_nothing_done(desk: Desk, path: str) -> None:
    desk.die()
    desk.wait()
    assert after(desk, desk.post(path)) == "Nothing was selected, so nothing was done."
    assert desk.operations.done == []
    assert desk.dead == ["1"]


# Dead letters.


def test_a_letter_is_replayed_and_one_sees_where_it_went(desk: Desk) -> None:
    letter = desk.die()
    token = desk.look("/letter?id=1").inputs("token")[0]
    response = desk.client.post(
        "/dead/replay", data={"token": token, "id": letter.id, "back": desk.look("/letter?id=1").inputs("back")[0]}
    )
    assert response.headers["Location"] == f"/message?id={letter.message_id}"
    assert desk.dead == []
    assert due_in(desk) == [0]


def test_the_selected_letters_are_replayed_oldest_first_at_a_rate(desk: Desk) -> None:
    for n in range(4):
        desk.die(desk.message(n))
    response = desk.post("/dead/replay", {"id": ["4", "3", "1"], "rate": "2"})
    assert after(desk, response) == "3 messages were replayed and wait again."
    assert desk.dead == ["2"]
    assert due_in(desk) == [0, 500, 1_000]


def test_a_letter_that_somebody_else_took_leaves_no_hole_in_the_rate(desk: Desk) -> None:
    for n in range(3):
        desk.die(desk.message(n))
    desk.broker.dead_letters.discard("2")
    response = desk.post("/dead/replay", {"id": ["3", "2", "1"], "rate": "1"})
    assert after(desk, response) == "2 messages were replayed and wait again. 1 message was no longer there."
    assert due_in(desk) == [0, 1_000]


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan", "inf", "1e-300", "1e300", "1" * 5_000])
def test_a_rate_that_makes_no_sense_replays_nothing(desk: Desk, rate: str) -> None:
    desk.die()
    response = desk.post("/dead/replay", {"id": "1", "rate": rate})
    assert response.status_code == 400
    assert "Not a rate." in response.get_data(as_text=True)
    assert desk.dead == ["1"]


def test_all_that_match_are_replayed_once_that_is_confirmed(desk: Desk, read: Any) -> None:
    for n in range(60):
        desk.die(desk.message(n, actor="deliver" if n % 2 else "other"))
    asked = desk.post("/dead/replay", {"scope": "all", "actor": "other", "rate": "10", "back": "actor=other&page=1"})
    text = asked.get_data(as_text=True)
    assert "Replay 30 dead letters?" in text
    assert "All that match now: actor “other”." in text
    assert "At most 10 of them become due in a second." in text
    assert len(desk.dead) == 60
    response = confirmed(desk, asked, read)
    assert response.headers["Location"] == "/dead?actor=other&page=1"
    assert after(desk, response) == "30 messages were replayed and wait again."
    assert due_in(desk) == [n * 100 for n in range(30)]


def test_what_died_after_the_question_is_not_discarded_with_the_rest(desk: Desk, read: Any) -> None:
    desk.die()
    asked = desk.post("/dead/discard", {"scope": "all"})
    assert "Discard 1 dead letter?" in asked.get_data(as_text=True)
    desk.clock.advance(1)
    desk.die()
    confirmed(desk, asked, read)
    assert desk.dead == ["2"]


def test_a_filter_by_time_means_the_same_when_it_is_confirmed_later(desk: Desk, read: Any) -> None:
    desk.die()
    asked = desk.post("/dead/discard", {"scope": "all", "since": "5s"})
    desk.clock.advance(60_000)
    confirmed(desk, asked, read)
    assert desk.dead == []


def test_discarding_even_one_is_asked_for_twice(desk: Desk, read: Any) -> None:
    desk.die()
    asked = desk.post("/dead/discard", {"id": "1"})
    assert "Discard 1 dead letter?" in asked.get_data(as_text=True)
    assert desk.dead == ["1"]
    assert after(desk, confirmed(desk, asked, read)) == "1 message was discarded."
    assert desk.dead == []


def test_a_confirmation_without_the_token_is_refused(desk: Desk) -> None:
    desk.die()
    desk.token()
    assert desk.client.post("/dead/discard", data={"id": "1", "confirmed": "yes"}).status_code == 403
    assert desk.dead == ["1"]


def test_a_filter_that_nobody_understands_discards_nothing(desk: Desk) -> None:
    desk.die()
    response = desk.post("/dead/discard", {"scope": "all", "since": "soon", "confirmed": "yes"})
    assert response.status_code == 400
    assert desk.dead == ["1"]


@pytest.mark.parametrize("asked_at", ["", "x", "-5", "9" * 40, "1.5"])
def test_an_instant_that_somebody_else_wrote_is_not_taken(desk: Desk, asked_at: str) -> None:
    desk.die()
    assert desk.post("/dead/discard", {"scope": "all", "confirmed": "yes", "asked_at": asked_at}).status_code == 303
    assert desk.dead == []


def test_ids_that_are_none_are_no_longer_there(desk: Desk) -> None:
    desk.die()
    response = desk.post("/dead/replay", {"id": ["x", "' OR 1=1", "9" * 400, "1.0", "-1", "\x00", "٣"]})
    assert after(desk, response) == "0 messages were replayed and wait again. 7 messages were no longer there."
    assert desk.dead == ["1"]


@pytest.mark.parametrize("path", ["/dead", "/letter?id=1"])
@pytest.mark.parametrize("action", ["/dead/replay", "/dead/discard"])
def test_a_letter_that_died_anew_since_the_page_was_made_is_left_alone(desk: Desk, path: str, action: str) -> None:
    letter = desk.die()
    seen = desk.look(path)
    desk.broker.dead_letters.replay(letter)
    store, now = desk.broker.store, desk.clock.now() + 1_000
    [claim] = store.claim("default", now=now, limit=1, owner="test")
    store.bury(claim, dataclasses.replace(letter, died_at=now))
    form = {"id": "1", "confirmed": "yes", "asked_at": seen.inputs("asked_at")[0]}
    assert "1 message was no longer there." in after(desk, desk.post(action, form))
    assert desk.dead == ["1"]


def test_the_same_id_twice_is_one(desk: Desk) -> None:
    desk.die()
    assert after(desk, desk.post("/dead/replay", {"id": ["1", "1"]})) == "1 message was replayed and waits again."
    due_in(desk)


# What cannot be done.


def test_what_a_broker_cannot_do_is_said_with_501(desk: Desk) -> None:
    desk.operations.refuses["pause"] = NotSupported("RedisBroker cannot pause a queue: stop its workers")
    response = desk.post("/pause", {"queue": "default"})
    assert response.status_code == 501
    assert "RedisBroker cannot pause a queue: stop its workers" in response.get_data(as_text=True)


def test_a_store_that_fails_in_the_midst_is_said_and_can_be_tried_again(desk: Desk, read: Any) -> None:
    desk.wait()
    token, ids = desk.token(), desk.waiting()
    desk.operations.refuses["run_now"] = StoreUnavailable("jobs.db: the disk is full")
    response = desk.client.post("/pending/run-now", data={"token": token, "id": ids})
    assert response.status_code == 503
    # Not the address of the form, at which there is nothing to be seen.
    assert read(response.get_data(as_text=True)).link("Try again") == "/"
