"""The failed attempts of a message, kept in ``message.options["attempts"]``.

There they travel with the message on every broker, so they are bounded: tracebacks in message bodies have filled
brokers before. A retry keeps the error's class, its text and the place it came from; the full traceback is made
once, at death.
"""

from __future__ import annotations

import functools
import json
import os
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from .records import Attempt, ErrorInfo

__all__ = [
    "MAX_BYTES",
    "MAX_ENTRIES",
    "MAX_TEXT",
    "MAX_TRACEBACK",
    "Redact",
    "append",
    "describe",
    "full_traceback",
    "last_number",
    "short_traceback",
]

#: How many attempts are kept: the first and the latest.
MAX_ENTRIES = 20
#: How many bytes they may take, encoded as JSON.
MAX_BYTES = 16 * 1024
#: How many characters of an error's text are kept.
MAX_TEXT = 500
#: How many characters of a traceback are kept, the end of it being the part that counts.
MAX_TRACEBACK = 32 * 1024
#: How many frames of a traceback are kept, as in Dramatiq.
MAX_FRAMES = 30

#: Takes secrets out of a text before it is stored or logged.
Redact = Callable[[str], str]

# JSON writes a character as at most \uXXXX, and one beyond the first plane as two of these.
_WIDEST_ASCII, _WIDEST = 6, 12
# The names, the punctuation and four numbers of an attempt.
_FRAME = 256
_FIELDS = 8


def describe(error: BaseException, redact: Redact | None = None) -> ErrorInfo:
    """What is kept of an error. Never raises, whatever the error's own ``__str__`` or ``redact`` does."""
    # All of it is other people's code, down to the class's own name; and SystemExit, too, has been seen in a __str__.
    try:
        text = "".join((str(error),))  # a plain str, whatever subclass of it came back
    except BaseException:
        text = "<its text cannot be had: str() raised>"
    try:
        name = "".join((type(error).__name__,))
    except BaseException:
        name = "<no name>"
    return ErrorInfo(
        type=_cut(_repaired(name), 100),
        message=_cut(_redacted(_repaired(text), redact), MAX_TEXT),
        place=_place(error.__traceback__),
    )


def short_traceback(error: BaseException, info: ErrorInfo) -> str:
    """A traceback of two frames, where the actor was and where it was raised, without reading any source file.

    It is what ``options["traceback"]`` holds while a message is being retried: formatting the full text is most of
    what a retry costs in Dramatiq, and makes the message four times as large.
    """
    tb = error.__traceback__
    return f"{_two_frames(_actor_frame(tb), _last_frame(tb))}{info}\n"


def full_traceback(error: BaseException, redact: Redact | None = None) -> str:
    """The traceback as text, with its causes. Never raises; bounded in frames and characters."""
    try:
        text = "".join(_formatted(error))
    except BaseException:
        text = "<no traceback: formatting it raised>"
    text = _redacted(_repaired(text), redact)
    return text if len(text) <= MAX_TRACEBACK else "…" + text[1 - MAX_TRACEBACK :]


def _formatted(error: BaseException) -> Iterator[str]:
    """What traceback.format_exception gives, ten times as fast where the same lines fail again and again."""
    if error.__cause__ or error.__context__ or isinstance(error, SyntaxError) or hasattr(error, "exceptions"):
        yield from traceback.format_exception(type(error), error, error.__traceback__, limit=MAX_FRAMES)
        return
    tb = error.__traceback__
    if tb is not None:
        yield "Traceback (most recent call last):\n"
    for _ in range(MAX_FRAMES):
        if tb is None:
            break
        yield _formatted_frame(_Place(tb))
        tb = tb.tb_next
    yield from traceback.format_exception_only(type(error), error)


class _Place:
    """A traceback's first frame, equal to every other one at the same place in the same code."""

    __slots__ = ("key", "tb")

    def __init__(self, tb: TracebackType) -> None:
        self.tb: TracebackType | None = tb
        self.key = (tb.tb_frame.f_code, tb.tb_lasti)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self.key == other.key


