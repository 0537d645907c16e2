"""What people type into the filters, and what it means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from dramatiq_retryq.records import REASONS
from dramatiq_retryq.status import Pending, PendingKey
from dramatiq_retryq.time_words import parse_duration, parse_instant

__all__ = [
    "LETTERS",
    "PENDING",
    "Field",
    "Filters",
    "key_of",
    "read",
    "read_delay",
    "read_due",
    "read_key",
    "read_rate",
]

_LONGEST_TEXT = 200


def read_delay(text: str) -> int:
    """A duration in words, in ms: ``90s``, ``10 min``, ``1h 30m``, ``2 days``.

    Raises:
        ValueError: nobody understands it; the text says what is understood.
    """
    return parse_duration(_short(text))


def _since(text: str, now: int) -> int:
    return parse_instant(_short(text), now=now, bare="past")


def read_due(text: str, now: int) -> int:
    """An instant in words, in ms since the epoch: ``2h`` (from now), ``tomorrow 09:00``.

    Raises:
        ValueError: nobody understands it; the text says what is understood.
    """
    return parse_instant(_short(text), now=now, bare="future")


def _short(text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"That is {len(text)} characters long: give at most {_LONGEST_TEXT}")
    return text


def read_rate(text: str) -> float | None:
    """Messages a second; ``None`` for an empty text.

    Raises:
        ValueError: no such number.
    """
    if not text.strip():
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    # The least is one in an hour: ten thousand letters are to come back within a life.
    if not 1 / 3600 <= rate <= 1_000_000:
        raise ValueError("Not a rate. Write how many messages a second, for example 50 or 0.5.")
    return rate


def key_of(pending: Pending) -> str:
    """What a form says of a message that waits: enough for :func:`read_key`."""
    place, message_id = pending.key
    # Quoted: a form makes two characters of a line feed.
    return place if message_id is None else f"{place} {quote(message_id, errors='surrogatepass')}"


def read_key(text: str) -> PendingKey:
    """The message that a form was about."""
    place, separator, message_id = text.partition(" ")
    try:
        return PendingKey(place, unquote(message_id, errors="surrogatepass") if separator else None)
    except UnicodeDecodeError:
        return PendingKey(place, "")  # no form of ours, and no message


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One filter."""

    name: str
    label: str
    hint: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    #: Text to value; raises ValueError with a sentence. ``None``: as it is typed.
    read: Callable[[str, int], Any] | None = None
    #: The values offered while one types: ``actors``, ``queues``.
    offers: str = ""
    #: Whether it is among those shown only on demand.
    is_rare: bool = False


@dataclass(slots=True, kw_only=True)
class Filters:
    """Filters as they were typed, and what they mean."""

    fields: tuple[Field, ...]
    #: As typed, without the empty ones.
    texts: dict[str, str] = field(default_factory=dict)
    #: What the listing takes.
    values: dict[str, Any] = field(default_factory=dict)
    #: A sentence for each that nobody understands.
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """What is asked for: ``actor “deliver”, died since “2h”``."""
        parts = []
        for one in self.fields:
            if one.name in self.texts:
                text = dict(one.choices).get(self.texts[one.name], self.texts[one.name])
                parts.append(f"{one.label.lower()} “{text}”")
        return ", ".join(parts)

    @property
    def is_rare_used(self) -> bool:
        return any(one.is_rare and one.name in self.texts for one in self.fields)


def read(fields: tuple[Field, ...], typed: Mapping[str, str], *, now: int) -> Filters:
    """Understand what was typed. What cannot be understood is in ``errors``, by field."""
    found = Filters(fields=fields)
    for one in fields:
        text = typed.get(one.name, "").strip()
        if not text:
            continue
        found.texts[one.name] = text[:_LONGEST_TEXT]
        if len(text) > _LONGEST_TEXT:
            found.errors[one.name] = f"That is {len(text)} characters long. Give at most {_LONGEST_TEXT}."
            continue
        if one.choices and text not in dict(one.choices):
            found.errors[one.name] = f"There is no such {one.label.lower()}. Choose one of the list."
            continue
        try:
            found.values[one.name] = text if one.read is None else one.read(text, now)
        except ValueError as error:
            found.errors[one.name] = str(error)
    return found


_ACTOR = Field(name="actor", label="Actor", offers="actors")
_QUEUE = Field(name="queue", label="Queue", offers="queues")
_ERROR = Field(name="error", label="Error", hint="the name of its class, as ConnectionError")

#: The filters of the dead letters.
LETTERS: tuple[Field, ...] = (
    _ACTOR,
    _QUEUE,
    Field(name="reason", label="Reason", choices=tuple((reason, reason.replace("_", " ")) for reason in REASONS)),
    _ERROR,
    Field(name="since", label="Died since", hint="2h, yesterday, 2026-01-31 09:00", read=_since),
)

#: The filters of what waits.
PENDING: tuple[Field, ...] = (
    _ACTOR,
    _QUEUE,
    Field(name="state", label="State", choices=(("waiting", "waiting"), ("claimed", "taken by a worker"))),
    Field(
        name="retrying",
        label="After a failure",
        choices=(("yes", "yes: it is being retried"), ("no", "no: it has not failed yet")),
        read=lambda text, now: text == "yes",
    ),
    Field(name="error", label="Last error", hint=_ERROR.hint, is_rare=True),
    Field(name="due_after", label="Due after", hint="10m (from now), tomorrow 09:00", read=read_due, is_rare=True),
    Field(name="due_before", label="Due before", hint="10m (from now), tomorrow 09:00", read=read_due, is_rare=True),
)
