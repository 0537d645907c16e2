"""Signals to middleware: Dramatiq's order and error rules, and every later change of the middleware is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from queue import PriorityQueue
from typing import Any
from unittest import mock

import dramatiq
import pytest
from dramatiq import Broker, Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage, TimeLimitExceeded
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import MemoryBroker, RetryQueue

HOOKS = sorted(name for name in vars(Middleware) if name.startswith(("before_", "after_")))


def recorder(name: str, seen: list[Any], **breaks: BaseException) -> Middleware:
    """A middleware that notes every signal, and raises where it is told to."""

    def hook_named(hook: str) -> Callable[..., None]:
        def noted(self: Middleware, broker: Broker, *args: Any, **kwargs: Any) -> None:
            seen.append((name, hook, tuple(map(described, args)), tuple((k, described(v)) for k, v in kwargs.items())))
            if hook in breaks:
                raise breaks[hook]

        return noted

    return type("Recorder", (Middleware,), {hook: hook_named(hook) for hook in HOOKS})()


def described(value: Any) -> Any:
    """What two brokers have in common of a signal's argument."""
    if isinstance(value, BaseException):
        return type(value).__name__
    return getattr(value, "actor_name", value)


def drive(broker: Broker) -> None:
    """Process what is due in the queue "default", on this thread."""
    work: PriorityQueue[Any] = PriorityQueue()
    consumer = ConsumerThread(broker=broker, queue_name="default", prefetch=50, work_queue=work, worker_timeout=0)
    consumer.consumer = broker.consume("default", prefetch=50, timeout=0)
    worker = WorkerThread(broker=broker, consumers={"default": consumer}, work_queue=work, worker_timeout=0)
    while (message := next(consumer.consumer)) is not None:  # type: ignore[call-overload]
        consumer.handle_message(message)
        if work.qsize():
            item = work.get_nowait()
            worker.process_message(item[1] if isinstance(item, tuple) else item.message)


def succeed(broker: Broker) -> None:
    dramatiq.actor(lambda: None, actor_name="work", broker=broker).send()


def fail(broker: Broker) -> None:
    def fail() -> None:
        raise ValueError("no")

    dramatiq.actor(fail, actor_name="work", broker=broker).send()


def nobody(broker: Broker) -> None:
    broker.declare_queue("default")
    broker.enqueue(Message(queue_name="default", actor_name="nobody", args=(), kwargs={}, options={}))


def seen_on(make: Any, scenario: Callable[[Broker], None], **breaks: BaseException) -> list[Any]:
    """All signals that two middlewares got, the second of which breaks; delay queues left out, which we have not."""
    seen: list[Any] = []
    broker = make(middleware=[recorder("first", seen), recorder("second", seen, **breaks), recorder("third", seen)])
    try:
        scenario(broker)
    except Exception as raised:
        seen.append(("raised", type(raised).__name__))
    drive(broker)
    return [signal for signal in seen if signal[1] != "after_declare_delay_queue"]


@pytest.mark.parametrize("scenario", [succeed, fail, nobody])
def test_signals_come_in_the_order_of_a_stub_brokers(scenario: Callable[[Broker], None]) -> None:
    wanted = seen_on(StubBroker, scenario)
    assert len(wanted) > 9
    assert seen_on(MemoryBroker, scenario) == wanted


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), MiddlewareError("refused"), SkipMessage("skipped")], ids=repr
)
@pytest.mark.parametrize(
    "hook",
    [
        "before_declare_actor", "after_declare_actor", "before_declare_queue", "after_declare_queue", "before_enqueue",
        "after_enqueue", "before_process_message", "after_process_message", "after_skip_message", "after_ack",
    ],
)  # fmt: skip
def test_a_hook_that_raises_has_the_same_consequences_as_on_a_stub_broker(hook: str, error: Exception) -> None:
    def declare_and_send(broker: Broker) -> None:
        broker.declare_queue("default") if hook != "before_declare_queue" else broker.queues
        succeed(broker)

    def on(make: Any) -> list[Any]:
        try:
            return seen_on(make, declare_and_send, **{hook: error})
        except dramatiq.QueueNotFound:
            return ["the queue was not declared"]

    assert on(MemoryBroker) == on(StubBroker)


@pytest.mark.parametrize("settled", ["ack", "nack"])
def test_what_was_done_cannot_be_refused(settled: str) -> None:
    seen: list[Any] = []
    refusing = recorder("refusing", seen, **{f"before_{settled}": MiddlewareError("refused")})
    broker = MemoryBroker([refusing, recorder("next", seen)])
    broker.emit_before(settled, None)
    assert [(name, hook) for name, hook, *_ in seen] == [
        ("refusing", f"before_{settled}"),
        ("next", f"before_{settled}"),
    ]


