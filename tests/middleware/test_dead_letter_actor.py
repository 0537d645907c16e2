"""dead_letter_actor: each death is told once, as one dict, and a failing dead-letter actor ends quietly."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_retryq import MemoryBroker, RetryQueue
from dramatiq_retryq.clock import VirtualClock


def test_a_letter_is_one_dict_with_all_that_is_needed(world: Any) -> None:
    here = world(max_retries=0)

    @dramatiq.actor
    def fail(number: int) -> None:
        raise ValueError("no")

    message = fail.send(7)
    here.run()
    letter = here.letter()
    assert set(letter) == {
        "id", "reason", "queue_name", "actor_name", "died_at", "error", "traceback", "attempts", "replays", "message",
        "data",
    }  # fmt: skip
    assert letter["actor_name"] == "fail"
    assert letter["queue_name"] == "default"
    assert letter["message"]["message_id"] == message.message_id
    assert letter["message"]["args"] == [7]
    assert letter["replays"] == 0


def test_a_message_can_be_sent_again_from_a_letter(world: Any) -> None:
    here = world(max_retries=0)
    numbers: list[int] = []

    @dramatiq.actor
    def fail_once(number: int) -> None:
        numbers.append(number)
        if len(numbers) == 1:
            raise ValueError("no")

    fail_once.send(7)
    here.run()
    here.broker.enqueue(Message(**here.letter()["message"]))
    here.run()
    assert numbers == [7, 7]
    assert len(here.letters) == 1


def test_the_letter_on_a_memory_broker_is_the_one_that_it_keeps(broker: MemoryBroker, drain: Any) -> None:
    told: list[dict[str, Any]] = []

    @dramatiq.actor
    def morgue(letter: dict[str, Any]) -> None:
        told.append(letter)

    @dramatiq.actor(max_retries=1, dead_letter_actor=morgue)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    drain(broker)
    kept = broker.dead_letters.one()
    assert told == [json.loads(json.dumps(kept.asdict()))]


def test_a_payload_that_is_no_message_is_told_in_base64(clock: VirtualClock, drain: Any) -> None:
    broker = MemoryBroker([RetryQueue(dead_letter_actor="morgue")], clock=clock)
    told: list[dict[str, Any]] = []

    @dramatiq.actor(broker=broker)
    def morgue(letter: dict[str, Any]) -> None:
        told.append(letter)

    broker.queues["default"].put(b"\xffnonsense")
    drain(broker)
    (letter,) = told
    assert letter["message"] is None
    assert base64.b64decode(letter["data"]) == b"\xffnonsense"


def test_every_reason_is_told(world: Any) -> None:
    here = world(max_retries=0)

    @dramatiq.actor(throws=KeyError)
    def fail(kind: str) -> None:
        raise KeyError if kind == "rejected" else ValueError

    fail.send("exhausted")
    fail.send("rejected")
    here.send_aged(fail, 120_000, args=("expired",), max_age=60_000)
    here.broker.enqueue(Message(queue_name="default", actor_name="nobody", args=(), kwargs={}, options={}))
    here.run()
    assert sorted(here.reasons()) == ["exhausted", "expired", "rejected", "unknown_actor"]


@pytest.mark.parametrize("world", ["stub"], indirect=True)
def test_on_a_foreign_broker_the_letter_is_stored_before_the_message_is_rejected(world: Any) -> None:
    here = world(max_retries=0)
    order: list[str] = []

    class Looks(dramatiq.Middleware):
        def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            order.append(f"{message.actor_name} stored")

        def after_nack(self, broker: Any, message: Any) -> None:
            order.append(f"{message.actor_name} rejected")

    here.broker.add_middleware(Looks())

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert order == ["fail stored", "morgue stored", "fail rejected"]


@pytest.mark.parametrize(("times", "told"), [(1, 1), (None, 0)], ids=["at first", "always"])
def test_on_a_memory_broker_the_actor_is_told_if_and_only_if_the_message_was_buried(
    broker: MemoryBroker, clock: VirtualClock, drain: Any, monkeypatch: pytest.MonkeyPatch, times: Any, told: int
) -> None:
    bury, calls = broker.store.bury, []

    def failing(*args: Any, **kwargs: Any) -> int:
        calls.append(1)
        if times is None or len(calls) <= times:
            raise OSError("no space left on device")
        return bury(*args, **kwargs)

    @dramatiq.actor(queue_name="morgue")
    def morgue(letter: Any) -> None:
        raise AssertionError

    @dramatiq.actor(max_retries=0, dead_letter_actor="morgue")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    monkeypatch.setattr(broker.store, "bury", failing)
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0)
    consumer = broker.consume("default", timeout=0)
    message = next(consumer)  # type: ignore[call-overload]
    message.fail()
    broker.emit_before("nack", message)
    with contextlib.suppress(Exception):
        consumer.nack(message)
    assert len(broker.dead_letters) == broker.queues["morgue"].qsize() == told


def test_a_failing_dead_letter_actor_is_retried_like_any_other(broker: MemoryBroker, drain: Any) -> None:
    runs: list[str] = []

    @dramatiq.actor(max_retries=2)
    def morgue(letter: dict[str, Any]) -> None:
        runs.append(letter["reason"])
        raise RuntimeError("full")

    @dramatiq.actor(max_retries=0, dead_letter_actor="morgue")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    drain(broker)
    assert runs == ["exhausted"] * 3
    assert broker.dead_letters.one(actor="morgue").reason == "exhausted"


def test_a_dead_letter_actor_is_never_sent_its_own_death(world: Any) -> None:
    here = world(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor(max_retries=0)
    def own_morgue(letter: Any) -> None:
        runs.append(1)
        raise RuntimeError("full")

    @dramatiq.actor(dead_letter_actor="own_morgue")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert runs == [1]
    assert here.letters == []  # nor is anybody else


def test_a_message_sent_to_a_dead_letter_actor_by_hand_does_not_go_round_in_circles(world: Any) -> None:
    here = world(max_retries=0)
    runs: list[int] = []

    @dramatiq.actor(max_retries=0, dead_letter_actor="own_morgue")
    def own_morgue(letter: Any) -> None:
        runs.append(1)
        raise RuntimeError("full")

    own_morgue.send({})
    here.run()
    assert runs == [1]


def test_two_dead_letter_actors_that_fail_do_not_write_to_each_other(world: Any) -> None:
    here = world(max_retries=0)
    runs: list[str] = []

    @dramatiq.actor(max_retries=0, dead_letter_actor="second")
    def first(letter: Any) -> None:
        runs.append("first")
        raise RuntimeError("full")

    @dramatiq.actor(max_retries=0, dead_letter_actor="first")
    def second(letter: Any) -> None:
        runs.append("second")
        raise RuntimeError("full")

    @dramatiq.actor(dead_letter_actor="first")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert runs == ["first"]


@pytest.mark.parametrize("target", ["name", "actor"])
def test_a_dead_letter_actor_is_given_by_name_or_as_the_actor(broker: MemoryBroker, drain: Any, target: str) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def morgue(letter: Any) -> None:
        told.append(letter)

    @dramatiq.actor(max_retries=0, dead_letter_actor=morgue if target == "actor" else "morgue")
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    drain(broker)
    assert len(told) == 1


def test_a_dead_letter_actor_given_as_the_actor_is_heard_from_a_message_too(broker: MemoryBroker, drain: Any) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def morgue(letter: Any) -> None:
        told.append(letter)

    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        raise ValueError("no")

    fail.send_with_options(dead_letter_actor=morgue)
    drain(broker)
    assert len(told) == 1
