"""A server that goes away while a failure is handled: the retry is stored before the ack, or the message rejected."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import pytest

from dramatiq_retryq import DeadLetters, current_attempt
from dramatiq_retryq.side import side_of
from tests.integration.conftest import finish, running
from tests.integration.servers import Proxy, wait_until


class Line:
    """A way to a server that can be cut, and a broker that goes by it."""

    def __init__(self, kind: str, make: Any, url: str) -> None:
        self.kind = kind
        self.proxy = Proxy(urlsplit(url).port or 0)
        self.url = url.replace(f":{urlsplit(url).port}", f":{self.proxy.port}")
        self._make = make

    def make(self, **options: Any) -> Any:
        return self._make(url=self.url, **options)


@pytest.fixture(params=["redis", "rabbitmq"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    url = request.getfixturevalue(f"{request.param}_url")
    make = request.getfixturevalue(f"make_{request.param}")
    line = Line(request.param, make, url)
    yield line
    line.proxy.close()


class Cutting:
    """An actor that cuts the line at its first run, and then fails always."""

    def __init__(self, line: Line, broker: Any, queue: str) -> None:
        self.runs: list[int] = []
        self.is_cut = threading.Event()

        @dramatiq.actor(broker=broker, queue_name=queue)
        def work() -> None:
            self.runs.append(current_attempt().number)
            if len(self.runs) == 1:
                line.proxy.cut()
                self.is_cut.set()
            raise ValueError("no")

        self.actor = work


def test_a_retry_waits_for_a_server_that_comes_back(line: Line, name: str) -> None:
    broker = line.make(max_retries=1, backoff=[1], store_timeout=20_000)
    cutting = Cutting(line, broker, name)
    cutting.actor.send()
    with running(broker, threads=1):
        assert cutting.is_cut.wait(20)
        line.proxy.open()
        wait_until(lambda: DeadLetters.of(broker).list(), 30, "a dead letter")
        if line.kind == "redis":
            assert cutting.runs == [1, 2]
        else:
            # Its connection gone, RabbitMQ delivers the message again: a doublet, with the same id and number.
            wait_until(lambda: sorted(cutting.runs) == [1, 1, 2, 2], 30, "the doublet")
    assert {letter.reason for letter in DeadLetters.of(broker)} == {"exhausted"}


def test_a_retry_that_cannot_be_stored_in_time_ends_in_the_brokers_own_dead_letter_queue(
    line: Line, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if line.kind == "rabbitmq":
        pytest.skip("what cannot be rejected over a lost connection is delivered again: the test below")
    broker = line.make(max_retries=1, backoff=[1], store_timeout=100)
    cutting = Cutting(line, broker, name)
    cutting.actor.send()
    with running(broker, threads=1):
        wait_until(lambda: "rejected into the broker's own dead-letter queue" in caplog.text, 20, "the log line")
        assert "cannot be used" in caplog.text
        line.proxy.open()
        wait_until(lambda: DeadLetters.of(broker).list(), 30, "a dead letter")
    assert cutting.runs == [1]
    letter = DeadLetters.of(broker).one()
    # The worker tried again once the server was there: the letter is whole.
    assert letter.reason == "unschedulable"
    assert letter.error is not None
    assert letter.error.type == "ValueError"


def test_over_a_lost_connection_the_message_is_delivered_again(line: Line, name: str) -> None:
    broker = line.make(max_retries=1, backoff=[1], store_timeout=100)
    cutting = Cutting(line, broker, name)
    message = cutting.actor.send()
    with running(broker, threads=1):
        assert cutting.is_cut.wait(20)
        line.proxy.open()
        wait_until(lambda: DeadLetters.of(broker).list(), 30, "a dead letter")
    assert {letter.message_id for letter in DeadLetters.of(broker)} == {message.message_id}


def test_a_letter_that_cannot_be_stored_is_rejected_with_a_line_in_the_log(
    make: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make(max_retries=0, store_timeout=100)

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        raise ValueError("secret")

    def refuse(letter: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(side_of(broker).shelf, "add", refuse)
    work.send()
    with caplog.at_level(logging.ERROR, "dramatiq_retryq"):
        finish(broker)
    lines = [record.getMessage() for record in caplog.records if "could not be stored" in record.getMessage()]
    assert len(lines) == 1
    assert "rejected into the broker's own dead-letter queue" in lines[0]
    letter = DeadLetters.of(broker).one()
    assert letter.reason == "rejected"
    assert letter.error is None


def test_retries_on_rabbitmq_are_confirmed_whatever_the_broker_was_told(make_rabbitmq: Any, name: str) -> None:
    broker = make_rabbitmq(max_retries=1, backoff=[1], broker={"confirm_delivery": False})
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        runs.append(current_attempt().number)
        if len(runs) == 1:
            # Published to a queue that is gone, a message is lost without a word, unless somebody asks.
            broker.channel.queue_delete(f"{name}.DQ")
            raise ValueError("no")

    work.send()
    with running(broker):
        wait_until(lambda: runs == [1, 2], 20, "the second attempt")


def test_a_worker_starts_while_the_server_is_down(line: Line, name: str, caplog: pytest.LogCaptureFixture) -> None:
    broker = line.make(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def work() -> None:
        runs.append(1)

    line.proxy.cut()
    with running(broker):
        assert "waits for it" in caplog.text
        line.proxy.open()

        def sent() -> bool:
            try:
                work.send()
            except Exception:
                return False
            return True

        wait_until(sent, 20, "a send")
        wait_until(lambda: runs, 20, "a run")


def test_a_worker_asks_the_server_what_it_can_do_over_a_connection_that_is_there(
    make_rabbitmq: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pika

    broker = make_rabbitmq()
    broker.declare_queue(name, ensure=True)
    made: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(pika, "BlockingConnection", lambda parameters: made.append(1))
        side_of(broker).boot(dramatiq.Worker(broker))
    assert made == []
