"""What this package relies on in Dramatiq without being promised it: each test says what of ours a change breaks."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from queue import PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Consumer, Message, MessageProxy, Worker
from dramatiq.asyncio import EventLoopThread, async_to_sync, get_event_loop_thread, set_event_loop_thread
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.middleware import (
    AgeLimit,
    CurrentMessage,
    Interrupt,
    Middleware,
    MiddlewareError,
    Retries,
    Shutdown,
    ShutdownNotifications,
    SkipMessage,
    TimeLimit,
    TimeLimitExceeded,
    default_middleware,
)
from dramatiq.worker import ConsumerThread, WorkerThread
from freezegun import freeze_time

from dramatiq_retryq import MemoryBroker, _dramatiq, _dramatiq_worker, frozen


@pytest.fixture
def stub() -> Iterator[StubBroker]:
    """A StubBroker without any middleware, as the global broker."""
    previous = dramatiq.broker.global_broker
    broker = StubBroker(middleware=[])
    dramatiq.set_broker(broker)
    yield broker
    broker.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


class Recorder(Middleware):
    """Notes the signals of one message, in order."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
        self.seen.append("after_process_message")

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append("before_ack")

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append("after_ack")

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append("before_nack")

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append("after_nack")


class RecordingConsumer(Consumer):
    def __init__(self, seen: list[str]) -> None:
        self.seen = seen
        self.requeued: list[MessageProxy] = []

    def ack(self, message: MessageProxy) -> None:
        self.seen.append("ack")

    def nack(self, message: MessageProxy) -> None:
        self.seen.append("nack")


class AskedFor(dict[str, ConsumerThread]):
    """The worker's consumers; notes by which key one was asked for."""

    keys_asked: list[str]

    def __getitem__(self, key: str) -> ConsumerThread:
        self.keys_asked.append(key)
        return super().__getitem__(key)


def unstarted(broker: Broker, seen: list[str], queue_name: str = "default") -> tuple[ConsumerThread, WorkerThread]:
    """A consumer thread and a worker thread that were never started, over a consumer that only takes notes."""
    work: PriorityQueue[Any] = PriorityQueue()
    consumer = ConsumerThread(broker=broker, queue_name=queue_name, prefetch=1, work_queue=work, worker_timeout=0)
    consumer.consumer = RecordingConsumer(seen)
    consumers = AskedFor({queue_name: consumer})
    consumers.keys_asked = []
    return consumer, WorkerThread(broker=broker, consumers=consumers, work_queue=work, worker_timeout=0)


def process(worker: WorkerThread, message: MessageProxy) -> None:
    worker.work_queue.unfinished_tasks += 1  # process_message ends with task_done()
    worker.process_message(message)


def failing_message() -> MessageProxy:
    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    return MessageProxy(fail.message())


def error_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == logging.ERROR]


# -- What _dramatiq.py knows -----------------------------------------------------------------------------------------


def test_the_worker_thread_logs_under_the_name_that_we_filter(stub: StubBroker) -> None:
    _, worker = unstarted(stub, [])
    assert worker.logger.name == _dramatiq.WORKER_LOGGER, (
        f"WorkerThread now logs as {worker.logger.name!r}: change WORKER_LOGGER in _dramatiq.py, "
        "or every failed attempt is logged twice"
    )


