"""How numbers, times and other people's texts are written for the person who reads the page.

Times are in the machine's own zone, with its offset, as the command writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from dramatiq import Message

from dramatiq_retryq import time_words

__all__ = [
    "ago",
    "arguments",
    "as_query",
    "clock_time",
    "cut",
    "duration",
    "encoded",
    "instant",
    "machine",
    "number",
    "plural",
    "precise",
    "zone",
]

#: What stands where a broker cannot tell.
UNKNOWN = "–"


def number(value: int | float | None) -> str:
    """``12,345``; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 message``, ``12,345 messages``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(ms: int | float | None) -> str:
    """``850 ms``, ``4 min 10 s``, ``2 d 4 h``; a dash for what is not known."""
    return UNKNOWN if ms is None else time_words.spoken(ms)


def ago(at: object, now: int) -> str:
    """``4 min ago``, ``in 3 h``, ``now``; a dash for what is not known, or is no instant."""
    return time_words.ago(at, now=now) if isinstance(at, int) else UNKNOWN


def instant(at: object) -> str:
    """``2026-11-22 03:04:05+01:00``; a dash for what is not known, or is no instant."""
    return time_words.iso(at) if isinstance(at, int) else UNKNOWN


def precise(at: object) -> str:
    """The same to the millisecond."""
    return time_words.iso(at, "milliseconds") if isinstance(at, int) else UNKNOWN


def zone(now: int) -> str:
    """The zone that times are in: ``UTC``, ``CET (UTC+01:00)``."""
    at = datetime.fromtimestamp(now / 1000).astimezone()
    offset = at.isoformat()[-6:]
    shown, name = "UTC" if offset == "+00:00" else f"UTC{offset}", at.tzname() or ""
    return f"{name} ({shown})" if name.isalpha() and name != shown else shown


def machine(at: object) -> str:
    """What stands in a ``datetime`` attribute; empty where it is no date: it may be anybody's number, or no number."""
    found = time_words.iso(at) if isinstance(at, int) else ""
    return found.replace(" ", "T") if " " in found else ""


def clock_time(at: int) -> str:
    """``03:04``."""
    try:
        return f"{datetime.fromtimestamp(at / 1000):%H:%M}"
    except (ValueError, OverflowError, OSError):
        return UNKNOWN


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def arguments(message: Message[Any]) -> str:
    """The arguments as a call writes them: other people's objects, which may not wish to be read."""
    lines = [_value(value) for value in message.args]
    kwargs: Mapping[str, Any] = message.kwargs
    lines += [f"{name}={_value(value)}" for name, value in kwargs.items()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except Exception:
        try:
            text = repr(value)
        except Exception:
            return "<its text cannot be had: repr() raised>"
    return text


def encoded(text: str) -> bytes:
    """As a browser is sent it: anybody's text may have half a surrogate pair in it, which no encoding can say."""
    return text.encode("utf-8", "replace")


def as_query(asked: Mapping[str, Any]) -> str:
    """The part of an address behind the question mark, whatever is in the values."""
    return urlencode(asked, errors="replace")
