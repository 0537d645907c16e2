"""drain(), advance() and run_next(): what is run, when, and what is told of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, Shutdown, SkipMessage

from dramatiq_retryq import GiveUp, MemoryBroker, Snooze, SQLiteBroker, current_attempt
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.testing import Kit, KitError, Runaway, swap_broker

DAY = 86_400_000


def test_a_message_is_run_on_the_callers_thread(retryq: Kit) -> None:
    ran: list[tuple[int, int]] = []

    @dramatiq.actor
    def work(n: int) -> None:
        ran.append((n, threading.get_ident()))

    work.send(1)
    outcome = retryq.drain()
    assert ran == [(1, threading.get_ident())]
    assert (outcome.succeeded, outcome.processed) == (1, 1)


def test_twenty_retries_over_seven_days_take_no_time_and_no_thread(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=20, min_backoff=15_000, max_backoff=7 * DAY)
    def work() -> None:
        raise ConnectionError

    threads = threading.active_count()
    start = time.monotonic()
    work.send()
    outcome = retryq.drain()
    assert time.monotonic() - start < 1
    assert threading.active_count() == threads
    assert (outcome.retried, outcome.died) == (20, 1)
    assert outcome.elapsed == retryq.elapsed > timedelta(days=7)
    assert retryq.delays(work)[:3] == [15_000, 30_000, 60_000]
    assert retryq.dead_letters.one().reason == "exhausted"


@pytest.fixture(params=["memory", "sqlite"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    """The kit on each of the brokers that can be swapped in."""
    broker = MemoryBroker() if request.param == "memory" else SQLiteBroker(tmp_path / "tests.db")
    with closing(broker), swap_broker(new=broker) as retryq:
        yield retryq


def test_what_is_due_first_is_run_first_and_then_what_was_sent_first(either: Kit) -> None:
    ran: list[str] = []

    @dramatiq.actor(queue_name="a")
    def first(name: str) -> None:
        ran.append(name)

    @dramatiq.actor(queue_name="b")
    def second(name: str) -> None:
        ran.append(name)

    first.send_with_options(args=("later",), delay=1_000)
    second.send("one")
    first.send("two")
    second.send("three")
    second.send_with_options(args=("sooner",), delay=999)
    either.drain()
    assert ran == ["one", "two", "three", "sooner", "later"]


def test_what_an_actor_sends_is_run_too(retryq: Kit) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def count_down(n: int) -> None:
        ran.append(n)
        if n:
            count_down.send_with_options(args=(n - 1,), delay=timedelta(minutes=1))

    count_down.send(3)
    assert retryq.drain().succeeded == 4
    assert ran == [3, 2, 1, 0]
    assert retryq.elapsed == timedelta(minutes=3)


def test_every_outcome_is_counted(retryq: Kit) -> None:
    class Skips(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            if message.args == ("skip",):
                raise SkipMessage("not today")

    retryq.broker.add_middleware(Skips())

    @dramatiq.actor(max_retries=1)
    def work(what: str) -> None:
        first = not seen.setdefault(what, False)
        seen[what] = True
        if what == "snooze" and first:
            raise Snooze(5_000)
        if what == "shutdown" and first:
            raise Shutdown
        if what == "give up":
            raise GiveUp("enough")
        if what == "fail":
            raise ValueError(what)

    seen: dict[str, bool] = {}
    for what in ("fine", "snooze", "shutdown", "give up", "fail", "skip", "crash"):
        if what == "crash":
            retryq.drain()
            retryq.crash_during(work)
        work.send(what)
    outcome = retryq.drain()
    assert outcome.counts() == {"succeeded": 1, "crashed": 1}
    everything = [run.outcome for run in retryq.runs(work)]
    assert {name: everything.count(name) for name in dict.fromkeys(everything)} == {
        "succeeded": 4,
        "snoozed": 1,
        "interrupted": 1,
        "died": 2,
        "retried": 1,
        "skipped": 1,
        "crashed": 1,
    }


def test_a_message_for_an_unknown_actor_and_one_that_cannot_be_decoded_die(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None: ...

    message: Any = work.message()
    retryq.broker.enqueue(message._replace(actor_name="nobody"))
    retryq.broker.queues["default"].put(b"{")
    work.send()
    outcome = retryq.drain()
    assert outcome.counts() == {"succeeded": 1, "died": 2}
    assert {letter.reason for letter in retryq.dead_letters} == {"unknown_actor", "undecodable"}
    assert "dead: undecodable" in retryq.timeline()


def test_without_a_middleware_that_retries_a_failing_message_is_gone_as_in_production() -> None:
    broker = StubBroker(middleware=[])

    @dramatiq.actor(broker=broker)
    def work() -> None:
        raise ValueError

    with swap_broker(broker) as retryq:
        work.send()
        assert retryq.drain().counts() == {"dropped": 1}
        assert "gone" in retryq.timeline()


# -- Where to stop ---------------------------------------------------------------------------------------------------


def test_drain_until_a_time_stops_there(retryq: Kit) -> None:
    @dramatiq.actor(backoff=[60_000], max_retries=None)
    def work() -> None:
        raise ValueError

    work.send()
    outcome = retryq.drain(until=timedelta(hours=1))
    assert outcome.retried == 61
    assert outcome.elapsed == retryq.elapsed == timedelta(hours=1)
    assert retryq.drain(until=90_000).retried == 1
    assert retryq.elapsed == timedelta(hours=1, seconds=90)


def test_drain_until_a_time_ends_where_nothing_is_left(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None: ...

    work.send_with_options(delay=1_000)
    assert retryq.drain(until=timedelta(hours=1)).elapsed == timedelta(seconds=1)


def test_drain_until_an_instant_and_until_something_is_so(retryq: Kit) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work(n: int) -> None:
        ran.append(n)

    for n in range(1, 6):
        work.send_with_options(args=(n,), delay=n * 1_000)
    retryq.drain(until=retryq.now + timedelta(seconds=2))
    assert ran == [1, 2]
    retryq.drain(until=lambda: len(ran) == 4)
    assert ran == [1, 2, 3, 4]


def test_advance_moves_the_clock_and_runs_what_comes_due_at_its_instant(retryq: Kit) -> None:
    ran: list[timedelta] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(retryq.elapsed)

    work.send_with_options(delay=1_000)
    work.send_with_options(delay=timedelta(minutes=5))
    assert retryq.advance(999).processed == 0
    assert retryq.advance(1).succeeded == 1
    assert retryq.advance(timedelta(hours=1)).elapsed == timedelta(hours=1)
    assert ran == [timedelta(seconds=1), timedelta(minutes=5)]
    assert retryq.elapsed == timedelta(hours=1, seconds=1)


def test_run_next_runs_one(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=1)
    def work() -> None:
        raise ValueError("no")

    assert retryq.run_next() is None
    work.send()
    run = retryq.run_next()
    assert run is not None
    assert (run.outcome, run.n, str(run.error), run.delay) == ("retried", 1, "ValueError: no", 100)
    run = retryq.run_next()
    assert run is not None
    assert (run.outcome, run.n, run.reason) == ("died", 2, "exhausted")


def test_a_message_that_begets_messages_for_ever_ends_in_an_error_that_names_it(retryq: Kit) -> None:
    @dramatiq.actor
    def ping(n: int) -> None:
        ping.send_with_options(args=(n + 1,), delay=60_000)

    ping.send(0)
    with pytest.raises(Runaway, match=r"has run 50 messages within 49 min .*ping 50 times.*ping\(49\)"):
        retryq.drain(limit=50)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_limit_that_makes_no_sense_is_refused(retryq: Kit, limit: Any) -> None:
    with pytest.raises(ValueError, match="limit is"):
        retryq.drain(limit=limit)


# -- Errors ----------------------------------------------------------------------------------------------------------


def test_an_actors_error_is_raised_on_demand_with_its_own_traceback(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None:
        inner()

    def inner() -> None:
        raise ZeroDivisionError("here")

    work.send()
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        retryq.drain(raise_errors=True)
    assert caught.traceback[-1].name == "inner"
    assert retryq.delays(work) == [100]  # what the error leads to is stored first


def test_errors_can_be_raised_for_a_whole_test(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None:
        raise ZeroDivisionError

    retryq.raise_errors = True
    work.send()
    with pytest.raises(ZeroDivisionError):
        retryq.drain()
    assert retryq.drain(until=0, raise_errors=False).processed == 0


def test_what_is_to_end_the_test_is_not_taken_for_an_actors_failure(retryq: Kit) -> None:
    @dramatiq.actor
    def work(how: str) -> None:
        if how == "fail":
            pytest.fail("the test fails here")
        raise KeyboardInterrupt

    work.send("fail")
    with pytest.raises(pytest.fail.Exception, match="the test fails here"):
        retryq.drain()
    retryq.clear()
    work.send("interrupt")
    with pytest.raises(KeyboardInterrupt):
        retryq.drain()


def test_the_errors_of_an_outcome_are_the_exceptions_themselves(retryq: Kit) -> None:
    raised = ValueError("first")

    @dramatiq.actor(max_retries=0)
    def work() -> None:
        raise raised

    work.send()
    assert retryq.drain().errors == (raised,)


def test_drain_from_inside_an_actor_is_an_error_that_says_so(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None:
        retryq.drain()

    work.send()
    with pytest.raises(KitError, match=r"drain\(\) was called from inside an actor"):
        retryq.drain()


def test_an_actor_that_catches_the_error_of_a_nested_drain_goes_on(retryq: Kit) -> None:
    @dramatiq.actor
    def work() -> None:
        with pytest.raises(KitError):
            retryq.advance(1)

    work.send()
    assert retryq.drain().succeeded == 1


def test_drain_from_two_threads_at_once_is_an_error(retryq: Kit) -> None:
    errors: list[BaseException] = []

    def other() -> None:
        try:
            retryq.drain()
        except KitError as error:
            errors.append(error)

    @dramatiq.actor
    def work() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    work.send()
    assert retryq.drain().succeeded == 1
    assert "two threads" in str(errors)


def test_drain_after_the_test_is_over_is_an_error() -> None:
    with swap_broker() as retryq:
        pass
    with pytest.raises(KitError, match="after the test was over"):
        retryq.drain()


def test_current_attempt_is_known(retryq: Kit) -> None:
    seen: list[int] = []

    @dramatiq.actor(max_retries=2)
    def work() -> None:
        seen.append(current_attempt().number)
        raise ValueError

    work.send()
    retryq.drain()
    assert seen == [1, 2, 3]


def test_a_replayed_letter_runs_again(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=1)
    def work() -> None:
        if not fixed:
            raise ValueError

    fixed: list[bool] = []
    work.send()
    assert retryq.drain().died == 1
    fixed.append(True)
    retryq.dead_letters.replay(retryq.dead_letters.one(), delay=timedelta(minutes=1))
    assert retryq.drain().succeeded == 1
    assert [run.n for run in retryq.attempts(work)] == [1, 2, 1]
    assert "replayed" in retryq.timeline()


def test_join_drains_since_no_worker_will(retryq: Kit) -> None:
    @dramatiq.actor(max_retries=1)
    def work() -> None:
        raise ZeroDivisionError

    work.send()
    with pytest.raises(ZeroDivisionError):
        retryq.broker.join("default")
    assert len(retryq.attempts(work)) == 2


def test_the_middleware_hears_of_a_worker_as_in_a_worker() -> None:
    class Listens(Middleware):
        heard: list[str] = []  # noqa: RUF012

        def before_worker_boot(self, broker: Any, worker: Any) -> None:
            self.heard.append("boot")

        def before_process_message(self, broker: Any, message: Any) -> None:
            self.heard.append("message")

        def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
            self.heard.append("shutdown")

    broker = StubBroker(middleware=[Listens()])

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    with swap_broker(broker) as retryq:
        assert Listens.heard == []
        for _ in range(2):
            work.send()
            retryq.drain()
    assert Listens.heard == ["boot", "message", "message", "shutdown"]


def test_a_dead_letter_actor_that_is_not_declared_is_said_before_the_first_message(retryq: Kit) -> None:
    @dramatiq.actor(dead_letter_actor="nobody")
    def work() -> None: ...

    work.send()
    with pytest.raises(ValueError, match="dead_letter_actor is 'nobody'"):
        retryq.drain()
    retryq.clear()


@pytest.mark.parametrize("paused", [{"queue": "default"}, {"actor": "work"}], ids=["queue", "actor"])
def test_what_is_paused_waits_until_it_is_resumed(retryq: Kit, paused: dict[str, str]) -> None:
    @dramatiq.actor
    def work() -> None: ...

    @dramatiq.actor(queue_name="other")
    def other() -> None: ...

    operations = Operations.of(retryq.broker)
    work.send()
    other.send()
    operations.pause(**paused)
    assert [run.actor_name for run in retryq.drain().runs] == ["other"]
    assert retryq.advance(hours=1).processed == 0
    operations.resume(**paused)
    assert [run.actor_name for run in retryq.drain().runs] == ["work"]
