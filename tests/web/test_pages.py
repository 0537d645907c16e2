"""What is shown, and that nothing in it is taken for markup."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from dramatiq_retryq.errors import NotSupported, StoreUnavailable
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.records import ErrorInfo
from dramatiq_retryq.status import Minute, Paused, QueueStatus, Rates, RunningMessage, WorkerStatus

if TYPE_CHECKING:
    from dramatiq_retryq.records import Attempt

    from .conftest import Desk

MARKUP = "<img src=x onerror=alert(1)>\"'&{{7777*7}}</pre></script><script>alert(2)</script>"


@pytest.fixture
def full(desk: Desk, attempts: Callable[..., Attempt]) -> Desk:
    """Something of everything."""
    now = desk.clock.now()
    desk.operations.queue_states = (
        QueueStatus(name="default", due=1204, later=5, claimed=2, dead=3, oldest_due_at=now - 90_000),
        QueueStatus(name="mail", due=1, later=0, claimed=0, dead=0, oldest_due_at=now - 5_000, paused=True, held=1),
    )
    desk.operations.workers_alive = (
        WorkerStatus(
            owner="host:17",
            started_at=now - 3_600_000,
            running=(RunningMessage(message_id="m", actor_name="deliver", queue_name="default", since=now - 2_500),),
        ),
        WorkerStatus(owner="host:18", started_at=None),
    )
    desk.operations.paused_now = Paused(
        queues=frozenset({"mail"}),
        actors=frozenset({"resize"}),
        since_queues={"mail": now - 60_000},
        since_actors={"resize": now - 60_000},
    )
    desk.operations.minutes_seen = [
        Minute(
            at=now // 60_000 * 60_000, queue_name="default", rates=Rates(succeeded=1200, retried=7, failed=9, died=2)
        )
    ]
    desk.operations.last_hour = Rates(succeeded=1200, retried=7, failed=9, died=2)
    for n in range(3):
        desk.die(desk.message(n, attempts=[attempts(1, now).asdict(), attempts(2, now + 5_000, delay=None).asdict()]))
    desk.wait()
    desk.wait(state="claimed", claimed_at=now, claimed_by="host:17")
    tried = (attempts(1, now - 5_000),)
    desk.wait(retries=1, attempts=tried, error=ErrorInfo(type="OSError", message="no route"), held=True)
    desk.wait(message_id=None, actor_name=None, message=None)
    return desk


PAGES = ["/", "/queues", "/queue?name=mail", "/pending", "/dead", "/workers", "/letter?id=1", "/dead?since=x&actor=y"]


@pytest.mark.parametrize("path", [*PAGES, "/message?id=gone", "/letter?id=gone", "/nothing", "/pending?after=nowhere"])
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"login": lambda environ: "ada"}])
def test_every_page_is_sound_html_with_labels_and_captions(full: Desk, path: str, options: dict[str, Any]) -> None:
    document = full.open(**options).look(path)
    assert document.all("title")[0].text.endswith("· retryq")


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_broker_has_every_page_too(desk: Desk, path: str) -> None:
    assert desk.get("/").status_code == 200
    desk.look(path)


@pytest.mark.parametrize("path", PAGES[:6])
def test_a_read_only_page_has_no_form_that_changes_anything(full: Desk, path: str) -> None:
    document = full.open(read_only=True).look(path)
    assert document.all("form", method="post", action="/pause") == []
    assert document.inputs("token") == []
    assert "Pause" not in [one.text.strip() for one in document.all("button")]


def test_the_overview_says_how_much_is_where(full: Desk) -> None:
    text = " ".join(full.look("/").text.split())
    for words in ("1,205 due", "5 later", "2 taken", "3 dead", "2 workers"):
        assert words in text


def test_the_overview_says_what_is_wrong_the_worst_first(full: Desk) -> None:
    said = [one.text for one in full.look("/").all("p") if "verdict" in one.attributes.get("class", "")]
    assert said == [
        "Work is behind: the oldest due message has waited 1 min 33 s.",
        "2 messages died in the last hour, 0 of them in the last minute.",
        "Paused: queue mail, actor resize.",
    ]


def test_the_overview_says_when_nobody_works(full: Desk) -> None:
    full.operations.workers_alive = ()
    assert "No worker is alive, and 1,204 messages could run now." in full.look("/").text


def test_a_paused_queue_is_not_behind(desk: Desk) -> None:
    now = desk.clock.now()
    desk.operations.queue_states = (QueueStatus(name="mail", due=9, oldest_due_at=now - 10**7, paused=True),)
    assert "behind" not in desk.look("/").text
    assert "No worker" not in desk.look("/").text.replace("No worker is alive.", "")


def test_where_all_is_well_that_is_said(desk: Desk) -> None:
    assert "Nothing is stuck." in desk.look("/").text


def verdicts(desk: Desk) -> list[str]:
    return [one.text for one in desk.look("/").all("p") if "verdict" in one.attributes.get("class", "")]


def test_where_nobody_knows_since_when_messages_are_due_nothing_is_called_well(desk: Desk) -> None:
    desk.operations.workers_alive = None
    desk.operations.refuses["workers"] = NotSupported("RabbitmqBroker does not tell")
    desk.operations.queue_states = (QueueStatus(name="mail", due=3, later=0, dead=0), QueueStatus(name="a", due=0))
    unknown = "3 messages are due, and this broker cannot tell for how long: they may be stuck."
    assert verdicts(desk) == [unknown]
    desk.operations.queue_states = (QueueStatus(name="mail", due=0, later=0, dead=0),)
    assert verdicts(desk) == ["Nothing is stuck."]
    desk.operations.queue_states = (QueueStatus(name="mail"),)
    assert verdicts(desk) == ["This broker cannot tell whether anything is due."]
    desk.operations.queue_states = (QueueStatus(name="mail", due=3, paused=True),)
    assert verdicts(desk) == ["Nothing is stuck."]


def test_deaths_are_told_by_actor_and_error_with_their_number_and_since_when(full: Desk) -> None:
    full.die(full.message(actor="other"), error=None)
    rows = [" ".join(one.text.split()) for one in full.look("/").all("tr")]
    assert "deliver ConnectionError: nobody answers 3 of deliver 2 s ago 4 s ago" in rows
    assert "other none 1 of other 1 s ago 1 s ago" in rows


def test_where_there_are_more_letters_than_are_looked_at_no_figure_claims_to_be_all(desk: Desk) -> None:
    for _ in range(100):
        desk.die()
    desk.operations.queue_states = (QueueStatus(name="default", due=0, dead=12_345),)
    rows = [" ".join(one.text.split()) for one in desk.look("/").all("tr")]
    assert "deliver ConnectionError: nobody answers 100 of deliver 1 s ago 1 min 40 s ago" in rows
    desk.die(desk.message(actor="other"))
    page = desk.look("/")
    rows = [" ".join(one.text.split()) for one in page.all("tr")]
    assert "deliver ConnectionError: nobody answers 99+ of deliver 2 s ago 1 min 40 s ago or earlier" in rows
    text = " ".join(page.text.split())
    assert "Seen in the newest 100 of 12,345 dead letters; of each there may be more." in text


def test_kinds_of_deaths_that_are_not_shown_are_counted(desk: Desk) -> None:
    for n in range(12):
        desk.die(desk.message(actor=f"actor{n}"))
    text = " ".join(desk.look("/").text.split())
    assert "actor2 ConnectionError" in text
    assert "actor1 ConnectionError" not in text
    assert "2 more kinds are not shown." in text


def test_the_charts_have_their_figures_in_a_table(full: Desk) -> None:
    rows = [" ".join(one.text.split()) for one in full.look("/").all("tr")]
    assert sum(row.endswith("1,20072") for row in rows) == 2  # the hour's and the day's


def test_the_chart_of_a_queue_is_of_that_queue(full: Desk) -> None:
    assert "1,200 succeeded" in full.look("/queue?name=default").text
    assert "1,200 succeeded" not in full.look("/queue?name=mail").text


def legends(desk: Desk, path: str = "/") -> list[str]:
    """How many died in the last hour and in the last day, as the charts say."""
    return [one.text.strip() for one in desk.look(path).all("li") if one.text.strip().endswith("died")]


def died(desk: Desk, ago: int, times: int, queue: str = "default") -> None:
    at = (desk.clock.now() - ago) // 60_000 * 60_000
    desk.operations.minutes_seen.append(Minute(at=at, queue_name=queue, rates=Rates(died=times)))


def test_the_charts_follow_what_happens(desk: Desk) -> None:
    died(desk, 0, 1)
    died(desk, 30 * 60_000, 20)
    died(desk, 5 * 3_600_000, 300)
    died(desk, 25 * 3_600_000, 4_000)
    assert legends(desk) == ["21 died", "321 died"]
    died(desk, 0, 1)
    died(desk, 0, 1, "mail")
    assert legends(desk) == ["23 died", "323 died"]
    assert legends(desk, "/queue?name=default") == ["22 died", "322 died"]


def test_the_past_of_a_day_is_read_once_and_kept_for_a_day(desk: Desk) -> None:
    died(desk, 5 * 3_600_000, 300)
    died(desk, 0, 1)
    assert legends(desk) == ["1 died", "301 died"]
    desk.operations.minutes_seen = desk.operations.minutes_seen[1:]  # no longer told
    assert legends(desk) == ["1 died", "301 died"]
    assert desk.operations.asked_since == [timedelta(days=1), timedelta(hours=1)]
    desk.clock.advance(timedelta(hours=3))
    died(desk, 0, 10)
    assert legends(desk) == ["10 died", "311 died"]
    desk.clock.advance(timedelta(hours=17))
    assert legends(desk) == ["0 died", "11 died"]
    desk.clock.advance(timedelta(days=2))
    assert legends(desk) == ["0 died", "0 died"]


def test_a_clock_that_is_set_back_starts_the_charts_anew(desk: Desk) -> None:
    died(desk, 0, 1)
    assert legends(desk) == ["1 died", "1 died"]
    desk.clock.move_to(desk.clock.now() - 3_600_000)
    assert legends(desk) == ["0 died", "0 died"]
    died(desk, 60_000, 2)
    assert legends(desk) == ["2 died", "2 died"]


def test_what_a_process_wrote_down_late_is_in_the_day(desk: Desk) -> None:
    desk.clock.move_to((desk.clock.now() // 600_000 + 1) * 600_000 + 5_000)
    assert legends(desk) == ["0 died", "0 died"]
    died(desk, 60_000, 1)
    assert legends(desk) == ["1 died", "1 died"]


def test_a_queue_that_does_not_exist_is_not_found(desk: Desk) -> None:
    response = desk.get("/queue?name=nowhere")
    assert response.status_code == 404
    assert "no queue &#39;nowhere&#39;" in response.get_data(as_text=True)


def test_pausing_is_offered_where_it_runs_and_resuming_where_it_is_paused(full: Desk) -> None:
    document = full.look("/queues")
    assert document.inputs("queue") == ["default", "mail"]
    assert [" ".join(one.text.split()) for one in document.all("button")][1:4] == [
        "Pause queue default",
        "Resume queue mail",
        "Resume actor resize",
    ]


def test_workers_are_shown_with_what_they_run(full: Desk) -> None:
    text = " ".join(full.look("/workers").text.split())
    assert "host:17 1 h ago deliver for 5.5 s · default" in text
    assert "host:18 – nothing" in text


# A message.


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts this process into a zone, as in the environment variable TZ."""

    def in_zone(name: str) -> None:
        patched.setenv("TZ", name)
        time.tzset()

    with monkeypatch.context() as patched:
        yield in_zone
    time.tzset()


