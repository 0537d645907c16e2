"""The wait that an error carries, because a server asked for it."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["MAX_HEARD_WAIT", "heard_wait"]

#: The longest wait that a server's Retry-After is believed: 7 days, Dramatiq's own longest delay.
MAX_HEARD_WAIT = 7 * 86_400_000


def heard_wait(error: BaseException, *, now: int) -> int | None:
    """The wait that an error carries, in milliseconds, or ``None``.

    Heard are an attribute ``retry_after`` (seconds, a timedelta, or text as in the header) and the header
    Retry-After (RFC 9110, 10.2.3: seconds or an HTTP date) of ``error.response`` (requests, httpx) or of the
    error itself (urllib). A wait over 7 days is cut down to that; one that cannot be read is not heard.
    """
    # All of it is other people's code: properties that raise, headers that are no mapping.
    try:
        wait = _seconds(getattr(error, "retry_after", None), now)
        if wait is None:
            carrier = getattr(error, "response", None)
            headers = getattr(error if carrier is None else carrier, "headers", None)
            wait = _seconds(headers.get("Retry-After"), now) if headers is not None else None
        return None if wait is None else math.ceil(min(wait, MAX_HEARD_WAIT / 1000) * 1000)
    except Exception:
        return None


def _seconds(value: Any, now: int) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)):
        seconds = value
    else:
        text = str(value).strip()
        try:
            seconds = float(text)
        except ValueError:
            date: datetime = parsedate_to_datetime(text)
            if date.tzinfo is None:
                date = date.replace(tzinfo=timezone.utc)
            seconds = max(0.0, date.timestamp() - now / 1000)
    return seconds if seconds >= 0 else None
