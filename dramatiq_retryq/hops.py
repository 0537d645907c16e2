"""Delays longer than a broker can do at a stretch, reached in hops.

A message that is due too far off is sent with the longest delay there is, and with the instant it is really due in
an option. When it arrives early, ``RetryQueue`` puts it off again before anything is run.
"""

from __future__ import annotations

from typing import Any

__all__ = ["HOP_OPTION", "REDELIVERED_OPTION", "reaching"]

#: The option with the instant (ms since the epoch) at which the message is really due.
HOP_OPTION = "retryq_due_at"

#: The option of a message that a worker had when it died: how often that happened.
REDELIVERED_OPTION = "retryq_redelivered"


def reaching(due_at: int, now: int, longest_delay: int | None) -> dict[str, Any]:
    """The options of a message that is due at an instant: with the next hop towards it, if it is too far off.

    Args:
        due_at: when it is due.
        now: the present instant.
        longest_delay: what the broker can do at a stretch, in ms; ``None`` if that has no limit.
    """
    if longest_delay is None or due_at - now <= longest_delay:
        return {"eta": due_at}
    return {"eta": now + longest_delay, HOP_OPTION: due_at}
