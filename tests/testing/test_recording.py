"""What happened: attempts, delays, what was enqueued, the timeline, and the assertions."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import Snooze
from dramatiq_retryq.testing import Kit, UnknownActor, swap_broker


@pytest.fixture
def mail(retryq: Kit) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(max_retries=3)
    def mail(address: str, *, subject: str = "hello") -> None:
        if address == "broken":
            raise ConnectionError("refused")

    return mail


def test_attempts_are_the_runs_that_used_one_up(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None:
        count.append(1)
        if len(count) == 1:
            raise Snooze(1_000)
        if len(count) == 2:
            raise ValueError("twice")

    count: list[int] = []
    work.send()
    retryq.drain()
    assert [(run.n, run.outcome) for run in retryq.attempts(work)] == [(1, "retried"), (2, "succeeded")]
    assert [run.outcome for run in retryq.runs("work")] == ["snoozed", "retried", "succeeded"]
    assert retryq.delays(work) == [1_000, 100]
    error = retryq.attempts(work)[0].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "twice")


def test_attempts_of_other_actors_are_left_out(retryq: Kit, mail: Any) -> None:
    @dramatiq.actor
    def other() -> None: ...

    mail.send("ada")
    other.send()
    retryq.drain()
    assert len(retryq.attempts()) == 2
    assert len(retryq.attempts(mail)) == len(retryq.attempts("other")) == 1


def test_enqueued_finds_by_actor_arguments_and_delay(retryq: Kit, mail: Any) -> None:
    mail.send("ada", subject="one")
    mail.send_with_options(args=("alan",), delay=timedelta(hours=1))
    assert [sent.args for sent in retryq.enqueued(mail)] == [("ada",), ("alan",)]
    assert [sent.args for sent in retryq.enqueued(mail, kwargs={"subject": "one"})] == [("ada",)]
    assert [sent.args for sent in retryq.enqueued(mail, delay=3_600_000)] == [("alan",)]
    assert [sent.args for sent in retryq.enqueued(mail, delay=0)] == [("ada",)]
    assert retryq.enqueued(mail, args=("grace",)) == []
    assert len(retryq.enqueued(args=[ANY])) == 2
    assert retryq.enqueued(mail, delay=timedelta(hours=1))[0].message_id == retryq.waiting(mail)[1].message_id


def test_retries_are_no_sending(retryq: Kit, mail: Any) -> None:
    mail.send("broken")
    retryq.drain()
    assert len(retryq.enqueued(mail)) == 1


def test_what_actors_send_counts_as_sent(retryq: Kit, mail: Any) -> None:
    @dramatiq.actor
    def sign_up(address: str) -> None:
        mail.send(address)

    sign_up.send("ada")
    retryq.refute_enqueued(mail)
    retryq.drain()
    assert retryq.assert_enqueued(mail, args=("ada",)).kwargs == {}


def test_waiting_is_what_is_still_to_be_run(retryq: Kit, mail: Any) -> None:
    mail.send("broken")
    mail.send("ada")
    assert [sent.args for sent in retryq.waiting()] == [("broken",), ("ada",)]
    retryq.drain(until=0)
    assert [sent.args for sent in retryq.waiting(mail)] == [("broken",)]
    retryq.drain()
    assert retryq.waiting(mail) == []


def test_assert_enqueued_shows_what_was_there_instead(retryq: Kit, mail: Any) -> None:
    mail.send_with_options(args=("ada",), kwargs={"subject": "x"}, delay=60_000)
    with pytest.raises(AssertionError) as caught:
        retryq.assert_enqueued(mail, args=("alan",), delay=timedelta(seconds=5))
    assert str(caught.value) == (
        "a message to mail with args=('alan',), delay=5 s was expected, and these were sent:\n"
        "  mail('ada', subject='x'), sent at +0 ms, due in 1 min"
    )


def test_assert_enqueued_names_the_other_actors_that_were_sent_to(retryq: Kit, mail: Any) -> None:
    @dramatiq.actor
    def other() -> None: ...

    with pytest.raises(AssertionError, match="a message to mail was expected, and nothing was sent"):
        retryq.assert_enqueued(mail)
    other.send()
    with pytest.raises(AssertionError, match=r"and none was sent; others were: other \(1\)"):
        retryq.assert_enqueued(mail)


def test_assert_enqueued_counts(retryq: Kit, mail: Any) -> None:
    mail.send("ada")
    retryq.assert_enqueued(mail, count=1)
    with pytest.raises(AssertionError, match="was expected 2 times, and sent 1 times"):
        retryq.assert_enqueued(mail, count=2)


def test_refute_enqueued_shows_what_was_sent(retryq: Kit, mail: Any) -> None:
    mail.send("ada")
    retryq.refute_enqueued(mail, args=("alan",))
    with pytest.raises(AssertionError, match=r"a message to mail was not expected, and was sent:\n  mail\('ada'\)"):
        retryq.refute_enqueued(mail)


def test_the_timeline_is_a_picture_of_each_life(retryq: Kit, mail: Any) -> None:
    sent = mail.send("broken")
    retryq.drain()
    lines = retryq.timeline().splitlines()
    place = retryq.attempts(mail)[0].error.place  # type: ignore[union-attr]
    assert "\n".join(line.rstrip() for line in lines) == textwrap.dedent(f"""\
        mail('broken')  [{sent.message_id[:8]}, queue default]
            +0 ms  sent
            +0 ms  attempt 1  ConnectionError: refused ({place}) → again in 100 ms
          +100 ms  attempt 2  ConnectionError: refused ({place}) → again in 200 ms
          +300 ms  attempt 3  ConnectionError: refused ({place}) → again in 400 ms
          +700 ms  attempt 4  ConnectionError: refused ({place}) → dead: exhausted""")


def test_the_timeline_says_what_waits_and_for_how_long(retryq: Kit, mail: Any) -> None:
    mail.send_with_options(args=("ada",), delay=timedelta(days=2, hours=3))
    retryq.advance(timedelta(hours=3))
    assert "+3 h  waiting  due in 2 d" in retryq.timeline()


def test_a_long_timeline_shows_first_what_did_not_go_well(retryq: Kit, mail: Any) -> None:
    for n in range(50):
        mail.send(f"fine {n}")
    mail.send("broken")
    retryq.drain()
    picture = retryq.timeline(limit=5)
    assert "mail('broken')" in picture
    assert picture.endswith("… and 46 more messages")


def test_a_timeline_of_nothing_says_so(retryq: Kit) -> None:
    assert retryq.timeline() == "no message was sent"


def test_an_unknown_actor_is_an_error_that_names_those_that_are_like_it(retryq: Kit, mail: Any) -> None:
    for ask in (retryq.attempts, retryq.delays, retryq.assert_enqueued, retryq.refute_enqueued, retryq.fail_next):
        with pytest.raises(UnknownActor, match=r"no actor 'mial' is declared.*did you mean 'mail'"):
            ask("mial")  # type: ignore[operator]


def test_what_is_no_actor_is_an_error(retryq: Kit) -> None:
    with pytest.raises(UnknownActor, match="is no actor"):
        retryq.attempts(print)  # type: ignore[arg-type]
    with pytest.raises(UnknownActor, match="none is declared at all"):
        retryq.attempts("mail")


def test_an_actor_of_another_broker_is_an_error_that_says_which() -> None:
    theirs, mine = StubBroker(), StubBroker()

    @dramatiq.actor(broker=theirs)
    def work() -> None: ...

    with (
        swap_broker(mine) as retryq,
        pytest.raises(UnknownActor, match=r"'work' belongs to another broker, a StubBroker.*in the place of a StubB"),
    ):
        retryq.attempts(work)


def test_a_class_based_actor_will_do(retryq: Kit) -> None:
    class Report(dramatiq.GenericActor):
        def perform(self, n: int) -> None: ...

    Report.send(1)  # type: ignore[attr-defined]
    retryq.drain()
    assert len(retryq.attempts(Report)) == 1  # type: ignore[arg-type]


def test_clear_forgets_everything_but_the_time(retryq: Kit, mail: Any) -> None:
    mail.send("broken")
    retryq.drain()
    mail.send("ada")
    retryq.clear()
    assert retryq.waiting() == retryq.runs() == list(retryq.dead_letters) == []
    assert retryq.elapsed == timedelta(milliseconds=700)


def test_what_was_recorded_can_be_looked_at_after_the_test() -> None:
    with swap_broker() as retryq:

        @dramatiq.actor(max_retries=0)
        def work() -> None:
            raise ValueError

        work.send()
        retryq.drain()
    assert len(retryq.attempts("work")) == 1
    assert retryq.dead_letters.one().reason == "exhausted"
    assert "dead: exhausted" in retryq.timeline()


def test_a_dead_letter_that_is_not_there_is_an_error_that_shows_those_that_are(retryq: Kit, mail: Any) -> None:
    with pytest.raises(LookupError, match=r"expected, there is none$"):
        retryq.dead_letters.one()
    for _ in range(2):
        mail.send_with_options(args=("broken",), max_retries=0)
    retryq.drain()
    one = r"mail \(exhausted, ConnectionError: refused\)"
    with pytest.raises(LookupError, match=f"there are several; there lie {one}, {one}$"):
        retryq.dead_letters.one()
    with pytest.raises(LookupError, match=f"there is none; there lie {one}, {one}$"):
        retryq.dead_letters.one(reason="rejected")


def test_what_was_sent_is_shown_as_it_was_then_whatever_the_sender_does_with_it(retryq: Kit, mail: Any) -> None:
    recipients, options = ["ada"], {"cc": ["bob"]}
    mail.send(recipients, options=options)
    recipients.clear()
    options["cc"].append("eve")

    retryq.assert_enqueued(mail, args=(["ada"],), kwargs={"options": {"cc": ["bob"]}})
    assert "mail(['ada'], options={'cc': ['bob']})" in retryq.timeline()


def test_what_was_run_is_shown_as_it_was_given_whatever_the_actor_does_with_it(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=1)
    def work_off(names: list[str]) -> None:
        names.pop()
        raise ValueError

    work_off.send(["ada", "bob"])
    retryq.drain()

    assert [run.args for run in retryq.attempts(work_off)] == [(["ada", "bob"],)] * 2


def test_what_cannot_be_copied_is_shown_as_it_is_now(retryq: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("there is one of these")

    @dramatiq.actor
    def take(thing: Any) -> None: ...

    monkeypatch.setattr(dramatiq.message, "global_encoder", dramatiq.PickleEncoder())
    monkeypatch.setattr("pickle.dumps", lambda data: b"never run")
    thing = Own()
    take.send(thing)
    retryq.assert_enqueued(take, args=(thing,))
    retryq.clear()
