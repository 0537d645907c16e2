"""Applications, after those in Dramatiq's repository, and the webhooks example, tested as their authors would.

None of the servers that they name is there, and nothing in them knows of tests.
"""

from __future__ import annotations

import socket
import time
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import dramatiq
import pytest
import requests
from dramatiq.middleware import Shutdown
from freezegun import freeze_time

from dramatiq_retryq.testing import Kit
from tests.applications import basic, callable_broker, composition, crawler, persistent, scheduling, time_limits

_before = dramatiq.broker.global_broker
from examples.webhooks import app as webhooks  # noqa: E402
from examples.webhooks import signing  # noqa: E402
from examples.webhooks.receiver import Receiver  # noqa: E402

dramatiq.set_broker(_before)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError(f"a connection was made: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def of(module: Any, name: str = "broker") -> pytest.MarkDecorator:
    return pytest.mark.retryq(broker=f"{module.__name__}:{name}")


# -- basic -----------------------------------------------------------------------------------------------------------


@of(basic)
def test_a_division_that_helps_nobody_is_not_retried(retryq: Kit) -> None:
    basic.divide.send(1, -1)
    assert retryq.drain().counts() == {"died": 1}
    letter = retryq.dead_letters.one(actor=basic.divide)
    assert (letter.queue_name, str(letter.error)) == ("math", "Unusable: -1 is negative")


@of(basic)
def test_other_divisions_are_tried_four_times_as_far_apart_as_retries_has_it(retryq: Kit) -> None:
    basic.divide.send(1, 0)
    assert retryq.drain().counts() == {"retried": 3, "died": 1}
    assert retryq.delays(basic.divide) == [15_000, 30_000, 60_000]


# -- composition -----------------------------------------------------------------------------------------------------


@of(composition)
def test_words_are_counted_although_a_page_is_away_for_a_while(retryq: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "download", {"a": "one two", "b": "one two three"}.__getitem__)
    retryq.fail_next(composition.fetch, 1, ConnectionError)
    retryq.broker.actors["fetch"].options["min_backoff"] = 1_000
    assert composition.count(["a", "b"]) == [2, 3]
    retryq.drain()
    assert composition.reports == [["a", "b"]]
    assert retryq.elapsed == timedelta(seconds=1)


# -- crawler ---------------------------------------------------------------------------------------------------------


@of(crawler)
def test_each_page_is_visited_once_and_one_that_is_away_again_later(
    retryq: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = {
        "https://a": '<a href="https://b">b</a> <a href="https://c">c</a>',
        "https://b": '<a href="https://a">a</a>',
    }
    monkeypatch.setattr(crawler, "get", site.__getitem__)
    crawler.visited.clear()
    crawler.crawl.send("https://a")
    outcome = retryq.drain()
    assert crawler.visited == {"https://a", "https://b"}
    assert outcome.counts() == {"succeeded": 3, "retried": 3, "died": 1}
    assert retryq.dead_letters.one().message.args == ("https://c",)  # type: ignore[union-attr]


# -- persistent ------------------------------------------------------------------------------------------------------


@of(persistent)
def test_work_that_a_deploy_interrupts_goes_on_where_it_was(retryq: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 7:
            raise Shutdown

    monkeypatch.setattr(persistent, "time", type("time", (), {"sleep": staticmethod(sleep)}))
    persistent.work_through.send("report", 10)
    assert retryq.drain().counts() == {"interrupted": 1, "succeeded": 1}
    assert persistent.done == {"report": 10}
    assert len(slept) == 11


# -- scheduling ------------------------------------------------------------------------------------------------------


@of(scheduling)
@freeze_time("2030-02-26 08:00")
def test_a_week_of_dates_is_printed_one_a_day(retryq: Kit) -> None:
    scheduling.printed.clear()
    scheduling.print_the_date.send()
    assert retryq.drain(until=timedelta(days=6)).succeeded == 7
    assert scheduling.printed == [datetime(2030, 2, 26, 8) + timedelta(days=n) for n in range(7)]


@of(scheduling)
def test_a_day_that_goes_wrong_does_not_end_the_series(retryq: Kit) -> None:
    scheduling.printed.clear()
    scheduling.print_the_date.send()
    retryq.crash_during(scheduling.print_the_date)
    retryq.drain(until=timedelta(days=2))
    assert len(scheduling.printed) == 3


# -- time_limit, long_running ----------------------------------------------------------------------------------------


@of(time_limits)
def test_what_takes_too_long_cleans_up_and_is_tried_until_it_is_too_old(
    retryq: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_limits.log.clear()
    monkeypatch.setattr(time_limits, "compute", lambda: retryq.clock.sleep(6_000))
    start = time.monotonic()
    time_limits.long_running.send()
    assert retryq.drain().counts() == {"retried": 3, "died": 1}
    assert time_limits.log == ["cleaned up"] * 4
    assert retryq.elapsed == timedelta(seconds=4 * 5 + 15 + 30 + 60)
    assert time.monotonic() - start < 5


@of(time_limits)
def test_what_comes_too_late_is_not_run(retryq: Kit) -> None:
    time_limits.log.clear()
    time_limits.long_running.send_with_options(delay=3_600_000)
    assert retryq.drain().died == 1
    assert retryq.dead_letters.one().reason == "expired"
    assert time_limits.log == []


# -- callable_broker, asyncio ----------------------------------------------------------------------------------------


@of(callable_broker, "make_broker")
def test_an_async_actor_of_a_broker_that_a_function_makes(retryq: Kit) -> None:
    retryq.fail_next(callable_broker.add, 2, ConnectionError)
    callable_broker.add.send(1, 2)
    assert retryq.drain().counts() == {"retried": 2, "succeeded": 1}
    assert callable_broker.added == [3]


# -- webhooks --------------------------------------------------------------------------------------------------------


class Customers:
    """The customers' endpoints without a network: the example's own receiver, called by its session."""

    def __init__(self) -> None:
        self.receiver = Receiver(signing.shared_secret())
        self.is_away = False

    def post(self, url: str, *, data: bytes, headers: dict[str, str], **options: Any) -> requests.Response:
        if self.is_away:
            raise requests.ConnectionError("connection refused")
        answer = self.receiver.receive(url.rpartition("/")[2], headers[signing.HEADER], data)
        response = requests.Response()
        response.status_code, response.url, response.reason = answer.status, url, answer.status.phrase
        if answer.retry_after is not None:
            response.headers["Retry-After"] = str(answer.retry_after)
        return response


@pytest.fixture
def customers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Customers:
    customers = Customers()
    monkeypatch.setattr(webhooks._per_thread, "session", customers)
    monkeypatch.setenv("WEBHOOKS_DEAD_LETTERS", str(tmp_path / "dead_letters.jsonl"))
    return customers


def deliver(customer: str, event_id: str = "evt_1", **data: Any) -> None:
    event = {"id": event_id, "customer": customer, "data": data}
    webhooks.deliver.send(url=f"https://example.org/{customer}", event=event)


@of(webhooks)
class TestWebhooks:
    def test_an_event_is_delivered_and_signed(self, retryq: Kit, customers: Customers) -> None:
        deliver("harbour-coffee", amount="1.00")
        assert retryq.drain().succeeded == 1
        assert customers.receiver.report() == {"requests": 1, "duplicates": 0, "stored": ["evt_1"]}

    def test_a_customer_who_is_away_for_a_while_gets_it_later(self, retryq: Kit, customers: Customers) -> None:
        customers.is_away = True
        deliver("harbour-coffee")
        assert retryq.advance(3_000).retried == 4
        customers.is_away = False
        retryq.drain()
        assert retryq.delays(webhooks.deliver) == [250, 500, 1_000, 1_500]
        assert customers.receiver.report()["stored"] == ["evt_1"]

    def test_a_customer_who_asks_for_patience_is_heard(self, retryq: Kit, customers: Customers) -> None:
        for n in range(12):
            deliver("acme-tools", f"evt_{n}")
        retryq.drain(until=0)
        assert retryq.delays(webhooks.deliver)[:2] == [1_000, 1_000]  # as the Retry-After header says
        retryq.clear()

    def test_a_customer_who_has_closed_is_given_up_at_once(
        self, retryq: Kit, customers: Customers, tmp_path: Any
    ) -> None:
        deliver("old-mill-antiques")
        assert retryq.drain().counts() == {"died": 1, "succeeded": 1}
        letter = retryq.dead_letters.one()
        assert letter.reason == "rejected"
        assert str(HTTPStatus.GONE.value) in str(letter.error)
        retryq.assert_enqueued(webhooks.record_dead_letter, count=1)
        assert "410 Gone" in (tmp_path / "dead_letters.jsonl").read_text("utf-8")

    def test_an_event_that_cannot_be_read_dies_and_is_replayed_once_the_bug_is_fixed(
        self, retryq: Kit, customers: Customers
    ) -> None:
        deliver("harbour-coffee", amount="1.299,00")
        retryq.drain()
        letter = retryq.dead_letters.one(actor=webhooks.deliver, reason="exhausted")
        assert len(letter.attempts) == 10
        customers.receiver.bug_is_fixed = True
        retryq.dead_letters.replay(letter)
        assert retryq.drain().succeeded == 1
        assert customers.receiver.report()["stored"] == ["evt_1"]

    def test_an_event_that_is_delivered_twice_is_stored_once(self, retryq: Kit, customers: Customers) -> None:
        retryq.crash_during(webhooks.deliver, at="end")
        deliver("globex-freight")
        retryq.drain()
        assert customers.receiver.report() == {"requests": 2, "duplicates": 1, "stored": ["evt_1"]}
