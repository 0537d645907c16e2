"""Messages that wait are moved from any broker to any other, and nothing about them changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker

from dramatiq_retryq import DeadLetters, MemoryBroker, SQLiteBroker, run_worker
from dramatiq_retryq.errors import ConfigError, MoveInterrupted, MoveRefused, QueueFull, StoreUnavailable
from dramatiq_retryq.moving import Moved, give_back, move
from tests.integration import places, servers
from tests.integration.conftest import forget_rabbitmq, forget_redis

Make = Callable[..., Any]
HOUR = 3_600_000


@pytest.fixture
def make(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Any:
    """Makes brokers: ``make("redis")``; with ``where="b"`` another one of that kind."""
    made: list[tuple[str, str, Any]] = []

    def make(kind: str, where: str = "a") -> Any:
        url = request.getfixturevalue(f"{kind}_url") if kind in ("redis", "rabbitmq") else None
        broker = places.make(kind, url, f"{name}{where}", tmp_path)
        if kind == "rabbitmq":
            broker.declare_queue(name, ensure=True)
        made.append((kind, f"{name}{where}", broker))
        return broker

    yield make
    for kind, namespace, broker in made:
        if kind in ("memory", "sqlite"):
            assert broker.check() == []
        broker.close()
        if kind == "redis":
            forget_redis(request.getfixturevalue("redis_url"), namespace)
            broker.client.close()
        elif kind == "rabbitmq":
            forget_rabbitmq(request.getfixturevalue("rabbitmq_url"), {name})


pairs = pytest.mark.parametrize(("source_kind", "target_kind"), places.PAIRS)


def message(queue_name: str, number: int, **options: Any) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="work", args=(number, "ä"), kwargs={"n": number}, options=options)


def send_all_sorts(broker: Any, queue_name: str) -> dict[str, Message[Any]]:
    """Sends messages that are due, delayed, and on their third attempt; by their ids."""
    broker.declare_queue(queue_name)
    attempts = [{"n": 1, "started_at": 1, "duration": 2, "error": "KeyError", "message": "a", "delay": 3}]
    sent = [message(queue_name, number) for number in range(5)]
    sent += [message(queue_name, 5, retries=2, attempts=attempts, traceback="…", max_retries=7)]
    for each in sent:
        broker.enqueue(each)
    later = message(queue_name, 6, retries=1, attempts=attempts)
    broker.enqueue(later, delay=HOUR)
    much_later = message(queue_name, 7)
    broker.enqueue(much_later, delay=30 * 24 * HOUR)
    return {each.message_id: each for each in [*sent, later, much_later]}


@pairs
def test_what_waits_comes_over_with_its_id_arguments_attempts_and_due_time(
    make: Make, name: str, source_kind: str, target_kind: str
) -> None:
    source, target = make(source_kind), make(target_kind, "b")
    sent = send_all_sorts(source, name)
    before = places.waiting(source, name)
    assert [seen.due_at is None for seen in before] == [True] * 6 + [False] * 2
    done = move(source, target)
    assert done == Moved(messages=8, total=8, claimed=None if source_kind == "rabbitmq" else 0)
    assert places.waiting(target, name) == before
    assert {seen.message_id: (seen.args, seen.options) for seen in before} == {
        message_id: (each.args, each.options) for message_id, each in sent.items()
    }
    assert places.waiting(source, name) == []


@pairs
def test_there_and_back_again_nothing_has_changed(make: Make, name: str, source_kind: str, target_kind: str) -> None:
    source, target = make(source_kind), make(target_kind, "b")
    send_all_sorts(source, name)
    before = places.waiting(source, name)
    move(source, target, queues=[name])
    move(target, source, queues=[name], batch=3)
    assert places.waiting(source, name) == before
    assert places.waiting(target, name) == []


@pairs
def test_what_was_moved_is_run_by_the_other_brokers_worker(
    make: Make, name: str, source_kind: str, target_kind: str
) -> None:
    source, target = make(source_kind), make(target_kind, "b")
    ran: list[int] = []

    @dramatiq.actor(broker=target, queue_name=name)
    def work(number: int) -> None:
        ran.append(number)

    source.declare_queue(name)
    for number in range(3):
        source.enqueue(work.message(number))
    source.enqueue(work.message(3), delay=50)
    with run_worker(target, threads=1, worker_timeout=50):  # it is there already, and is woken
        move(source, target)
        servers.wait_until(lambda: len(ran) == 4)
    assert sorted(ran) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", places.KINDS)
def test_only_the_queues_that_are_named_are_moved(make: Make, name: str, kind: str) -> None:
    source, target = make(kind), MemoryBroker()
    others = f"{name}-others"
    if kind == "rabbitmq":
        others = name  # a second queue would have to be cleared up
    else:
        source.declare_queue(others)
        source.enqueue(message(others, 1))
    source.declare_queue(name)
    source.enqueue(message(name, 2))
    assert move(source, target, queues=[f"{name}.DQ"]).messages == 1
    assert [seen.args[0] for seen in places.waiting(target, name)] == [2]
    if kind != "rabbitmq":
        assert [seen.args[0] for seen in places.waiting(source, others)] == [1]
        assert places.waiting(target, others) == []


@pytest.mark.parametrize("kind", places.KINDS)
def test_what_a_worker_holds_is_not_moved_and_is_counted(make: Make, name: str, kind: str) -> None:
    source, target = make(kind), MemoryBroker()
    source.declare_queue(name)
    for number in range(3):
        source.enqueue(message(name, number))
    consumer = source.consume(name, prefetch=1, timeout=100)
    held = next(consumer)
    done = move(source, target)
    assert done.messages == 2
    assert done.claimed == (None if kind == "rabbitmq" else 1)
    assert held.message_id not in {seen.message_id for seen in places.waiting(target, name)}
    consumer.ack(held)
    consumer.close()
    assert places.waiting(source, name) == []


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_progress_is_told_after_each_batch(make: Make, name: str, kind: str) -> None:
    source, told = make(kind), []
    source.declare_queue(name)
    for number in range(25):
        source.enqueue(message(name, number))
    move(source, MemoryBroker(), batch=10, progress=told.append)
    assert [(each.messages, each.total) for each in told] == [(10, 25), (20, 25), (25, 25)]


@pairs
def test_a_move_that_was_interrupted_goes_on_where_it_was(
    make: Make, name: str, source_kind: str, target_kind: str
) -> None:
    source, target = make(source_kind), make(target_kind, "b")
    source.declare_queue(name)
    for number in range(25):
        source.enqueue(message(name, number))
    before = places.waiting(source, name)

    def interrupt(done: Moved) -> None:
        raise RuntimeError("the operator has pressed a key")

    with pytest.raises(MoveInterrupted, match="after 10 of 25 messages"):
        move(source, target, batch=10, progress=interrupt)
    assert len(places.waiting(target, name)) == 10
    assert len(places.waiting(source, name)) == 15
    done = move(source, target, batch=10)
    assert (done.messages, done.total) == (15, 15)
    assert places.waiting(target, name) == before


class Failing:
    """Makes one step of a move fail, before or after it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, step: str, *, after: bool) -> None:
        from dramatiq_retryq.moving.rabbitmq_end import RabbitmqEnd
        from dramatiq_retryq.moving.redis_end import RedisEnd
        from dramatiq_retryq.moving.store_end import StoreEnd

        cls = {"redis": RedisEnd, "rabbitmq": RabbitmqEnd}.get(kind, StoreEnd)
        real = getattr(cls, step)

        def fail(end: Any, *args: Any) -> Any:
            if after:
                real(end, *args)
            raise ConnectionError("the line is dead")

        monkeypatch.setattr(cls, step, fail)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("side", "step"), [("target", "put"), ("source", "settle"), ("target", "forget")])
