"""One message: where it is, what failed when, and what it carries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from markupsafe import Markup
from werkzeug.wrappers import Response

from dramatiq_retryq.errors import LetterNotFound
from dramatiq_retryq.records import Attempt, DeadLetter
from dramatiq_retryq.status import Paused, Pending

from . import charts
from .call import Call, Problem
from .text import arguments, cut, instant, plural, precise

__all__ = ["letter", "letter_arguments", "letter_traceback", "message", "message_arguments"]

#: How much of an error's text, of arguments and of a traceback stands on a page; the rest is behind a link.
_SHOWN_ERROR, _SHOWN_ARGUMENTS, _SHOWN_TRACEBACK = 2_000, 4_000, 16_000


def message(call: Call) -> Response:
    message_id = call.request.args.get("id", "").strip()
    found = call.operations.find(message_id) if message_id else None
    if found is None:
        raise _gone(message_id)
    return _show(call, found)


def letter(call: Call) -> Response:
    return _show(call, _letter(call))


def letter_traceback(call: Call) -> Response:
    return call.text(_letter(call).traceback or "")


def letter_arguments(call: Call) -> Response:
    return _arguments(call, _letter(call))


def message_arguments(call: Call) -> Response:
    message_id = call.request.args.get("id", "")
    found = call.operations.find(message_id)
    if found is None:
        raise _gone(message_id)
    return _arguments(call, found)


def _show(call: Call, found: Pending | DeadLetter) -> Response:
    is_letter = isinstance(found, DeadLetter)
    traceback = found.traceback if isinstance(found, DeadLetter) else _kept_traceback(found)
    error_text = found.error.message if found.error is not None else ""
    shown_arguments = arguments(found.message) if found.message is not None and call.app.show_arguments else None
    return call.render(
        "message.html",
        now=call.now,
        found=found,
        is_letter=is_letter,
        is_paused=_is_paused(call.operations.paused(), found),
        error_text=cut(error_text, _SHOWN_ERROR),
        # The end of a traceback is what counts.
        traceback=traceback and traceback[-_SHOWN_TRACEBACK:],
        traceback_left=max(0, len(traceback or "") - _SHOWN_TRACEBACK),
        arguments=None if shown_arguments is None else cut(shown_arguments, _SHOWN_ARGUMENTS),
        arguments_left=max(0, len(shown_arguments or "") - _SHOWN_ARGUMENTS),
        is_undecodable=found.message is None,
        strip=_strip(found, call.now),
        stamp=_stamp(found),
        gaps=_gaps(found.attempts),
    )


def _kept_traceback(found: Pending) -> str | None:
    """What Dramatiq keeps of a traceback while a message is being retried."""
    kept = found.message.options.get("traceback") if found.message is not None else None
    return kept if isinstance(kept, str) else None


def _stamp(found: Pending | DeadLetter) -> Callable[[object], str]:
    """How instants are written: to the millisecond where they would be alike without."""
    last = found.died_at if isinstance(found, DeadLetter) else found.due_at
    at = [one.started_at for one in found.attempts] + ([] if last is None else [last])
    return precise if any(abs(after - before) < 1_000 for before, after in itertools.pairwise(at)) else instant


def _strip(found: Pending | DeadLetter, now: int) -> Markup | None:
    if not found.attempts:
        return None
    stamp = _stamp(found)
    attempts = [(one.started_at, one.duration, f"attempt {one.n}: {one.error}, {stamp(one.started_at)}")
                for one in found.attempts]  # fmt: skip
    if isinstance(found, DeadLetter):
        end, last = found.died_at, "dead"
    elif found.state == "claimed":
        end, last = now, "claimed"
    else:
        end, last = max(now, found.due_at or 0), "due"
    start = min(at for at, _, _ in attempts)
    return charts.strip(attempts, start=start, end=max(end, start), last=last)


def _gaps(attempts: Sequence[Attempt]) -> dict[int, str]:
    """By place in the list: what lies between an attempt and the one before, where the history leaves some out."""
    gaps = {}
    for place, (before, after) in enumerate(itertools.pairwise(attempts), start=1):
        if after.n > before.n + 1:
            gaps[place] = f"{plural(after.n - before.n - 1, 'attempt')} in between, not kept"
        elif before.delay is None:
            gaps[place] = "died, and was replayed"
    return gaps


def _is_paused(paused: Paused, found: Pending | DeadLetter) -> bool:
    return found.queue_name in paused.queues or found.actor_name in paused.actors


def _letter(call: Call) -> DeadLetter:
    letter_id = call.request.args.get("id", "")
    try:
        return call.operations.dead_letters.get(letter_id)
    except LetterNotFound:
        message_id = call.request.args.get("message", "")
        links = [("Dead letters", "/dead"), ("What waits", "/pending")]
        if message_id:
            links.insert(0, ("Look for the message", call.url("/message", {"id": message_id})[len(call.url("")) :]))
        raise Problem(
            404,
            "No such dead letter",
            f"No dead letter has the id {cut(letter_id, 100)!r}. It may have been replayed, and then its message "
            "waits, runs or is done; or it was discarded, or dropped with the oldest.",
            links,
        ) from None


def _gone(message_id: str) -> Exception:
    return Problem(
        404,
        "No such message",
        f"No message with the id {cut(message_id, 100)!r} waits, runs or lies dead here. It may have succeeded "
        "since, or been cancelled or discarded; or it was sent to another broker.",
        [("What waits", "/pending"), ("Dead letters", "/dead"), ("Overview", "/")],
    )


def _arguments(call: Call, found: Pending | DeadLetter) -> Response:
    if not call.app.show_arguments:
        raise Problem(403, "Not shown", "This page is told not to show the arguments of messages.")
    return call.text(arguments(found.message) if found.message is not None else "")
