"""The failure path fails closed: whatever raises in it, the message waits once or is dead once; never gone, never two.

Each test has an actor that fails and one thing that raises while that is handled.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy
from dramatiq.middleware import CurrentMessage, Interrupt, Middleware, MiddlewareError, Shutdown, TimeLimitExceeded

from dramatiq_retryq import MemoryBroker, RetryQueue, memory_queue
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.errors import QueueFull

Fate = Callable[[MemoryBroker], str]


def with_retry_queue(clock: VirtualClock, *add: Middleware, **options: Any) -> MemoryBroker:
    """A memory broker with nothing but RetryQueue and what the test adds."""
    broker = MemoryBroker([RetryQueue(**options), *add], clock=clock)
    dramatiq.set_broker(broker)
    return broker


def send_failing(error: BaseException | None = None, **options: Any) -> Message[Any]:
    """Send a message to an actor that raises ``error`` always."""

    @dramatiq.actor(**options)
    def fail() -> None:
        raise ValueError("no") if error is None else error

    return fail.send()


# -- The error itself ------------------------------------------------------------------------------------------------


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class TextIsNoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class TextEndsAll(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class ErrorWithoutName(Exception, metaclass=Nameless):
    pass


class ErrorWithoutClass(Exception):
    @property
    def __class__(self) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no class")


class ErrorOfAnotherClass(Exception):
    __class__ = dict  # type: ignore[assignment]


class CarriesNothing(Exception):
    @property
    def retry_after(self) -> NoReturn:
        raise RuntimeError("no retry_after")


class CarriesAResponseWithoutHeaders(Exception):
    class response:
        @property
        def headers(self) -> NoReturn:
            raise RuntimeError("no headers")


class Unequal(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> NoReturn:
        raise RuntimeError("no equality")


def caused_by_itself() -> Exception:
    error, cause = ValueError("no"), KeyError("no")
    error.__cause__, cause.__cause__ = cause, error
    return error


#: By name, since pytest cannot show the worst of them.
ERRORS: dict[str, Callable[[], BaseException]] = {
    "no text": NoText,
    "a text that is no text": TextIsNoText,
    "another class": ErrorOfAnotherClass,
    "no retry_after": CarriesNothing,
    "no headers": CarriesAResponseWithoutHeaders,
    "unequal": Unequal,
    "caused by itself": caused_by_itself,
    "not UTF-8": lambda: ValueError("\udc80\0"),
    "endless": lambda: ValueError("x" * 1_000_000),
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "MemoryError": MemoryError,
    "a text that ends all": TextEndsAll,
    "no name": ErrorWithoutName,
    "no class": ErrorWithoutClass,
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(("max_retries", "state"), [(1, "waiting"), (0, "dead")])
def test_whatever_the_error_is_like_the_message_is_there_once(
    broker: MemoryBroker, clock: VirtualClock, drain: Any, name: str, max_retries: int, state: str
) -> None:
    send_failing(ERRORS[name](), max_retries=max_retries)
    with contextlib.suppress(RuntimeError, SystemExit):
        drain(broker, until=clock.now())
    count = broker.counts()["default"]
    found = {"waiting": count.waiting, "claimed": count.claimed, "dead": count.dead}
    assert found == {"waiting": 0, "claimed": 0, "dead": 0, state: 1}


def test_an_error_with_an_endless_text_leaves_a_bounded_letter(broker: MemoryBroker, drain: Any) -> None:
    send_failing(ValueError("x" * 1_000_000), max_retries=30, min_backoff=0, max_backoff=0)
    drain(broker)
    assert len(broker.dead_letters.one().data) < 100_000


# -- What a user hands in --------------------------------------------------------------------------------------------


class NoTruth:
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


def raising(*_: Any) -> NoReturn:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    "policy",
    [raising, *(lambda attempt, error, value=value: value for value in ("soon", -5, True, float("nan"), [], object()))],
    ids=["raises", "text", "negative", "bool", "nan", "list", "object"],
)
def test_a_policy_that_is_broken_gives_way_to_the_default(
    broker: MemoryBroker, clock: VirtualClock, fate: Fate, caplog: pytest.LogCaptureFixture, policy: Any
) -> None:
    message = send_failing(backoff=policy)
    assert fate(broker) == "waiting"
    due_at = broker.lookup(message.message_id).due_at
    assert due_at is not None
    assert 100 <= due_at - clock.now() <= 200
    assert "the backoff policy raised" in caplog.text


def test_a_policy_that_returns_a_number_beyond_numbers_gives_way_to_the_default(
    broker: MemoryBroker, fate: Fate
) -> None:
    send_failing(backoff=lambda attempt, error: 10**400)
    assert fate(broker) == "waiting"


@pytest.mark.parametrize("retry_when", [raising, lambda retries, error: NoTruth()], ids=["raises", "no truth"])
@pytest.mark.parametrize(("max_retries", "state"), [(1, "waiting"), (0, "dead")])
def test_a_retry_when_that_is_broken_gives_way_to_max_retries(
    broker: MemoryBroker, fate: Fate, retry_when: Any, max_retries: int, state: str
) -> None:
    send_failing(retry_when=retry_when, max_retries=max_retries)
    assert fate(broker) == state


@pytest.mark.parametrize("redact", [raising, lambda text: None, lambda text: b"x"], ids=["raises", "None", "bytes"])
@pytest.mark.parametrize(("max_retries", "state"), [(1, "waiting"), (0, "dead")])
def test_a_redact_that_is_broken_stops_nothing(
    clock: VirtualClock, fate: Fate, redact: Any, max_retries: int, state: str
) -> None:
    broker = with_retry_queue(clock, redact=redact)
    send_failing(max_retries=max_retries)
    assert fate(broker) == state


@pytest.mark.parametrize(
    "delay", ["soon", -5, float("nan"), object(), [], pytest.param(True, id="bool")], ids=lambda v: type(v).__name__
)
def test_a_retry_with_a_delay_that_is_none_waits_as_the_policy_says(
    broker: MemoryBroker, fate: Fate, delay: Any
) -> None:
    send_failing(dramatiq.Retry(delay=delay))
    assert fate(broker) == "waiting"


# -- Encoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_retries", "state"), [(1, "waiting"), (0, "dead")])
def test_arguments_that_the_actor_changed_are_as_they_were_sent(
    broker: MemoryBroker, fate: Fate, drain: Any, max_retries: int, state: str
) -> None:
    seen: list[list[Any]] = []

    @dramatiq.actor(max_retries=max_retries)
    def spoil(values: list[Any]) -> None:
        seen.append([*values])
        values.append(object())
        raise ValueError("no")

    spoil.send([1, 2])
    assert fate(broker) == state
    drain(broker)
    assert seen == [[1, 2]] * (max_retries + 1)
    letter = broker.dead_letters.one()
    assert letter.message is not None
    assert letter.message.args == ([1, 2],)


def test_options_that_the_actor_made_unencodable_end_as_unschedulable(clock: VirtualClock, fate: Fate) -> None:
    broker = with_retry_queue(clock, CurrentMessage())

    @dramatiq.actor
    def spoil(number: int) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        message.options["mine"] = object()
        raise ValueError("no")

    spoil.send(7)
    assert fate(broker) == "dead"
    letter = broker.dead_letters.one()
    assert letter.reason == "unschedulable"
    assert letter.message is not None
    assert letter.message.args == (7,)


# -- Logs ------------------------------------------------------------------------------------------------------------


class FullDisk(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Every record from INFO on makes logging raise."""
    root = logging.getLogger()
    handler, level = FullDisk(logging.INFO), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(("max_retries", "state"), [(1, "waiting"), (0, "dead")])
