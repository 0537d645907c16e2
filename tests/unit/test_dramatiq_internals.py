"""What this package relies on in Dramatiq without being promised it: each test says what of ours a change breaks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from queue import PriorityQueue
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Consumer, Message, MessageProxy, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.middleware import (
    AgeLimit,
    Interrupt,
    Middleware,
    MiddlewareError,
    Retries,
    Shutdown,
    SkipMessage,
    TimeLimitExceeded,
    default_middleware,
)
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import MemoryBroker, _dramatiq


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
        "the worker's report now comes after after_process_message: _is_handled_quietly in middleware.py looks at "
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
    assert AgeLimit(max_age=5).max_age == 5, "AgeLimit.max_age moved: see _max_age in middleware.py"
