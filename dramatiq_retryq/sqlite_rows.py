"""Rows of a SQLite file as the records they stand for, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .records import DeadLetter, Entry, ErrorInfo, decode, known_reason

__all__ = ["entry_of", "first_id", "has_parts", "is_torn", "letter_of", "letter_text"]

# An id is the instant of the put, in ms since 2025, with room for 2 ** 20 of them in each; and it is greater than any
# that is there. So later ones are greater, and one that is free again is not given again. AUTOINCREMENT does the same,
# for one more page that is written with each message.
_EPOCH = 1_735_689_600_000
_ID_BITS = 20


def has_parts(row: tuple[Any, ...], parts: Sequence[bytes]) -> bool:
    """Whether an entry's payload holds each of these."""
    return not parts or all(part in row[3] for part in parts)


def entry_of(row: tuple[Any, ...]) -> Entry:
    """The record of an entry."""
    row_id, queue, state, data, due_at, deliveries, claimed_at, owner, held_for = row
    return Entry(
        id=row_id,
        queue_name=queue,
        state=state,
        data=data,
        due_at=due_at,
        deliveries=deliveries,
        claimed_at=claimed_at,
        owner=owner,
        held_for=held_for,
    )


def first_id(now: int) -> int:
    """The least id that an entry put at ``now`` may have."""
    return max(1, now - _EPOCH << _ID_BITS)


def letter_text(letter: DeadLetter) -> str:
    """What of a letter has no column of its own."""
    error = letter.error
    return json.dumps(
        {
            "actor": letter.actor_name,
            "error": [error.type, error.message, error.place] if error is not None else None,
            "traceback": letter.traceback,
        }
    )


def letter_of(row: tuple[Any, ...]) -> DeadLetter:
    """The record of a dead letter. Never raises: one that is torn is shown as far as it can be read."""
    row_id, queue, died_at, reason, text, data = row
    kept = _read(text)
    actor_name, error, traceback = (_actor_of(data), _UNREADABLE, None) if kept is None else kept
    return DeadLetter(
        id=str(row_id),
        reason=known_reason(reason),
        queue_name=queue,
        actor_name=actor_name,
        died_at=died_at,
        error=error,
        traceback=traceback,
        data=data,
    )


def is_torn(text: bytes) -> bool:
    """Whether nobody can read what :func:`letter_text` wrote."""
    return _read(text) is None


_UNREADABLE = ErrorInfo(type="Unreadable", message="what was kept of the error cannot be read")


def _read(text: bytes) -> tuple[str | None, ErrorInfo | None, str | None] | None:
    """The actor, the error and the traceback; ``None`` where that is not what is written there."""
    try:
        fields = json.loads(text)
        actor, error, traceback = fields["actor"], fields["error"], fields["traceback"]
        type_, message, place = ("", "", "") if error is None else error
    except Exception:
        return None
    if not all(isinstance(part, str) for part in (actor or "", type_, message, place, traceback or "")):
        return None
    return actor, None if error is None else ErrorInfo(type=type_, message=message, place=place), traceback


def _actor_of(data: bytes) -> str | None:
    try:
        return decode(data).actor_name
    except Exception:
        return None
