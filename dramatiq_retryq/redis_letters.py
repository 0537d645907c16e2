"""The dead letters of a ``RedisBroker``, in keys of their own in the broker's namespace.

::

    $namespace:__retryq__.letters        a sorted set of letter ids by the instant of death
    $namespace:__retryq__.letters.data   a hash of letter ids -> letters
    $namespace:__retryq__.letters.until  a sorted set of letter ids by the instant at which they go

A letter's id is the ``redis_message_id`` of its message, which is also its key in the broker's own dead-letter set
(``.XQ``). So the copy that lies there is known, listed once, and goes when the letter goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from typing import Any
from uuid import uuid4

from dramatiq.common import current_millis, dq_name, q_name, xq_name

from .errors import LetterNotFound, LetterTooNew, LetterUnreadable
from .hops import reaching
from .records import DeadLetter
from .redis_keys import Keys
from .shelf import DueAt, Renew, check_readable, pack, plain_letter, unpack

__all__ = ["RedisShelf"]

#: How many letters are read, and how many are replayed, at a time.
_PAGE = 200

# How long a letter is kept counts from here: one that was moved from another broker may have died long ago. Who lays it
# down says so, and nobody else: who only looks may have been told less.
_ADD = """
local letters, data, times = KEYS[1], KEYS[2], KEYS[3]
local id, letter, died_at, goes_at = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if redis.call("hsetnx", data, id, letter) == 1 then
    -- Of those of one millisecond the order is kept in the fraction: a double has room for 12 bits of it.
    local last = tonumber(redis.call("zrevrange", letters, 0, 0, "withscores")[2] or 0)
    if math.floor(last) == died_at then
        died_at = last + 1 / 4096
    end
    redis.call("zadd", letters, string.format("%.17g", died_at), id)
    if goes_at ~= "" then
        redis.call("zadd", times, goes_at, id)
    end
end
-- Those that are too old go as new ones come: a few each time, so that no call takes long.
local expired = redis.call("zrangebyscore", times, "-inf", ARGV[5], "limit", 0, 100)
for _, old in ipairs(expired) do
    redis.call("zrem", letters, old)
    redis.call("hdel", data, old)
    redis.call("zrem", times, old)
end
"""

_EXPIRE = """
local expired = redis.call("zrangebyscore", KEYS[3], "-inf", ARGV[1], "limit", 0, 5000)
for _, old in ipairs(expired) do
    redis.call("zrem", KEYS[1], old)
    redis.call("hdel", KEYS[2], old)
    redis.call("zrem", KEYS[3], old)
