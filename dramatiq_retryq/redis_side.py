"""What is kept beside a ``RedisBroker``: retries in one move, dead letters, and crash loops."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from dramatiq import Message, MessageProxy, Worker
from dramatiq.common import current_millis, dq_name, q_name, xq_name
from dramatiq.worker import ConsumerThread

from ._dramatiq import move_in_batches, plain_message, settle_moved
from .errors import ConfigError, StoreUnavailable
from .hops import REDELIVERED_OPTION
from .logs import log
from .records import decode
from .redis_keys import Keys
from .redis_letters import RedisShelf
from .redis_mender import RECOVER, Mender
from .shelf import Shelf

__all__ = ["RedisSide"]

#: Dramatiq asks for less than 7 days.
LONGEST_DELAY = 6 * 86_400_000

#: How long (s) it is remembered that a run began and did not end.
_RUNS_KEPT = 7 * 86_400

#: How long (ms) it is remembered that a message was moved.
_MOVES_KEPT = 120_000

# A message is in its new place and gone from its old one, in one move. If it is no longer held by this worker, either
# another one has it, and will find its own outcome; or this call is a repetition of one whose answer was lost, by which
# time the message may have been run and be gone; or the server has lost it, and then it is stored all the same.
_MOVE = """
local namespace, worker, kept = KEYS[1], ARGV[1], ARGV[2]
local moved = 0
for i = 3, #ARGV, 5 do
    local queue, id, target, new_id, message = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    local messages, targets = namespace .. ":" .. queue .. ".msgs", namespace .. ":" .. target .. ".msgs"
    local done = namespace .. ":__retryq__.moved." .. id
    local held = redis.call("srem", namespace .. ":__acks__." .. worker .. "." .. queue, id) == 1
    if held or (redis.call("hexists", messages, id) == 0 and redis.call("exists", done) == 0
            and redis.call("hexists", targets, new_id) == 0) then
        redis.call("hdel", messages, id)
        redis.call("hset", targets, new_id, message)
        redis.call("rpush", namespace .. ":" .. target, new_id)
        redis.call("set", done, "", "px", kept)
        moved = moved + 1
    end
end
return moved
"""

# A worker whose heartbeat is still as old as it was.
_FORGET = """
local heard = redis.call("zscore", KEYS[1], ARGV[1])
if heard and tonumber(heard) <= tonumber(ARGV[2]) then
    redis.call("zrem", KEYS[1], ARGV[1])
end
"""

# A run has a name of its own: one that is written down twice, since the answer to the first was lost, counts once.
_BEGIN = """
redis.call("sadd", KEYS[1], ARGV[1])
redis.call("expire", KEYS[1], ARGV[2])
return redis.call("scard", KEYS[1])
"""

_EXPIRE = """
for i = 1, #KEYS, 2 do
    local ids = redis.call("zrangebyscore", KEYS[i], "-inf", ARGV[1], "limit", 0, 500)
    for _, id in ipairs(ids) do
        redis.call("zrem", KEYS[i], id)
        redis.call("hdel", KEYS[i + 1], id)
    end