@pytest.mark.parametrize(
    ("source_kind", "target_kind"),
    [("sqlite", "redis"), ("redis", "sqlite"), ("memory", "redis"), ("rabbitmq", "sqlite"), ("redis", "memory")],
)
def test_whatever_step_fails_every_message_is_there_once_in_the_end(
    make: Make,
    name: str,
    source_kind: str,
    target_kind: str,
    side: str,
    step: str,
    after: bool,
) -> None:
    source, target = make(source_kind), make(target_kind, "b")
    source.declare_queue(name)
    for number in range(7):
        source.enqueue(message(name, number), delay=HOUR if number > 4 else None)
    before = places.waiting(source, name)
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, source_kind if side == "source" else target_kind, step, after=after)
        with pytest.raises(MoveInterrupted):
            move(source, target, batch=4)
    move(source, target, batch=4)
    assert sorted(places.waiting(target, name)) == sorted(before)
    assert places.waiting(source, name) == []


@pytest.mark.parametrize("target_kind", ["memory", "sqlite", "redis"])
def test_what_came_over_and_was_run_does_not_come_again(make: Make, name: str, target_kind: str) -> None:
    source, target = make("sqlite"), make(target_kind, "b")
    source.declare_queue(name)
    for number in range(5):
        source.enqueue(message(name, number))
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, "sqlite", "settle", after=False)
        with pytest.raises(MoveInterrupted):
            move(source, target)
    target.declare_queue(name)
    consumer = target.consume(name, prefetch=5, timeout=100)
    for done in [next(consumer) for _ in range(5)]:
        consumer.ack(done)
    consumer.close()
    again = move(source, target)
    assert (again.messages, again.resumed, again.repeated) == (5, 5, 0)
    assert places.waiting(target, name) == []


