"""enqueue, what it takes and what it refuses: delays, etas, names of other brokers, bounds, payloads that are none."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy, QueueNotFound
from dramatiq.middleware import Middleware

from dramatiq_retryq import MemoryBroker, RetryQueue
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import ConfigError, EncodeError, QueueFull


@pytest.fixture
def noop(broker: MemoryBroker) -> dramatiq.Actor[..., None]:
    @dramatiq.actor
    def noop(number: int = 0) -> None:
        pass

    return noop


def due_in(broker: MemoryBroker, message: Message[Any]) -> int:
    """Milliseconds until a message is due."""
    due_at = broker.lookup(message.message_id).due_at
    assert due_at is not None
    return due_at - broker.clock.now()


# -- Delays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "wait"),
    [
        (None, 0),
        (0, 0),
        (250, 250),
        (250.2, 251),  # at the least
        (timedelta(seconds=2), 2000),
        (timedelta(microseconds=1500), 2),
        (-5, 0),
        (-0.5, 0),
        (float("-inf"), 0),
    ],
)
def test_a_message_is_due_after_its_delay(broker: MemoryBroker, noop: Any, delay: Any, wait: int) -> None:
    message = broker.enqueue(noop.message(), delay=delay)
    assert due_in(broker, message) == wait


def test_a_negative_timedelta_is_due_now_like_a_negative_number(broker: MemoryBroker, noop: Any) -> None:
    message = broker.enqueue(noop.message(), delay=timedelta(seconds=-5))  # type: ignore[arg-type]
    assert due_in(broker, message) == 0


@pytest.mark.parametrize("delay", ["5", True, float("nan"), float("inf"), [], b"5"], ids=repr)
def test_a_delay_that_is_no_duration_is_an_error_and_stores_nothing(
    broker: MemoryBroker, noop: Any, delay: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        broker.enqueue(noop.message(), delay=delay)
    assert str(caught.value) == (
        f"message to actor 'noop': delay is {delay!r}: give milliseconds as a whole number, or a datetime.timedelta"
    )
    assert broker.queues["default"].empty()


def test_a_delay_too_great_for_a_number_is_a_config_error(broker: MemoryBroker, noop: Any) -> None:
    with pytest.raises(ConfigError):
        broker.enqueue(noop.message(), delay=10**400)


def test_a_delayed_message_comes_back_with_its_eta(broker: MemoryBroker, clock: VirtualClock, noop: Any) -> None:
    message = noop.message()
    returned = broker.enqueue(message, delay=250)
    assert returned.options["eta"] == clock.now() + 250
    assert returned.message_id == message.message_id
    assert returned.queue_name == "default"
    assert "eta" not in message.options


def test_a_message_without_a_delay_comes_back_itself(broker: MemoryBroker, noop: Any) -> None:
    message = noop.message()
    assert broker.enqueue(message) is message


class Looks(Middleware):
    """What other middleware is shown."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[str, Any, Any]] = []
        self.processed: list[dict[str, Any]] = []

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        self.enqueued.append(("before", message.options.get("eta"), delay))

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        self.enqueued.append(("after", message.options.get("eta"), delay))

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.processed.append(dict(message.options))


def test_middleware_is_shown_the_eta_and_the_delay(broker: MemoryBroker, clock: VirtualClock, noop: Any) -> None:
    looks = Looks()
    broker.add_middleware(looks)
    broker.enqueue(noop.message(), delay=250)
    eta = clock.now() + 250
    assert looks.enqueued == [("before", eta, 250), ("after", eta, 250)]


def test_middleware_is_shown_a_delay_in_milliseconds_whatever_was_given(broker: MemoryBroker, noop: Any) -> None:
    looks = Looks()
    broker.add_middleware(looks)
    broker.enqueue(noop.message(), delay=timedelta(seconds=1))  # type: ignore[arg-type]
    assert [delay for _, _, delay in looks.enqueued] == [1000, 1000]


