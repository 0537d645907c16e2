"""Durations and instants as people type and read them: ``2h``, ``1d 12h``, ``tomorrow 09:00``, ``3 min ago``.

The words are English, the calendar is the machine's own time zone unless an instant names its offset.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Literal

from .clock import MAX_DURATION
from .errors import ConfigError

__all__ = ["UNDERSTOOD_DURATIONS", "UNDERSTOOD_INSTANTS", "ago", "iso", "parse_duration", "parse_instant", "spoken"]

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000

_UNITS = {
    "ms": 1,
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), _SECOND),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), _MINUTE),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), _HOUR),
    **dict.fromkeys(("d", "day", "days"), _DAY),
    **dict.fromkeys(("w", "week", "weeks"), 7 * _DAY),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_DURATION = re.compile(rf"(?:{_PART.pattern}[\s,]*)+")
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")

UNDERSTOOD_DURATIONS = "90s, 15m, 2h, 1h30m, 1.5d or 2w; a number needs its unit (ms, s, m, h, d, w)"
UNDERSTOOD_INSTANTS = (
    "a duration with its unit (2h, '2h ago', 'in 2h'), an instant (2026-01-31, 2026-01-31T09:00, 2026-01-31T09:00Z), "
    "a time of today (09:00), or now, today, yesterday, tomorrow, 'tomorrow 09:00'"
)

#: No instant is later than this: the year 9999, in ms since the epoch.
_LAST_INSTANT = 253_402_300_800_000


def parse_duration(text: str) -> int:
    """A duration in words as milliseconds: ``90s``, ``2h``, ``1h30m``, ``1.5 days``, ``0``.

    Raises:
        ConfigError: it is none, or longer than a thousand years. The text says what is understood.
    """
    words = text.strip().lower()
    if words == "0":
        return 0
    if _DURATION.fullmatch(words):
        parts = _PART.findall(words)
        if all(unit in _UNITS for _, unit in parts):
            total = sum(float(number) * _UNITS[unit] for number, unit in parts)
            if total > MAX_DURATION:
                raise ConfigError(f"{text!r} is more than a thousand years: give less")
            return round(total)
    raise ConfigError(f"{text!r} is no duration: give {UNDERSTOOD_DURATIONS}")


def parse_instant(text: str, *, now: int, bare: Literal["past", "future"]) -> int:
    """An instant in words as milliseconds since the epoch.

    Args:
        text: see :data:`UNDERSTOOD_INSTANTS`.
        now: the present instant.
        bare: which way a duration without ``in`` or ``ago`` points.

    Raises:
        ConfigError: it is none. The text says what is understood.
    """
    instant = _instant(text.strip(), now, bare)
    if instant is None:
        raise ConfigError(f"{text!r} is no time: give {UNDERSTOOD_INSTANTS}")
    if not 0 <= instant <= _LAST_INSTANT:
        raise ConfigError(f"{text!r} is before 1970 or after 9999: give a time between them")
    return instant


def _instant(text: str, now: int, bare: str) -> int | None:
    words = text.lower()
    if words == "now":
        return now
    sign = -1 if bare == "past" else 1
    span = words
    if words.endswith(" ago"):
        sign, span = -1, words.removesuffix(" ago")
    elif words.startswith("in "):
        sign, span = 1, words.removeprefix("in ")
    try:
        return now + sign * parse_duration(span)
    except ConfigError:
        if span is not words:
            return None
    try:
        return _calendar(text, words, now)
    except (ValueError, OverflowError, OSError):  # the 31st of February; a year that the platform cannot do
        return None


def _calendar(text: str, words: str, now: int) -> int | None:
    today = datetime.fromtimestamp(now / 1000)
    day, _, rest = words.partition(" ")
    if day in _DAYS:
        date = today + timedelta(days=_DAYS[day])
    elif _CLOCK.fullmatch(words):
        date, rest = today, words
    else:
        # Python 3.10's own reader knows neither the Z nor a time without minutes.
        read = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        return _milliseconds(read)
    of_day = _CLOCK.fullmatch(rest or "00:00")
    if of_day is None:
        return None
    hour, minute, second = (int(part or 0) for part in of_day.groups())
    return _milliseconds(datetime.combine(date.date(), time_of_day(hour, minute, second)))


def _milliseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def spoken(duration: float) -> str:
    """A duration in ms as people say it, in two units at most: ``350 ms``, ``2.5 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if not -MAX_DURATION <= duration <= MAX_DURATION:
        return "more than a thousand years"  # anybody's number, which may have hundreds of digits, or be none
    if duration < 0:
        return "-" + spoken(-duration)
    if round(duration) < _SECOND:
        return f"{round(duration)} ms" if round(duration) else "0 s"
    if duration < 9_950:
        return f"{duration / _SECOND:.1f}".removesuffix(".0") + " s"
    seconds = round(duration / _SECOND)
    for size, unit, below, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            # Rounded as a whole first, or 59 min 59.9 s would be "59 min 60 s".
            whole = (seconds + below // 2) // below * below
            first, second = whole // size, whole % size // below
            return f"{first} {unit} {second} {smaller}" if second and first < 100 else f"{first:,} {unit}"
    return f"{seconds} s"


def ago(instant: int, *, now: int) -> str:
    """An instant as seen from now: ``3 min 20 s ago``, ``in 2 h``, ``now``."""
    if abs(instant - now) < _SECOND:
        return "now"
    return f"in {spoken(instant - now)}" if instant > now else f"{spoken(now - instant)} ago"


def iso(instant: int, timespec: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """An instant in the machine's own time zone, to the second if not told: ``2026-01-31 09:00:00+01:00``."""
    try:
        return datetime.fromtimestamp(instant / 1000).astimezone().isoformat(" ", timespec)
    except (ValueError, OverflowError, OSError):
        return str(instant)  # anybody's number: what the history of a message says