def test_a_letter_is_shown_with_its_error_attempts_traceback_and_arguments(full: Desk, in_zone: Any) -> None:
    in_zone("UTC0")
    text = " ".join(full.look("/letter?id=1").text.split())
    for words in (
        "Dead, exhausted: 3 s ago.",
        "ConnectionError at app.py:12 in deliver",
        "Attempt 1 2026-01-01 00:00:00+00:00 (3 s ago), ran 1.5 s on host:17 ConnectionError: nobody answers",
        "then waited 1 min Attempt 2 2026-01-01 00:00:05+00:00 (in 2 s)",
        "Traceback (most recent call last):",
    ):
        assert words in text


def test_attempts_less_than_a_second_apart_are_told_to_the_millisecond(
    desk: Desk, attempts: Callable[..., Attempt], in_zone: Any
) -> None:
    in_zone("UTC0")
    now = desk.clock.now()
    history = [attempts(1, now + 7, duration=0), attempts(2, now + 350, duration=42, delay=None)]
    desk.die(desk.message(attempts=[one.asdict() for one in history]), died_at=now + 400)
    text = " ".join(desk.look("/letter?id=1").text.split())
    assert "Attempt 1 2026-01-01 00:00:00.007+00:00 (now), ran under 1 ms" in text
    assert "Attempt 2 2026-01-01 00:00:00.350+00:00 (now), ran 42 ms" in text
    assert "Died 2026-01-01 00:00:00.400+00:00 (now): exhausted" in text