def test_a_log_handler_that_raises_stops_nothing(
    broker: MemoryBroker, fate: Fate, max_retries: int, state: str
) -> None:
    send_failing(max_retries=max_retries)
    assert fate(broker) == state


@pytest.mark.usefixtures("full_disk")
def test_a_log_handler_that_raises_does_not_stop_a_snooze(broker: MemoryBroker, fate: Fate) -> None:
    send_failing(dramatiq.Retry(delay=1000))
    assert fate(broker) == "waiting"


@pytest.mark.usefixtures("full_disk")
def test_a_log_handler_that_raises_does_not_lose_a_message_that_throws(broker: MemoryBroker, fate: Fate) -> None:
    send_failing(throws=ValueError)
    with contextlib.suppress(OSError):  # which ends a thread of Dramatiq's worker
        fate(broker)
    assert fate(broker) == "dead"


@pytest.mark.usefixtures("full_disk")
def test_a_log_handler_that_raises_does_not_lose_a_message_whose_attempts_are_logged(
    clock: VirtualClock, fate: Fate
) -> None:
    broker = with_retry_queue(clock, log_every_attempt=True)
    send_failing()
    with contextlib.suppress(OSError):  # which ends a thread of Dramatiq's worker
        fate(broker)
    assert fate(broker) == "waiting"


