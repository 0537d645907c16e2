"""What a worker on Redis forgets when its connection is lost, and the server still takes for fetched.

Dramatiq's worker drops the delayed messages that it holds, and those it fetched and has not handed out, and fetches
anew. Redis goes on believing that it has them, for as long as the process lives: they would be run by nobody. And the
thread that holds delayed messages may end altogether. So after each change of a consumer what the server says is
compared with what is there.
"""

from __future__ import annotations

from typing import Any

from dramatiq import MessageProxy, Worker

from ._dramatiq import consumer_of, dead_consumers, messages_in_memory, restart_consumer
from .logs import log
from .redis_keys import Keys

__all__ = ["RECOVER", "Mender"]

# What Dramatiq's maintenance does for one dead worker and queue, and each message is marked with it. A worker that has
# been heard of since is left alone.
RECOVER = """
local namespace, worker, queue, cutoff = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local heard = redis.call("zscore", namespace .. ":__heartbeats__", worker)
if heard and tonumber(heard) > cutoff then
    return 0
end
local acks, messages = namespace .. ":__acks__." .. worker .. "." .. queue, namespace .. ":" .. queue .. ".msgs"
local recovered = 0
for i = 4, #ARGV, 2 do
    if redis.call("srem", acks, ARGV[i]) == 1 and redis.call("hexists", messages, ARGV[i]) == 1 then
        if ARGV[i + 1] ~= "" then
            redis.call("hset", messages, ARGV[i], ARGV[i + 1])
        end
        redis.call("rpush", namespace .. ":" .. queue, ARGV[i])
        recovered = recovered + 1
    end
end
return recovered
"""


#: Later than any heartbeat: the worker lives, and is recovered all the same.
_ALWAYS = 10**15


class Mender:
    """Puts back what one worker has forgotten.

    Args:
        broker: the ``RedisBroker``.
        keys: how the server is called.
        worker: the worker.
        at_work: what each thread works on, or worked on last.
    """

    def __init__(self, broker: Any, keys: Keys, worker: Worker, at_work: dict[int, MessageProxy]) -> None:
        self._broker = broker
        self._keys = keys
        self._worker = worker
        self._at_work = at_work
        self._recover = keys.script(RECOVER)
        self._consumers: dict[str, Any] = {}
        # Where a consumer has changed: what seemed to be forgotten at the last look, None before the first.
        self._suspects: dict[str, set[str] | None] = {}

    def mend(self) -> int:
        """Look once. What is missing at two looks in a row is put back.

        Returns:
            How many messages were put back.
        """
        for name in dead_consumers(self._worker):
            log(self._broker.logger, "warning", "The consumer of queue %r has ended: it is started again.", name)
            restart_consumer(self._worker, name)
            self._suspects[name] = None
        for name in list(self._worker.consumers):
            consumer = consumer_of(self._worker, name)
            if consumer is not self._consumers.get(name):
                self._consumers[name] = consumer
                self._suspects[name] = None
        return sum([self._look(name) for name in list(self._suspects)])

    def _look(self, name: str) -> int:
        acks = self._keys.queue(f"__acks__.{self._broker.broker_id}.{name}")
        fetched = {_text(one) for one in self._keys.call(lambda client: client.smembers(acks))}
        missing = fetched - self._known(name)
        before = self._suspects[name]
        if before is None:
            self._suspects[name] = missing
            return 0
        forgotten = sorted(missing & before)
        if forgotten:
            moves = [self._broker.broker_id, name, _ALWAYS, *(text for one in forgotten for text in (one, ""))]
            self._recover([self._keys.namespace], moves)
            text = "The connection to Redis was lost: %d messages of queue %r that this worker had are put back."
            log(self._broker.logger, "warning", text, len(forgotten), name)
        if missing <= before:
            del self._suspects[name]
        else:
            self._suspects[name] = missing - before
        return len(forgotten)

    def _known(self, name: str) -> set[str]:
        messages = [*messages_in_memory(self._worker, name), *list(self._at_work.values())]
        return {str(message.options.get("redis_message_id")) for message in messages}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