def test_rabbitmq_is_sent_again_what_was_on_its_way_and_the_result_and_the_log_say_so(
    make: Make, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = make("sqlite"), make("rabbitmq")
    source.declare_queue(name)
    sent = [source.enqueue(message(name, number)) for number in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, "rabbitmq", "put", after=True)
        with pytest.raises(MoveInterrupted):
            move(source, target)
    again = move(source, target)
    assert (again.messages, again.resumed, again.repeated) == (3, 3, 3)
    assert [seen.message_id for seen in places.waiting(target, name)] == [each.message_id for each in sent] * 2
    assert any(sent[0].message_id in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("target_kind", ["memory", "sqlite", "redis", "rabbitmq"])
def test_until_it_goes_on_what_is_on_its_way_is_seen_by_no_worker_and_no_other_move(
    make: Make, name: str, target_kind: str
) -> None:
    source, target, elsewhere = make("sqlite"), make(target_kind, "b"), MemoryBroker()
    source.declare_queue(name)
    sent = source.enqueue(message(name, 1))
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, target_kind, "put", after=False)
        with pytest.raises(MoveInterrupted, match="after 0 of 1 messages"):
            move(source, target)
    other = SQLiteBroker(source.file.path)
    assert other.store.claim(name, now=1 << 62, limit=9, owner="a worker") == []
    assert other.store.recover(now=1 << 62, max_crashes=1) == []
    assert source.lookup(sent.message_id).state == "claimed"
    assert other.check() == []
    other.close()
    with pytest.raises(MoveRefused, match="was interrupted, and a MemoryBroker"):
        move(source, elsewhere)
    assert move(source, target).messages == 1


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
@pytest.mark.parametrize("after", [False, True])
def test_what_was_on_its_way_can_be_given_back(make: Make, name: str, kind: str, after: bool) -> None:
    source, target = make(kind), make("sqlite", "b")
    source.declare_queue(name)
    for number in range(4):
        source.enqueue(message(name, number), delay=HOUR if number == 3 else None)
    before = places.waiting(source, name)
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, "sqlite", "put", after=after)
        with pytest.raises(MoveInterrupted):
            move(source, target, batch=2)
    assert give_back(source, target) == (0 if after else 2)
    assert sorted([*places.waiting(source, name), *places.waiting(target, name)]) == sorted(before)
    assert give_back(source) == 0
    # And nothing is left that keeps from moving elsewhere.
    assert move(source, MemoryBroker()).messages == (2 if after else 4)