@pytest.mark.usefixtures("full_disk")
def test_a_log_handler_that_raises_does_not_stop_a_queue_whose_letters_are_dropped(clock: VirtualClock) -> None:
    broker = MemoryBroker([RetryQueue()], max_dead_letters=1, clock=clock)
    dramatiq.set_broker(broker)
    message = send_failing()
    for _ in range(3):
        broker.enqueue(message.copy())
    assert nacked(broker.consume("default", prefetch=1, timeout=0)) == 4


# -- The store -------------------------------------------------------------------------------------------------------


def test_a_store_that_fails_before_writing_a_retry_is_asked_again(broker: MemoryBroker, fate: Fate, fault: Any) -> None:
    failing = fault(broker.store, "reschedule", times=3)
    send_failing()
    assert fate(broker) == "waiting"
    assert failing.raised == 3


def test_a_retry_that_cannot_be_stored_ends_as_unschedulable(broker: MemoryBroker, fate: Fate, fault: Any) -> None:
    fault(broker.store, "reschedule", times=None)
    send_failing()
    assert fate(broker) == "dead"
    assert broker.dead_letters.one().reason == "unschedulable"


def test_a_store_is_asked_again_for_store_timeout(clock: VirtualClock, fate: Fate, fault: Any) -> None:
    broker = with_retry_queue(clock, store_timeout=60_000)
    fault(broker.store, "reschedule", times=None)
    before = clock.now()
    send_failing()
    assert fate(broker) == "dead"
    assert 60_000 <= clock.now() - before <= 62_000


def test_a_store_timeout_of_zero_asks_once(clock: VirtualClock, fate: Fate, fault: Any) -> None:
    broker = with_retry_queue(clock, store_timeout=0)
    failing = fault(broker.store, "reschedule", times=None)
    send_failing()
    assert fate(broker) == "dead"
    assert failing.raised == 1


def test_a_store_that_fails_after_writing_a_retry_leaves_one_message(
    broker: MemoryBroker, fate: Fate, fault: Any
) -> None:
    fault(broker.store, "reschedule", after=True)
    send_failing()
    assert fate(broker) == "waiting"


