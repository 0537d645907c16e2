"""What Dramatiq's own brokers can tell an operator: they were not made to be asked.

Read-only, and through what they offer to everybody; the layout of RedisBroker's keys stands in its ``dispatch.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NoReturn

from dramatiq import Broker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import dq_name, q_name
from dramatiq.errors import ConnectionClosed, ConnectionFailed

from .errors import NotSupported, StoreUnavailable
from .logs import said_by
from .records import DeadLetter, Entry, Reason, State, decode, is_message
from .redis_letters import RedisShelf
from .side import side_of
from .status import Minute, Paused, QueueStatus, WorkerStatus

__all__ = ["ForeignView", "view_of"]

#: Whose errors say that a server did not answer, or not as it should.
_CLIENTS = ("redis", "pika")
#: How many ids or messages are fetched from Redis at a time.
_PAGE = 200
#: How often Redis is asked for the oldest message before it is said that nobody knows.
_LOOKS = 5
#: So many delayed messages are put in order and not more: Redis keeps them in none.
_SORTABLE = 50_000


def view_of(broker: Broker) -> ForeignView:
    """The view of any broker that is not of this package."""
    # By name: the modules of those two need their clients, which may not be installed.
    for cls in type(broker).__mro__:
        known = {"RedisBroker": RedisView, "RabbitmqBroker": RabbitmqView}.get(cls.__name__)
        if known is not None and cls.__module__.startswith("dramatiq.brokers."):
            return known(broker)
    return StubView(broker) if isinstance(broker, StubBroker) else ForeignView(broker)


class ForeignView:
    """What is so of every broker that is not of this package: nearly nothing can be told."""

    def __init__(self, broker: Broker) -> None:
        self.broker: Any = broker
        self.name = type(broker).__name__

    def _cannot(self, what: str) -> NoReturn:
        raise NotSupported(f"{self.name} {what}")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Say in one sentence that the server cannot be asked, whatever its client raises then."""
        try:
            yield
        except Exception as error:
            is_of_client = type(error).__module__.partition(".")[0] in _CLIENTS
            if not is_of_client and not isinstance(error, (ConnectionClosed, ConnectionFailed, OSError)):
                raise
            what = f"{type(error).__name__}: {said_by(error)}" if str(error) else type(error).__name__
            raise StoreUnavailable(
                f"{self.name}: its server cannot be asked now ({what:.200}): see whether it runs, and whether its "
                "address is right"
            ) from error

    def _queue_names(self) -> list[str]:
        return sorted({q_name(name) for name in self.broker.get_declared_queues()})

    def queues(self, *, now: int) -> Sequence[QueueStatus]:
        self._cannot("does not tell how many messages it holds")

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        self._cannot("does not let messages be looked at while they wait")

    def entry(self, entry_id: str) -> Entry | None:
        return next((entry for entry in self.entries() if str(entry.id) == entry_id), None)

    def find(self, message_id: str) -> Entry | DeadLetter | None:
        return next((entry for entry in self.entries() if is_message(entry.data, message_id)), None)

    def dead_by_reason(self) -> Mapping[Reason, int]:
        self._cannot("does not count its dead letters by reason: list them to see")

    def workers(self) -> Sequence[WorkerStatus]:
        self._cannot("does not tell which workers live: ask whatever started them")

    def minutes(self, *, since_at: int, now: int) -> Sequence[Minute]:
        self._cannot("does not count what happens: the metrics of its workers do")

    def paused(self) -> Paused:
        return Paused()

    def pause(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        self._cannot("cannot pause a queue or an actor: stop its workers, or start them with the other queues only")

    def resume(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        self._cannot("cannot pause a queue or an actor, so there is nothing to resume")

    def move(self, entry_id: str, *, due_at: int, now: int) -> str:
        self._cannot("cannot change when a message is due")

    def cancel(self, entry_id: str) -> str:
        self._cannot("cannot drop a single message; what it has is flush(), which drops a whole queue")

    def check(self) -> list[str]:
        self._cannot("has nothing here that could be checked")


class StubView(ForeignView):
    """Dramatiq's StubBroker: its queues can be read; what a worker has fetched is only counted."""

    def queues(self, *, now: int) -> Sequence[QueueStatus]:
        found = []
        for name in self._queue_names():
            queue, delayed = self.broker.queues[name], self.broker.queues[dq_name(name)]
            due_at = [entry.due_at for entry in self.entries(queue_name=name)]
            found.append(
                QueueStatus(
                    name=name,
                    due=queue.qsize(),
                    later=delayed.unfinished_tasks,
                    claimed=queue.unfinished_tasks - queue.qsize(),
                    dead=len(self.broker.dead_letters_by_queue[name]),
                    oldest_due_at=min(due_at, default=None),
                )
            )
        return found

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        found: list[Entry] = []
        numbers = count(1)
        for name in self._queue_names():
            for queue in (self.broker.queues[name], self.broker.queues[dq_name(name)]):
                with queue.mutex:
                    payloads = list(queue.queue)
                found += (_entry(next(numbers), name, data) for data in payloads)
        return _chosen(found, queue_name, state, after, containing)


class RedisView(ForeignView):
    """Dramatiq's RedisBroker, by reading its keys."""

    def _key(self, name: str) -> str:
        return f"{self.broker.namespace}:{name}"

    def queues(self, *, now: int) -> Sequence[QueueStatus]:
        with self._asking():
            shelf = side_of(self.broker).shelf
            dead = shelf.count_by_queue() if isinstance(shelf, RedisShelf) else {}
            return [self._queue(name, dead.get(name, 0)) for name in self._queue_names()]

    def _queue(self, name: str, dead: int) -> QueueStatus:
        found = self._looked_at(name, dead)
        for _ in range(_LOOKS - 1):
            if not found.due or found.oldest_due_at is not None:
                break
            found = self._looked_at(name, dead)  # the oldest was run and done in between
        return found

    def _looked_at(self, name: str, dead: int) -> QueueStatus:
        with self.broker.client.pipeline(transaction=True) as pipe:
            pipe.llen(self._key(name))
            pipe.hlen(self._key(f"{name}.msgs"))
            pipe.hlen(self._key(f"{dq_name(name)}.msgs"))
            pipe.lindex(self._key(name), 0)
            due, stored, later, first = pipe.execute()
        data = self.broker.client.hget(self._key(f"{name}.msgs"), first) if first is not None else None
        return QueueStatus(
            name=name,
            due=due,
            later=later,
            claimed=max(0, stored - due),
            dead=dead,
            oldest_due_at=_due_at(data) if data is not None else None,
        )

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        with self._asking():
            found = list(self._stored(self._queue_names() if queue_name is None else [queue_name]))
        return _chosen(found, queue_name, state, after, containing)

    def _stored(self, names: Sequence[str]) -> Iterator[Entry]:
        numbers = count(1)
        for name in names:
            owners = self._owners(name)
            for stored_in in (name, dq_name(name)):
                messages = self._key(f"{stored_in}.msgs")
                number = self.broker.client.hlen(messages)
                if number > _SORTABLE:
                    self._cannot(f"keeps messages in no order: to list the {number} of {stored_in!r} takes all of them")
                stored = dict(self.broker.client.hscan_iter(messages, count=_PAGE))
                # Those that were not fetched in their order, before those that were.
                order = self.broker.client.lrange(self._key(stored_in), 0, -1)
                for field in dict.fromkeys([*(field for field in order if field in stored), *stored]):
                    # A delayed message that was fetched waits on in the memory of a worker.
                    owner = owners.get(field) if stored_in == name else None
                    yield _entry(next(numbers), name, stored[field], owner=owner)

    def _owners(self, name: str) -> dict[bytes, str]:
        """Which worker has fetched which messages of a queue."""
        owners: dict[bytes, str] = {}
        workers: Iterable[bytes | str] = self.broker.client.zrange(self._key("__heartbeats__"), 0, -1)
        for worker in workers:
            text = worker.decode() if isinstance(worker, bytes) else worker
            for field in self.broker.client.smembers(self._key(f"__acks__.{text}.{name}")):
                owners[field] = text
        return owners


class RabbitmqView(ForeignView):
    """Dramatiq's RabbitmqBroker: the lengths of its queues, and nothing else."""

    def queues(self, *, now: int) -> Sequence[QueueStatus]:
        with self._asking():
            lengths = {name: self.broker.get_queue_message_counts(name) for name in self._queue_names()}
        return [QueueStatus(name=name, due=due, later=later, dead=dead) for name, (due, later, dead) in lengths.items()]

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]:
        self._cannot("does not let messages be looked at without taking them out of their queue")


def _due_at(data: bytes) -> int:
    try:
        message = decode(data)
        eta = message.options.get("eta")
        return int(eta if isinstance(eta, (int, float)) else message.message_timestamp)
    except Exception:
        return 0


def _entry(number: int, queue_name: str, data: bytes, *, owner: str | None = None) -> Entry:
    return Entry(
        id=number,
        queue_name=queue_name,
        state="waiting" if owner is None else "claimed",
        data=data,
        due_at=_due_at(data),
        deliveries=0,
        owner=owner,
    )


def _chosen(
    entries: list[Entry],
    queue_name: str | None,
    state: State | None,
    after: tuple[int, int] | None,
    containing: Sequence[bytes],
) -> Iterator[Entry]:
    for entry in sorted(entries, key=_place):
        if (
            queue_name in (None, entry.queue_name)
            and state in (None, entry.state)
            and (after is None or _place(entry) > after)
            and all(part in entry.data for part in containing)
        ):
            yield entry


def _place(entry: Entry) -> tuple[int, int]:
    return entry.due_at, entry.id
