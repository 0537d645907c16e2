"""What a broker of this package can tell an operator, and do for one: everything."""

from __future__ import annotations

from collections.abc import Sequence

from .status import QueueStatus
from .store_broker import StoreBroker

__all__ = ["StoreView"]


class StoreView:
    """The :class:`~dramatiq_retryq.view.View` of a broker of this package."""

    def __init__(self, broker: StoreBroker) -> None:
        self.broker = broker
        self.store = broker.store
        self.entries, self.entry, self.find = self.store.entries, self.store.entry, self.store.find
        self.workers, self.minutes, self.paused = self.store.workers, self.store.minutes, self.store.paused
        self.check, self.dead_by_reason = self.store.check, self.store.dead_by_reason

    def queues(self, *, now: int) -> Sequence[QueueStatus]:
        return [
            QueueStatus(
                name=name,
                due=counts.due,
                later=counts.later,
                claimed=counts.claimed,
                dead=counts.dead,
                oldest_due_at=counts.oldest_due_at,
                held=counts.held,
            )
            for name, counts in sorted(self.broker.counts().items())
        ]

    def pause(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        self.store.pause(queue_name=queue_name, actor_name=actor_name, now=now)
        self.broker.refresh_pauses()

    def resume(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None:
        self.store.resume(queue_name=queue_name, actor_name=actor_name, now=now)
        self.broker.refresh_pauses()

    def move(self, entry_id: str, *, due_at: int, now: int) -> str:
        queue_name = self.store.move(entry_id, due_at=due_at, now=now)
        self.broker.waiting_changed(queue_name, due_at)
        return queue_name

    def cancel(self, entry_id: str) -> str:
        queue_name = self.store.cancel(entry_id)
        self.broker.waiting_changed(queue_name)
        return queue_name
