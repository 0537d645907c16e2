"""What is done: one function a form. Each ends in a page that says what came of it.

What cannot be undone, and what concerns more than the eye has seen, is asked for a second time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from dramatiq import get_logger
from werkzeug.wrappers import Response

from dramatiq_retryq.errors import LetterNotFound, LetterTooNew, LetterUnreadable, MessageNotFound
from dramatiq_retryq.logs import log
from dramatiq_retryq.status import PendingKey

from . import forms, pages
from .call import Call, Problem
from .text import plural

__all__ = ["cancel", "discard", "move", "pause", "replay", "resume", "run_now"]

T = TypeVar("T")

_logger: logging.Logger = get_logger(__name__)  # type: ignore[no-untyped-call]


# -- Queues and actors -----------------------------------------------------------------------------------------------


def pause(call: Call) -> Response:
    return _halt(call, call.operations.pause, "paused")


def resume(call: Call) -> Response:
    return _halt(call, call.operations.resume, "resumed")


def _halt(call: Call, act: Callable[..., None], what: str) -> Response:
    form = call.request.form
    named = {kind: form[kind].strip() for kind in ("queue", "actor") if form.get(kind, "").strip()}
    if len(named) != 1:
        raise _refused("Name one queue or one actor.", ("Queues", "/queues"))
    act(**named)
    _log(call, f"{what} {next(iter(named))} %r", next(iter(named.values())))
    if form.get("back") == "queue" and "queue" in named:
        return call.done("/queue", {"name": named["queue"]}, what)
    return call.done("/" if form.get("back") == "/" else "/queues", None, what)


# -- What waits ------------------------------------------------------------------------------------------------------


def run_now(call: Call) -> Response:
    return _with_pending(call, call.operations.run_now, "due")


def move(call: Call) -> Response:
    try:
        due_at = forms.read_due(call.request.form.get("due", ""), call.now)
    except ValueError as error:
        raise _refused(f"Due when? {error}.", ("What waits", "/pending")) from None
    return _with_pending(call, lambda one: call.operations.move(one, due_at=due_at), "moved")


def cancel(call: Call) -> Response:
    ids = call.request.form.getlist("id")
    if ids and not call.request.form.get("confirmed"):
        return _ask(
            call,
            title=f"Cancel {plural(len(ids), 'message')}?",
            sentence="It will never run, and no dead letter is left of it."
            if len(ids) == 1
            else "They will never run, and no dead letters are left of them.",
            button=f"Cancel {plural(len(ids), 'message')}",
            action="/pending/cancel",
            hidden=[*(("id", one) for one in ids), ("back", call.request.form.get("back", ""))],
            back=_back(call, "/pending"),
        )
    return _with_pending(call, call.operations.cancel, "cancelled")


def _with_pending(call: Call, act: Callable[[PendingKey], None], what: str) -> Response:
    keys = [forms.read_key(one) for one in call.request.form.getlist("id")]
    return _finish(call, "/pending", what, _each(keys, act))


# -- Dead letters ----------------------------------------------------------------------------------------------------


def replay(call: Call) -> Response:
    try:
        rate = forms.read_rate(call.request.form.get("rate", ""))
    except ValueError as error:
        raise _refused(str(error), ("Dead letters", "/dead")) from None
    return _with_letters(
        call,
        "replay",
        rate,
        title="Replay {}?",
        sentence="Each gets a new budget of retries. Its history goes on."
        + (f" At most {rate:g} of them become due in a second." if rate is not None else ""),
        is_asked=call.request.form.get("scope") == "all",
    )


def discard(call: Call) -> Response:
    return _with_letters(
        call,
        "discard",
        None,
        title="Discard {}?",
        sentence="This cannot be undone: they are gone for good.",
        is_asked=True,
    )


def _with_letters(call: Call, verb: str, rate: float | None, *, title: str, sentence: str, is_asked: bool) -> Response:
    form = call.request.form
    is_all = form.get("scope") == "all"
    ids: Sequence[str] = form.getlist("id")
    asked_at = int(form["asked_at"]) if re.fullmatch(r"\d{1,15}", form.get("asked_at", ""), re.ASCII) else call.now
    filters = forms.read(forms.LETTERS, form, now=asked_at)
    if is_all:
        if filters.errors:
            raise _refused(f"{next(iter(filters.errors.values()))}.", ("Dead letters", "/dead"))
        # Not one that died after the question: nobody has seen it.
        ids = [one.id for one in pages.letters_of(call, filters) if one.died_at <= asked_at]
    if ids and is_asked and not form.get("confirmed"):
        count = plural(len(ids), "dead letter")
        hidden = [("rate", form.get("rate", "")), ("asked_at", str(asked_at)), ("back", form.get("back", ""))]
        hidden += [("scope", "all"), *filters.texts.items()] if is_all else [("id", one) for one in ids]
        if is_all and filters.texts:
            sentence = f"All that match now: {filters.in_words}. {sentence}"
        elif is_all:
            sentence = f"All that lie there now. {sentence}"
        return _ask(
            call,
            title=title.format(count),
            sentence=sentence,
            button=f"{verb.capitalize()} {count}",
            action=f"/dead/{verb}",
            hidden=hidden,
            back=_back(call, "/dead"),
        )
    letters, started = call.operations.dead_letters, 0

    def act(letter_id: str) -> None:
        nonlocal started
        letter = letters.get(letter_id)
        if letter.died_at > asked_at:
            # Not the death that was looked at: it was replayed since, and died anew.
            raise LetterNotFound(letter_id)
        if verb == "discard":
            letters.discard(letter)
            return
        letters.replay(letter, delay=0 if rate is None else int(started * 1000 / rate))
        started += 1

    # Oldest first, as they died.
    return _finish(call, "/dead", f"{verb}ed", _each(reversed(ids), act))


# -- All of them -----------------------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    done: int
    missed: int
    #: Letters that are torn, or that a newer version wrote.
    refused: int


def _each(wanted: Iterable[T], act: Callable[[T], None]) -> _Outcome:
    done = missed = refused = 0
    for one in dict.fromkeys(wanted):
        try:
            act(one)
        except (LetterNotFound, MessageNotFound):
            missed += 1
        except (LetterTooNew, LetterUnreadable):
            refused += 1
        else:
            done += 1
    return _Outcome(done, missed, refused)


def _finish(call: Call, path: str, what: str, outcome: _Outcome) -> Response:
    if outcome.done:
        _log(call, f"%d messages {what}", outcome.done)
    path, query = _back(call, path)
    return call.done(path, query, what if any(outcome) else "nothing", *outcome)


def _back(call: Call, path: str) -> tuple[str, dict[str, Any]]:
    """The page that the form was on, as far as it is one of ours."""
    given = dict(parse_qsl(call.request.form.get("back", "")[:4_000]))
    if given.keys() == {"message"}:
        return "/message", {"id": given["message"]}
    names = {one.name for one in (forms.LETTERS if path == "/dead" else forms.PENDING)} | {"page", "after"}
    return path, {name: value for name, value in given.items() if name in names}


def _ask(
    call: Call,
    *,
    title: str,
    sentence: str,
    button: str,
    action: str,
    hidden: Sequence[tuple[str, str]],
    back: tuple[str, dict[str, Any]],
) -> Response:
    return call.render(
        "confirm.html",
        title=title,
        sentence=sentence,
        button=button,
        action=action,
        hidden=[(name, value) for name, value in hidden if value],
        back=call.url(*back),
        done=None,
    )


def _refused(sentence: str, link: tuple[str, str]) -> Exception:
    return Problem(400, "Not understood", f"{sentence} Nothing was done.", [link])


def _log(call: Call, text: str, *values: Any) -> None:
    """Who did what is worth a line: of many people only one knows why a message is gone."""
    log(
        _logger,
        "info",
        f"Web page: {text}, by %s.",
        *values,
        repr(call.user) if call.user else "somebody without a login",
    )