@pytest.mark.parametrize(
    ("name", "said"), [("UTC0", "UTC"), ("NST3:30", "NST (UTC-03:30)"), ("<+0545>-5:45", "UTC+05:45")]
)
def test_the_zone_of_the_times_is_named_on_every_page_and_with_the_charts(
    full: Desk, in_zone: Any, name: str, said: str
) -> None:
    in_zone(name)
    assert full.look("/dead").all("footer")[0].text.split("\n")[2].endswith(f"Times are in {said}")
    assert f"Times are in {said}." in full.look("/").all("div", id="charts")[0].text


def test_a_message_that_waits_is_found_by_its_id(full: Desk) -> None:
    waiting = full.operations.waiting[0]
    text = " ".join(full.look(f"/message?id={waiting.message_id}").text.split())
    assert "Waits. Due now." in text


def test_a_message_that_is_taken_says_by_whom_and_cannot_be_moved(full: Desk) -> None:
    document = full.look(f"/message?id={full.operations.waiting[1].message_id}")
    assert "Taken by host:17 3 s ago." in " ".join(document.text.split())
    assert document.all("form", method="post") == []


def test_a_message_whose_actor_is_paused_says_so(full: Desk) -> None:
    document = full.look(f"/message?id={full.operations.waiting[2].message_id}")
    assert "is not taken: its actor is paused" in " ".join(document.text.split())