def test_what_is_delivered_has_no_eta(broker: MemoryBroker, noop: Any, drain: Any) -> None:
    looks = Looks()
    broker.add_middleware(looks)
    noop.send_with_options(delay=250)
    drain(broker)
    assert looks.processed == [{}]


def test_what_was_delayed_once_is_not_delayed_again_by_its_retry(
    broker: MemoryBroker, clock: VirtualClock, drain: Any
) -> None:
    ran_at: list[int] = []

    @dramatiq.actor(max_retries=1, backoff=[100])
    def fail() -> None:
        ran_at.append(clock.now())
        raise ValueError("no")

    start = clock.now()
    fail.send_with_options(delay=5000)
    drain(broker)
    assert [at - start for at in ran_at] == [5000, 5100]


# -- Etas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "wait"), [(5000, 5000), (0.4, 1), (-5000, -5000)])
def test_an_absolute_eta_is_understood(
    broker: MemoryBroker, clock: VirtualClock, noop: Any, eta: float, wait: int
) -> None:
    message = broker.enqueue(noop.message().copy(options={"eta": clock.now() + eta}))
    assert due_in(broker, message) == wait


@pytest.mark.parametrize("eta", [None, "tomorrow", [], float("nan"), float("inf")], ids=repr)
def test_an_eta_that_is_no_instant_is_due_now(broker: MemoryBroker, noop: Any, drain: Any, eta: Any) -> None:
    looks = Looks()
    broker.add_middleware(looks)
    message = broker.enqueue(noop.message().copy(options={"eta": eta}))
    assert due_in(broker, message) == 0
    drain(broker)
    assert looks.processed == [{}]


def test_an_eta_too_great_for_a_number_is_no_crash(broker: MemoryBroker, noop: Any) -> None:
    message = broker.enqueue(noop.message().copy(options={"eta": 10**400}))
    assert broker.lookup(message.message_id).state == "waiting"