def test_given_back_without_a_target_all_that_was_on_its_way_waits_in_its_old_order(make: Make, name: str) -> None:
    source, target = make("redis"), MemoryBroker()
    source.declare_queue(name)
    for number in range(5):
        source.enqueue(message(name, number))
    before = places.waiting(source, name)
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, "memory", "put", after=False)
        with pytest.raises(MoveInterrupted):
            move(source, target, batch=3)
    assert give_back(source) == 3
    assert places.waiting(source, name) == before


@pytest.mark.parametrize("kind", places.KINDS)
def test_two_moves_at_once_are_refused(make: Make, name: str, kind: str) -> None:
    source, refused = make(kind), []
    source.declare_queue(name)
    source.enqueue(message(name, 1))
    same_place = source if kind == "memory" else make(kind)

    def move_too(done: Moved) -> None:
        for pair in ((same_place, MemoryBroker()), (MemoryBroker(), same_place)):
            with pytest.raises(MoveRefused, match="another"):
                move(*pair)
            refused.append(pair)

    assert move(source, MemoryBroker(), progress=move_too).messages == 1
    assert len(refused) == 2


def test_a_full_memory_broker_takes_what_it_has_room_for_and_the_rest_stays(make: Make, name: str) -> None:
    source, target = make("sqlite"), MemoryBroker(max_messages=5)
    source.declare_queue(name)
    for number in range(8):
        source.enqueue(message(name, number))
    with pytest.raises(QueueFull):
        move(source, target, batch=3)
    assert [seen.args[0] for seen in places.waiting(target, name)] == [0, 1, 2, 3, 4]
    assert [seen.args[0] for seen in places.waiting(source, name)] == [5, 6, 7]
    move(source, MemoryBroker())


