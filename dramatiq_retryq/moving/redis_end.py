"""Dramatiq's RedisBroker at one end of a move.

Its keys, where ``default`` is a queue: a list ``default`` of ids, a hash ``default.msgs`` of what they stand for, and
the same for ``default.DQ``, where delayed messages lie. Beside them a move keeps, under ``__retryq__.move``, the list
of what is on its way, the name of the journey, who holds it, and the set of what has arrived.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dramatiq.common import q_name

from dramatiq_retryq.clock import Clock
from dramatiq_retryq.errors import MoveRefused, StoreUnavailable
from dramatiq_retryq.journeys import Journey
from dramatiq_retryq.logs import said_by
from dramatiq_retryq.redis_keys import Keys
from dramatiq_retryq.redis_side import RedisSide

from .ends import NOTE_TTL, ForeignLetters, Parcel, delayed_form, longest_delay_of, plain_form

__all__ = ["RedisEnd"]

# Each is atomic, so that an id is in exactly one place whenever the process is killed.
_TAKE = """
local found = {}
for i = 1, tonumber(ARGV[2]) do
    local id = redis.call('lpop', KEYS[1])
    if not id then break end
    local data = redis.call('hget', KEYS[2], id)
    if data then
        redis.call('rpush', KEYS[3], ARGV[1] .. ' ' .. id)
        found[#found + 1] = id
        found[#found + 1] = data
    end
end
return found
"""
_SETTLE = """
for i = 1, #ARGV, 2 do
    redis.call('hdel', KEYS[1] .. ':' .. ARGV[i] .. '.msgs', ARGV[i + 1])
    redis.call('lrem', KEYS[2], 1, ARGV[i] .. ' ' .. ARGV[i + 1])
end
"""
# Last in, first out: to the head of the queue, in the old order.
_GIVE_BACK = """
for i = #ARGV - 1, 1, -2 do
    if redis.call('lrem', KEYS[2], 1, ARGV[i] .. ' ' .. ARGV[i + 1]) > 0 then
        redis.call('lpush', KEYS[1] .. ':' .. ARGV[i], ARGV[i + 1])
    end
end
"""
_PUT = """
for i = 1, #ARGV, 3 do
    if redis.call('sadd', KEYS[2], ARGV[i + 1]) == 1 then
        redis.call('hset', KEYS[1] .. ':' .. ARGV[i] .. '.msgs', ARGV[i + 1], ARGV[i + 2])
        redis.call('rpush', KEYS[1] .. ':' .. ARGV[i], ARGV[i + 1])
    end
end
redis.call('pexpire', KEYS[2], @NOTE_TTL@)
""".replace("@NOTE_TTL@", str(NOTE_TTL))
_TAKE_OVER = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('set', KEYS[1], ARGV[2]) return 1 end return 0"
_LET_GO = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"


class RedisEnd(ForeignLetters):
    """A ``RedisBroker`` as source and target."""

    def __init__(self, broker: Any, clock: Clock) -> None:
        super().__init__(broker)
        self._broker = broker
        self._clock = clock
        self._longest_delay = longest_delay_of(broker)
        self._client = broker.client
        self._keys = Keys(broker)
        self._namespace = self._keys.namespace
        self._journey_key = self._key("journey")
        self._transit_key = self._key("transit")
        self.name = f"Redis at {self._keys.place}, namespace {self._namespace}"
        names = {"take": _TAKE, "settle": _SETTLE, "give_back": _GIVE_BACK, "put": _PUT}
        self._scripts = {name: broker.client.register_script(text) for name, text in names.items()}

    def _key(self, name: str) -> str:
        return self._keys.own(f"move.{name}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock is as good as the connection that took it: when the process dies, the server knows."""
        import redis

        try:
            own = redis.Redis(connection_pool=self._client.connection_pool, single_connection_client=True)
            try:
                mine = self._lock(own)
            except BaseException:
                own.close()
                raise
        except redis.RedisError as error:
            raise StoreUnavailable(f"{self.name} cannot be used: {said_by(error)}: nothing was moved") from error
        try:
            yield
        finally:
            # Not heeded where the server is gone: the lock goes with the connection.
            with suppress(redis.RedisError):
                own.eval(_LET_GO, 1, self._key("lock"), mine)
            own.close()

    def _lock(self, own: Any) -> str:
        """Take the lock for this connection; returns what says that it is ours."""
        lock, mine = self._key("lock"), f"{own.client_id()} {own.info('server')['run_id']}"
        while not own.set(lock, mine, nx=True):
            holder = _text(own.get(lock) or b"")
            number, _, run_id = holder.partition(" ")
            if mine.endswith(f" {run_id}") and any(client["id"] == number for client in own.client_list()):
                raise MoveRefused(f"{self.name} is at one end of another move: wait until that has ended")
            if own.eval(_TAKE_OVER, 1, lock, holder, mine):
                break
        return mine

    # -- Source --------------------------------------------------------------------------------------------------

    def queues(self) -> dict[str, int]:
        # What dead workers held. Dramatiq sees to it by chance, as commands come in, and none may come any more.
        RedisSide(self._broker).recover()
        names = self._lists()
        found: Counter[str] = Counter()
        for name in names:
            found[q_name(name)] += self._client.llen(f"{self._namespace}:{name}")
        return {name: waiting for name, waiting in found.items() if waiting}

    def claimed(self) -> int:
        names = self._lists()
        there = sum(self._client.hlen(f"{self._namespace}:{name}.msgs") for name in names)
        waiting = sum(self._client.llen(f"{self._namespace}:{name}") for name in names)
        return max(0, int(there - waiting - self._client.llen(self._transit_key)))

    def _lists(self) -> list[str]:
        """The names of all queues, delay queues among them, that have a message."""
        prefix, suffix = f"{self._namespace}:", ".msgs"
        keys = map(_text, self._client.scan_iter(f"{_escaped(prefix)}*{suffix}", count=1_000))
        names = (key[len(prefix) : -len(suffix)] for key in keys)
        return sorted(name for name in names if not name.endswith(".XQ") and not name.startswith("__"))

    def journey(self) -> Journey | None:
        name, target = self._client.hmget(self._journey_key, "name", "target")
        return None if name is None else Journey(name=_text(name), target=_text(target))

    def begin(self, journey: Journey) -> None:
        self._client.hset(self._journey_key, mapping={"name": journey.name, "target": journey.target})

    def on_the_way(self) -> list[Parcel]:
        parcels = []
        for line in self._client.lrange(self._transit_key, 0, -1):
            queue_name, _, message_id = _text(line).rpartition(" ")
            data = self._client.hget(f"{self._namespace}:{queue_name}.msgs", message_id)
            if data is None:  # its queue was flushed
                self._client.lrem(self._transit_key, 1, line)
            else:
                parcels.append(_parcel(queue_name, message_id, data))
        return parcels

    def take(self, queue_name: str, limit: int) -> list[Parcel]:
        parcels: list[Parcel] = []
        for name in (queue_name, f"{queue_name}.DQ"):
            full = f"{self._namespace}:{name}"
            while len(parcels) < limit:
                keys = [full, f"{full}.msgs", self._transit_key]
                found = self._scripts["take"](keys=keys, args=[name, limit - len(parcels)])
                if not found:
                    break
                parcels += [_parcel(name, _text(found[i]), found[i + 1]) for i in range(0, len(found), 2)]
        return parcels

    def settle(self, parcels: Sequence[Parcel]) -> None:
        self._each("settle", parcels)

    def give_back(self, parcels: Sequence[Parcel]) -> None:
        self._each("give_back", parcels)

    def _each(self, script: str, parcels: Sequence[Parcel]) -> None:
        arguments = [text for parcel in parcels for text in parcel.handle]
        if arguments:
            self._scripts[script](keys=[self._namespace, self._transit_key], args=arguments)

    def end(self) -> None:
        self._client.delete(self._journey_key)

    # -- Target --------------------------------------------------------------------------------------------------

    def refuses(self, parcel: Parcel) -> str | None:
        return "it is no message, and would stop the workers" if parcel.message_id is None else None

    def expect(self, journey: str) -> None:
        journal = self._key(f"arrived.{journey}")
        with self._client.pipeline() as pipeline:
            pipeline.sadd(journal, "")
            pipeline.pexpire(journal, NOTE_TTL)
            pipeline.execute()

    def knows(self, journey: str) -> bool:
        return bool(self._client.exists(self._key(f"arrived.{journey}")))

    def put(self, journey: str, parcels: Sequence[Parcel]) -> None:
        now = self._clock.now()
        arguments: list[str | bytes] = []
        for parcel in parcels:
            message_id = _arrival_id(journey, parcel.key)
            queue_name, message = delayed_form(
                parcel, now=now, longest_delay=self._longest_delay, redis_message_id=message_id
            )
            arguments += [queue_name, message_id, message.encode()]
        if arguments:
            self._scripts["put"](keys=[self._namespace, self._key(f"arrived.{journey}")], args=arguments)

    def arrived(self, journey: str, keys: Collection[str]) -> set[str]:
        journal = self._key(f"arrived.{journey}")
        return {key for key in keys if self._client.sismember(journal, _arrival_id(journey, key))}

    def forget(self, journey: str, keys: Collection[str] | None = None) -> None:
        journal = self._key(f"arrived.{journey}")
        if keys is None:
            self._client.delete(journal)
        elif keys:
            self._client.srem(journal, *(_arrival_id(journey, key) for key in keys))


def _arrival_id(journey: str, key: str) -> str:
    """The id in Redis of what has this key: the same whenever it is put."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{journey} {key}"))


def _parcel(queue_name: str, message_id: str, data: bytes) -> Parcel:
    data = data.encode() if isinstance(data, str) else data  # from a client that decodes
    plain, eta = plain_form(data)
    handle = (queue_name, message_id)
    return Parcel(key=message_id, queue_name=q_name(queue_name), data=plain, due_at=eta, handle=handle)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _escaped(text: str) -> str:
    """A text in a pattern of Redis that means itself."""
    return "".join(f"\\{letter}" if letter in r"*?[]^\-" else letter for letter in text)
