"""What :class:`~dramatiq_retryq.operations.Operations` wants of a kind of broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from .records import DeadLetter, Entry, Reason, State
from .status import Minute, Paused, QueueStatus, WorkerStatus

__all__ = ["View"]


class View(Protocol):
    """What a broker can tell an operator, and do for one. What it cannot raises ``NotSupported``."""

    def queues(self, *, now: int) -> Sequence[QueueStatus]: ...

    def entries(
        self,
        *,
        queue_name: str | None = None,
        state: State | None = None,
        after: tuple[int, int] | None = None,
        containing: Sequence[bytes] = (),
    ) -> Iterator[Entry]: ...

    def entry(self, entry_id: str) -> Entry | None: ...

    def find(self, message_id: str) -> Entry | DeadLetter | None: ...

    def workers(self) -> Sequence[WorkerStatus]: ...

    def minutes(self, *, since_at: int, now: int) -> Sequence[Minute]: ...

    def paused(self) -> Paused: ...

    def pause(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None: ...

    def resume(self, *, queue_name: str | None = None, actor_name: str | None = None, now: int) -> None: ...

    def move(self, entry_id: str, *, due_at: int, now: int) -> str: ...

    def cancel(self, entry_id: str) -> str: ...

    def dead_by_reason(self) -> Mapping[Reason, int]: ...

    def check(self) -> list[str]: ...
