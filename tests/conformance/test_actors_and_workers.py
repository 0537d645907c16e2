"""What actors may count on under any broker. The scenarios are those of Dramatiq's own tests."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import ActorNotFound, Broker, Message, MessageProxy, QueueJoinTimeout, QueueNotFound, RateLimitExceeded
from dramatiq.middleware import (
    AsyncIO,
    CurrentMessage,
    Middleware,
    Retries,
    Shutdown,
    SkipMessage,
    TimeLimit,
    TimeLimitExceeded,
)

PATIENCE = 20_000
HOUR = 3_600_000
Finish = Callable[..., None]


def waiting(broker: Any, queue_name: str = "default") -> int:
    return int(broker.queues[queue_name].qsize())


# -- Declaring and sending -------------------------------------------------------------------------------------------


def test_an_actor_is_declared_with_its_queue(broker: Any) -> None:
    @dramatiq.actor(queue_name="work", actor_name="worker")
    def work() -> None:
        pass

    assert broker.get_declared_actors() == {"worker"}
    assert "work" in broker.get_declared_queues()


def test_a_name_is_declared_once(broker: Any) -> None:
    dramatiq.actor(lambda: None, actor_name="work")
    with pytest.raises(ValueError, match="An actor named 'work' is already registered"):
        dramatiq.actor(lambda: None, actor_name="work")


def test_an_unknown_option_is_refused(broker: Any) -> None:
    with pytest.raises(ValueError, match="invalid_option"):
        dramatiq.actor(lambda: None, actor_name="work", invalid_option=1)


@pytest.mark.parametrize("option", ["max_retries", "min_backoff", "max_backoff", "retry_when", "throws", "max_age"])
def test_dramatiqs_options_are_known(broker: Any, option: str) -> None:
    assert option in broker.actor_options


def test_a_message_is_stored_as_it_was_sent(broker: Any) -> None:
    @dramatiq.actor
    def add(x: int, y: int) -> None:
        pass

    sent = add.send(1, y=2)
    assert Message.decode(broker.queues["default"].get(timeout=1)) == sent


def test_a_delayed_message_comes_back_with_its_eta(broker: Any) -> None:
    work = dramatiq.actor(lambda: None, actor_name="work")
    before = int(time.time() * 1000)
    assert before + HOUR <= work.send_with_options(delay=HOUR).options["eta"] <= before + HOUR + 60_000


def test_a_queue_that_was_not_declared_is_not_found(broker: Any) -> None:
    message: Message[Any] = Message(queue_name="nowhere", actor_name="work", args=(), kwargs={}, options={})
    for act in (lambda: broker.consume("nowhere"), lambda: broker.join("nowhere"), lambda: broker.enqueue(message)):
        with pytest.raises(QueueNotFound):
            act()


def test_each_queue_has_a_delay_queue(broker: Any) -> None:
    broker.declare_queue("work")
    assert broker.get_declared_delay_queues() == {"work.DQ"}


# -- Running ---------------------------------------------------------------------------------------------------------


def test_many_messages_are_each_run_once(broker: Any, finish: Finish) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)

    for number in range(100):
        work.send(number)
    finish(threads=4)
    assert sorted(ran) == list(range(100))


def test_arguments_arrive_by_position_and_by_name(broker: Any, finish: Finish) -> None:
    got: list[Any] = []

    @dramatiq.actor
    def work(*args: Any, **kwargs: Any) -> None:
        got.append((args, kwargs))

    work.send(1, "two", three=[3])
    finish()
    assert got == [((1, "two"), {"three": [3]})]


def test_messages_run_in_the_order_in_which_they_were_sent(broker: Any, running: Any) -> None:
    ran: list[int] = []
    go_on = threading.Event()

    @dramatiq.actor(priority=-1)
    def first() -> None:
        go_on.wait(PATIENCE / 1000)

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)

    first.send()
    for number in range(30):
        work.send(number)
    with running(broker, prefetch=31) as worker:
        pause = threading.Event()
        while worker.work_queue.qsize() < 30:
            pause.wait(0.001)
        go_on.set()
        broker.join("default", timeout=PATIENCE)
    assert ran == list(range(30))


def test_delayed_messages_run_in_the_order_of_their_due_instants(broker: Any, finish: Finish) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)

    work.send_with_options(args=(1,), delay=120)
    work.send_with_options(args=(2,), delay=timedelta(milliseconds=20))
    finish()
    assert ran == [2, 1]


def test_a_delayed_message_does_not_run_early(broker: Any, finish: Finish) -> None:
    ran_at: list[float] = []

    @dramatiq.actor
    def work() -> None:
        ran_at.append(time.time() * 1000)

    message = work.send_with_options(delay=30)
    finish()
    assert ran_at[0] >= message.options["eta"] - 1  # StubBroker rounds down


def test_far_off_messages_do_not_hold_back_one_that_is_due(broker: Any, running: Any) -> None:
    ran = threading.Event()

    @dramatiq.actor
    def work(soon: bool) -> None:
        if soon:
            ran.set()

    for _ in range(100):
        work.send_with_options(args=(False,), delay=HOUR)
    work.send_with_options(args=(True,), delay=1)
    with running(broker):
        assert ran.wait(0.5)


def test_the_urgent_among_the_prefetched_run_first(broker: Any, running: Any) -> None:
    ran: list[str] = []
    go_on = threading.Event()

    @dramatiq.actor(priority=-1)
    def first() -> None:
        go_on.wait(PATIENCE / 1000)

    @dramatiq.actor(priority=10)
    def low() -> None:
        ran.append("low")

    @dramatiq.actor(priority=0)
    def high() -> None:
        ran.append("high")

    first.send()
    for _ in range(5):
        low.send()
        high.send()
    with running(broker, prefetch=20) as worker:
        pause = threading.Event()
        while worker.work_queue.qsize() < 10:
            pause.wait(0.001)
        go_on.set()
        broker.join("default", timeout=PATIENCE)
    assert ran == ["high"] * 5 + ["low"] * 5


def test_a_worker_takes_only_from_its_queues(broker: Any, running: Any) -> None:
    broker.declare_queue("wanted")
    with running(broker, queues={"wanted"}) as worker:
        broker.declare_queue("unwanted")
        assert {name for name in worker.consumers if not name.endswith(".DQ")} == {"wanted"}


def test_an_actor_declared_after_the_worker_started_is_run(broker: Any, running: Any) -> None:
    ran: list[int] = []
    with running(broker):

        @dramatiq.actor(queue_name="new")
        def work() -> None:
            ran.append(1)

        work.send()
        broker.join("new", timeout=PATIENCE)
    assert ran == [1]


def test_a_paused_worker_runs_nothing_until_it_is_resumed(broker: Any, running: Any) -> None:
    ran = threading.Event()

    @dramatiq.actor
    def work() -> None:
        ran.set()

    with running(broker) as worker:
        worker.pause()
        work.send()
        assert not ran.wait(0.03)
        worker.resume()
        assert ran.wait(PATIENCE / 1000)


def test_a_consumer_prefetches_no_more_than_it_is_told(broker: Any) -> None:
    work = dramatiq.actor(lambda: None, actor_name="work")
    for _ in range(15):
        work.send()
    consumer = broker.consume("default", prefetch=5, timeout=10)
    held = []
    while (message := next(consumer)) is not None:
        held.append(message)
    for message in held:
        consumer.ack(message)
    assert len(held) == 5


def test_a_consumer_prefetches_as_many_as_it_is_told_though_they_come_one_by_one(broker: Any) -> None:
    # Priorities order what was prefetched: where that is less than it may be, a high one waits behind low ones.
    work = dramatiq.actor(lambda: None, actor_name="work")
    consumer = broker.consume("default", prefetch=20, timeout=10)
    held = []
    for _ in range(20):
        work.send()
        held.append(next(consumer))
    held = [message for message in [*held, *(next(consumer) for _ in range(20))] if message is not None]
    for message in held:
        consumer.ack(message)
    assert len(held) == 20


def test_what_a_stopped_worker_had_prefetched_is_not_lost(broker: Any, running: Any, finish: Finish) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    @dramatiq.actor
    def work(number: int) -> None:
        ran.append(number)
        begun.set()
        go_on.wait(PATIENCE / 1000)

    for number in range(10):
        work.send(number)
    with running(broker, prefetch=10) as worker:
        begun.wait(PATIENCE / 1000)
        pause = threading.Event()
        while worker.work_queue.qsize() < 9:
            pause.wait(0.001)
        worker.workers[0].stop()
        go_on.set()
    assert waiting(broker) == 9


def test_what_a_shutdown_interrupts_is_not_begun_again_by_the_worker_that_stops(broker: Any, running: Any) -> None:
    begun, never = threading.Event(), threading.Event()
    ended: list[str] = []

    @dramatiq.actor(notify_shutdown=True)
    def work() -> None:
        if ended:
            ended.append("begun again")
            return
        begun.set()
        try:
            for _ in range(PATIENCE):
                never.wait(0.001)
        except Shutdown:
            ended.append("interrupted")
            raise

    work.send()
    # Its idle threads wait that long for one message more, stopped or not.
    with running(broker, threads=8, timeout=400):
        assert begun.wait(PATIENCE / 1000)
    assert ended == ["interrupted"]


def test_an_async_actor_runs(broker: Any, finish: Finish) -> None:
    broker.add_middleware(AsyncIO())
    ran: list[int] = []

    @dramatiq.actor
    async def work() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    work.send()
    finish()
    assert ran == [1]


@pytest.mark.parametrize("eta", [None, "not-a-number"])
def test_an_eta_that_is_no_instant_keeps_no_message_from_running(broker: Any, finish: Finish, eta: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    broker.queues["default"].put(work.message_with_options(eta=eta).encode())
    finish()
    assert ran == [1]


def test_an_eta_that_is_no_instant_is_warned_about(
    broker: Any, finish: Finish, caplog: pytest.LogCaptureFixture
) -> None:
    work = dramatiq.actor(lambda: None, actor_name="work")
    broker.queues["default"].put(work.message_with_options(eta="not-a-number").encode())
    finish()
    assert "Invalid eta value for message" in caplog.text


def test_a_payload_that_is_no_message_is_kept_as_dead(broker: Any, running: Any) -> None:
    ran = threading.Event()

    @dramatiq.actor
    def work() -> None:
        ran.set()

    broker.queues["default"].put(b"nonsense")
    work.send()
    with running(broker):
        assert ran.wait(PATIENCE / 1000)
    assert len(broker.dead_letters) == 1


# -- Failing ---------------------------------------------------------------------------------------------------------


def test_a_failing_message_is_retried_until_it_succeeds(broker: Any, finish: Finish) -> None:
    ran: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def work() -> None:
        ran.append(1)
        if len(ran) < 4:
            raise RuntimeError("no")

    work.send()
    finish(fail_fast=True)
    assert len(ran) == 4


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_a_message_is_retried_max_retries_times(broker: Any, finish: Finish, max_retries: int) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=max_retries, min_backoff=1, max_backoff=1)
    def work() -> None:
        ran.append(1)
        raise RuntimeError("no")

    work.send()
    finish()
    assert len(ran) == max_retries + 1
    assert len(broker.dead_letters) == 1


def test_a_message_may_have_a_max_retries_of_its_own(broker: Any, finish: Finish) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_retries=5, min_backoff=1, max_backoff=1)
    def work() -> None:
        ran.append(1)
        raise RuntimeError("no")

    work.send_with_options(max_retries=1)
    finish()
    assert len(ran) == 2


def test_retry_when_decides_by_the_retries_and_the_error(broker: Any, finish: Finish) -> None:
    asked: list[Any] = []

    def twice(retries: int, error: BaseException) -> bool:
        asked.append((retries, str(error)))
        return retries < 2

    @dramatiq.actor(retry_when=twice, min_backoff=1, max_backoff=1)
    def work() -> None:
        raise RuntimeError("no")

    work.send()
    finish()
    assert asked == [(0, "no"), (1, "no"), (2, "no")]


def test_a_retry_when_that_raises_loses_nothing(broker: Any, finish: Finish) -> None:
    def broken(retries: int, error: BaseException) -> bool:
        raise LookupError

    @dramatiq.actor(retry_when=broken, max_retries=0)
    def work() -> None:
        raise RuntimeError("no")

    work.send()
    finish()
    assert len(broker.dead_letters) == 1


def test_a_min_backoff_of_zero_is_heard(broker: Any, running: Any) -> None:
    ran = threading.Semaphore(0)
    middleware = type(next(m for m in broker.middleware if "Retr" in type(m).__name__))(min_backoff=0)
    broker.middleware = [middleware]

    @dramatiq.actor(max_retries=1)
    def work() -> None:
        ran.release()
        raise RuntimeError("no")

    work.send()
    with running(broker):
        assert ran.acquire(timeout=PATIENCE / 1000)
        assert ran.acquire(timeout=0.3)


@pytest.mark.parametrize("throws", [RuntimeError, (KeyError, RuntimeError)])
def test_what_an_actor_throws_is_not_retried(broker: Any, finish: Finish, throws: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor(throws=throws, min_backoff=1, max_backoff=1)
    def work() -> None:
        ran.append(1)
        raise RuntimeError("expected")

    work.send()
    finish()
    assert len(ran) == 1
    assert len(broker.dead_letters) == 1


def test_an_actor_says_by_retry_when_it_wants_to_run_again(broker: Any, finish: Finish) -> None:
    ran_at: list[float] = []

    @dramatiq.actor(min_backoff=HOUR)
    def work() -> None:
        ran_at.append(time.monotonic())
        if len(ran_at) == 1:
            raise dramatiq.Retry("later", delay=40)

    work.send()
    finish()
    assert ran_at[1] - ran_at[0] >= 0.039


def test_what_an_actor_asks_for_by_retry_is_no_error_in_the_log(
    broker: Any, finish: Finish, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(max_retries=1)
    def work() -> None:
        raise dramatiq.Retry("later", delay=1)

    work.send()
    finish()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_rate_limit_that_is_exceeded_is_told_at_debug_by_the_worker(
    broker: Any, finish: Finish, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    @dramatiq.actor(max_retries=0)
    def work() -> None:
        raise RateLimitExceeded("exceeded")

    work.send()
    finish()
    told = [(record.levelname, record.msg) for record in caplog.records if "Rate limit" in record.msg]
    assert told == [("DEBUG", "Rate limit exceeded in message %s: %s.")]


def test_on_retry_exhausted_names_who_is_told(broker: Any, finish: Finish) -> None:
    told: list[Any] = []

    @dramatiq.actor
    def exhausted(message: Any, retries: Any) -> None:
        told.append((message["actor_name"], message["args"], message["options"]["retries"], retries))

    @dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=1, on_retry_exhausted="exhausted")
    def work(number: int) -> None:
        raise RuntimeError("no")

    work.send(7)
    finish()
    assert told == [("work", [7], 3, {"retries": 2, "max_retries": 2})]


def test_a_message_to_an_actor_that_nobody_knows_is_rejected(broker: Any, finish: Finish) -> None:
    broker.declare_queue("default")
    broker.enqueue(Message(queue_name="default", actor_name="nobody", args=(), kwargs={}, options={}))
    with pytest.raises(ActorNotFound, match="nobody"):
        finish(fail_fast=True)
    assert [message.message_id for message in broker.dead_letters]


def test_a_dead_message_is_kept_as_the_message(broker: Any, finish: Finish) -> None:
    @dramatiq.actor(max_retries=0)
    def work() -> None:
        raise RuntimeError("no")

    message = work.send()
    finish()
    assert broker.dead_letters[0].message_id == message.message_id


def test_dead_messages_are_kept_by_queue(broker: Any, finish: Finish) -> None:
    @dramatiq.actor(max_retries=0)
    def work() -> None:
        raise RuntimeError("no")

    work.send()
    finish()
    assert len(broker.dead_letters_by_queue["default"]) == 1


def _weigh(errors: list[weakref.ref[BaseException]]) -> BaseException:
    class Weighty(Exception):
        pass

    error = Weighty()
    errors.append(weakref.ref(error))
    return error


def test_a_raised_error_is_freed_once_the_message_is_dead(
    broker: Any, running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)  # or its records hold the error
    errors: list[weakref.ref[BaseException]] = []

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def work() -> None:
        raise _weigh(errors)

    work.send()
    gc.disable()
    try:
        with running(broker) as worker:
            broker.join("default", timeout=PATIENCE, fail_fast=False)
            worker.join()
        del worker
        assert [error() for error in errors] == [None, None]
    finally:
        gc.enable()


# -- Limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("actor", "message"), [({"time_limit": 10}, {}), ({}, {"time_limit": 10})])
def test_an_actor_over_its_time_limit_is_interrupted(
    broker: Any, finish: Finish, actor: dict[str, Any], message: dict[str, Any]
) -> None:
    (limit,) = (middleware for middleware in broker.middleware if isinstance(middleware, TimeLimit))
    limit.manager.interval = 0.02
    broker.emit_after("process_boot")
    ended: list[int] = []

    @dramatiq.actor(max_retries=0, **actor)
    def work() -> None:
        deadline = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline:
            pass
        ended.append(1)

    work.send_with_options(**message)
    with pytest.raises(TimeLimitExceeded):
        finish(fail_fast=True)
    limit.manager.interval = 60
    assert ended == []


@pytest.mark.parametrize(("actor", "message"), [({"max_age": 60_000}, {}), ({}, {"max_age": 60_000})])
def test_a_message_over_its_age_limit_does_not_run(
    broker: Any, finish: Finish, actor: dict[str, Any], message: dict[str, Any]
) -> None:
    ran: list[int] = []

    @dramatiq.actor(**actor)
    def work() -> None:
        ran.append(1)

    broker.enqueue(work.message_with_options(**message)._replace(message_timestamp=0))
    with pytest.raises(SkipMessage):
        finish(fail_fast=True)
    assert ran == []


# -- Middleware ------------------------------------------------------------------------------------------------------


def test_hooks_that_raise_are_ignored(broker: Any, finish: Finish) -> None:
    class Broken(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            raise RuntimeError("broken")

        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            raise RuntimeError("broken")

    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    broker.add_middleware(Broken())
    work.send()
    finish(fail_fast=True)
    assert ran == [1]


def test_a_middleware_may_skip_a_message(broker: Any, finish: Finish) -> None:
    skipped: list[str] = []

    class Skips(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            raise SkipMessage

        def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
            skipped.append(message.actor_name)

    ran: list[int] = []

    @dramatiq.actor
    def work() -> None:
        ran.append(1)

    broker.add_middleware(Skips())
    work.send()
    finish(fail_fast=True)
    assert (ran, skipped) == ([], ["work"])


def test_the_current_message_is_at_hand(broker: Any, finish: Finish) -> None:
    broker.add_middleware(CurrentMessage())
    found: list[Any] = []

    @dramatiq.actor
    def work() -> None:
        found.append(CurrentMessage.get_current_message()._message)  # type: ignore[union-attr]

    sent = [work.send(), work.send()]
    finish()
    assert sorted(found) == sorted(sent)


@pytest.mark.parametrize(("place", "index"), [("before", 0), ("after", 1)])
def test_a_middleware_is_added_where_it_is_told(broker: Any, place: str, index: int) -> None:
    class Mine(Middleware):
        pass

    mine = Mine()
    broker.add_middleware(mine, **{place: type(broker.middleware[0])})
    assert broker.middleware[index] is mine


def test_a_middleware_can_be_placed_before_retries(broker: Any) -> None:
    broker.add_middleware(CurrentMessage(), before=Retries)
    assert isinstance(broker.middleware[-2], CurrentMessage)


def test_a_place_that_does_not_exist_is_an_error(broker: Any) -> None:
    with pytest.raises(ValueError, match="not found"):
        broker.add_middleware(CurrentMessage(), after=CurrentMessage)


def test_the_options_of_an_added_middleware_are_known(broker: Any) -> None:
    class Mine(Middleware):
        @property
        def actor_options(self) -> set[str]:
            return {"mine"}

    broker.add_middleware(Mine())
    assert dramatiq.actor(lambda: None, actor_name="work", mine=1).options == {"mine": 1}


# -- join and flush --------------------------------------------------------------------------------------------------


def test_a_join_may_time_out(broker: Any, running: Any) -> None:
    go_on = threading.Event()

    @dramatiq.actor
    def work() -> None:
        go_on.wait(PATIENCE / 1000)

    work.send()
    with running(broker):
        with pytest.raises(QueueJoinTimeout):
            broker.join("default", timeout=30)
        go_on.set()
        broker.join("default", timeout=PATIENCE)


def test_a_join_raises_what_the_actor_raised(broker: Any, running: Any) -> None:
    class CustomError(Exception):
        pass

    @dramatiq.actor(max_retries=0)
    def work() -> None:
        raise CustomError

    with running(broker):
        work.send()
        with pytest.raises(CustomError):
            broker.join("default", timeout=PATIENCE)
        broker.join("default", timeout=PATIENCE, fail_fast=False)


def test_after_flushing_all_a_join_raises_what_is_raised_from_then_on(broker: Any, running: Any) -> None:
    @dramatiq.actor(max_retries=0)
    def work(number: int) -> None:
        raise ValueError(number)

    with running(broker):
        work.send(1)
        with pytest.raises(ValueError, match="1"):
            broker.join("default", timeout=PATIENCE)
        broker.flush_all()
        broker.join("default", timeout=PATIENCE)
        work.send(2)
        with pytest.raises(ValueError, match="2"):
            broker.join("default", timeout=PATIENCE)


def test_flushing_empties_one_queue(broker: Any) -> None:
    for name in ("one", "other"):
        dramatiq.actor(lambda: None, actor_name=name, queue_name=name).send()
    broker.flush("one")
    assert (waiting(broker, "one"), waiting(broker, "other")) == (0, 1)
    assert broker.queues["one"].unfinished_tasks == 0


def test_flushing_all_empties_everything(broker: Any, finish: Finish) -> None:
    @dramatiq.actor(max_retries=0)
    def work() -> None:
        raise RuntimeError("no")

    work.send()
    finish()
    work.send()
    assert (waiting(broker), len(broker.dead_letters)) == (1, 1)
    broker.flush_all()
    assert (waiting(broker), len(broker.dead_letters)) == (0, 0)
