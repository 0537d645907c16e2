"""fail_next(), crash_during() and refuse_enqueue()."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import CurrentMessage, Middleware, ShutdownNotifications, TimeLimit

from dramatiq_retryq import MemoryBroker, Snooze, SQLiteBroker, current_attempt
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.testing import Kit, swap_broker


@pytest.fixture
def ran() -> list[Any]:
    return []


@pytest.fixture
def work(retryq: Kit, ran: list[Any]) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(max_retries=2)
    def work(n: int = 0) -> None:
        ran.append(n)

    return work


class Gone(Exception):
    def __init__(self, url: str) -> None:
        super().__init__(f"{url} is gone")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionError, "ConnectionError"),
        (ConnectionError("refused"), "ConnectionError: refused"),
        (Gone, "Gone: asked for by the test is gone"),
        (lambda: Gone("x"), "Gone: x is gone"),
    ],
)
def test_the_next_runs_of_an_actor_fail(retryq: Kit, work: Any, ran: list[Any], error: Any, text: str) -> None:
    retryq.fail_next(work, 2, error)
    work.send()
    assert retryq.drain().counts() == {"succeeded": 1, "retried": 2}
    assert [str(run.error) for run in retryq.attempts(work)] == [text, text, "None"]
    assert ran == [0]


def test_failures_are_of_whichever_messages_come_first(retryq: Kit, work: Any, ran: list[Any]) -> None:
    retryq.fail_next("work", 1, ValueError)
    retryq.fail_next(work, 1, KeyError)
    work.send(1)
    work.send(2)
    work.send(3)
    retryq.drain()
    assert [run.error.type for run in retryq.attempts(work) if run.error] == ["ValueError", "KeyError"]
    assert ran == [3, 1, 2]


def test_a_failure_can_be_whatever_an_actor_raises(retryq: Kit, work: Any) -> None:
    retryq.fail_next(work, 1, Snooze(5_000))
    work.send()
    assert retryq.drain().counts() == {"succeeded": 1, "snoozed": 1}
    assert retryq.delays(work) == [5_000]


def test_calling_the_actor_as_a_function_does_not_fail(retryq: Kit, work: Any, ran: list[Any]) -> None:
    retryq.fail_next(work, 1, ValueError)
    work(7)
    assert ran == [7]


def test_the_process_dies_and_the_message_is_delivered_again(retryq: Kit, work: Any, ran: list[Any]) -> None:
    retryq.crash_during(work)
    work.send()
    assert retryq.drain().counts() == {"succeeded": 1, "crashed": 1}
    assert ran == [0]
    assert retryq.broker.check() == []


def test_the_process_dies_when_the_work_is_done_and_it_is_done_twice(retryq: Kit, work: Any, ran: list[Any]) -> None:
    retryq.crash_during(work, at="end")
    work.send()
    assert retryq.drain().counts() == {"succeeded": 1, "crashed": 1}
    assert ran == [0, 0]


def test_a_crash_uses_up_no_retry_and_is_in_the_history(retryq: Kit, work: Any) -> None:
    seen: list[Any] = []

    @dramatiq.actor(max_retries=0)
    def look() -> None:
        seen.append(current_attempt())

    retryq.crash_during(look, 2)
    look.send()
    retryq.drain()
    assert seen[0].number == 1
    assert [attempt.error for attempt in seen[0].previous] == ["WorkerCrashed"] * 2


def test_a_message_that_keeps_killing_its_process_is_dead(retryq: Kit, work: Any, ran: list[Any]) -> None:
    retryq.crash_during(work, 3)
    work.send()
    assert retryq.drain().counts() == {"crashed": 2, "died": 1}
    letter = retryq.dead_letters.one()
    assert letter.reason == "crashed"
    assert letter.error is not None
    assert letter.error.type == "WorkerCrashed"
    assert len(letter.attempts) == 3
    assert ran == []


def test_the_applications_own_max_crashes_counts(tmp_path: Any) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db", max_crashes=1)

    @dramatiq.actor(broker=broker, dead_letter_actor="told")
    def work() -> None: ...

    @dramatiq.actor(broker=broker)
    def told(letter: dict[str, Any]) -> None: ...

    with swap_broker(broker) as retryq:
        retryq.crash_during(work)
        work.send()
        assert retryq.drain().counts() == {"died": 1, "succeeded": 1}
        assert retryq.assert_enqueued(told).args[0]["reason"] == "crashed"
    broker.close()


def test_no_middleware_hears_of_a_crash_and_nothing_is_left_on_the_thread() -> None:
    class Listens(Middleware):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            self.heard.append("after")

        def after_ack(self, broker: Any, message: Any) -> None:
            self.heard.append("ack")

    listens, shutdown, limit = Listens(), ShutdownNotifications(notify_shutdown=True), TimeLimit()
    broker = MemoryBroker(middleware=[CurrentMessage(), listens, shutdown, limit])
    with swap_broker(broker) as retryq:

        @dramatiq.actor
        def work() -> None: ...

        retryq.crash_during(work)
        work.send()
        run = retryq.run_next()
        assert run is not None
        assert run.outcome == "crashed"
        assert listens.heard == []
        assert CurrentMessage.get_current_message() is None
        assert not shutdown.manager.notifications  # type: ignore[attr-defined]
        assert not any(limit.manager.deadlines.values())  # type: ignore[union-attr]
        retryq.drain()
        assert listens.heard == ["after", "ack"]


def test_a_broker_that_refuses_a_message_lets_the_sender_know(retryq: Kit, work: Any) -> None:
    retryq.refuse_enqueue()
    with pytest.raises(ConnectionClosed):
        work.send()
    work.send()
    assert len(retryq.enqueued(work)) == 1
    retryq.drain()


def test_a_broker_that_refuses_with_an_error_of_ones_own(retryq: Kit, work: Any) -> None:
    retryq.refuse_enqueue(2, ConnectionError("no route"))
    for _ in range(2):
        with pytest.raises(ConnectionError, match="no route"):
            work.send()


def test_a_retry_that_is_refused_for_good_is_a_dead_letter(retryq: Kit, work: Any) -> None:
    retryq.fail_next(work, 1, ValueError)
    work.send()
    retryq.refuse_enqueue(100)
    assert retryq.drain().counts() == {"died": 1}
    assert retryq.dead_letters.one().reason == "unschedulable"


@pytest.mark.parametrize("n", [0, -1, True, "2", 1.0])
def test_a_number_of_faults_that_makes_no_sense_is_refused(retryq: Kit, work: Any, n: Any) -> None:
    for ask in (
        lambda: retryq.fail_next(work, n),
        lambda: retryq.crash_during(work, n),
        lambda: retryq.refuse_enqueue(n),
    ):
        with pytest.raises(ConfigError, match="n is"):
            ask()


@pytest.mark.parametrize("error", ["ConnectionError", 7, object, lambda: "no exception"])
def test_an_error_that_is_none_is_refused_at_once(retryq: Kit, work: Any, error: Any) -> None:
    with pytest.raises(ConfigError, match="error is"):
        retryq.fail_next(work, 1, error)


def test_a_place_of_a_crash_that_does_not_exist_is_refused(retryq: Kit, work: Any) -> None:
    with pytest.raises(ConfigError, match="at is 'middle'"):
        retryq.crash_during(work, at="middle")  # type: ignore[arg-type]


def test_actors_are_themselves_again_after_the_test() -> None:
    broker = MemoryBroker()

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    function = work.fn
    with swap_broker(broker) as retryq:
        retryq.fail_next(work, 5)
        retryq.crash_during(work, 5)
    assert work.fn is function