def test_a_retry_that_was_written_after_all_is_reported_to_nobody_as_dead(
    clock: VirtualClock, drain: Any, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = with_retry_queue(clock, dead_letter_actor="morgue")
    letters: list[Any] = []

    @dramatiq.actor(queue_name="morgue")
    def morgue(letter: Any) -> None:
        letters.append(letter)

    fault(broker.store, "reschedule", after=True)
    send_failing(backoff=[1000])
    drain(broker, until=clock.now())
    assert broker.counts()["default"].later == 1
    assert letters == []
    assert "is dead" not in caplog.text


def test_a_store_that_fails_before_burying_is_asked_again(broker: MemoryBroker, fate: Fate, fault: Any) -> None:
    fault(broker.store, "bury")
    send_failing(max_retries=0)
    assert fate(broker) == "dead"


def test_a_store_that_fails_after_burying_leaves_one_letter(broker: MemoryBroker, fate: Fate, fault: Any) -> None:
    fault(broker.store, "bury", after=True)
    send_failing(max_retries=0)
    assert fate(broker) == "dead"


def test_a_store_that_fails_after_burying_does_not_stop_the_queue(broker: MemoryBroker, fault: Any) -> None:
    fault(broker.store, "bury", after=True)
    broker.enqueue(send_failing().copy())
    assert nacked(broker.consume("default", prefetch=1, timeout=0)) == 2


def nacked(consumer: Any) -> int:
    """How many messages a consumer hands out, all of them being rejected."""
    number = 0
    while (message := next(consumer)) is not None:
        number += 1
        message.fail()
        with contextlib.suppress(OSError):
            consumer.nack(message)
    return number


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_fails_to_bury_what_cannot_be_decoded_loses_nothing(
    broker: MemoryBroker, fate: Fate, fault: Any, after: bool
) -> None:
    broker.declare_queue("default")
    fault(broker.store, "bury", after=after)
    broker.queues["default"].put(b"nonsense")
    with contextlib.suppress(OSError):
        fate(broker)
    assert fate(broker) == "dead"


# -- Other middleware ------------------------------------------------------------------------------------------------


class Breaks(Middleware):
    """Raises in one hook, so many times, once it is armed."""

    def __init__(self, hook: str, error: Exception, times: int | None = None) -> None:
        self.times = times
        self.error = error
        self.raised = 0
        self.armed = False
        setattr(self, hook, self._break)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.armed = True

    def _break(self, *args: Any, **kwargs: Any) -> None:
        if self.armed and (self.times is None or self.raised < self.times):
            self.raised += 1
            raise self.error


@pytest.mark.parametrize(
    "hook", ["before_enqueue", "after_enqueue", "after_process_message", "before_ack", "after_ack"]
)
def test_a_hook_of_another_middleware_that_raises_stops_no_retry(clock: VirtualClock, fate: Fate, hook: str) -> None:
    breaks = Breaks(hook, RuntimeError("broken"))
    broker = with_retry_queue(clock, breaks)
    send_failing()
    assert fate(broker) == "waiting"
    assert breaks.raised == 1


@pytest.mark.parametrize("hook", ["after_process_message", "before_nack", "after_nack"])
def test_a_hook_of_another_middleware_that_raises_stops_no_death(clock: VirtualClock, fate: Fate, hook: str) -> None:
    breaks = Breaks(hook, RuntimeError("broken"))
    broker = with_retry_queue(clock, breaks, max_retries=0)
    send_failing()
    assert fate(broker) == "dead"
    assert breaks.raised == 1


def test_a_middleware_that_refuses_the_retry_for_a_while_is_asked_again(clock: VirtualClock, fate: Fate) -> None:
    breaks = Breaks("before_enqueue", MiddlewareError("not now"), times=2)
    broker = with_retry_queue(clock, breaks)
    send_failing()
    assert fate(broker) == "waiting"
    assert breaks.raised == 2


def test_a_middleware_that_refuses_the_retry_for_good_makes_it_unschedulable(clock: VirtualClock, fate: Fate) -> None:
    broker = with_retry_queue(clock, Breaks("before_enqueue", MiddlewareError("never")))
    send_failing()
    assert fate(broker) == "dead"
    assert broker.dead_letters.one().reason == "unschedulable"


def test_a_middleware_that_refuses_the_nack_does_not_keep_the_message_claimed(clock: VirtualClock, fate: Fate) -> None:
    broker = with_retry_queue(clock, Breaks("before_nack", MiddlewareError("never")), max_retries=0)
    send_failing()
    assert fate(broker) == "dead"


def test_a_middleware_that_refuses_to_process_is_a_failed_attempt(clock: VirtualClock, fate: Fate) -> None:
    class Refuses(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            raise MiddlewareError("not now")

    broker = with_retry_queue(clock, Refuses())
    send_failing()
    assert fate(broker) == "waiting"


# -- Those who are told ----------------------------------------------------------------------------------------------


def test_an_on_retry_exhausted_that_does_not_exist_stops_no_death(broker: MemoryBroker, fate: Fate) -> None:
    send_failing(max_retries=0, on_retry_exhausted="nobody")
    assert fate(broker) == "dead"
    assert broker.dead_letters.one().reason == "exhausted"


def test_an_on_retry_exhausted_without_room_stops_no_death(clock: VirtualClock, drain: Any) -> None:
    broker = MemoryBroker([RetryQueue(max_retries=0)], max_messages=1, clock=clock)
    dramatiq.set_broker(broker)

    @dramatiq.actor(queue_name="elsewhere")
    def exhausted(message: Any, retries: Any) -> None:
        raise AssertionError

    send_failing(on_retry_exhausted="exhausted")
    drain(broker, until=clock.now() + 60_000)
    assert broker.dead_letters.one(queue="default").reason == "exhausted"


def test_arguments_that_the_actor_changed_keep_nobody_from_being_told(broker: MemoryBroker, drain: Any) -> None:
    told: list[Any] = []

    @dramatiq.actor(queue_name="elsewhere")
    def exhausted(message: dict[str, Any], retries: Any) -> None:
        told.append(message["args"])

    @dramatiq.actor(max_retries=0, on_retry_exhausted="exhausted")
    def spoil(values: list[Any]) -> None:
        values.append(object())
        raise ValueError("no")

    spoil.send([1])
    drain(broker)
    assert told == [[[1]]]


def test_a_dead_letter_actor_that_does_not_exist_stops_no_death(
    clock: VirtualClock, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker that starts finds this out; one that runs for long may still meet it.
    monkeypatch.setattr(RetryQueue, "before_worker_boot", lambda *args: None)
    broker = with_retry_queue(clock, max_retries=0, dead_letter_actor="nobody")
    send_failing()
    assert fate(broker) == "dead"


def test_a_dead_letter_actor_has_its_place_in_a_full_broker(clock: VirtualClock, drain: Any) -> None:
    broker = MemoryBroker([RetryQueue(max_retries=0, dead_letter_actor="morgue")], max_messages=1, clock=clock)
    dramatiq.set_broker(broker)
    letters: list[Any] = []

    @dramatiq.actor(queue_name="morgue")
    def morgue(letter: Any) -> None:
        letters.append(letter)

    send_failing()
    with pytest.raises(QueueFull):
        morgue.send({})
    drain(broker)
    assert len(letters) == 1


def test_a_letter_that_cannot_be_sent_stops_no_death(clock: VirtualClock, fate: Fate, fault: Any) -> None:
    broker = with_retry_queue(clock, max_retries=0, dead_letter_actor="morgue")

    @dramatiq.actor(queue_name="morgue")
    def morgue(letter: Any) -> None:
        raise AssertionError

    send_failing()
    fault(broker, "enqueue", times=None)
    assert fate(broker) == "dead"


# -- The clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("max_retries", [1, 0])
def test_a_clock_that_fails_loses_nothing(
    broker: MemoryBroker, clock: VirtualClock, drain: Any, monkeypatch: pytest.MonkeyPatch, call: int, max_retries: int
) -> None:
    calls: list[int] = []

    def failing(real: Callable[..., int]) -> Callable[..., int]:
        def read(*args: Any) -> int:
            calls.append(1)
            if len(calls) == call:
                raise OSError("no clock")
            return real(*args)

        return read

    @dramatiq.actor(max_retries=max_retries, backoff=[1000])
    def fail() -> None:
        monkeypatch.setattr(clock, "now", failing(clock.now))
        monkeypatch.setattr(clock, "due_in", failing(clock.due_in))
        raise ValueError("no")

    fail.send()
    until = clock.now()
    with contextlib.suppress(OSError):  # once the message is settled, it fails drain itself
        drain(broker, until=until)
    monkeypatch.undo()
    count = broker.counts()["default"]
    assert (count.later + count.dead, count.due + count.claimed) == (1, 0)


def test_a_clock_that_was_set_back_makes_no_negative_duration(
    broker: MemoryBroker, clock: VirtualClock, drain: Any
) -> None:
    @dramatiq.actor(max_retries=1)
    def fail() -> None:
        clock.move_to(clock.now() - 3_600_000)
        raise ValueError("no")

    fail.send()
    drain(broker)
    assert [attempt.duration for attempt in broker.dead_letters.one().attempts] == [0, 0]


def test_a_retry_counts_its_delay_from_the_clock_that_was_set_back(
    broker: MemoryBroker, clock: VirtualClock, drain: Any
) -> None:
    ran_at: list[int] = []

    @dramatiq.actor(backoff=[1000])
    def fail_once() -> None:
        if not ran_at:
            clock.move_to(clock.now() - 3_600_000)
        ran_at.append(clock.now())
        if len(ran_at) == 1:
            raise ValueError("no")

    fail_once.send()
    drain(broker)
    assert ran_at == [ran_at[0], ran_at[0] + 1000]


def test_what_was_sent_before_the_clock_was_set_back_still_runs(
    broker: MemoryBroker, clock: VirtualClock, drain: Any
) -> None:
    runs: list[str] = []

    @dramatiq.actor
    def work(name: str) -> None:
        runs.append(name)

    work.send("before")
    clock.move_to(clock.now() - 3_600_000)
    work.send("after")
    drain(broker)
    assert sorted(runs) == ["after", "before"]


def test_a_message_is_not_expired_by_a_clock_that_was_set_back(
    broker: MemoryBroker, clock: VirtualClock, drain: Any
) -> None:
    runs: list[int] = []

    @dramatiq.actor(max_age=3_600_000)
    def fail_once() -> None:
        runs.append(1)
        clock.move_to(0)
        if len(runs) == 1:
            raise ValueError("no")

    fail_once.send()
    drain(broker)
    assert len(runs) == 2
    assert list(broker.dead_letters) == []


# -- Interrupts ------------------------------------------------------------------------------------------------------

# A shutdown or time limit reaches the thread at any bytecode; these tests let it come at some that matter.
interrupts = pytest.mark.parametrize("interrupt", [TimeLimitExceeded, Shutdown])


@interrupts
def test_an_interrupt_while_the_policy_decides_leaves_one_retry(
    broker: MemoryBroker, drain: Any, fate: Fate, interrupt: type[Interrupt]
) -> None:
    calls: list[int] = []

    def policy(attempt: int, error: BaseException) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise interrupt
        return 1000

    send_failing(backoff=policy, max_retries=1)
    assert fate(broker) == "waiting"
    drain(broker)
    assert [attempt.n for attempt in broker.dead_letters.one().attempts] == [1, 2]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@interrupts
def test_an_interrupt_around_the_store_leaves_one_retry(
    broker: MemoryBroker, fate: Fate, fault: Any, interrupt: type[Interrupt], after: bool
) -> None:
    fault(broker.store, "reschedule", interrupt(), after=after)
    send_failing()
    assert fate(broker) == "waiting"


def test_an_interrupt_within_the_store_leaves_one_retry(
    broker: MemoryBroker, fate: Fate, fault: Any, drain: Any
) -> None:
    send_failing()
    # The entry is among those that wait, and its claim is not given up yet.
    fault(memory_queue.MemoryQueue, "add", TimeLimitExceeded(), after=True)
    memory_queue.MemoryQueue.add = _bound(memory_queue.MemoryQueue.add)  # type: ignore[method-assign]
    assert fate(broker) == "waiting"


def _bound(fault: Any) -> Any:
    def add(self: Any, *args: Any) -> Any:
        return fault(self, *args)

    return add


@interrupts
def test_an_interrupt_while_the_retry_is_logged_leaves_one_retry(
    broker: MemoryBroker, fate: Fate, fault: Any, interrupt: type[Interrupt]
) -> None:
    fault(logging.getLogger("dramatiq_retryq.RetryQueue"), "warning", interrupt())
    send_failing()
    assert fate(broker) == "waiting"


@interrupts
def test_an_interrupt_while_a_store_is_asked_again_leaves_one_retry(
    broker: MemoryBroker, clock: VirtualClock, fate: Fate, fault: Any, interrupt: type[Interrupt]
) -> None:
    fault(broker.store, "reschedule")
    fault(clock, "sleep", interrupt())
    send_failing()
    assert fate(broker) == "waiting"


@interrupts
def test_an_interrupt_while_others_are_told_of_a_death_leaves_one_letter(
    broker: MemoryBroker, fate: Fate, fault: Any, interrupt: type[Interrupt]
) -> None:
    @dramatiq.actor(queue_name="elsewhere")
    def exhausted(message: Any, retries: Any) -> None:
        pass

    send_failing(max_retries=0, on_retry_exhausted="exhausted")
    fault(broker, "enqueue", interrupt())
    assert fate(broker) == "dead"
    assert broker.dead_letters.one(queue="default").reason == "exhausted"


@interrupts
def test_a_second_interrupt_loses_nothing(
    broker: MemoryBroker, fate: Fate, fault: Any, interrupt: type[Interrupt]
) -> None:
    fault(broker.store, "reschedule", interrupt(), times=2)
    send_failing()
    with contextlib.suppress(interrupt):
        fate(broker)
    assert fate(broker) in {"waiting", "dead"}


def test_an_interrupt_before_anything_is_decided_leaves_one_retry(
    broker: MemoryBroker, clock: VirtualClock, fate: Fate, fault: Any
) -> None:
    @dramatiq.actor
    def fail() -> None:
        fault(clock, "now", TimeLimitExceeded())
        raise ValueError("no")

    fail.send()
    with contextlib.suppress(TimeLimitExceeded):
        fate(broker)
    assert fate(broker) == "waiting"