@functools.lru_cache(maxsize=512)
def _formatted_frame(place: _Place) -> str:
    # Formatting looks up each source file on the disk and parses the line: 50 µs a frame.
    text = "".join(traceback.format_tb(place.tb, limit=1))
    place.tb = None  # the cache must not keep the frame and its variables
    return text


def append(options: dict[str, Any], attempt: Attempt) -> None:
    """Add an attempt to a message's options, in place, within the bounds.

    The list is replaced and never changed, since a copy of the message may share it.
    """
    written = options.get("attempts")
    attempts = [*written] if isinstance(written, (list, tuple)) else []
    attempts.append(attempt.asdict())
    if len(attempts) > MAX_ENTRIES:
        del attempts[1 : len(attempts) - MAX_ENTRIES + 1]
    # Weighed only where it can be too much: that costs more than all the rest.
    if sum(map(_at_most, attempts)) > MAX_BYTES:
        sizes = [len(json.dumps(entry, default=str)) + 1 for entry in attempts]
        while sum(sizes) > MAX_BYTES and len(attempts) > 2:
            del attempts[1], sizes[1]
        if sum(sizes) > MAX_BYTES:
            # Two are left, and all of their texts are such characters: the first and the latest stay, shorter.
            attempts = [{**entry, "message": str(entry.get("message"))[:100]} for entry in attempts]
    options["attempts"] = attempts


def _at_most(entry: Any) -> int:
    """No fewer bytes than an entry takes as JSON; more than is allowed for one that somebody else wrote."""
    # Each by its name: this is done for every attempt that is kept, at each new one, and loops took twice as long.
    try:
        numbers = abs(entry["n"]) + abs(entry["started_at"]) + abs(entry["duration"]) + abs(entry["delay"] or 0)
        if len(entry) != _FIELDS or numbers > 1 << 62:
            return MAX_BYTES + 1
        text = "".join((entry["error"], entry["message"], entry["place"], entry["worker"]))
    except (KeyError, TypeError, OverflowError):
        return MAX_BYTES + 1
    return _FRAME + len(text) * (_WIDEST_ASCII if text.isascii() else _WIDEST)


def last_number(options: dict[str, Any]) -> int:
    """The number of the last attempt in the history, 0 if there is none."""
    if "attempts" not in options:
        return 0
    try:
        return int(options["attempts"][-1]["n"])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return 0


def _place(tb: TracebackType | None) -> str:
    frame = _last_frame(tb)
    return "" if frame is None else _place_text(frame)


# The same few lines fail again and again.
@functools.lru_cache(maxsize=512)
def _place_text(frame: tuple[str, int, str]) -> str:
    name, line, function = frame
    return _cut(_repaired(f"{os.path.basename(name)}:{line} in {function}"), 200)


@functools.lru_cache(maxsize=512)
def _two_frames(first: tuple[str, int, str] | None, last: tuple[str, int, str] | None) -> str:
    lines = [
        f'  File "{name}", line {line}, in {function}'
        for name, line, function in dict.fromkeys(filter(None, (first, last)))
    ]
    return "\n".join(["Traceback (shortened, most recent call last):", *map(_repaired, lines), ""])


def _last_frame(tb: TracebackType | None) -> tuple[str, int, str] | None:
    if tb is None:
        return None
    while tb.tb_next is not None:
        tb = tb.tb_next
    return _frame(tb)


def _actor_frame(tb: TracebackType | None) -> tuple[str, int, str] | None:
    """The first frame that is not Dramatiq's own."""
    while tb is not None:
        if not str(tb.tb_frame.f_globals.get("__name__")).startswith("dramatiq."):
            return _frame(tb)
        tb = tb.tb_next
    return None


def _frame(tb: TracebackType) -> tuple[str, int, str]:
    code = tb.tb_frame.f_code
    return code.co_filename, tb.tb_lineno or 0, code.co_name


def _redacted(text: str, redact: Redact | None) -> str:
    if redact is None:
        return text
    try:
        return _repaired(str(redact(text)))
    except Exception as raised:
        # Closed, not open: a text that could not be cleaned is not kept.
        return f"<withheld: redact raised {type(raised).__name__}>"


def _repaired(text: str) -> str:
    """The text without lone surrogates and NULs, which some encoders and databases refuse."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