def test_a_dead_message_is_found_by_its_message_id_too(full: Desk) -> None:
    letter = full.broker.dead_letters.get("2")
    assert "Dead, exhausted" in full.look(f"/message?id={letter.message_id}").text


def test_a_message_that_is_gone_says_where_it_may_be(desk: Desk) -> None:
    response = desk.get("/message?id=gone")
    assert response.status_code == 404
    text = response.get_data(as_text=True)
    assert "No message with the id &#39;gone&#39; waits, runs or lies dead here. It may have succeeded since" in text


def test_a_letter_that_is_gone_leads_to_its_message(desk: Desk) -> None:
    letter = desk.die()
    desk.broker.dead_letters.replay(letter)
    response = desk.get(f"/letter?id={letter.id}&message={letter.message_id}")
    assert response.status_code == 404
    assert desk.look(f"/letter?id=1&message={letter.message_id}").link("Look for the message") == (
        f"/message?id={letter.message_id}"
    )
    desk.broker.store.flush("default")


def test_what_cannot_be_decoded_is_shown_as_far_as_it_goes(desk: Desk) -> None:
    letter = desk.die(data=b"\xff no message", actor_name=None, reason="undecodable", error=None, traceback=None)
    assert "The payload cannot be decoded." in desk.look(f"/letter?id={letter.id}").text
    assert desk.get(f"/letter/arguments?id={letter.id}").get_data() == b""
    assert "cannot be decoded" in desk.look("/dead").text


def test_attempts_that_the_history_leaves_out_are_told_of(desk: Desk, attempts: Callable[..., Attempt]) -> None:
    now = desk.clock.now()
    history = [attempts(1, now), attempts(7, now + 9, delay=None), attempts(8, now + 99, delay=None)]
    desk.die(desk.message(attempts=[one.asdict() for one in history]))
    text = desk.look("/letter?id=1").text
    assert "5 attempts in between, not kept" in text
    assert "died, and was replayed" in text


def test_a_history_that_somebody_else_wrote_breaks_nothing(desk: Desk, attempts: Callable[..., Attempt]) -> None:
    wild = [attempts(1, 10**18, duration=-5), attempts(2, -(10**18), duration=10**15, delay=-1), attempts(3, 0)]
    desk.die(desk.message(attempts=[one.asdict() for one in wild], replays=-3), died_at=10**15)
    assert desk.get("/letter?id=1").status_code == 200
    desk.look("/letter?id=1")


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_arguments_that_are_no_json_are_shown_as_they_call_themselves(desk: Desk) -> None:
    waiting = desk.wait(desk.message({1, 2}, Unreadable(), "\udcff", kwargs={"name": b"x"}))
    text = desk.look(f"/message?id={waiting.message_id}").text
    assert "{1, 2}\n<its text cannot be had: repr() raised>\n" in text
    assert "name=b'x'" in text