def test_the_worker_reports_a_failed_attempt_in_the_words_that_we_look_for(
    stub: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    _, worker = unstarted(stub, [])
    process(worker, failing_message())
    (record,) = error_records(caplog)
    assert record.msg == _dramatiq._ATTEMPT_ERROR, (
        f"the worker's report of a failed attempt now reads {record.msg!r}: change _ATTEMPT_ERROR in _dramatiq.py"
    )


def test_the_workers_report_has_the_message_as_its_first_argument(
    stub: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    _, worker = unstarted(stub, [])
    message = failing_message()
    process(worker, message)
    (record,) = error_records(caplog)
    assert isinstance(record.args, tuple), f"record.args is now a {type(record.args).__name__}: see is_attempt_error"
    assert record.args[0] is message, "record.args[0] is no longer the MessageProxy: see is_attempt_error"
    assert _dramatiq.is_attempt_error(record) is message


def test_another_record_of_the_worker_is_no_report_of_an_attempt(
    stub: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, _dramatiq.WORKER_LOGGER)
    _, worker = unstarted(stub, [])
    process(worker, failing_message())
    others = [record for record in caplog.records if record.levelno != logging.ERROR]
    assert others
    assert [_dramatiq.is_attempt_error(record) for record in others] == [None] * len(others)


def test_the_worker_reports_a_failed_attempt_before_any_middleware_hears_of_it(stub: StubBroker) -> None:
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append("logged")

    stub.add_middleware(Recorder(seen))
    _, worker = unstarted(stub, [])
    handler = Handler(logging.ERROR)
    worker.logger.addHandler(handler)
    try:
        process(worker, failing_message())
    finally:
        worker.logger.removeHandler(handler)
    assert seen[:2] == ["logged", "after_process_message"], (
        "the worker's report now comes after after_process_message: is_handled_quietly in running.py looks at "
        "what before_process_message set, which after_process_message takes away"
    )


def test_a_message_proxy_keeps_its_message_where_we_take_it_from() -> None:
    message: Message[Any] = Message(queue_name="default", actor_name="x", args=(), kwargs={}, options={})
    assert vars(MessageProxy(message)).get("_message") is message, (
        "MessageProxy no longer keeps the message in _message: see plain_message in _dramatiq.py"
    )
    assert _dramatiq.plain_message(MessageProxy(message)) is message


def test_a_message_proxy_keeps_its_exception_where_we_take_it_from() -> None:
    proxy = MessageProxy(Message(queue_name="default", actor_name="x", args=(), kwargs={}, options={}))
    assert _dramatiq.exception_of(proxy) is None
    error = ValueError("no")
    proxy.stuff_exception(error)
    assert vars(proxy).get("_exception") is error, (
        "MessageProxy no longer keeps the exception in _exception: see exception_of in _dramatiq.py"
    )
    assert _dramatiq.exception_of(proxy) is error


def test_a_cleared_exception_is_gone_however_dramatiq_clears_it() -> None:
    proxy = MessageProxy(Message(queue_name="default", actor_name="x", args=(), kwargs={}, options={}))
    proxy.stuff_exception(ValueError("no"))
    proxy.clear_exception()  # 2.0 deletes the attribute, later ones set it to None
    assert _dramatiq.exception_of(proxy) is None


# -- What broker.py copies or counts on ------------------------------------------------------------------------------


class Broken(Middleware):
    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        raise RuntimeError("before")

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        raise RuntimeError("after")


@pytest.mark.parametrize("emit", ["emit_before", "emit_after"])
def test_a_broken_hook_is_logged_in_dramatiqs_words(emit: str, caplog: pytest.LogCaptureFixture) -> None:
    written = []
    broken = Broken()
    for broker in (StubBroker(middleware=[broken]), MemoryBroker(middleware=[broken])):
        caplog.clear()
        getattr(broker, emit)("ack", None)
        (record,) = caplog.records
        written.append((record.levelname, record.getMessage(), record.exc_info is not None))
    theirs, ours = written
    assert ours == theirs, f"Broker.{emit} now logs {theirs}: copy it to StoreBroker.{emit}"


def test_emit_before_lets_a_middleware_error_through_and_emit_after_does_not(stub: StubBroker) -> None:
    class Refuses(Middleware):
        def before_ack(self, broker: Broker, message: MessageProxy) -> None:
            raise MiddlewareError("no")

        after_ack = before_ack

    stub.add_middleware(Refuses())
    with pytest.raises(MiddlewareError):
        stub.emit_before("ack", None)
    stub.emit_after("ack", None)


def test_emit_after_goes_through_the_middleware_in_reverse() -> None:
    seen: list[int] = []

    class Numbered(Middleware):
        def __init__(self, number: int) -> None:
            self.number = number

        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            seen.append(self.number)

    StubBroker(middleware=[Numbered(1), Numbered(2)]).emit_after("ack", None)
    assert seen == [2, 1], "emit_after no longer goes in reverse: see StoreBroker._hooks_of"


@pytest.mark.parametrize(("failing", "settled"), [(False, "ack"), (True, "nack")])
def test_the_worker_settles_a_message_after_after_process_message(
    stub: StubBroker, failing: bool, settled: str
) -> None:
    seen: list[str] = []

    class Fails(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            if failing:
                message.fail()

    stub.add_middleware(Recorder(seen))
    stub.add_middleware(Fails())
    _, worker = unstarted(stub, seen)

    @dramatiq.actor
    def succeed() -> None:
        pass

    process(worker, MessageProxy(succeed.message()))
    assert seen == ["after_process_message", f"before_{settled}", settled, f"after_{settled}"], (
        "the worker settles in another order: RetryQueue stores a retry in after_process_message and composes the "
        "dead letter in before_nack"
    )


def test_the_worker_settles_a_message_whose_failure_hook_raised(stub: StubBroker) -> None:
    seen: list[str] = []

    class Raises(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            raise RuntimeError("no")

    stub.add_middleware(Raises())
    _, worker = unstarted(stub, seen)
    process(worker, failing_message())
    assert seen == ["ack"], (
        "a failure whose hook raised is no longer acked: RetryQueue marks the message as failed first because it was"
    )


def test_the_worker_asks_for_the_consumer_by_the_messages_queue_name(stub: StubBroker) -> None:
    consumer, worker = unstarted(stub, [])
    process(worker, failing_message())
    assert worker.consumers.keys_asked == ["default"], (  # type: ignore[attr-defined]
        "the worker finds the consumer in another way: _StoreConsumer.__next__ gives each message the name of the "
        "queue that it came from"
    )
    assert consumer.queue_name == "default"


def test_the_worker_parks_a_message_that_has_an_eta(stub: StubBroker) -> None:
    @dramatiq.actor
    def succeed() -> None:
        pass

    consumer, worker = unstarted(stub, [])
    consumer.handle_message(MessageProxy(succeed.message().copy(options={"eta": 0})))
    assert consumer.delay_queue.qsize() == 1, "a message with an eta is not parked any more: __next__ need not strip it"
    assert worker.work_queue.qsize() == 0


def test_a_message_to_an_unknown_actor_is_nacked_with_its_exception(stub: StubBroker) -> None:
    seen: list[str] = []
    consumer, _ = unstarted(stub, seen)
    proxy = MessageProxy(Message(queue_name="default", actor_name="nobody", args=(), kwargs={}, options={}))
    consumer.handle_message(proxy)
    assert seen == ["nack"]
    assert isinstance(_dramatiq.exception_of(proxy), dramatiq.ActorNotFound), (
        "the worker no longer stuffs ActorNotFound into the message: dead_letters.compose tells unknown_actor by it"
    )


def test_the_worker_clears_the_exception_only_after_the_message_is_settled(stub: StubBroker) -> None:
    found: list[BaseException | None] = []

    class Looks(Middleware):
        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            found.append(_dramatiq.exception_of(message))

    stub.add_middleware(Looks())
    _, worker = unstarted(stub, [])
    message = failing_message()
    process(worker, message)
    assert isinstance(found[0], ValueError), "the exception is cleared earlier: RetryQueue.after_nack logs it"
    assert _dramatiq.exception_of(message) is None


def test_a_stopping_worker_requeues_what_it_had_prefetched_and_then_closes_the_consumer(stub: StubBroker) -> None:
    seen: list[str] = []

    class Consumes(RecordingConsumer):
        def requeue(self, messages: Any) -> None:
            seen.extend(f"requeue {message.actor_name}" for message in messages)

        def close(self) -> None:
            seen.append("close")

    @dramatiq.actor
    def succeed() -> None:
        pass

    worker = Worker(stub, worker_threads=1, worker_timeout=1)
    consumer, _ = unstarted(stub, seen)
    consumer.work_queue = worker.work_queue
    consumer.consumer = Consumes(seen)
    consumer.start = lambda: None  # type: ignore[method-assign]
    consumer.join = lambda timeout=None: None  # type: ignore[method-assign]
    worker.consumers["default"] = consumer
    consumer.handle_message(MessageProxy(succeed.message()))
    worker.stop(timeout=1)
    assert seen == ["requeue succeed", "close"], (
        "a worker stops in another way: _StoreConsumer.requeue and close give back what was claimed"
    )


def test_the_name_of_a_delay_or_dead_letter_queue_leads_to_its_queue() -> None:
    assert [q_name(name) for name in ("work", "work.DQ", "work.XQ")] == ["work"] * 3


def test_a_copied_message_keeps_its_other_options() -> None:
    message: Message[Any] = Message(queue_name="default", actor_name="x", args=(), kwargs={}, options={"a": 1})
    assert message.copy(options={"eta": 2}).options == {"a": 1, "eta": 2}, (
        "Message.copy no longer merges options: see StoreBroker._delayed and reschedule"
    )
    assert message.options == {"a": 1}


# -- What middleware.py and embedded.py count on ---------------------------------------------------------------------


def test_the_default_middleware_has_one_retries_whose_place_we_take() -> None:
    assert default_middleware.count(Retries) == 1, "Dramatiq's default middleware changed: see StoreBroker.__init__"


def test_adding_a_middleware_tells_it_of_the_actors_that_are_there_and_lets_it_refuse(stub: StubBroker) -> None:
    @dramatiq.actor
    def there() -> None:
        pass

    class Refuses(Middleware):
        def after_declare_actor(self, broker: Broker, actor: dramatiq.Actor[..., Any]) -> None:
            raise RuntimeError(actor.actor_name)

    with pytest.raises(RuntimeError, match="there"):
        stub.add_middleware(Refuses())


def test_a_middleware_that_refuses_the_boot_keeps_the_worker_from_starting(stub: StubBroker) -> None:
    class Refuses(Middleware):
        def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
            raise MiddlewareError("no")

    stub.add_middleware(Refuses())
    worker = Worker(stub, worker_threads=1)
    with pytest.raises(MiddlewareError):
        worker.start()
    assert worker.workers == [], "worker threads are started before before_worker_boot: see RetryQueue._check_targets"


def test_a_started_worker_leaves_a_middleware_that_names_it(stub: StubBroker) -> None:
    worker = Worker(stub, worker_threads=1, worker_timeout=1)
    worker.start()
    worker.stop()
    assert [m for m in stub.middleware if getattr(m, "worker", None) is worker], (
        "Worker.start no longer adds a middleware with an attribute `worker`: _forget in embedded.py looks for it"
    )


def test_an_interrupt_is_no_exception_that_a_hook_swallows() -> None:
    assert not issubclass(Interrupt, Exception), "Interrupt is an Exception now: see RetryQueue.after_process_message"
    assert issubclass(Shutdown, Interrupt)
    assert issubclass(TimeLimitExceeded, Interrupt)


def test_skipping_a_message_is_a_middleware_error() -> None:
    assert issubclass(SkipMessage, MiddlewareError)


def test_the_age_limit_middleware_keeps_its_limit_where_we_read_it() -> None:
    assert AgeLimit(max_age=5).max_age == 5, "AgeLimit.max_age moved: see max_age_of in options.py"


# -- What the testing kit relies on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _dramatiq_worker._READERS)
def test_the_modules_that_read_the_time_have_it_as_a_module(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)
        module = importlib.import_module(name)
    assert module.time is time, f"{name} imports the time otherwise: time_of_dramatiq() does not reach it"


def test_no_other_module_reads_the_time_for_a_message() -> None:
    root = Path(dramatiq.__file__).parent
    readers = {
        ".".join(["dramatiq", *path.relative_to(root).with_suffix("").parts])
        for path in root.rglob("*.py")
        if re.search(r"\btime\.(time|monotonic)\(|from time import", path.read_text("utf-8"))
    }
    # Other brokers, the command's processes, and the thread of TimeLimit, which is not started.
    elsewhere = {"dramatiq.brokers.redis", "dramatiq.brokers.rabbitmq", "dramatiq.brokers.stub", "dramatiq.canteen"}
    elsewhere |= {"dramatiq.cli", "dramatiq.middleware.time_limit", "dramatiq.worker", "dramatiq.common"}
    assert readers - elsewhere - set(_dramatiq_worker._READERS) == set(), "see _READERS in _dramatiq_worker.py"


def test_ages_are_counted_by_a_name_of_dramatiqs_own() -> None:
    assert dramatiq.common.time is time.time, "current_millis() reads the time otherwise: see time_of_dramatiq()"


def test_a_worker_without_threads_hands_over_what_handdriven_understands(stub: StubBroker) -> None:
    @dramatiq.actor
    def work() -> None: ...

    driven = _dramatiq_worker.HandDriven(stub)
    stub.enqueue(work.message())
    message = next(driven.consumer("default"))
    driven._consumers["default"].handle_message(message)
    assert driven._hand.take() is message, "the item in the work queue is another: see _Hand.take"


def test_a_worker_reports_through_an_attribute_that_can_be_replaced(stub: StubBroker) -> None:
    worker = WorkerThread(broker=stub, consumers={}, work_queue=PriorityQueue(), worker_timeout=0)
    assert worker.logger.name == _dramatiq.WORKER_LOGGER, "WorkerThread.logger is another: see AttemptLogger"


def test_an_actors_function_can_be_replaced(stub: StubBroker) -> None:
    @dramatiq.actor
    def work() -> int:
        return 1

    work.fn = lambda: 2
    assert work() == 2, "Actor.__call__ no longer calls Actor.fn: see Drain.add_faults"


def test_async_actors_ask_for_the_loop_at_each_call() -> None:
    class Loop(EventLoopThread):
        def run_coroutine(self, coro: Any) -> Any:
            coro.close()
            return "ran"

    before = get_event_loop_thread()
    loop = Loop(logging.getLogger())

    async def work() -> None: ...

    set_event_loop_thread(loop)
    try:
        assert async_to_sync(work)() == "ran", "async actors run otherwise: see _LoopOnThisThread"
    finally:
        set_event_loop_thread(before)
        loop.loop.close()


def test_what_is_bound_to_a_thread_is_let_go_of_after_a_message(stub: StubBroker) -> None:
    shutdown, limit = ShutdownNotifications(notify_shutdown=True), TimeLimit()

    @dramatiq.actor
    def work() -> None: ...

    message = MessageProxy(work.message())
    for middleware in (shutdown, limit, CurrentMessage()):
        middleware.before_process_message(stub, message)  # type: ignore[no-untyped-call]
        middleware.after_process_message(stub, message)  # type: ignore[no-untyped-call]
    assert not shutdown.manager.notifications, "see HandDriven.abandon"  # type: ignore[attr-defined]
    assert not any(limit.manager.deadlines.values()), "see HandDriven.abandon"  # type: ignore[union-attr]


def test_freezegun_keeps_the_frozen_times_where_frozen_py_looks_for_them() -> None:
    assert frozen.freezer() is None
    with freeze_time("2030-01-01") as outer:
        assert frozen.freezer() is outer
        assert frozen.stands_still(outer), "freezegun's factories have other attributes: see frozen.py"
        with freeze_time("2031-01-01", tick=True) as inner:
            assert frozen.freezer() is inner
            assert not frozen.stands_still(inner)
        frozen.move(outer, 1_893_456_001_000)
        assert frozen.instant_of(outer) == 1_893_456_001_000
    assert frozen.freezer() is None


# -- What health and metrics count on --------------------------------------------------------------------------------


def test_the_commands_processes_are_handed_its_arguments_as_args() -> None:
    """Where _dramatiq.command_arguments finds them: the process beside the workers loads the application by them."""
    from dramatiq import cli

    for function in (cli.worker_process, cli.fork_process):
        assert function.__code__.co_varnames[0] == "args"
    arguments = cli.make_argument_parser().parse_args(["application:broker", "module"])
    assert (arguments.broker, arguments.modules) == ("application:broker", ["module"])
    assert callable(cli.import_broker)


def test_nothing_but_the_command_has_arguments() -> None:
    """A worker elsewhere is not taken for one of the command: it serves its health itself."""

    def worker_process(args: str) -> object:
        return _dramatiq.command_arguments()

    assert worker_process("no") is None
    with pytest.raises(LookupError, match="not called in a process of the dramatiq command"):
        _dramatiq.load_application()


def test_the_prometheus_middleware_has_its_own_server_among_its_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What _dramatiq.extend_exposition puts another one in the place of."""
    monkeypatch.setenv("dramatiq_prom_db", str(tmp_path))
    from dramatiq.middleware import prometheus

    own = prometheus.Prometheus()
    broker = MemoryBroker([own])
    assert own.forks == [prometheus._run_exposition_server]
    exposition = _dramatiq.exposition_of(broker)
    assert exposition == (prometheus.DB_PATH, prometheus.HTTP_HOST, prometheus.HTTP_PORT)

    def serve() -> int:
        return 0

    for _ in range(2):
        _dramatiq.extend_exposition(broker, serve)
        assert own.forks == [serve]
    assert isinstance(own, prometheus.Prometheus)
    assert own.message_start_times == {}


def test_a_broker_without_the_prometheus_middleware_has_no_exposition() -> None:
    """Its module is not imported for the question: that makes a directory."""
    assert _dramatiq.exposition_of(MemoryBroker([])) is None


# -- What is kept beside brokers on servers ----------------------------------------------------------------------------


def test_a_redis_broker_names_its_keys_as_dispatch_lua_says() -> None:
    """redis_side.py and redis_letters.py write to these keys, so that a retry and a replay are one move."""
    from dramatiq.brokers.redis import RedisBroker, _scripts

    script = _scripts["dispatch"].decode()
    for line in (
        'local acks = namespace .. ":__acks__." .. worker_id',
        'local heartbeats = namespace .. ":__heartbeats__"',
        'local queue_acks = acks .. "." .. queue_name',
        'local queue_full_name = namespace .. ":" .. queue_name',
        'local queue_messages = queue_full_name .. ".msgs"',
        'local xqueue_full_name = namespace .. ":" .. queue_canonical_name .. ".XQ"',
        'local xqueue_messages = xqueue_full_name .. ".msgs"',
    ):
        assert line in script, f"the keys of RedisBroker have changed: {line}"
    broker: Any = RedisBroker(url="redis://127.0.0.1:1")  # type: ignore[no-untyped-call]
    for name in ("broker_id", "namespace", "heartbeat_timeout", "dead_message_ttl", "maintenance_chance", "client"):
        assert hasattr(broker, name), f"RedisBroker has no {name} any more"
    broker.client.close()


def test_a_rabbitmq_broker_has_what_the_link_uses() -> None:
    """rabbitmq_link.py publishes over the connection that the broker keeps for each thread."""
    from dramatiq.brokers import rabbitmq

    broker: Any = rabbitmq.RabbitmqBroker(url="amqp://127.0.0.1:1")
    for name in ("parameters", "queues_pending", "connections"):
        assert hasattr(broker, name), f"RabbitmqBroker has no {name} any more"
    connection = type(broker).connection
    assert connection.fget, "RabbitmqBroker.connection is no property any more"
    assert connection.fdel, "RabbitmqBroker.connection cannot be deleted any more"
    for name, kept in (("channel", broker.channels), ("connection", broker.connections)):
        setattr(broker.state, name, name)
        kept.add(name)
    assert _dramatiq.take_connection(broker) == "connection", "an interrupted connection would be waited for for ever"
    kept_elsewhere = broker.state.__dict__ or broker.channels or broker.connections
    assert not kept_elsewhere, "RabbitmqBroker keeps it elsewhere too"
    message = rabbitmq._RabbitmqMessage(True, 1, Message("q", "a", (), {}, {}, "m", 0))
    assert message.__dict__["redelivered"] is True, "max_crashes on RabbitMQ goes by message.redelivered"
    broker.close()


def test_a_consumer_thread_moves_what_is_due_by_a_method_that_can_be_replaced(stub: StubBroker) -> None:
    """_dramatiq.move_in_batches puts another one in its place, and takes from the queue what is due itself."""
    thread = ConsumerThread(broker=stub, queue_name="q.DQ", prefetch=1, work_queue=PriorityQueue(), worker_timeout=1)
    moved: list[str] = []

    def move(_: ConsumerThread, messages: Any) -> bool:
        moved.extend(message.message_id for message in messages)
        return True

    thread.consumer = type("Consumer", (), {"message_cache": []})()
    _dramatiq.move_in_batches(thread, move)
    for message_id, eta in (("due", 1), ("due too", 2), ("later", 1 << 50)):
        thread.handle_message(MessageProxy(Message("q.DQ", "a", (), {}, {"eta": eta}, message_id, 0)))
    thread.handle_delayed_messages()
    assert moved == ["due", "due too"]
    assert thread.delay_queue.qsize() == 1
    source = inspect.getsource(ConsumerThread.run)
    assert source.count("self.handle_delayed_messages()") == 1, "run() moves what is due by another method"
    assert 'emit_after("consumer_thread_boot", self)' in source, "RetryQueue hears of no consumer thread any more"


def test_the_consumers_tell_whether_the_next_message_is_there_already() -> None:
    """_dramatiq.move_in_batches waits for more only where nobody waits for it; settle_moved is an ack by Redis's."""
    from dramatiq.brokers.redis import RedisBroker
    from pika.adapters.blocking_connection import BlockingChannel

    broker: Any = RedisBroker(url="redis://127.0.0.1:1")  # type: ignore[no-untyped-call]
    consumer = broker.consume("q")
    assert consumer.message_cache == []
    assert consumer.queued_message_ids == set()
    assert callable(BlockingChannel.get_waiting_message_count)
    broker.client.close()


def test_a_skipped_message_is_logged_with_the_text_that_we_silence(caplog: pytest.LogCaptureFixture) -> None:
    """A message that is put off on its way to a far-off day is skipped, which is worth no warning."""
    logger = logging.getLogger(_dramatiq.WORKER_LOGGER)
    _dramatiq.silence_attempt_errors(lambda message: False)
    quiet = MessageProxy(Message("q", "a", (), {}, {}, "m", 0))
    quiet.__dict__["retryq_quiet"] = True
    logger.warning(_dramatiq._SKIPPED, quiet)
    logger.warning(_dramatiq._SKIPPED, MessageProxy(Message("q", "a", (), {}, {}, "m", 0)))
    assert len(caplog.records) == 1
    assert f'"{_dramatiq._SKIPPED}"' in inspect.getsource(WorkerThread.process_message)