end
"""


class RedisSide:
    """See :class:`~dramatiq_retryq.side.Side`.

    Args:
        broker: the ``RedisBroker``.
    """

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._keys = Keys(broker)
        self.longest_delay: int | None = LONGEST_DELAY
        self.shelf: Shelf = RedisShelf(broker, self._keys, LONGEST_DELAY)
        self._move = self._keys.script(_MOVE)
        self._recover = self._keys.script(RECOVER)
        self._forget = self._keys.script(_FORGET)
        self._expire = self._keys.script(_EXPIRE)
        self._begin = self._keys.script(_BEGIN)
        self._menders: dict[Worker, Mender] = {}
        #: What each thread works on, or worked on last.
        self._at_work: dict[int, MessageProxy] = {}
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    # -- Retries and letters -------------------------------------------------------------------------------------

    def letter_id(self, message: MessageProxy) -> str:
        return str(message.options.get("redis_message_id") or message.message_id)

    def reschedule(self, message: MessageProxy, *, delay: int) -> None:
        old_id = message.__dict__.setdefault("retryq_old_id", message.options["redis_message_id"])
        # The same one at every try, by which a repetition is known.
        new_id = message.__dict__.setdefault("retryq_new_id", str(uuid4()))
        options = {**message.options, "redis_message_id": new_id}
        options.pop(REDELIVERED_OPTION, None)  # an outcome was found: the workers that died before are forgiven
        target = message.queue_name
        if delay > 0:
            target = dq_name(target)
            options["eta"] = current_millis() + delay
        copy: Message[Any] = plain_message(message)._replace(queue_name=target, options=options)
        self._broker.emit_before("enqueue", copy, delay or None)
        self._move(
            [self._keys.namespace],
            [self._broker.broker_id, _MOVES_KEPT, message.queue_name, old_id, target, new_id, copy.encode()],
        )
        self._broker.emit_after("enqueue", copy, delay or None)

    def attend(self, thread: ConsumerThread) -> None:
        if thread.queue_name != q_name(thread.queue_name):
            move_in_batches(thread, self._move_due)

    def _move_due(self, thread: ConsumerThread, messages: Sequence[MessageProxy]) -> bool:
        """Move what is due to the queue where it is run. Dramatiq enqueues a copy, and then acks: killed in between, or
        its answer lost, and there are two of them."""
        queue, copies = q_name(thread.queue_name), []
        moves: list[Any] = [self._broker.broker_id, _MOVES_KEPT]
        for message in messages:
            new_id = message.__dict__.setdefault("retryq_new_id", str(uuid4()))
            copy = plain_message(message).copy(queue_name=queue, options={"redis_message_id": new_id})
            del copy.options["eta"]
            self._broker.emit_before("enqueue", copy, None)
            moves += [thread.queue_name, message.options["redis_message_id"], queue, new_id, copy.encode()]
            copies.append(copy)
        try:
            self._move([self._keys.namespace], moves)
        except StoreUnavailable as error:
            # They stay where they are. If the connection is lost, the consumer notices at its next step.
            log(self._broker.logger, "warning", "%d delayed messages are due: %s.", len(messages), error)
            return False
        for message, copy in zip(messages, copies, strict=True):
            self._broker.emit_after("enqueue", copy, None)
            settle_moved(thread, message)
        return True

    # -- Workers that died ---------------------------------------------------------------------------------------

    def boot(self, worker: Worker) -> None:
        self._check_server()
        # Dramatiq does this by chance, at one command in a thousand, and tells nobody: whoever comes first takes all.
        self._broker.maintenance_chance = 0
        self._menders[worker] = Mender(self._broker, self._keys, worker, self._at_work)
        if self._watcher is None:
            self._stop = threading.Event()
            self._watcher = threading.Thread(target=self._watch, args=(self._stop,), name="retryq-redis", daemon=True)
            self._watcher.start()

    def shut_down(self, worker: Worker) -> None:
        self._menders.pop(worker, None)
        if not self._menders and self._watcher is not None:
            self._stop.set()
            self._watcher.join()
            self._watcher = None

    def _check_server(self) -> None:
        try:
            version = str(self._keys.call(lambda client: client.info("server"))["redis_version"])
        except StoreUnavailable as error:
            # Dramatiq's worker waits for the server, and so does this.
            log(self._broker.logger, "warning", "%s. The worker starts, and waits for it.", error)
            return
        except KeyError:
            return  # a server that is compatible and says nothing of itself
        major = version.partition(".")[0]
        if major.isdigit() and int(major) < 4:
            raise ConfigError(
                f"Redis at {self._keys.place} is of version {version}: RetryQueue needs 4.0 or newer, for its scripts; "
                "upgrade the server"
            )

    def _watch(self, stop: threading.Event) -> None:
        seconds = max(0.05, min(5.0, self._broker.heartbeat_timeout / 10_000))
        while not stop.wait(seconds):
            try:
                self.recover()
                for mender in list(self._menders.values()):
                    mender.mend()
            except StoreUnavailable:
                continue  # the consumers say so; here it is enough to try again
            except Exception as error:
                text = "Looking for workers that died failed: %s. It will be tried again."
                log(self._broker.logger, "error", text, type(error).__name__)

    def recover(self) -> int:
        """Put back what workers had that have not been heard of for ``heartbeat_timeout``, and drop what is too old.

        Returns:
            How many messages were put back.
        """
        now = current_millis()
        cutoff = now - self._broker.heartbeat_timeout
        heartbeats = self._keys.queue("__heartbeats__")
        dead = self._keys.call(lambda client: client.zrangebyscore(heartbeats, "-inf", cutoff))
        recovered = 0
        held = self._held_queues() if dead else {}
        for worker in map(_text, dead):
            for queue in held.pop(worker, ()):
                recovered += self._recover_queue(worker, queue, cutoff)
            self._forget([heartbeats], [worker, cutoff])
        xqs = [self._keys.queue(xq_name(name)) for name in sorted(self._broker.get_declared_queues())]
        if xqs:
            keys = [key for xq in xqs for key in (xq, f"{xq}.msgs")]
            self._expire(keys, [now - self._broker.dead_message_ttl])
        return recovered

    def _held_queues(self) -> dict[str, list[str]]:
        """By worker, the queues of which it holds something. All keys of the server are looked at for that."""
        start = f"{self._keys.namespace}:__acks__."
        held: dict[str, list[str]] = {}
        for key in self._keys.call(lambda client: list(client.scan_iter(f"{_escaped(start)}*", count=1000))):
            worker, _, queue = _text(key).removeprefix(start).partition(".")  # its name is a UUID
            held.setdefault(worker, []).append(queue)
        return held

    def _recover_queue(self, worker: str, queue: str, cutoff: int) -> int:
        acks = self._keys.queue(f"__acks__.{worker}.{queue}")
        recovered = 0
        ids = [_text(one) for one in self._keys.call(lambda client: client.smembers(acks))]
        for start in range(0, len(ids), 200):
            some = ids[start : start + 200]
            moves: list[Any] = [worker, queue, cutoff]
            # What only waits in a worker's memory kills nobody.
            is_run = queue == q_name(queue)
            held = self._keys.call(lambda client, some=some: client.hmget(self._keys.queue(f"{queue}.msgs"), some))  # type: ignore[misc]
            for one, data in zip(some, held, strict=True):
                moves += [one, _marked(data) if is_run and data is not None else ""]
            recovered += self._recover([self._keys.namespace], moves)
        return recovered

    def may_have_crashed(self, message: MessageProxy) -> bool:
        self._at_work[threading.get_ident()] = message
        return REDELIVERED_OPTION in message.options

    def begin(self, message: MessageProxy) -> int:
        return int(self._begin([self._runs(message)], [str(uuid4()), _RUNS_KEPT])) - 1

    def end(self, message: MessageProxy) -> None:
        runs = self._runs(message)
        self._keys.call(lambda client: client.delete(runs))

    def _runs(self, message: MessageProxy) -> str:
        old_id = message.__dict__.get("retryq_old_id", message.options.get("redis_message_id"))
        return self._keys.own(f"runs.{old_id}")


def _marked(data: bytes) -> bytes:
    """The message with a note that its worker died; nothing, which leaves it as it is, if it cannot be read."""
    try:
        message = decode(data)
        times = message.options.get(REDELIVERED_OPTION, 0)
        options = {**message.options, REDELIVERED_OPTION: (times if isinstance(times, int) else 0) + 1}
        return message._replace(options=options).encode()
    except Exception:
        return b""


def _escaped(text: str) -> str:
    """A text as a pattern that means nothing but itself."""
    return "".join(f"\\{sign}" if sign in "*?[]\\^" else sign for sign in text)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
