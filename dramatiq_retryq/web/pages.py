"""What is shown: one function a page. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence

from dramatiq.common import q_name
from werkzeug.wrappers import Response

from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.records import DeadLetter
from dramatiq_retryq.status import Pending

from . import forms, summary
from .call import Call, Problem
from .summary import if_told
from .text import as_query, cut

__all__ = ["PAGE", "dead", "letters_of", "listed_pending", "overview", "pending", "queue", "queues", "workers"]

#: How many messages a page lists.
PAGE = 50
#: How far one can leaf through the dead letters; a filter leads further sooner.
_LAST_PAGE = 1_000_000
#: How often (s) a page with figures looks again, where there is JavaScript.
_REFRESH = 5


def overview(call: Call) -> Response:
    status = call.operations.status()
    letters, no_letters = if_told(lambda: call.operations.dead_letters.list(limit=summary.RECENT + 1))
    # Asked again only for the sentence that says why not.
    workers, no_workers = (status.workers, None) if status.workers is not None else if_told(call.operations.workers)
    drawn, no_charts = if_told(lambda: call.app.charts.get(status.now))
    return call.render(
        "overview.html",
        status=status,
        totals=summary.totals(status.queues),
        verdict=summary.verdicts(status, workers),
        groups=summary.groups((letters or ())[: summary.RECENT]),
        is_partial=len(letters or ()) > summary.RECENT,
        recent=summary.RECENT,
        no_letters=no_letters,
        workers=workers,
        no_workers=no_workers,
        charts=drawn,
        no_charts=no_charts,
        refresh=_REFRESH,
    )


def queues(call: Call) -> Response:
    status = call.operations.status()
    return call.render(
        "queues.html",
        status=status,
        totals=summary.totals(status.queues),
        actors=sorted(call.operations.broker.get_declared_actors()),
        refresh=_REFRESH,
    )


def queue(call: Call) -> Response:
    name = call.request.args.get("name", "")
    status = call.operations.status()
    found = next((one for one in status.queues if one.name == name), None)
    if found is None:
        raise Problem(
            404,
            "No such queue",
            f"This broker has no queue {cut(name, 100)!r}: nothing is in it, and this process has not declared it.",
            [("All queues", "/queues")],
        )
    drawn, no_charts = if_told(lambda: call.app.charts.get(status.now, name))
    actors = sorted(
        actor
        for actor in call.operations.broker.get_declared_actors()
        if call.operations.broker.get_actor(actor).queue_name == name
    )
    return call.render(
        "queue.html",
        status=status,
        queue=found,
        actors=actors,
        charts=drawn,
        no_charts=no_charts,
        refresh=_REFRESH,
    )


def workers(call: Call) -> Response:
    return call.render("workers.html", now=call.now, workers=call.operations.workers(), refresh=_REFRESH)


def pending(call: Call) -> Response:
    now = call.now
    filters = forms.read(forms.PENDING, call.request.args, now=now)
    found: list[Pending] = []
    no_list, following = None, None
    if not filters.errors:
        after = call.request.args.get("after") or None
        listed, no_list = if_told(lambda: listed_pending(call, filters, after=after, limit=PAGE + 1))
        found = list(listed or ())
        if len(found) > PAGE:
            found = found[:PAGE]
            following = found[-1].cursor
    return call.render(
        "pending.html",
        code=400 if filters.errors else 200,
        now=now,
        filters=filters,
        offers=_offers(call),
        found=found,
        after=call.request.args.get("after", ""),
        back_query=as_query({**filters.texts, "after": call.request.args.get("after", "")}),
        following=following,
        no_list=no_list,
        refresh=_REFRESH if not filters.errors else False,
    )


def dead(call: Call) -> Response:
    now, (queues, _) = call.now, if_told(lambda: call.operations.status().queues)
    filters = forms.read(forms.LETTERS, call.request.args, now=now)
    page = _page_number(call.request.args.get("page", "1"))
    found: list[DeadLetter] = []
    no_list, is_more = None, False
    if not filters.errors:
        listed, no_list = if_told(lambda: letters_of(call, filters, limit=page * PAGE + 1))
        found = list(listed or ())
        is_more = len(found) > page * PAGE
        found = found[(page - 1) * PAGE : page * PAGE]
    return call.render(
        "dead.html",
        code=400 if filters.errors else 200,
        now=now,
        filters=filters,
        offers=_offers(call),
        found=found,
        total=summary.totals(queues or ()).dead if not filters.texts else None,
        page=page,
        back_query=as_query({**filters.texts, "page": page}),
        page_size=PAGE,
        is_more=is_more,
        no_list=no_list,
        refresh=_REFRESH if not filters.errors else False,
    )


# -- Listings --------------------------------------------------------------------------------------------------------


def listed_pending(
    call: Call, filters: forms.Filters, *, after: str | None = None, limit: int | None = None
) -> Sequence[Pending]:
    """What waits and matches.

    Raises:
        Problem: ``after`` is no cursor.
    """
    try:
        return list(call.operations.pending(**filters.values, after=after, limit=limit))
    except ConfigError as error:
        if after is None:
            raise
        sentence = f"The address of this page was changed, or is from another broker: {error}"
        raise Problem(400, "No such page", sentence, [("The first page", "/pending")]) from error


def letters_of(call: Call, filters: forms.Filters, *, limit: int | None = None) -> Sequence[DeadLetter]:
    """The dead letters that match, newest first."""
    return call.operations.dead_letters.list(**filters.values, limit=limit)


def _page_number(text: str) -> int:
    # Not int() alone, which takes a number of a million digits, and digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= _LAST_PAGE):
        raise Problem(
            400, "No such page", f"The page is {cut(text, 20)!r}: it is a number from 1.", [("Page 1", "/dead")]
        )
    return int(text)


def _offers(call: Call) -> dict[str, list[str]]:
    broker = call.operations.broker
    return {
        "actors": sorted(broker.get_declared_actors()),
        "queues": sorted({q_name(name) for name in broker.get_declared_queues()}),
    }
