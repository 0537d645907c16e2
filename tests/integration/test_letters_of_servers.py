"""Dead letters on Redis and RabbitMQ: what is particular to servers."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.rabbitmq import DEAD_MESSAGE_TTL
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis, xq_name

from dramatiq_retryq import DeadLetter, DeadLetters, RetryQueue, broker_from_url
from dramatiq_retryq.errors import ConfigError, LetterNotFound, LetterTooNew, LetterUnreadable, StoreUnavailable
from dramatiq_retryq.side import side_of
from tests.integration.conftest import finish, running
from tests.integration.servers import free_port, own_redis, wait_until


def dying(broker: Any, queue: str, *numbers: int, options: Any = ()) -> list[int]:
    """Send messages that die, and list what is run."""
    runs: list[int] = []
    broker.actors.pop("work", None)

    @dramatiq.actor(broker=broker, queue_name=queue, actor_name="work", **dict(options))
    def work(n: int) -> None:
        runs.append(n)
        raise ValueError(f"no {n}")

    for n in numbers:
        work.send(n)
    finish(broker, threads=1)
    return runs


def plain_copies(broker: Any, queue: str) -> int:
    """How many messages lie in the broker's own dead-letter queue."""
    if hasattr(broker, "client"):
        return int(broker.client.zcard(f"{broker.namespace}:{xq_name(queue)}"))
    return int(broker.get_queue_message_counts(queue)[2])


def reject_without_a_letter(make: Any, queue: str, *numbers: int) -> Any:
    """What Dramatiq alone leaves in its dead-letter queue."""
    broker = make()
    broker.middleware = [m for m in broker.middleware if not isinstance(m, RetryQueue)]
    broker.add_middleware(dramatiq.middleware.Retries(max_retries=1, min_backoff=1, max_backoff=1))
    dying(broker, queue, *numbers)
    return make(max_retries=0)


def test_the_copy_that_the_broker_keeps_is_not_listed_beside_the_letter(make: Any, name: str) -> None:
    broker = make(max_retries=0)
    dying(broker, name, 1, 2)
    assert plain_copies(broker, name) == 2
    assert len(DeadLetters.of(broker).list()) == len(DeadLetters.of(broker)) == 2


def test_the_copy_goes_when_the_letter_is_replayed_or_discarded(make: Any, name: str) -> None:
    broker = make(max_retries=0)
    dying(broker, name, 1, 2)
    letters = DeadLetters.of(broker)
    letters.discard(letters.list()[0])
    letters.replay(letters.one())
    assert plain_copies(broker, name) == 0
    assert letters.list() == []


def test_what_was_dead_lettered_before_is_listed_with_what_is_known(make: Any, name: str) -> None:
    broker = reject_without_a_letter(make, name, 7)
    dying(broker, name)
    letter = DeadLetters.of(broker).one()
    assert (letter.reason, letter.queue_name, letter.actor_name) == ("rejected", name, "work")
    assert letter.message is not None
    assert letter.message.args == (7,)
    assert letter.message.options["retries"] == 1
    assert letter.error is not None
    assert (letter.error.type, letter.error.message) == ("ValueError", "no 7")
    assert letter.died_at > letter.message.message_timestamp - 1_000
    assert DeadLetters.of(broker).get(letter.id) == letter
    assert len(DeadLetters.of(broker)) == 1


def test_what_was_dead_lettered_before_is_replayed_once(make: Any, name: str) -> None:
    broker = reject_without_a_letter(make, name, 1, 2, 3)
    runs = dying(broker, name)
    letters = DeadLetters.of(broker)
    first = letters.list()[-1]
    letters.replay(first)
    with pytest.raises(LetterNotFound):
        letters.replay(first)
    assert letters.replay_all() == 2
    finish(broker, threads=1)
    assert sorted(runs) == [1, 2, 3]
    assert [letter.replays for letter in letters] == [1, 1, 1]


def test_what_was_dead_lettered_before_can_be_discarded(make: Any, name: str) -> None:
    broker = reject_without_a_letter(make, name, 1, 2, 3)
    dying(broker, name)
    letters = DeadLetters.of(broker)
    letters.discard(letters.list()[1])
    assert len(letters) == 2
    assert letters.discard_all() == 2
    assert plain_copies(broker, name) == 0


def test_old_and_new_are_listed_together(make: Any, name: str) -> None:
    broker = reject_without_a_letter(make, name, 1)
    dying(broker, name, 2)
    assert sorted(letter.message.args[0] for letter in DeadLetters.of(broker)) == [1, 2]  # type: ignore[union-attr]