def test_arguments_can_be_kept_from_sight(desk: Desk) -> None:
    letter = desk.die(desk.message("secret-argument"))
    desk.open(show_arguments=False)
    assert "secret-argument" not in desk.get(f"/letter?id={letter.id}").get_data(as_text=True)
    assert desk.get(f"/letter/arguments?id={letter.id}").status_code == 403


# Other people's texts.


def test_markup_in_any_text_is_shown_and_not_obeyed(desk: Desk, attempts: Callable[..., Attempt]) -> None:
    now = desk.clock.now()
    tried = attempts(1, now, error=MARKUP, message=MARKUP, place=MARKUP, worker=MARKUP)
    error = ErrorInfo(type=MARKUP, message=MARKUP, place=MARKUP)
    message = dataclasses.replace(
        desk.message(MARKUP, actor=MARKUP, kwargs={MARKUP: MARKUP}, attempts=[tried.asdict()], traceback=MARKUP),
        message_id=MARKUP,
    )
    desk.die(message, error=error, traceback=MARKUP)
    desk.wait(message, queue_name=MARKUP, attempts=(tried,), error=error, claimed_by=MARKUP, id=MARKUP)
    desk.wait(message, state="claimed", claimed_by=MARKUP, claimed_at=now)
    running = RunningMessage(message_id=MARKUP, actor_name=MARKUP, queue_name=MARKUP, since=now)
    desk.operations.workers_alive = (WorkerStatus(owner=MARKUP, started_at=now, running=(running,)),)
    desk.operations.queue_states = (QueueStatus(name=MARKUP, due=1, dead=1, paused=True),)
    desk.operations.paused_now = Paused(queues=frozenset({MARKUP}), actors=frozenset({MARKUP}))
    desk.open(login=lambda environ: MARKUP)
    for path, query in (
        ("/", {}),
        ("/queues", {}),
        ("/queue", {"name": MARKUP}),
        ("/pending", {}),
        ("/pending", {"actor": MARKUP, "error": MARKUP, "due_before": MARKUP}),
        ("/dead", {}),
        ("/dead", {"actor": MARKUP, "queue": MARKUP, "reason": MARKUP}),
        ("/workers", {}),
        ("/message", {"id": MARKUP}),
        ("/message", {"id": MARKUP + "gone"}),
        ("/letter", {"id": "1"}),
        ("/letter", {"id": MARKUP, "message": MARKUP}),
        ("/pending", {"after": MARKUP}),
        (f"/{MARKUP}", {}),
    ):
        document = desk.look(path, query_string=query)
        assert document.all("img") == [], path
        assert len(document.all("script")) == 1, path
        assert "54439" not in document.text, path


def test_half_a_surrogate_pair_in_any_text_breaks_no_page(desk: Desk, attempts: Callable[..., Attempt]) -> None:
    half, now = "half \ud800", desk.clock.now()
    tried = attempts(1, now, error=half, message=half, place=half, worker=half)
    error = ErrorInfo(type=half, message=half, place=half)
    message = dataclasses.replace(
        desk.message(half, actor=half, kwargs={half: half}, attempts=[tried.asdict()], traceback=half), message_id=half
    )
    letter = desk.die(message, error=error, traceback=half)
    desk.wait(message, queue_name=half, error=error, claimed_by=half)
    desk.operations.queue_states = (QueueStatus(name=half, due=1, dead=1, paused=True),)
    desk.operations.paused_now = Paused(queues=frozenset({half}), actors=frozenset({half}))
    pages = ["/", "/queues", "/pending", "/dead", f"/letter?id={letter.id}"]
    for path in [*pages, f"/letter/arguments?id={letter.id}", f"/letter/traceback?id={letter.id}"]:
        response = desk.get(path)
        assert response.status_code == 200, path
        assert "half ?" in response.get_data(as_text=True), path


@pytest.mark.parametrize("sent_at", ["yesterday", None, [1], 1.5, -(10**30)])
def test_a_message_whose_timestamp_is_anything_is_shown(desk: Desk, sent_at: Any) -> None:
    letter = desk.die(dataclasses.replace(desk.message(), message_timestamp=sent_at))
    assert desk.get(f"/letter?id={letter.id}").status_code == 200


