"""A worker died while it was running a message: what is written down, and the letter if that was once too often."""

from __future__ import annotations

from typing import Any

from dramatiq import Message

from .history import append, last_number
from .records import Attempt, DeadLetter, ErrorInfo

__all__ = ["CRASH_LOOP", "crashed"]

_TYPE = "WorkerCrashed"

#: The error of a message that has killed its workers, where nobody knows which ones these were.
CRASH_LOOP = ErrorInfo(type=_TYPE, message="its worker processes kept dying while they ran this message")


def crashed(
    entry_id: int, queue_name: str, data: bytes, *, claimed_at: int, owner: str, now: int, is_last: bool
) -> tuple[bytes, DeadLetter | None]:
    """The payload with the crash written into its history, and the letter if the message is dead now.

    Args:
        entry_id: the entry.
        queue_name: its queue.
        data: the payload as it was claimed.
        claimed_at: when that was.
        owner: the process that died.
        now: when that was found out.
        is_last: whether it was one crash too many.
    """
    error = ErrorInfo(type=_TYPE, message=f"the worker process {owner} died while running this message")
    actor_name = None
    try:
        message: Message[Any] = Message.decode(data)
        append(
            message.options,
            Attempt(
                n=last_number(message.options) + 1,
                started_at=claimed_at,
                duration=max(0, now - claimed_at),
                error=error.type,
                message=error.message,
                delay=None if is_last else 0,
                worker=owner,
            ),
        )
        actor_name, data = message.actor_name, message.encode()
    except Exception:
        pass  # it cannot be decoded: that is found out when it is delivered
    if not is_last:
        return data, None
    letter = DeadLetter(
        id=str(entry_id),
        reason="crashed",
        queue_name=queue_name,
        actor_name=actor_name,
        died_at=now,
        error=error,
        data=data,
    )
    return data, letter