def test_letters_outlive_the_process_that_laid_them_down(make: Any, name: str) -> None:
    dying(make(max_retries=0), name, 1)
    other = make(max_retries=0)
    other.declare_queue(name)
    assert DeadLetters.of(other).one().error is not None


def test_a_letter_is_kept_for_max_letter_age(make: Any, name: str) -> None:
    broker = make(max_retries=0, max_letter_age=400)
    dying(broker, name, 1)
    letters = DeadLetters.of(broker)
    # What remains is the broker's own copy, which knows no error.
    wait_until(lambda: letters.one().error is None, 10)


def test_a_letter_by_a_newer_version_is_listed_and_refused_and_kept(make: Any, name: str, monkeypatch: Any) -> None:
    import dramatiq_retryq.shelf as shelf

    real = shelf.pack

    def newer(letter: Any) -> bytes:
        return json.dumps({**json.loads(real(letter)), "version": 2, "weather": "fine"}).encode()

    broker = make(max_retries=0)
    for module in ("redis_letters", "rabbitmq_letters"):
        monkeypatch.setattr(f"dramatiq_retryq.{module}.pack", newer)
    dying(broker, name, 1)
    monkeypatch.undo()
    dying(broker, name, 2)
    letters = DeadLetters.of(broker)
    old = letters.list()[1]
    assert old.version == 2
    with pytest.raises(LetterTooNew, match=r"form 2.*upgrade"):
        letters.replay(old)
    assert letters.replay_all() == 1
    assert letters.one().id == old.id
    letters.discard(old)
    assert len(letters) == 0


def test_a_torn_letter_is_listed_and_never_replayed_into_nothing(make: Any, name: str, monkeypatch: Any) -> None:
    broker = make(max_retries=0)
    for module in ("redis_letters", "rabbitmq_letters"):
        monkeypatch.setattr(f"dramatiq_retryq.{module}.pack", lambda letter: b'{"version":1,"id":"to')
    dying(broker, name, 1)
    monkeypatch.undo()
    dying(broker, name, 2)
    letters = DeadLetters.of(broker)
    (torn,) = letters.list(reason="undecodable")
    assert len(letters.list()) == 2
    with pytest.raises(LetterUnreadable, match="is torn"):
        letters.replay(torn)
    assert letters.replay_all() == 1
    assert letters.one().id == torn.id
    letters.discard(torn)
    # On Redis a torn letter does not say in which queue the broker's own copy lies: that is listed now.
    assert [letter.message is not None for letter in letters] in ([], [True])
    letters.discard_all()
    assert len(letters) == 0


def test_a_letter_of_a_queue_that_nobody_declared_here_is_replayed_when_it_is_named(make: Any, name: str) -> None:
    broker = make(max_retries=0)
    dying(broker, name, 1)
    stranger = make(max_retries=0)
    letters = DeadLetters.of(stranger)
    found = letters.list(queue=name)
    assert len(found) == 1
    assert letters.replay_all(queue=name) == 1
    assert letters.list(queue=name) == []
    runs = dying(broker, name)
    with running(broker):
        wait_until(lambda: runs == [1], 20)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_server_that_is_down_is_named_in_the_error_without_the_password(scheme: str, name: str) -> None:
    port = free_port()
    broker: Any = broker_from_url(f"{scheme}://me:hunter2@127.0.0.1:{port}/0")
    broker.declare_queue(name)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as caught:
        DeadLetters.of(broker).list()
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_of_redis_says_so_without_it(name: str) -> None:
    with own_redis("--requirepass", "right") as server:
        broker: Any = broker_from_url(f"redis://:hunter2@127.0.0.1:{server.port}/0")
        with pytest.raises(StoreUnavailable, match="password") as caught:
            len(DeadLetters.of(broker))
        assert "hunter2" not in str(caught.value)
        broker.client.close()


def test_a_wrong_password_of_rabbitmq_says_so_without_it(rabbitmq_url: str, name: str) -> None:
    broker: Any = broker_from_url(rabbitmq_url.replace("guest:guest", "guest:hunter2"))
    broker.declare_queue(name)
    with pytest.raises(StoreUnavailable, match="ACCESS_REFUSED") as caught:
        len(DeadLetters.of(broker))
    assert "hunter2" not in str(caught.value)


def test_another_kind_of_broker_has_none() -> None:
    with pytest.raises(ConfigError, match="keeps no dead letters"):
        DeadLetters.of(dramatiq.Broker())