end
return #expired
"""

# A page of a sorted set, newest first: ids, scores, and what its hash has for each. What another hash has as well is
# passed over. First comes how many were looked at, the score of the last of them, and how many had that score.
_PAGE_OF = """
local ids = redis.call("zrevrangebyscore", KEYS[1], ARGV[1], "-inf", "withscores", "limit", ARGV[2], ARGV[3])
local page = {#ids / 2, "", 0}
for i = 1, #ids, 2 do
    local score = ids[i + 1]
    page[3] = score == page[2] and page[3] + 1 or 1
    page[2] = score
    if not KEYS[3] or redis.call("hexists", KEYS[3], ids[i]) == 0 then
        local found = redis.call("hget", KEYS[2], ids[i])
        if found then
            page[#page + 1] = ids[i]
            page[#page + 1] = score
            page[#page + 1] = found
        end
    end
end
return page
"""

#: How long (ms) it is remembered what a call took away.
_TAKEN_KEPT = 120_000

# Take letters away and put their messages in place, each in one move: letter, or the broker's own copy, or both. A call
# whose answer was lost is repeated, finds nothing by then, and is told what it took.
_REVIVE = """
local namespace, letters, data, times, taken = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local before = redis.call("get", taken)
if before then
    return cjson.decode(before)
end
local revived = {}
for i = 2, #ARGV, 5 do
    local id, xq, new_id, queue, message = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    xq = namespace .. ":" .. xq
    -- A worker may be about to reject it: the letter is laid down just before. Then it finds nothing to reject.
    redis.call("hdel", string.sub(xq, 1, -4) .. ".msgs", id)
    local found = redis.call("hdel", data, id)
    redis.call("zrem", letters, id)
    redis.call("zrem", times, id)
    found = found + redis.call("hdel", xq .. ".msgs", id)
    redis.call("zrem", xq, id)
    if found > 0 then
        revived[#revived + 1] = id
        if queue ~= "" then
            redis.call("hset", namespace .. ":" .. queue .. ".msgs", new_id, message)
            redis.call("rpush", namespace .. ":" .. queue, new_id)
        end
    end
end
redis.call("set", taken, cjson.encode(revived), "px", ARGV[1])
return revived
"""

_COUNT = """
local counted = redis.call("hlen", KEYS[1])
for i = 2, #KEYS do
    local ids = redis.call("zrange", KEYS[i], 0, -1)
    for _, id in ipairs(ids) do
        if redis.call("hexists", KEYS[1], id) == 0 then
            counted = counted + 1
        end
    end
end
return counted
"""


class RedisShelf:
    """See :class:`~dramatiq_retryq.shelf.Shelf`.

    Args:
        broker: the ``RedisBroker``.
        keys: the names of the keys, and how the server is called.
        longest_delay: what is due later is reached in hops.
    """

    def __init__(self, broker: Any, keys: Keys, longest_delay: int) -> None:
        self._broker = broker
        self._keys = keys
        self._longest_delay = longest_delay
        #: How long (ms) letters are kept.
        self.max_age: int | None = broker.dead_message_ttl
        self._letters = keys.own("letters")
        self._data = keys.own("letters.data")
        self._until = keys.own("letters.until")
        self._add = keys.script(_ADD)
        self._expire = keys.script(_EXPIRE)
        self._page_of = keys.script(_PAGE_OF)
        self._revive = keys.script(_REVIVE)
        self._count = keys.script(_COUNT)

    def add(self, letter: DeadLetter) -> None:
        now = current_millis()
        goes_at = "" if self.max_age is None else now + self.max_age
        self._add([self._letters, self._data, self._until], [letter.id, pack(letter), letter.died_at, goes_at, now])

    def _clear(self) -> None:
        """Drop what is too old, before anybody looks: a letter that lies there hides the broker's own copy."""
        while self._expire([self._letters, self._data, self._until], [current_millis()]):
            pass

    def letters(self, queue: str | None = None) -> Iterator[DeadLetter]:
        self._clear()
        queues = sorted(self._broker.get_declared_queues()) if queue is None else [q_name(queue)]
        plain = [self._plain(name) for name in queues]
        yield from merge(self._own(queue), *plain, key=lambda letter: -letter.died_at)

    def _own(self, queue: str | None) -> Iterator[DeadLetter]:
        keys = [self._letters, self._data]
        for letter_id, score, data in self._pages(keys):
            letter = unpack(data, letter_id=letter_id, died_at=int(score))
            if queue is None or letter.queue_name == queue:
                yield letter

    def _plain(self, queue: str) -> Iterator[DeadLetter]:
        """What the broker itself dead-lettered, and nobody laid a letter down for."""
        xq = self._keys.queue(xq_name(queue))
        for letter_id, score, data in self._pages([xq, f"{xq}.msgs", self._data]):
            yield plain_letter(data, letter_id=letter_id, queue_name=queue, died_at=int(score))

    def _pages(self, keys: list[str]) -> Iterator[tuple[str, float, bytes]]:
        # By score and not by rank: what is taken away meanwhile would move the rest, and some would be passed over.
        # A first page is small, since most people look at that only; the copies of letters are passed over quickly.
        upper, passed, size = "+inf", 0, 32 if len(keys) == 2 else 2_000
        while True:
            looked_at, last, same, *page = self._page_of(keys, [upper, passed, size])
            for letter_id, score, data in zip(page[::3], page[1::3], page[2::3], strict=True):
                yield _text(letter_id), float(score), data
            if looked_at < size:
                return
            upper, passed = _text(last), same + (passed if _text(last) == upper else 0)
            size = max(size, _PAGE)

    def letter(self, letter_id: str) -> DeadLetter:
        letter = next(iter(self._lying([letter_id])), None)
        if letter is None:
            raise LetterNotFound(letter_id)
        return letter

    def _lying(self, letter_ids: Sequence[str], queues: Iterable[str] | None = None) -> Iterator[DeadLetter]:
        """The letters with these ids that lie there at this moment, in this order."""
        if not letter_ids:
            return
        if queues is None:
            queues = self._broker.get_declared_queues()
        names = sorted({q_name(name) for name in queues})

        def look(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(self._data, letter_ids)
            for name in names:
                pipeline.hmget(f"{self._keys.queue(xq_name(name))}.msgs", letter_ids)
            return pipeline.execute()  # type: ignore[no-any-return]

        own, *others = self._keys.call(look)
        for i, letter_id in enumerate(letter_ids):
            if own[i] is not None:
                yield unpack(own[i], letter_id=letter_id)
                continue
            for name, found in zip(names, others, strict=True):
                if found[i] is not None:
                    xq = self._keys.queue(xq_name(name))
                    died_at = self._keys.call(lambda client, xq=xq, one=letter_id: client.zscore(xq, one))  # type: ignore[misc]
                    yield plain_letter(found[i], letter_id=letter_id, queue_name=name, died_at=int(died_at or 0))
                    break

    def revive(self, wanted: Sequence[DeadLetter], renew: Renew, *, due_at: DueAt, now: int) -> Sequence[str]:
        revived: list[str] = []
        for start in range(0, len(wanted), _PAGE):
            batch = wanted[start : start + _PAGE]
            moves: list[Any] = []
            lying = self._lying([letter.id for letter in batch], {letter.queue_name for letter in batch})
            for letter in lying:
                try:
                    check_readable(letter)
                except (LetterTooNew, LetterUnreadable):
                    if len(wanted) == 1:
                        raise
                    continue
                moves += self._move(letter, renew, due_at(len(revived) + len(moves) // 5), now)
            if moves:
                revived += self._take(moves)
        return revived

    def _take(self, moves: list[Any]) -> list[str]:
        """Take letters away; returns the ids of those that were there."""
        taken = self._keys.own(f"taken.{uuid4()}")
        found = self._revive(
            [self._keys.namespace, self._letters, self._data, self._until, taken], [_TAKEN_KEPT, *moves]
        )
        return [_text(one) for one in found]

    def _move(self, letter: DeadLetter, renew: Renew, due_at: int, now: int) -> list[Any]:
        new_id, queue, message = str(uuid4()), letter.queue_name, renew(letter)
        data = letter.data
        if message is not None:
            options = {**message.options, "redis_message_id": new_id}
            if due_at > now:
                queue = dq_name(queue)
                options.update(reaching(due_at, now, self._longest_delay))
            data = message._replace(queue_name=queue, options=options).encode()
        return [letter.id, xq_name(letter.queue_name), new_id, queue, data]

    def discard(self, letter_ids: Sequence[str]) -> int:
        discarded = 0
        for start in range(0, len(letter_ids), _PAGE):
            moves: list[Any] = []
            for letter in self._lying(letter_ids[start : start + _PAGE]):
                moves += [letter.id, xq_name(letter.queue_name), "", "", ""]
            if moves:
                discarded += len(self._take(moves))
        return discarded

    def count_by_queue(self) -> Counter[str]:
        """How many letters of each queue lie there. All of their ids are looked at, and not in the server: many would
        keep it from everything else."""
        self._clear()
        queues = sorted(self._broker.get_declared_queues())

        def look(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hkeys(self._data)
            for name in queues:
                pipeline.zrange(self._keys.queue(xq_name(name)), 0, -1)
            return pipeline.execute()  # type: ignore[no-any-return]

        own, *copies = self._keys.call(look)
        counted = Counter({name: len(ids) for name, ids in zip(queues, copies, strict=True)})
        # Those of which the broker keeps no copy say themselves where they belong.
        alone = sorted(set(own).difference(*copies))
        for start in range(0, len(alone), _PAGE):
            ids = alone[start : start + _PAGE]
            found = self._keys.call(lambda client, ids=ids: client.hmget(self._data, ids))  # type: ignore[misc]
            counted.update(unpack(data).queue_name for data in found if data is not None)
        return counted

    def count(self, *, now: int) -> int:
        self._clear()
        queues = sorted(self._broker.get_declared_queues())
        keys = [self._data, *(self._keys.queue(xq_name(name)) for name in queues)]
        counted = self._count(keys, [])
        return int(counted)


def _text(value: bytes | str) -> str:
    # An id that is no text is nobody's here; it is shown, and keeps nobody from the others.
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