def test_where_no_queue_is_known_nothing_is_said_to_be_well(desk: Desk) -> None:
    desk.operations.queue_states = ()
    page = desk.look("/").text
    assert "No queue is known here" in page
    assert "Nothing is stuck" not in page


def test_a_text_of_somebody_else_is_sent_as_text_and_nothing_else(desk: Desk) -> None:
    letter = desk.die(desk.message(MARKUP), traceback=MARKUP)
    for path in ("/letter/traceback", "/letter/arguments"):
        response = desk.get(f"{path}?id={letter.id}")
        assert response.content_type == "text/plain; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "<img src=x" in response.get_data(as_text=True)


def test_a_traceback_of_a_megabyte_is_cut_with_a_link_to_all_of_it(desk: Desk) -> None:
    traceback = "a" * 1_000_000 + "the end"
    letter = desk.die(traceback=traceback)
    document = desk.look(f"/letter?id={letter.id}")
    assert "the end" in document.text
    assert "The first 984,007 characters are left out." in document.text
    assert len(document.text) < 30_000
    assert desk.get(document.link("The whole traceback")).get_data(as_text=True) == traceback


def test_arguments_of_a_megabyte_are_cut_with_a_link_to_all_of_them(desk: Desk) -> None:
    waiting = desk.wait(desk.message("b" * 1_000_000))
    document = desk.look(f"/message?id={waiting.message_id}")
    assert len(document.text) < 30_000
    assert len(desk.get(document.link("all of them as text")).get_data()) == 1_000_002


# Listings.


def test_ten_thousand_dead_letters_are_leafed_through_fifty_at_a_time(desk: Desk) -> None:
    for _ in range(120):
        desk.die()
    document = desk.look("/dead")
    assert len(document.inputs("id")) == 50
    assert document.inputs("id")[0] == "120"
    document = desk.look(document.link("Older"))
    assert document.inputs("id")[0] == "70"
    document = desk.look(document.link("Older"))
    assert document.inputs("id") == [str(n) for n in range(20, 0, -1)]
    assert document.link("Newer") == "/dead?page=2"
    assert [one for one in document.all("a") if one.text == "Older"] == []
    assert "There are not so many." in desk.look("/dead?page=999").text


@pytest.mark.parametrize("page", ["0", "-1", "x", "1.5", "9" * 5_000, "٣", ""])
def test_a_page_that_is_no_number_is_refused(desk: Desk, page: str) -> None:
    response = desk.get("/dead", query_string={"page": page})
    assert response.status_code == 400
    assert "it is a number from 1" in response.get_data(as_text=True)


def test_what_waits_is_leafed_through_by_its_cursor(desk: Desk) -> None:
    for _ in range(60):
        desk.wait()
    document = desk.look("/pending")
    assert len(document.inputs("id")) == 50
    document = desk.look(document.link("Next"))
    assert [one.split()[0] for one in document.inputs("id")] == [str(n) for n in range(51, 61)]
    assert document.link("First page") == "/pending"


def test_a_cursor_that_leads_nowhere_is_refused_with_a_way_back(desk: Desk) -> None:
    response = desk.get("/pending?after=nowhere")
    assert response.status_code == 400
    assert desk.look("/pending?after=nowhere").link("The first page") == "/pending"


def test_filters_reach_the_broker_as_it_takes_them(desk: Desk) -> None:
    desk.look("/pending?actor=a&queue=q&error=E&state=waiting&retrying=yes&due_before=1h&due_after=now")
    now = desk.clock.now()
    assert desk.operations.asked == [
        {
            "actor": "a",
            "queue": "q",
            "error": "E",
            "state": "waiting",
            "retrying": True,
            "due_before": now + 3_600_000,
            "due_after": now,
        }
    ]