def test_a_message_that_a_middleware_refuses_is_not_stored() -> None:
    broker = MemoryBroker([recorder("only", [], before_enqueue=MiddlewareError("refused"))])
    with pytest.raises(MiddlewareError, match="refused"):
        succeed(broker)
    assert broker.queues["default"].empty()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_of_a_middleware_is_called(hook: str) -> None:
    called: list[Any] = []
    middleware = type("Mine", (Middleware,), {hook: lambda self, broker, *args, **kwargs: called.append(args)})()
    broker = MemoryBroker([middleware])
    called.clear()
    moment, _, signal = hook.partition("_")
    getattr(broker, f"emit_{moment}")(signal, "argument")
    assert called == [("argument",)]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_set_on_the_instance_before_its_first_use_is_called(hook: str) -> None:
    called: list[Any] = []
    middleware = Middleware()
    setattr(middleware, hook, lambda *args, **kwargs: called.append(args))
    broker = MemoryBroker([middleware])
    called.clear()
    moment, _, signal = hook.partition("_")
    getattr(broker, f"emit_{moment}")(signal, "argument")
    assert called == [(broker, "argument")]


def test_a_middleware_that_only_looks_like_one_is_called() -> None:
    broker = MemoryBroker([])
    middleware = mock.Mock(spec=Middleware)
    middleware.actor_options = set()
    broker.middleware.append(middleware)
    broker.emit_after("ack", "message")
    middleware.after_ack.assert_called_once_with(broker, "message")


def test_a_signal_that_nobody_knows_reaches_those_who_want_it() -> None:
    called: list[Any] = []
    broker = MemoryBroker(
        [Middleware(), type("Mine", (Middleware,), {"after_lunch": lambda *args: called.append(1)})()]
    )
    broker.emit_after("lunch")
    assert called == [1]


# -- Later changes ---------------------------------------------------------------------------------------------------


class Noting(Middleware):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def after_ack(self, broker: Broker, message: Any) -> None:
        self.seen.append(self.name)

    before_ack = after_ack


CHANGES: dict[str, tuple[Callable[[Any, Noting], Any], list[str]]] = {
    "add_middleware": (lambda broker, new: broker.add_middleware(new), ["a", "b", "new"]),
    "add_middleware before": (lambda broker, new: broker.add_middleware(new, before=Noting), ["new", "a", "b"]),
    "append": (lambda broker, new: broker.middleware.append(new), ["a", "b", "new"]),
    "insert": (lambda broker, new: broker.middleware.insert(1, new), ["a", "new", "b"]),
    "replace": (lambda broker, new: broker.middleware.__setitem__(0, new), ["new", "b"]),
    "remove": (lambda broker, new: broker.middleware.pop(0), ["b"]),
    "reverse": (lambda broker, new: broker.middleware.reverse(), ["b", "a"]),
    "clear": (lambda broker, new: broker.middleware.clear(), []),
    "reassign": (lambda broker, new: setattr(broker, "middleware", [new]), ["new"]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_later_change_of_the_middleware_is_seen(change: str, moment: str) -> None:
    seen: list[str] = []
    broker = MemoryBroker([Noting("a", seen), Noting("b", seen)])
    emit = getattr(broker, f"emit_{moment}")
    emit("ack", "message")  # from now on the broker knows who wants it
    seen.clear()
    act, wanted = CHANGES[change]
    act(broker, Noting("new", seen))
    emit("ack", "message")
    assert seen == (wanted if moment == "before" else wanted[::-1])


def test_a_middleware_taken_out_and_put_back_is_seen() -> None:
    seen: list[str] = []
    noting = Noting("a", seen)
    broker = MemoryBroker([noting])
    for _ in range(2):
        broker.middleware.remove(noting)
        broker.emit_after("ack", "message")
        broker.middleware.append(noting)
        broker.emit_after("ack", "message")
    assert seen == ["a", "a"]


@dataclass
class Comparable(Middleware):
    """A middleware that is equal to every other one of its kind."""

    called: list[int] = field(default_factory=list, compare=False)

    def after_ack(self, broker: Broker, message: Any) -> None:
        self.called.append(1)


def test_a_middleware_replaced_by_an_equal_one_is_seen() -> None:
    old, new = Comparable(), Comparable()
    broker = MemoryBroker([old])
    broker.emit_after("ack", "message")
    broker.middleware[0] = new
    broker.emit_after("ack", "message")
    assert (len(old.called), len(new.called)) == (1, 1)


def test_a_hook_that_a_test_patches_on_the_class_is_seen() -> None:
    broker = MemoryBroker([Comparable()])
    broker.emit_after("ack", "message")
    with mock.patch.object(Comparable, "after_ack") as patched:
        broker.emit_after("ack", "message")
    patched.assert_called_once()


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_that_comes_too_late_leaves_nothing_claimed(fails: bool) -> None:
    class Interrupted(Middleware):
        calls = 0

        def before_ack(self, broker: Broker, message: Any) -> None:
            self.calls += 1
            if self.calls == 1:
                raise TimeLimitExceeded()

        before_nack = before_ack

    interrupted = Interrupted()
    broker = MemoryBroker([interrupted, RetryQueue(max_retries=0)])

    @dramatiq.actor(broker=broker)
    def work() -> None:
        if fails:
            raise ValueError("no")

    work.send()
    drive(broker)
    assert interrupted.calls == 2
    count = broker.counts()["default"]
    assert (count.due, count.later, count.claimed, count.dead) == (0, 0, 0, int(fails))
