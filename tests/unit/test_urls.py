"""A broker from a URL: which, with what, and what is said of a wrong one."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from dramatiq.middleware import AgeLimit, Retries

from dramatiq_retryq import MemoryBroker, RetryQueue, SQLiteBroker, broker_from_url
from dramatiq_retryq.errors import ConfigError, MissingExtra, RetryQueueError


def retry_queues(broker: Any) -> list[RetryQueue]:
    return [m for m in broker.middleware if isinstance(m, RetryQueue)]


def test_memory_is_a_memory_broker() -> None:
    broker = broker_from_url("memory://", max_messages=3)
    assert isinstance(broker, MemoryBroker)
    assert len(retry_queues(broker)) == 1
    broker.close()


def test_three_slashes_are_a_relative_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker = broker_from_url("sqlite:///jobs.db")
    assert isinstance(broker, SQLiteBroker)
    broker.close()
    assert (tmp_path / "jobs.db").exists()


def test_four_slashes_are_an_absolute_file(tmp_path: Path) -> None:
    broker_from_url(f"sqlite:///{tmp_path}/my%20jobs.db").close()
    assert (tmp_path / "my jobs.db").exists()


def test_options_after_the_question_mark_are_the_brokers(tmp_path: Path) -> None:
    broker: Any = broker_from_url(f"sqlite:///{tmp_path}/jobs.db?max_crashes=7&synchronous=full")
    assert broker.max_crashes == 7
    broker.close()


def test_redis_and_rabbitmq_are_dramatiqs_own_brokers_and_are_not_connected_to() -> None:
    pytest.importorskip("redis")
    pytest.importorskip("pika")
    redis_broker: Any = broker_from_url("redis://127.0.0.1:1/3", namespace="shop")
    rabbitmq_broker: Any = broker_from_url("amqp://127.0.0.1:1/shop")
    assert (type(redis_broker).__name__, redis_broker.namespace) == ("RedisBroker", "shop")
    assert type(rabbitmq_broker).__name__ == "RabbitmqBroker"
    assert rabbitmq_broker.confirm_delivery
    assert [len(retry_queues(broker)) for broker in (redis_broker, rabbitmq_broker)] == [1, 1]
    redis_broker.client.close()


@pytest.mark.parametrize("url", ["memory://", "redis://127.0.0.1:1", "amqp://127.0.0.1:1"])
def test_a_retry_queue_of_yours_stands_where_retries_stood(url: str) -> None:
    mine = RetryQueue(max_retries=1)
    broker = broker_from_url(url, retry_queue=mine)
    assert retry_queues(broker) == [mine]
    assert not any(isinstance(m, Retries) for m in broker.middleware)
    broker.close()


@pytest.mark.parametrize("url", ["memory://", "redis://127.0.0.1:1", "amqp://127.0.0.1:1"])
def test_a_list_of_middleware_gets_a_retry_queue_in_the_place_of_retries(url: str) -> None:
    age = AgeLimit()
    broker = broker_from_url(url, middleware=[Retries(), age])
    assert [type(m) for m in broker.middleware] == [RetryQueue, AgeLimit]
    broker.close()


def test_a_list_of_middleware_keeps_its_own_retry_queue() -> None:
    mine = RetryQueue(max_retries=2)
    broker = broker_from_url("memory://", middleware=[AgeLimit(), mine])
    assert retry_queues(broker) == [mine]
    broker.close()


def test_two_retry_queues_are_an_error() -> None:
    with pytest.raises(ConfigError, match="keep one of them"):
        broker_from_url("memory://", middleware=[RetryQueue()], retry_queue=RetryQueue())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jobs.db",
        "memory",
        "http://u:hunter2@host",
        "sqlite://",
        "sqlite://jobs.db",
        "sqlite:///",
        "memory://host",
        "memory://?foo=1",
        "memory://?max_messages=many",
        "redis://u:hunter2@host:port/0",
        "redis://u:hunter2@host/zero",
        "redis://u:hunter2@host:99999/0",
        "redis://u:hun?ter2@host:port",
        "redis://host:x?password=hunter2",
        "amqp://u:hunter2@host:port/",
        "amqp://u:hunter2@a;http://u:hunter2@b",
        "redis://[::1",
        "hunter2",
    ],
)
def test_a_wrong_url_is_an_error_that_holds_no_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        broker_from_url(url)
    assert "hunter2" not in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("url", [None, 7, b"redis://u:hunter2@h"])
def test_what_is_no_text_is_an_error(url: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        broker_from_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///jobs.db", "redis://:hunter2@h", "amqp://u:hunter2@h"])
def test_an_option_that_the_broker_does_not_have_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="colour") as caught:
        broker_from_url(url, colour="blue")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "client", "extra"), [("redis://h", "redis", "redis"), ("amqp://h", "pika", "rabbitmq")]
)
def test_a_missing_client_names_the_extra(url: str, client: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(MissingExtra, match=rf"dramatiq_retryq\[{extra}\]") as caught:
        broker_from_url(url)
    assert isinstance(caught.value, RetryQueueError)


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("redis://me:hunter2@localhost/0?db=abc", {}, "Invalid value for"),
        ("amqp://me:hunter2@localhost/", {"max_priority": 999}, "between 0 and 255"),
    ],
)
def test_what_the_client_says_of_a_bad_option_is_passed_on(url: str, options: dict[str, Any], said: str) -> None:
    pytest.importorskip("redis" if url.startswith("redis") else "pika")
    with pytest.raises(ConfigError, match=said) as caught:
        broker_from_url(url, **options)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)).replace(url, "")


def test_what_the_client_says_is_left_out_where_it_has_a_secret_in_it() -> None:
    pytest.importorskip("pika")
    with pytest.raises(ConfigError) as caught:
        broker_from_url("amqp://me:hunter2@localhost/?heartbeat=hunter3")
    assert "hunter" not in str(caught.value)
