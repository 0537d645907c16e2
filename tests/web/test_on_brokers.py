"""The page over real brokers: ours, and Dramatiq's as far as they tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from werkzeug.test import Client, TestResponse

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.consumer import StoreConsumer
from dramatiq_retryq.web import RetryQueueWeb

if TYPE_CHECKING:
    from .conftest import Document


class Shop:
    """An application with one actor that fails as it is told, and the page over its broker."""

    def __init__(self, broker: Any, read: Callable[[str], Document]) -> None:
        self.broker, self._read = broker, read
        self.works = False
        self.client = Client(RetryQueueWeb(broker))

        @dramatiq.actor(max_retries=1, min_backoff=60_000, max_backoff=60_000, jitter="none", broker=broker)
        def deliver(order: int) -> None:
            if not self.works:
                raise ConnectionError(f"order {order}: <nobody> answers")

        self.deliver = deliver

    def look(self, path: str) -> Document:
        return self._read(self.client.get(path).get_data(as_text=True))

    def text(self, path: str) -> str:
        return " ".join(self.look(path).text.split())

    def post(self, path: str, **form: Any) -> TestResponse:
        token = self.look("/queues").inputs("token")[0]
        response = self.client.post(path, data={"token": token, "confirmed": "yes", **form})
        assert response.status_code == 303, response.get_data(as_text=True)
        return response


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, clock: VirtualClock, tmp_path: Path, read: Any) -> Iterator[Shop]:
    broker: Any
    broker = MemoryBroker(clock=clock) if request.param == "memory" else SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    broker._consumer_class = StoreConsumer  # each ack at once: no worker is there that would commit a group of them
    previous = dramatiq.broker.global_broker
    dramatiq.set_broker(broker)
    yield Shop(broker, read)
    assert broker.check() == []
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


def test_a_message_is_followed_from_its_sending_to_its_death_and_back(shop: Shop, clock: Any, drain: Any) -> None:
    message = shop.deliver.send(7)
    assert "Waits. Due now." in shop.text(f"/message?id={message.message_id}")

    drain(shop.broker, until=clock.now())
    page = shop.text(f"/message?id={message.message_id}")
    assert "Waits for retry 1. Due in 1 min." in page
    assert "ConnectionError: order 7: <nobody> answers" in page

    drain(shop.broker)
    [letter_id] = shop.look("/dead").inputs("id")
    page = shop.text(f"/message?id={message.message_id}")
    assert "Dead, exhausted" in page
    assert "Attempt 2" in page
    assert "Traceback (most recent call last)" in page
    assert "deliver ConnectionError: order 7: <nobody> answers 1 of deliver" in shop.text("/")

    shop.works = True
    shop.post("/dead/replay", id=letter_id)
    assert "Waits. Due now." in shop.text(f"/message?id={message.message_id}")
    drain(shop.broker)
    assert shop.client.get(f"/message?id={message.message_id}").status_code == 404


def test_what_happened_is_in_the_charts(shop: Shop, clock: Any, drain: Any) -> None:
    shop.deliver.send(7)
    drain(shop.broker)
    shop.works = True
    shop.deliver.send(8)
    drain(shop.broker)
    legend = [one.text.strip() for one in shop.look("/").all("li") if " succeeded" in one.text or " died" in one.text]
    assert [one for one in legend if "last minute" not in one] == ["1 succeeded", "1 died"] * 2


def test_a_message_that_waits_is_moved_run_and_cancelled(shop: Shop, clock: Any) -> None:
    for order in (1, 2, 3):
        shop.deliver.send_with_options(args=(order,), delay=3_600_000)
    ids = shop.look("/pending").inputs("id")
    assert len(ids) == 3
    shop.post("/pending/run-now", id=ids[2])
    shop.post("/pending/move", id=ids[1], due="2h")
    shop.post("/pending/cancel", id=ids[0])
    left = shop.look("/pending")
    assert left.inputs("id") == [ids[2], ids[1]]
    assert "in 2 h" in left.text
    shop.broker.flush("default")


def test_a_paused_queue_is_shown_as_paused_until_it_is_resumed(shop: Shop) -> None:
    shop.post("/pause", queue="default")
    shop.post("/pause", actor="deliver")
    assert "Paused: queue default, actor deliver." in shop.text("/")
    assert shop.broker.store is not None
    shop.post("/resume", queue="default")
    shop.post("/resume", actor="deliver")
    assert "Nothing is stuck." in shop.text("/")


@pytest.mark.parametrize(
    "query",
    ["actor=deliver", "queue=default&state=waiting", "retrying=no", "due_after=now&due_before=2h", "error=OSError"],
)
def test_every_filter_of_what_waits_is_understood_by_the_broker(shop: Shop, query: str) -> None:
    shop.deliver.send_with_options(args=(1,), delay=3_600_000)
    found = shop.look(f"/pending?{query}").inputs("id")
    assert len(found) == (0 if "error" in query else 1)
    shop.broker.flush("default")


@pytest.mark.parametrize(
    "query", ["actor=deliver", "queue=default", "reason=exhausted", "error=ConnectionError", "since=1d"]
)
def test_every_filter_of_dead_letters_is_understood_by_the_broker(shop: Shop, drain: Any, query: str) -> None:
    shop.deliver.send(1)
    drain(shop.broker)
    assert len(shop.look(f"/dead?{query}").inputs("id")) == 1
    assert (
        len(shop.look(f"/dead?{query}x" if "since" not in query else "/dead?actor=nobody&since=1d").inputs("id")) == 0
    )


def test_what_waits_is_leafed_through_to_its_end(shop: Shop) -> None:
    for order in range(120):
        shop.deliver.send(order)
    seen, path = [], "/pending"
    for _ in range(3):
        page = shop.look(path)
        seen += page.inputs("id")
        following = [one.attributes["href"] for one in page.all("a") if one.text.startswith("Next")]
        path = following[0] if following else ""
    assert path == ""
    assert len(seen) == len(set(seen)) == 120
    shop.broker.flush("default")


@pytest.mark.parametrize("cursor", ["x", "1", "9" * 50, "1-2-3", "-", "\x00", "[]"])
def test_a_cursor_that_somebody_wrote_by_hand_is_refused_or_leads_somewhere(shop: Shop, cursor: str) -> None:
    assert shop.client.get("/pending", query_string={"after": cursor}).status_code in (200, 400)


@pytest.mark.parametrize(
    "path", ["/letter", "/letter/traceback", "/letter/arguments", "/message", "/message/arguments"]
)
@pytest.mark.parametrize("wild", ["", "x", "-1", "9" * 400, "1e3", "\x00", "' OR 1=1 --", "\udc80"])
def test_an_id_that_somebody_wrote_by_hand_is_not_found(shop: Shop, path: str, wild: str) -> None:
    shop.deliver.send(1)
    response = shop.client.get(path, query_string="id=" + quote(wild.encode("utf-8", "surrogatepass")))
    assert response.status_code == 404
    shop.broker.flush("default")


# Dramatiq's own brokers.


@pytest.fixture
def stub() -> Iterator[StubBroker]:
    broker = StubBroker()
    broker.add_middleware(RetryQueue())
    previous = dramatiq.broker.global_broker
    dramatiq.set_broker(broker)
    yield broker
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["/", "/queues", "/queue?name=default", "/pending", "/dead", "/workers", "/message?id=x"]
)
def test_dramatiqs_own_broker_has_every_page_as_far_as_it_tells(stub: StubBroker, read: Any, path: str) -> None:
    Shop(stub, read)
    response = Client(RetryQueueWeb(stub)).get(path)
    assert response.status_code in (200, 404, 501)
    read(response.get_data(as_text=True))


def test_a_server_that_is_not_there_is_said_with_503(read: Any) -> None:
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url="redis://127.0.0.1:1/0")
    broker.add_middleware(RetryQueue())
    broker.declare_queue("default")
    response = Client(RetryQueueWeb(broker)).get("/")
    assert response.status_code == 503
    read(response.get_data(as_text=True))
    broker.close()
