"""swap_broker(): the application's actors and middleware on another broker, and everything back as it was."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AgeLimit, Middleware, Retries, default_middleware

from dramatiq_retryq import Backoff, MemoryBroker, RetryQueue, SQLiteBroker, run_worker
from dramatiq_retryq.clock import SystemClock, VirtualClock
from dramatiq_retryq.errors import ConfigError, KitError, StoreUnavailable
from dramatiq_retryq.testing import swap_broker


class Own(Middleware):
    """A middleware of the application's own."""

    @property
    def actor_options(self) -> set[str]:
        return {"colour"}


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError(f"a connection was made: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(params=["redis", "rabbitmq", "stub", "memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """An application's broker, as the global one; there is no server behind it."""
    brokers: dict[str, Any] = {
        "redis": lambda: RedisBroker(url="redis://127.0.0.1:1/0"),
        "rabbitmq": lambda: RabbitmqBroker(url="amqp://127.0.0.1:1"),
        "stub": StubBroker,
        "memory": MemoryBroker,
        "sqlite": lambda: SQLiteBroker(tmp_path / "jobs.db"),
    }
    before = dramatiq.broker.global_broker
    broker: Broker = brokers[request.param]()
    broker.add_middleware(Own(), before=AgeLimit)
    dramatiq.set_broker(broker)
    yield broker
    dramatiq.set_broker(before)  # type: ignore[arg-type]
    broker.close()


def state(broker: Broker) -> dict[str, Any]:
    """What a swap might change, as it is now."""
    return {
        **{name: value for name, value in vars(broker).items() if not isinstance(value, (dict, list, set))},
        **{name: list(value) for name, value in vars(broker).items() if isinstance(value, (dict, list, set))},
        "actors'": {name: (actor.broker, actor.fn) for name, actor in broker.actors.items()},
        "global": dramatiq.broker.global_broker,
        "middleware's": [dict(vars(middleware)) for middleware in broker.middleware],
    }


def test_actors_of_any_broker_send_to_the_one_that_is_swapped_in(app: Broker) -> None:
    @dramatiq.actor(queue_name="mails", max_retries=1, min_backoff=50)
    def mail(address: str) -> None:
        raise ConnectionError

    with swap_broker(app) as retryq:
        assert mail.broker is retryq.broker is dramatiq.get_broker() is not app
        message = mail.send("ada")
        assert retryq.broker.lookup(message.message_id).queue_name == "mails"
        assert retryq.drain().counts() == {"retried": 1, "died": 1}
        assert retryq.delays(mail) == [50]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_also_if_the_test_fails(app: Broker, fails: bool) -> None:
    @dramatiq.actor(colour="red")
    def work() -> None: ...

    before = state(app)
    try:
        with swap_broker(app) as retryq:
            retryq.fail_next(work, 1, ValueError)
            retryq.refuse_enqueue(1)
            with pytest.raises(StoreUnavailable, match="refuse"):
                work.send()
            work.send()
            retryq.advance(timedelta(days=1))
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert state(app) == before
    assert abs(dramatiq.Message("q", "a", (), {}, {}).message_timestamp - SystemClock().now()) < 10_000


def test_the_applications_own_middleware_is_there_in_its_order_with_retry_queue_for_retries(app: Broker) -> None:
    theirs = list(app.middleware)
    with swap_broker(app) as retryq:
        taken = retryq.broker.middleware
        assert [type(m) for m in taken] == [RetryQueue if type(m) is Retries else type(m) for m in theirs]
        for mine, other in zip(taken, theirs, strict=True):
            assert mine is other or isinstance(other, Retries)


def test_retries_are_followed_by_a_retry_queue_with_the_same_numbers() -> None:
    broker = StubBroker()
    for retries in [m for m in broker.middleware if isinstance(m, Retries)]:
        broker.middleware.remove(retries)
    broker.add_middleware(Retries(max_retries=2, min_backoff=7_000, max_backoff=10_000))

    @dramatiq.actor(broker=broker)
    def work() -> None:
        raise ValueError

    with swap_broker(broker) as retryq:
        work.send()
        retryq.drain()
        assert retryq.delays(work) == [7_000, 10_000]
        assert retryq.dead_letters.one().reason == "exhausted"


def test_the_applications_retry_queue_is_used_as_it_is() -> None:
    broker = StubBroker()
    own = RetryQueue(backoff=[1_000, 2_000], max_retries=2, clock=SystemClock())
    broker.add_middleware(own)

    @dramatiq.actor(broker=broker)
    def work() -> None:
        raise ValueError

    with swap_broker(broker) as retryq:
        assert own in retryq.broker.middleware
        retryq.advance(timedelta(days=1))
        work.send()
        retryq.drain()
        assert retryq.delays(work) == [1_000, 2_000]
        assert retryq.dead_letters.one().died_at == retryq.clock.now()
    assert isinstance(own.clock, SystemClock)


def test_a_module_that_holds_the_old_broker_by_name_reaches_the_new_one(app: Broker) -> None:
    @dramatiq.actor
    def work() -> None: ...

    with swap_broker(app) as retryq:
        app.enqueue(work.message())
        dramatiq.group([work.message()], broker=app).run()
        app.join("default")
        assert len(retryq.attempts(work)) == 2
        work.send()
        app.flush_all()
        assert retryq.waiting() == []


def test_an_application_that_asks_our_broker_where_a_message_is_is_answered(tmp_path: Path) -> None:
    for broker in (MemoryBroker(), SQLiteBroker(tmp_path / "jobs.db")):

        @dramatiq.actor(broker=broker, max_retries=0)
        def work() -> None:
            raise ValueError

        with swap_broker(broker) as retryq:
            message = work.send()
            assert broker.lookup(message.message_id).state == "waiting"
            assert broker.counts()["default"].due == broker.queues["default"].qsize() == 1
            retryq.drain()
            assert broker.lookup(message.message_id).state == "dead"
            assert broker.dead_letters.one().reason == "exhausted"
        assert broker.lookup(message.message_id).state == "unknown"
        assert len(broker.dead_letters) == 0
        broker.close()


def test_what_waited_in_the_old_broker_stays_there() -> None:
    broker = MemoryBroker()

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    message = work.send()
    with swap_broker(broker) as retryq:
        assert retryq.drain().processed == 0
    assert broker.lookup(message.message_id).state == "waiting"
    broker.flush_all()


def test_an_actor_declared_in_a_test_is_of_that_test_alone(app: Broker) -> None:
    with swap_broker(app) as retryq:

        @dramatiq.actor
        def local() -> None: ...

        @dramatiq.actor(broker=app, actor_name="named")
        def other() -> None: ...

        local.send()
        other.send()
        assert retryq.drain().succeeded == 2
    assert app.actors == {}
    with pytest.raises(KitError, match="'local' was declared in a test that is over"):
        local.send()


def test_the_actors_of_a_module_that_a_test_imports_are_the_applications(
    app: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_tasks.py").write_text("import dramatiq\n@dramatiq.actor\ndef late(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with swap_broker(app) as retryq:
            from late_tasks import late  # type: ignore[import-not-found]

            late.send()
            assert retryq.drain().succeeded == 1
        assert late.broker is app
        assert app.actors == {"late": late}
    del sys.modules["late_tasks"]


def test_the_actors_of_such_a_module_are_found_again_where_there_is_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "homeless_tasks.py").write_text("import dramatiq\n@dramatiq.actor\ndef homeless(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    for _ in range(2):
        with swap_broker() as retryq:
            from homeless_tasks import homeless  # type: ignore[import-not-found]

            homeless.send()
            assert retryq.drain().succeeded == 1
        assert dramatiq.broker.global_broker is None
    del sys.modules["homeless_tasks"]
    monkeypatch.delitem(sys.modules["dramatiq_retryq.swap"]._homeless, "homeless")


def test_a_broker_made_global_after_the_swap_is_an_error_that_says_what_to_do(app: Broker) -> None:
    with swap_broker(app) as retryq:
        late = StubBroker()
        dramatiq.set_broker(late)

        @dramatiq.actor
        def work() -> None: ...

        work.send()
        with pytest.raises(KitError, match=r"a StubBroker was made the global broker after the swap.*\(work\).*import"):
            retryq.drain()
    assert dramatiq.get_broker() is app


def test_two_swaps_at_once_are_an_error_and_the_first_goes_on(app: Broker) -> None:
    @dramatiq.actor
    def work() -> None: ...

    with swap_broker(app) as retryq:
        for again in (app, None, StubBroker()):
            with pytest.raises(KitError, match="swapped already"), swap_broker(again):
                pass
        work.send()
        assert retryq.drain().succeeded == 1
    with swap_broker(app):
        pass


def test_a_broker_that_is_not_global_has_the_global_one_replaced_too() -> None:
    mine, other = StubBroker(), StubBroker()
    before = dramatiq.broker.global_broker
    dramatiq.set_broker(other)

    @dramatiq.actor(broker=mine)
    def work() -> None: ...

    with swap_broker(mine) as retryq:
        assert dramatiq.get_broker() is retryq.broker

        @dramatiq.actor
        def local() -> None: ...

        dramatiq.group([work.message(), local.message()]).run()
        assert retryq.drain().succeeded == 2
    assert dramatiq.get_broker() is other
    assert other.actors == {}
    dramatiq.set_broker(before)  # type: ignore[arg-type]


def test_a_broker_is_found_by_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("somewhere")
    module.broker = StubBroker()
    module.make = lambda: module.broker
    monkeypatch.setitem(sys.modules, "somewhere", module)

    @dramatiq.actor(broker=module.broker)
    def work() -> None: ...

    for where in ("somewhere:broker", "somewhere.broker", "somewhere:make"):
        with swap_broker(where) as retryq:
            assert work.broker is retryq.broker


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("no_such_module:broker", "ModuleNotFoundError"),
        ("sys:no_such_name", "AttributeError"),
        ("broker", "cannot be had"),
        ("sys:path", "that is no broker"),
        ("", "give a broker"),
        (7, "give a broker"),
    ],
)
def test_a_broker_that_is_not_there_is_an_error(where: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint), swap_broker(where):
        pass


# -- A broker of one's own -------------------------------------------------------------------------------------------


def test_a_memory_broker_of_ones_own_is_swapped_in(app: Broker) -> None:
    @dramatiq.actor
    def work() -> None:
        raise ValueError

    new = MemoryBroker()
    before = state(new)
    with swap_broker(app, new) as retryq:
        assert retryq.broker is new is work.broker
        work.send()
        retryq.drain(until=timedelta(days=1))
        assert retryq.elapsed >= timedelta(milliseconds=100)
    left = state(new)
    for changing in ("queues", "_lines"):
        del before[changing], left[changing]
    assert left.keys() == before.keys()
    assert {name for name in left if left[name] != before[name]} <= {"_before_hooks", "_after_hooks", "_consumed"}


def test_a_virtual_clock_of_ones_own_is_the_clock(app: Broker) -> None:
    clock = VirtualClock(5_000)
    with swap_broker(app, MemoryBroker(clock=clock)) as retryq:
        assert retryq.clock.now() == 5_000
        retryq.advance(1_000)
        assert clock.now() == 6_000


def test_a_sqlite_broker_can_be_swapped_in(app: Broker, tmp_path: Path) -> None:
    new = SQLiteBroker(tmp_path / "tests.db")
    with swap_broker(app, new) as retryq:

        @dramatiq.actor(max_retries=2, dead_letter_actor="told")
        def work() -> None:
            raise ValueError

        @dramatiq.actor
        def told(letter: dict[str, Any]) -> None: ...

        work.send()
        retryq.crash_during(work)
        assert retryq.drain().counts() == {"crashed": 1, "retried": 2, "died": 1, "succeeded": 1}
        assert retryq.dead_letters.one().attempts[0].error == "WorkerCrashed"
        assert new.check() == []
    new.close()


def test_the_new_brokers_own_retry_queue_follows_retries_and_what_else_it_has_comes_last() -> None:
    class Watches(Middleware): ...

    own, watches = RetryQueue(backoff=Backoff(3, 3)), Watches()
    new = MemoryBroker(retry_queue=own)
    new.add_middleware(watches)
    old = StubBroker()
    with swap_broker(old, new) as retryq:
        types_ = [RetryQueue if cls is Retries else cls for cls in default_middleware]
        assert [type(m) for m in retryq.broker.middleware] == [*types_, Watches]
        assert own in retryq.broker.middleware


def test_a_broker_in_its_own_place_is_driven_where_it_is() -> None:
    broker = MemoryBroker()

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    work.send_with_options(delay=3_600_000)
    before = state(broker)
    with swap_broker(broker, broker) as retryq:
        assert retryq.drain().succeeded == 1
    assert {name for name, value in state(broker).items() if value != before[name]} <= {
        "_before_hooks",
        "_after_hooks",
        "_consumed",
    }


@pytest.mark.parametrize("new", [StubBroker(), object()])
def test_a_foreign_broker_cannot_be_swapped_in(new: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be swapped in: give a MemoryBroker"), swap_broker(None, new):
        pass


def test_a_worker_that_runs_on_the_old_broker_does_not_touch_the_new_one() -> None:
    broker = MemoryBroker()
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def work() -> None:
        ran.append(1)

    with run_worker(broker, threads=1), swap_broker(broker, leftovers="ignore") as retryq:
        work.send()
        assert ran == []
        assert retryq.drain().succeeded == 1


# -- Jitter ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", ["additive", "full", "equal", "decorrelated", "proportional", "none"])
def test_there_is_no_jitter_unless_it_is_asked_for(jitter: Any) -> None:
    with swap_broker(MemoryBroker(retry_queue=RetryQueue(jitter=jitter, max_retries=4))) as retryq:

        @dramatiq.actor
        def work() -> None:
            raise ValueError

        work.send()
        retryq.drain()
        assert retryq.delays(work) == [100, 200, 400, 800]


def test_jitter_is_the_same_for_the_same_seed() -> None:
    def delays(**options: Any) -> list[int]:
        with swap_broker(MemoryBroker(), **options) as retryq:

            @dramatiq.actor(max_retries=5)
            def work() -> None:
                raise ValueError

            work.send()
            retryq.drain()
            return retryq.delays(work)

    assert delays(seed=1) == delays(seed=1) != delays(seed=2)
    assert delays(jitter=True) == delays(seed=0)
    assert delays() == [100, 200, 400, 800, 1_600]


@pytest.mark.parametrize("options", [{"seed": "x"}, {"seed": True}, {"seed": 1, "jitter": False}, {"leftovers": "no"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError), swap_broker(**options):
        pass
