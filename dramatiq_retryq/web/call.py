"""One request on its way to its answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from dramatiq_retryq.clock import clock_of

from . import security
from .text import as_query, encoded, plural, zone

if TYPE_CHECKING:
    from .app import RetryQueueWeb

__all__ = ["Call", "Problem", "said"]

#: The cookie with word of what was done.
DONE = "retryq_done"
_WORDS = {
    "replayed": ("was replayed and waits again", "were replayed and wait again"),
    "discarded": ("was discarded", "were discarded"),
    "due": ("is due now", "are due now"),
    "moved": ("was moved", "were moved"),
    "cancelled": ("was cancelled", "were cancelled"),
    "paused": ("Paused. Workers take nothing of it; what they run now goes on to its end.", ""),
    "resumed": ("Resumed.", ""),
    "nothing": ("Nothing was selected, so nothing was done.", ""),
}


def said(cookie: str) -> str | None:
    """What an action left word of for the page after it. Only our own words come out, whatever the cookie says."""
    found = re.fullmatch(r"([a-z]+)\.(\d{1,9})\.(\d{1,9})\.(\d{1,9})", cookie, re.ASCII)
    if found is None or found[1] not in _WORDS:
        return None
    one, many = _WORDS[found[1]]
    if not many:
        return one
    count, missed, refused = int(found[2]), int(found[3]), int(found[4])
    text = f"{plural(count, 'message')} {one if count == 1 else many}."
    if missed:
        text += f" {plural(missed, 'message')} {'was' if missed == 1 else 'were'} no longer there."
    if refused:
        text += f" {plural(refused, 'message')} could not be: torn, or written by a newer version of dramatiq_retryq."
    return text


class Problem(Exception):
    """Ends a request with a page that says what is wrong.

    Args:
        status: the HTTP status.
        title: a few words.
        sentence: what happened and what to do.
        links: where to go from here: words and a path.
    """

    def __init__(self, status: int, title: str, sentence: str, links: Iterable[tuple[str, str]] = ()) -> None:
        self.status, self.title, self.sentence, self.links = status, title, sentence, list(links)
        super().__init__(sentence)


class Call:
    """One request, on its way to its answer."""

    def __init__(self, app: RetryQueueWeb, request: Request, user: str | None) -> None:
        self.app = app
        self.request = request
        self.user = user
        self.operations = app.operations
        self._new_token: str | None = None

    @property
    def now(self) -> int:
        """The present instant, by the clock of the broker."""
        clock = clock_of(self.operations.broker)
        return clock.now()

    @property
    def may_act(self) -> bool:
        return not self.app.read_only

    def url(self, path: str, query: Mapping[str, Any] | None = None) -> str:
        """The address of one of our pages, below wherever we are mounted."""
        asked = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        return self.app.root(self.request) + path + (f"?{as_query(asked)}" if asked else "")

    @property
    def token(self) -> str:
        """What the forms of this answer repeat; the cookie that holds it is set with the answer."""
        token = security.read_token(self.request) or self._new_token
        if token is None:
            token = self._new_token = security.new_token()
        return token

    def render(self, template: str, *, code: int = 200, **values: Any) -> Response:
        done = said(self.request.cookies.get(DONE, "")) if code == 200 else None
        values = {"call": self, "url": self.url, "refresh": False, "done": done, "zone": zone(self.now), **values}
        page = self.app.templates.get_template(template).render(values)
        response = Response(encoded(page), status=code, mimetype="text/html")
        path = self.app.root(self.request) or "/"
        if self._new_token is not None:
            self._set_cookie(response, security.COOKIE, self._new_token, path)
        if done is not None:
            response.delete_cookie(DONE, path=path)
        return response

    def text(self, content: str) -> Response:
        """A text of somebody else, as it is. No browser takes it for anything but text."""
        return Response(encoded(content), mimetype="text/plain")

    def done(
        self,
        path: str,
        query: Mapping[str, Any] | None,
        what: str,
        count: int = 1,
        missed: int = 0,
        refused: int = 0,
    ) -> Response:
        """Go and look at what came of it. What was done is said there, once."""
        response = Response("", status=303, headers={"Location": self.url(path, query)})
        self._set_cookie(response, DONE, f"{what}.{count}.{missed}.{refused}", self.app.root(self.request) or "/")
        return response

    def _set_cookie(self, response: Response, name: str, value: str, path: str) -> None:
        secure = self.request.scheme == "https"
        response.set_cookie(name, value, path=path, httponly=True, samesite="Strict", secure=secure)