def test_a_redis_that_is_too_old_keeps_the_worker_from_starting(make_redis: Any, name: str, monkeypatch: Any) -> None:
    broker = make_redis()
    monkeypatch.setattr(broker.client, "info", lambda section: {"redis_version": "3.2.1"})
    with pytest.raises(ConfigError, match=r"3\.2\.1.*upgrade"):
        dramatiq.Worker(broker).start()


class Connection:
    """A stand-in for pika's to a server that lacks something."""

    def __init__(self, lacks: str) -> None:
        self.publisher_confirms_supported = lacks != "publisher_confirms"
        self.basic_nack_supported = lacks != "basic_nack"
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


@pytest.mark.parametrize("is_there_already", [False, True])
@pytest.mark.parametrize("lacks", ["publisher_confirms", "basic_nack"])
def test_a_rabbitmq_without_confirms_or_nack_keeps_the_worker_from_starting(
    lacks: str, is_there_already: bool, monkeypatch: Any
) -> None:
    broker: Any = broker_from_url("amqp://guest:guest@127.0.0.1:1/%2F")
    connection = Connection(lacks)
    if is_there_already:
        broker.connections.add(connection)
    else:
        monkeypatch.setattr("pika.BlockingConnection", lambda parameters: connection)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1/.*publisher confirms.*basic\.nack.*upgrade"):
        dramatiq.Worker(broker).start()
    assert connection.is_open == is_there_already
    broker.connections.discard(connection)


def lay_down(broker: Any, queue: str, died_at: int) -> DeadLetter:
    message: Any = dramatiq.Message(queue_name=queue, actor_name="work", args=(1,), kwargs={}, options={})
    letter = DeadLetter(
        id=message.message_id,
        reason="exhausted",
        queue_name=queue,
        actor_name="work",
        died_at=died_at,
        data=message.encode(),
    )
    broker.declare_queue(queue)
    side_of(broker).shelf.add(letter)
    return letter


def test_a_letter_of_long_ago_is_kept_as_long_as_one_of_now(make: Any, name: str) -> None:
    """One that was moved here: from a file, where it may be years old."""
    broker = make(max_retries=0)
    lay_down(broker, name, current_millis() - 86_400_000 * 400)
    letters = DeadLetters.of(broker)
    assert letters.one().died_at < current_millis() - 86_400_000 * 399
    assert letters.replay_all() == 1


def server_ttl(broker: Any) -> int:
    """How long the broker itself keeps what it dead-letters."""
    if isinstance(broker, RedisBroker):
        return int(broker.dead_message_ttl)
    return int(DEAD_MESSAGE_TTL)


def time_to_live(broker: Any, queue: str) -> int:
    """How long (ms) the server has been told to keep the only letter of a queue."""
    name = f"{queue}.XQ.letters"
    if isinstance(broker, RedisBroker):
        ((_, goes_at),) = broker.client.zrange(f"{broker.namespace}:__retryq__.letters.until", 0, -1, withscores=True)
        return int(goes_at) - current_millis()
    with contextlib.closing(broker.connection.channel()) as channel:
        _, properties, _ = channel.basic_get(name)
        return int(properties.expiration)


def test_a_letter_is_kept_as_long_as_what_the_broker_itself_dead_letters(make: Any, name: str) -> None:
    broker = make(max_retries=0)
    dying(broker, name, 1)
    ttl = server_ttl(broker)
    assert ttl - 300_000 <= time_to_live(broker, name) <= ttl


def test_a_letter_is_kept_as_long_as_its_redis_broker_says(make_redis: Any, name: str) -> None:
    broker = make_redis(max_retries=0, broker={"dead_message_ttl": 3_600_000})
    dying(broker, name, 1)
    assert 3_300_000 <= time_to_live(broker, name) <= 3_600_000


@pytest.mark.parametrize("days", [1, 400])
def test_max_letter_age_says_how_long_a_letter_is_kept(make: Any, name: str, days: int) -> None:
    age = days * 86_400_000
    broker = make(max_retries=0, max_letter_age=age)
    dying(broker, name, 1)
    assert age - 300_000 <= time_to_live(broker, name) <= age


def test_letters_are_kept_for_max_letter_age_where_somebody_looked_before(make: Any, name: str) -> None:
    broker = make(max_retries=0, max_letter_age=400)
    broker.declare_queue(name)
    assert DeadLetters.of(broker).list() == []
    dying(broker, name, 1)
    letters = DeadLetters.of(broker)
    wait_until(lambda: letters.one().error is None, 30, "the letter to go")
