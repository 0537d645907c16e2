"""A queue as tests like to look at one."""

from __future__ import annotations

import queue
from collections.abc import Callable

from .clock import Clock
from .store import Store

__all__ = ["QueueView"]


class QueueView:
    """One queue of a broker as ``broker.queues[name]``, with what tests read of StubBroker's queues.

    Counts are of this instant; what waits for later is counted too.
    """

    def __init__(self, store: Store, clock: Clock, wake: Callable[[str, int], None], name: str) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake
        self._name = name

    def __repr__(self) -> str:
        return f"<queue {self._name!r}: {self.qsize()} waiting>"

    def qsize(self) -> int:
        """How many messages wait, due or not."""
        counts = self._store.counts(now=self._clock.now()).get(self._name)
        return counts.waiting if counts is not None else 0

    def empty(self) -> bool:
        return self.qsize() == 0

    @property
    def unfinished_tasks(self) -> int:
        """How many messages wait or are being worked on."""
        return self._store.unfinished(self._name)

    def put(self, data: bytes) -> None:
        """Store an encoded message as it is, due now."""
        now = self._clock.now()
        self._store.put(self._name, data, due_at=now, now=now)
        self._wake(self._name, now)

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Take the next message that is due out of the queue, encoded.

        Raises:
            queue.Empty: none is due. This does not wait, whatever ``block`` and ``timeout`` say.
        """
        for claim in self._store.claim(self._name, now=self._clock.now(), limit=1, owner="QueueView.get"):
            self._store.finish(claim)
            return claim.data
        raise queue.Empty