@pytest.mark.parametrize("target_kind", ["redis", "rabbitmq"])
def test_a_payload_that_is_no_message_stays_where_it_does_no_harm(
    make: Make, name: str, target_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = make("sqlite"), make(target_kind, "b")
    source.declare_queue(name)
    source.store.put(name, b"no message", due_at=1, now=1)
    source.enqueue(message(name, 1))
    done = move(source, target)
    assert (done.messages, done.left) == (1, 1)
    assert source.counts()[name].waiting == 1
    assert "stays where it is" in caplog.text
    other = SQLiteBroker(Path(source.file.path).with_name("other.db"))
    assert move(source, other).messages == 1
    assert other.counts()[name].waiting == 1
    other.close()


def test_what_a_dead_redis_worker_held_is_moved_too(make: Make, name: str) -> None:
    source, target = make("redis"), MemoryBroker()
    source.declare_queue(name)
    source.enqueue(message(name, 1))
    worker = make("redis")
    assert next(worker.consume(name, prefetch=1, timeout=100)) is not None
    # As if it had not been heard of for an hour.
    source.client.zadd(f"{source.namespace}:__heartbeats__", {worker.broker_id: 1})
    assert move(source, target).messages == 1


def test_a_backup_made_on_the_way_has_what_was_on_its_way(make: Make, name: str, tmp_path: Path) -> None:
    source = make("sqlite")
    source.declare_queue(name)
    source.enqueue(message(name, 1))
    with pytest.MonkeyPatch.context() as patch:
        Failing(patch, "memory", "put", after=False)
        with pytest.raises(MoveInterrupted):
            move(source, MemoryBroker())
    source.backup(tmp_path / "copy.db")
    copy = SQLiteBroker(tmp_path / "copy.db")
    assert move(copy, MemoryBroker()).messages == 1
    assert copy.check() == []
    copy.close()


@pytest.mark.parametrize(
    ("kind", "is_source"), [("redis", False), ("redis", True), ("rabbitmq", False), ("rabbitmq", True)]
)
def test_a_server_that_goes_away_on_the_way_interrupts_the_move_and_nothing_is_lost(
    make: Make, request: pytest.FixtureRequest, name: str, tmp_path: Path, kind: str, is_source: bool
) -> None:
    url = urlsplit(request.getfixturevalue(f"{kind}_url"))
    direct, other = make(kind, "a"), make("sqlite", "b")
    proxy = servers.Proxy(url.port or 0)
    far = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")).geturl()
    broker = places.make(kind, far, f"{name}a", tmp_path)
    source, target = (broker, other) if is_source else (other, broker)
    (direct if is_source else other).declare_queue(name)
    for number in range(9):
        (direct if is_source else other).enqueue(message(name, number))
    before = places.waiting(direct if is_source else other, name)
    try:
        with pytest.raises(MoveInterrupted, match="Nothing is lost"):
            move(source, target, batch=3, queues=[name], progress=lambda done: proxy.cut())
        with pytest.raises(StoreUnavailable, match="nothing was moved"):
            move(source, target, batch=3, queues=[name])
        proxy.open()
        servers.wait_until(lambda: moved(source, target, batch=3, queues=[name]))
    finally:
        broker.close()
        if kind == "redis":
            broker.client.close()
        proxy.close()
    after = places.waiting(other if is_source else direct, name)
    if kind == "redis" or is_source:
        assert after == before
    else:
        assert {seen.message_id for seen in after} == {seen.message_id for seen in before}


def moved(source: Any, target: Any, **options: Any) -> bool:
    """Move; ``False`` while the server has not noticed that the connection of another move is gone."""
    try:
        move(source, target, **options)
    except MoveRefused:
        return False
    return True


def test_a_server_that_is_down_or_refuses_the_password_is_told_of_without_the_password(
    make: Make, name: str, tmp_path: Path, redis_url: str, rabbitmq_url: str
) -> None:
    port = servers.free_port()
    for kind, url in (
        ("redis", f"redis://:secret@127.0.0.1:{port}/0"),
        ("rabbitmq", f"amqp://guest:secret@127.0.0.1:{port}/%2F"),
        ("rabbitmq", rabbitmq_url.replace("guest:guest", "guest:secret")),
    ):
        broker = places.make(kind, url, name, tmp_path)
        for source, target in ((make("sqlite"), broker), (broker, make("sqlite"))):
            with pytest.raises(StoreUnavailable, match="cannot be used") as raised:
                move(source, target, queues=[name])
            assert "secret" not in str(raised.value)
        broker.close()


def test_two_brokers_at_the_same_place_are_refused(make: Make, name: str) -> None:
    for kind in ("sqlite", "redis", "rabbitmq"):
        with pytest.raises(ConfigError, match="the same place"):
            move(make(kind), make(kind))


def test_brokers_and_options_that_make_no_sense_are_refused(make: Make, name: str) -> None:
    broker, other = make("memory"), MemoryBroker()
    for match, call in {
        "the same broker": lambda: move(broker, broker),
        "batch is 0": lambda: move(broker, other, batch=0),
        "batch is True": lambda: move(broker, other, batch=True),
        "queues is 'default'": lambda: move(broker, other, queues="default"),
        "StubBroker is a broker": lambda: move(broker, StubBroker()),
        "None": lambda: move(None, broker),  # type: ignore[arg-type]
    }.items():
        with pytest.raises(ConfigError, match=match):
            call()


def test_a_queue_that_was_deleted_on_rabbitmq_is_made_again(make: Make, name: str) -> None:
    source, target = make("sqlite"), make("rabbitmq")
    source.declare_queue(name)
    source.enqueue(message(name, 1))
    source.enqueue(message(name, 2), delay=HOUR)
    for suffix in ("", ".DQ", ".XQ"):
        target.channel.queue_delete(name + suffix)
    assert move(source, target).messages == 2
    assert len(places.waiting(target, name)) == 2


def test_a_rabbitmq_broker_on_which_nothing_is_declared_cannot_be_moved_from(
    rabbitmq_url: str, name: str, tmp_path: Path
) -> None:
    broker = places.make("rabbitmq", rabbitmq_url, name, tmp_path)
    with pytest.raises(ConfigError, match="no queue is declared"):
        move(broker, MemoryBroker())
    broker.close()


def test_nothing_is_left_behind_by_a_move(make: Make, name: str, tmp_path: Path, redis_url: str) -> None:
    source, target = make("sqlite"), make("redis", "b")
    source.declare_queue(name)
    source.enqueue(message(name, 1))
    move(source, target)
    move(target, source)
    assert [path.name for path in tmp_path.iterdir() if "move" in path.name] == []
    assert list(target.client.scan_iter(f"{target.namespace}:*retryq*")) == []


def test_what_is_paused_is_moved_and_waits_on_the_other_broker(make: Make, name: str) -> None:
    for kind in ("memory", "sqlite"):
        source, target = make(kind), make("redis", f"from-{kind}")
        source.declare_queue(name)
        source.enqueue(message(name, 1))
        source.enqueue(message(name, 2))
        now = source.clock.now()
        source.store.pause(actor_name="work", now=now)
        [claim] = source.store.claim(name, now=now, limit=1, owner="a worker")
        assert source.store.hold([claim], "work", now=now) == 1
        assert move(source, target).messages == 2


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_is_moved_is_counted_neither_as_sent_nor_as_succeeded(make: Make, name: str, kind: str) -> None:
    source, target = make(kind), make(kind, "b")
    source.declare_queue(name)
    source.enqueue(message(name, 1))
    move(source, target)
    now = source.clock.now()
    minutes = source.store.minutes(since_at=now - HOUR, now=now)
    assert [(minute.rates.sent, minute.rates.succeeded) for minute in minutes] == [(1, 0)]
    assert list(target.store.minutes(since_at=now - HOUR, now=now)) == []


def bury(broker: Any, queue_name: str, count: int) -> None:
    """Let some messages die, each a millisecond after the other."""

    @dramatiq.actor(broker=broker, queue_name=queue_name, actor_name="dies", throws=KeyError)
    def dies(number: int) -> None:
        raise KeyError(number)

    for number in range(count):
        dies.send(number)
    with run_worker(broker, threads=1, worker_timeout=50):
        servers.wait_until(lambda: len(DeadLetters.of(broker)) == count)


@pytest.mark.parametrize(
    ("source_kind", "target_kind", "interrupted"),
    [*((*pair, False) for pair in places.PAIRS), ("sqlite", "redis", True), ("redis", "sqlite", True)],
)
def test_dead_letters_come_over_with_their_reason_error_and_attempts_if_that_is_asked_for(
    make: Make, name: str, source_kind: str, target_kind: str, interrupted: bool
) -> None:
    source, target = make(source_kind), make(target_kind, "b")
    target.declare_queue(name)
    bury(source, name, 3)
    before = DeadLetters.of(source).list()
    assert move(source, target).letters == 0
    if interrupted:
        with pytest.MonkeyPatch.context() as patch:
            Failing(patch, source_kind, "discard", after=False)
            with pytest.raises(MoveInterrupted):
                move(source, target, dead_letters=True, batch=2)
    assert move(source, target, dead_letters=True, batch=2).letters == 3
    after = DeadLetters.of(target).list()
    assert [
        (letter.reason, letter.queue_name, letter.actor_name, letter.died_at, letter.error, letter.traceback)
        for letter in after
    ] == [
        (letter.reason, letter.queue_name, letter.actor_name, letter.died_at, letter.error, letter.traceback)
        for letter in before
    ]
    assert [(each.message_id, each.attempts, each.message.args) for each in after if each.message] == [
        (each.message_id, each.attempts, each.message.args) for each in before if each.message
    ]
    assert len(DeadLetters.of(source)) == 0
    assert DeadLetters.of(target).replay_all() == 3
    assert {seen.message_id for seen in places.waiting(target, name)} == {letter.message_id for letter in before}