def test_filters_stay_in_their_fields_and_in_the_links_to_other_pages(desk: Desk) -> None:
    for _ in range(51):
        desk.die()
    document = desk.look("/dead?actor=deliver&since=2h&reason=exhausted")
    assert document.all("input", id="f-actor")[0].attributes["value"] == "deliver"
    assert document.link("Older") == "/dead?actor=deliver&reason=exhausted&since=2h&page=2"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("since=soon", "&#39;soon&#39; is no time"),
        ("since=" + "9" * 300, "That is 300 characters long"),
        ("reason=bored", "There is no such reason."),
    ],
)
def test_a_filter_nobody_understands_is_told_beside_its_field_and_nothing_is_listed(
    desk: Desk, query: str, said: str
) -> None:
    desk.die()
    response = desk.get(f"/dead?{query}")
    assert response.status_code == 400
    assert said in response.get_data(as_text=True)
    document = desk.look(f"/dead?{query}")
    assert document.inputs("id") == []
    assert [one for one in document.elements if one.attributes.get("aria-invalid") == "true"] != []


def test_filters_that_match_nothing_say_so(desk: Desk) -> None:
    desk.die()
    assert "Nothing matches." in desk.look("/dead?actor=nobody").text


# Brokers that cannot tell, and stores that cannot be used.


@pytest.mark.parametrize(
    ("question", "path"),
    [
        ("minutes", "/"),
        ("dead_letters", "/"),
        ("pending", "/pending"),
        ("dead_letters", "/dead"),
        ("minutes", "/queue"),
    ],
)
def test_what_a_broker_cannot_tell_is_one_sentence_in_its_place(desk: Desk, question: str, path: str) -> None:
    desk.operations.refuses[question] = NotSupported("RedisBroker cannot say that: its lists have no order")
    response = desk.get(f"{path}?name=default")
    assert response.status_code == 200
    assert "RedisBroker cannot say that: its lists have no order" in response.get_data(as_text=True)


def test_a_broker_that_cannot_tell_of_workers_says_so_on_the_overview(desk: Desk) -> None:
    desk.operations.workers_alive = None
    desk.operations.refuses["workers"] = NotSupported("StubBroker does not know its workers")
    assert "StubBroker does not know its workers" in desk.look("/").text
    assert desk.get("/workers").status_code == 501
    assert "StubBroker does not know its workers" in desk.look("/workers").text


def test_dead_letters_are_listed_though_a_broker_cannot_count(desk: Desk) -> None:
    desk.die()
    desk.wait()
    desk.operations.refuses["status"] = NotSupported("it does not tell how many messages it holds")
    assert desk.look("/dead").inputs("id") == ["1"]
    assert len(desk.look("/pending").inputs("id")) == 1
    assert "it does not tell how many messages it holds" in desk.look("/").text


def test_figures_that_a_broker_does_not_have_are_dashes(desk: Desk) -> None:
    desk.operations.queue_states = (QueueStatus(name="default", due=3),)
    desk.operations.last_minute = None  # type: ignore[assignment]
    desk.operations.last_hour = None  # type: ignore[assignment]
    text = " ".join(desk.look("/").text.split())
    assert "3 due" in text
    assert "– later" in text


def test_a_store_that_cannot_be_used_is_said_with_503_and_a_way_to_try_again(desk: Desk) -> None:
    desk.operations.refuses["dead_letters"] = StoreUnavailable("jobs.db: the disk is full")
    response = desk.get("/dead?actor=a")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "jobs.db: the disk is full" in response.get_data(as_text=True)
    assert desk.look("/dead?actor=a").link("Try again") == "/dead?actor=a"


def test_an_error_of_ours_is_logged_and_not_shown(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.operations.refuses["status"] = RuntimeError("secret detail")
    response = desk.get("/")
    assert response.status_code == 500
    assert "secret detail" not in response.get_data(as_text=True)
    assert "secret detail" in caplog.text
    desk.look("/")


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), True, "soon", None], ids=["vast", "negative", "true", "text", "none"]
)
def test_numbers_that_somebody_else_wrote_are_shown_all_the_same(desk: Desk, number: Any) -> None:
    fields = {"n": 1, "started_at": number, "duration": number, "error": "E", "message": "m", "delay": number}
    options = {"attempts": [fields, {**fields, "n": 3}], "retries": number, "replays": number, "eta": number}
    message = desk.message(1).copy(options=options, message_timestamp=number)
    letter = desk.die(message)
    store, now = desk.broker.store, desk.clock.now()
    store.put("default", message.encode(), due_at=now, now=now)
    assert desk.get(f"/letter?id={letter.id}").status_code == 200
    [pending] = Operations.of(desk.broker).pending()
    desk.operations.waiting.append(pending)
    for path in ("/", "/dead", "/pending", f"/message?id={pending.message_id}"):
        assert desk.get(path).status_code == 200
