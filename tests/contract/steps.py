"""What the tests of the contract do with a store, in one line each."""

from __future__ import annotations

from typing import Any

from dramatiq import Message

from dramatiq_retryq.records import Claim, DeadLetter, ErrorInfo
from dramatiq_retryq.store import Store

NOW = 1_767_225_600_000
HOUR = 3_600_000


def encoded(message_id: str = "m", queue: str = "default", **options: Any) -> bytes:
    return Message(
        queue_name=queue,
        actor_name="add",
        args=(1, 2),
        kwargs={},
        options=options,
        message_id=message_id,
        message_timestamp=NOW,
    ).encode()


def put(store: Store, queue: str = "default", *, data: bytes = b"payload", due_at: int = NOW, now: int = NOW) -> int:
    return store.put(queue, data, due_at=due_at, now=now)


def claim(store: Store, queue: str = "default", *, now: int = NOW, limit: int = 1_000) -> list[Claim]:
    return list(store.claim(queue, now=now, limit=limit, owner="host:1"))


def claim_one(store: Store, queue: str = "default", *, now: int = NOW) -> Claim:
    [claimed] = claim(store, queue, now=now, limit=1)
    return claimed


def ids(claims: list[Claim]) -> list[int]:
    return [claim.id for claim in claims]


def letter_for(claim: Claim, *, died_at: int = NOW, data: bytes | None = None) -> DeadLetter:
    return DeadLetter(
        id=str(claim.id),
        reason="exhausted",
        queue_name=claim.queue_name,
        actor_name="add",
        died_at=died_at,
        error=ErrorInfo(type="ValueError", message="bad input", place="app.py:3 in add"),
        traceback="Traceback (most recent call last): …",
        data=claim.data if data is None else data,
    )


def die(store: Store, queue: str = "default", *, data: bytes = b"payload", died_at: int = NOW) -> str:
    """Put an entry, claim and bury it; the id of its letter."""
    entry_id = put(store, queue, data=data, due_at=0)
    claimed = claim_one(store, queue)
    assert claimed.id == entry_id
    store.bury(claimed, letter_for(claimed, died_at=died_at))
    return str(entry_id)