def test_an_eta_that_is_no_instant_is_warned_about(
    broker: MemoryBroker, noop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker.enqueue(noop.message().copy(options={"eta": "tomorrow"}))
    assert "Invalid eta value" in caplog.text


@pytest.mark.parametrize("eta", [None, "tomorrow"], ids=repr)
def test_a_payload_with_an_eta_that_is_no_instant_runs(broker: MemoryBroker, noop: Any, drain: Any, eta: Any) -> None:
    looks = Looks()
    broker.add_middleware(looks)
    broker.queues["default"].put(noop.message().copy(options={"eta": eta}).encode())
    drain(broker)
    assert looks.processed == [{}]


# -- Names of queues -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".DQ", ".XQ"])
def test_a_message_from_the_delay_or_dead_letter_queue_of_another_broker_is_understood(
    broker: MemoryBroker, drain: Any, suffix: str
) -> None:
    ran_in: list[str] = []

    class LooksAtQueues(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            ran_in.append(message.queue_name)

    broker.add_middleware(LooksAtQueues())

    @dramatiq.actor
    def work() -> None:
        pass

    broker.enqueue(work.message()._replace(queue_name="default" + suffix))
    drain(broker)
    assert ran_in == ["default"]


@pytest.mark.parametrize("suffix", [".DQ", ".XQ"])
def test_consume_join_and_flush_understand_such_names_too(broker: MemoryBroker, noop: Any, suffix: str) -> None:
    noop.send()
    consumer = broker.consume("default" + suffix, timeout=0)
    consumer.ack(next(consumer))  # type: ignore[call-overload]
    broker.join("default" + suffix, timeout=10)
    noop.send()
    broker.flush("default" + suffix)
    assert broker.queues["default"].empty()


@pytest.mark.parametrize("suffix", ["", ".DQ", ".XQ"])
def test_a_queue_that_was_not_declared_is_not_found(broker: MemoryBroker, noop: Any, suffix: str) -> None:
    name = "elsewhere" + suffix
    with pytest.raises(QueueNotFound, match=name):
        broker.enqueue(noop.message()._replace(queue_name=name))
    for act in (broker.consume, broker.join, broker.flush):
        with pytest.raises(QueueNotFound, match=name):
            act(name)  # type: ignore[operator]


def test_declaring_a_delay_queue_declares_its_queue(broker: MemoryBroker) -> None:
    broker.declare_queue("work.DQ")
    assert broker.get_declared_queues() == {"work"}
    assert broker.get_declared_delay_queues() == set()


# -- Bounds ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(clock: VirtualClock) -> MemoryBroker:
    """A broker with room for two messages."""
    broker = MemoryBroker(
        [RetryQueue(max_retries=1, backoff=[100], dead_letter_actor="morgue")], max_messages=2, clock=clock
    )

    @dramatiq.actor(broker=broker)
    def work(kind: str = "") -> None:
        if kind == "fail":
            raise ValueError("no")

    @dramatiq.actor(broker=broker, queue_name="morgue")
    def morgue(letter: Any) -> None:
        pass

    return broker


def send(broker: MemoryBroker, *args: Any, **options: Any) -> Message[Any]:
    return broker.actors["work"].send_with_options(args=args, **options)


def test_a_message_beyond_max_messages_is_refused_and_not_stored(small: MemoryBroker) -> None:
    send(small)
    send(small)
    with pytest.raises(QueueFull) as caught:
        send(small)
    assert str(caught.value) == (
        "queue 'default': the broker already holds max_messages=2 messages: this one was not stored; send it later, "
        "start more workers or raise max_messages"
    )
    assert small.queues["default"].qsize() == 2


def test_the_bound_holds_for_all_queues_together(small: MemoryBroker) -> None:
    send(small)
    small.actors["morgue"].send({})
    with pytest.raises(QueueFull):
        send(small)


def test_messages_that_wait_for_later_and_those_worked_on_take_room(small: MemoryBroker) -> None:
    send(small, delay=1000)
    send(small)
    next(small.consume("default", timeout=0))  # type: ignore[call-overload]
    with pytest.raises(QueueFull):
        send(small)


def test_a_full_broker_is_a_dramatiq_broker_error(small: MemoryBroker) -> None:
    assert issubclass(QueueFull, dramatiq.errors.BrokerError)


def test_there_is_room_again_once_a_message_is_done(small: MemoryBroker, drain: Any) -> None:
    send(small)
    send(small)
    drain(small)
    send(small)


def test_a_dead_message_takes_no_room(small: MemoryBroker, drain: Any) -> None:
    send(small, "fail")
    drain(small)
    assert len(small.dead_letters) == 1
    send(small)
    send(small)


def test_a_retry_has_its_place_in_a_full_broker(small: MemoryBroker, drain: Any) -> None:
    failing = send(small, "fail")
    send(small, delay=10_000)
    drain(small, until=small.clock.now())
    whereabouts = small.lookup(failing.message_id)
    assert (whereabouts.state, whereabouts.retries) == ("waiting", 1)


def test_a_letter_to_a_dead_letter_actor_has_its_place_in_a_full_broker(small: MemoryBroker, drain: Any) -> None:
    send(small, "fail", max_retries=0)
    send(small, delay=10_000)
    drain(small, until=small.clock.now())
    assert small.counts()["default"].dead == 1
    small.flush_all()


def test_a_replay_has_its_place_in_a_full_broker(small: MemoryBroker, drain: Any) -> None:
    send(small, "fail", max_retries=0)
    drain(small)
    send(small)
    send(small)
    small.dead_letters.replay(small.dead_letters.one())
    assert small.queues["default"].qsize() == 3


def test_what_is_given_back_has_its_place_in_a_full_broker(small: MemoryBroker) -> None:
    send(small)
    send(small)
    consumer = small.consume("default", timeout=0)
    consumer.requeue([next(consumer)])  # type: ignore[call-overload]
    assert small.counts()["default"].due == 2


def test_the_oldest_letters_give_way_with_a_warning(
    clock: VirtualClock, drain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker([RetryQueue(max_retries=0)], max_dead_letters=2, clock=clock)

    @dramatiq.actor(broker=broker)
    def fail(number: int) -> None:
        raise ValueError(number)

    for number in range(4):
        fail.send(number)
    drain(broker)
    kept = [letter.message.args[0] for letter in broker.dead_letters if letter.message is not None]
    assert kept == [3, 2]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        warnings == ["The oldest dead letters (1) were dropped: there is no room for more. Replay or discard some."] * 2
    )


# -- Payloads --------------------------------------------------------------------------------------------------------


def test_arguments_that_cannot_be_encoded_are_an_error_and_store_nothing(broker: MemoryBroker, noop: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        noop.send(object())
    assert str(caught.value) == (
        "message to actor 'noop' cannot be encoded (TypeError: Object of type object is not JSON serializable): send "
        "plain values or ids in place of objects, or set another encoder with dramatiq.set_encoder()"
    )
    assert isinstance(caught.value, TypeError)
    assert broker.queues["default"].empty()


def test_a_message_is_what_it_was_when_it_was_sent(broker: MemoryBroker, drain: Any) -> None:
    seen: list[Any] = []

    @dramatiq.actor
    def work(values: list[int]) -> None:
        seen.append(values)

    values = [1]
    work.send(values)
    values.append(2)
    drain(broker)
    assert seen == [[1]]


@pytest.mark.parametrize(
    "payload",
    [b"", b"nonsense", b"\x80\x81", b"null", b"[]", b"{}", b'{"queue_name": "default"}', b'"text"', b"5"],
    ids=repr,
)
def test_a_payload_that_is_no_message_is_a_dead_letter_and_the_consumer_lives_on(
    broker: MemoryBroker, noop: Any, payload: bytes
) -> None:
    broker.queues["default"].put(payload)
    sent = noop.send()
    consumer = broker.consume("default", timeout=0)
    assert next(consumer).message_id == sent.message_id  # type: ignore[call-overload]
    letter = broker.dead_letters.one()
    assert (letter.reason, letter.actor_name, letter.data) == ("undecodable", None, payload)


def test_a_run_of_undecodable_payloads_is_no_recursion(broker: MemoryBroker, noop: Any) -> None:
    for _ in range(2000):
        broker.queues["default"].put(b"nonsense")
    sent = noop.send()
    consumer = broker.consume("default", prefetch=16, timeout=0)
    assert next(consumer).message_id == sent.message_id  # type: ignore[call-overload]
    assert len(broker.dead_letters) == 2000


#: Payloads that decode to a message of which one field is not what it should be.
ODD_FIELDS = [
    ("options", None),
    ("options", "text"),
    ("options", []),
    ("actor_name", ["noop"]),
    ("actor_name", None),
    ("actor_name", 5),
    ("queue_name", None),
    ("queue_name", 5),
    ("options", {"eta": 10**400}),
    ("kwargs", None),
    ("kwargs", []),
    ("message_id", 5),
    ("message_timestamp", "yesterday"),
    ("message_timestamp", None),
]


@pytest.mark.parametrize(("field", "value"), ODD_FIELDS, ids=lambda value: repr(value)[:20])
def test_a_message_with_an_odd_field_is_settled_somehow_and_the_next_one_runs(
    broker: MemoryBroker, drain: Any, field: str, value: Any
) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=0)
    def fail_first(number: int) -> None:
        ran.append(number)
        if number == 1:
            raise ValueError("no")

    payload = {**fail_first.message(1).asdict(), field: value}
    broker.queues["default"].put(json.dumps(payload).encode())
    fail_first.send(2)
    drain(broker)
    assert ran[-1] == 2
    count = broker.counts()["default"]
    assert (count.waiting, count.claimed, count.dead) == (0, 0, 1)


def test_a_message_whose_options_name_no_exception_is_not_lost(broker: MemoryBroker, drain: Any) -> None:
    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        raise ValueError("no")

    broker.queues["default"].put(fail.message().copy(options={"throws": "ValueError"}).encode())
    with contextlib.suppress(TypeError):
        drain(broker)
    assert broker.counts()["default"].dead == 1
