"""An entry of a store, or of another broker's queue, as the message that an operator is shown."""

from __future__ import annotations

import re
from typing import Any

from dramatiq import Message

from .errors import ConfigError
from .options import retries_of
from .records import Entry, decode, read_attempts
from .status import Pending, last_error

__all__ = ["pending_of", "place_of"]


def pending_of(entry: Entry) -> Pending:
    """The message in an entry, as far as its payload can be decoded."""
    message: Message[Any] | None
    try:
        message = decode(entry.data)
    except Exception:
        message = None
    return Pending(
        id=str(entry.id),
        message_id=message.message_id if message is not None else None,
        queue_name=entry.queue_name,
        actor_name=message.actor_name if message is not None else None,
        state="waiting" if entry.state == "waiting" else "claimed",
        due_at=entry.due_at,
        retries=retries_of(message.options) if message is not None else 0,
        attempts=read_attempts(message.options) if message is not None else (),
        error=last_error(message) if message is not None else None,
        claimed_at=entry.claimed_at,
        claimed_by=entry.owner,
        held=entry.held_for is not None,
        message=message,
        data=entry.data,
        cursor=f"{entry.due_at}_{entry.id}",
    )


def place_of(cursor: str) -> tuple[int, int]:
    """The due instant and the id that a cursor stands for.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(-?\d{1,18})_(\d{1,19})", cursor, re.ASCII) if isinstance(cursor, str) else None
    if found is None or int(found[2]) >= 1 << 63:
        raise ConfigError(f"after is {cursor!r}: give the cursor of one that was listed")
    return int(found[1]), int(found[2])
