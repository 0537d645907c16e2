"""The page as a WSGI application: routes, who may pass, and what is answered when something is wrong."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import jinja2
from dramatiq import Broker, get_logger
from dramatiq.errors import ConnectionClosed, ConnectionFailed
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from dramatiq_retryq.errors import ConfigError, NotSupported, StoreUnavailable
from dramatiq_retryq.logs import log
from dramatiq_retryq.operations import Operations

from . import actions, forms, message_page, pages, security, text
from .call import Call, Problem
from .summary import Charts

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["RetryQueueWeb"]

#: No form of ours is larger: fifty ids and some filters.
MAX_FORM = 256 * 1024
_logger: logging.Logger = get_logger(__name__)  # type: ignore[no-untyped-call]
_STATIC = {
    "retryq.css": "text/css; charset=utf-8",
    "retryq.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_ROUTES = Map(
    [
        *(
            Rule(path, endpoint=page, methods=["GET"])
            for path, page in {
                "/": pages.overview,
                "/queues": pages.queues,
                "/queue": pages.queue,
                "/pending": pages.pending,
                "/dead": pages.dead,
                "/workers": pages.workers,
                "/message": message_page.message,
                "/message/arguments": message_page.message_arguments,
                "/letter": message_page.letter,
                "/letter/arguments": message_page.letter_arguments,
                "/letter/traceback": message_page.letter_traceback,
            }.items()
        ),
        *(
            Rule(path, endpoint=action, methods=["POST"])
            for path, action in {
                "/pause": actions.pause,
                "/resume": actions.resume,
                "/pending/run-now": actions.run_now,
                "/pending/move": actions.move,
                "/pending/cancel": actions.cancel,
                "/dead/replay": actions.replay,
                "/dead/discard": actions.discard,
            }.items()
        ),
    ],
    strict_slashes=False,
    # Left as it is: a redirect would name the host that the visitor claims to have asked for.
    merge_slashes=False,
)


class _Request(Request):
    max_content_length = MAX_FORM
    max_form_parts = 1_000


class RetryQueueWeb:
    """The operator's page of one broker: a WSGI application.

    Without a ``login`` it is shown only to somebody at this machine, by a name or an address of this machine.

    Args:
        broker: any Dramatiq broker; what it cannot tell, the page says.
        login: the application's own: ``login(environ)`` gives who is asking, ``None`` for nobody, or a response that
            is answered instead, such as a redirect to the login form. It reads cookies and headers, not the body.
        read_only: show everything, change nothing.
        base_url: the path below which browsers see the page, where the server in front does not say so in
            ``SCRIPT_NAME``.
        hosts: the names by which the page may be asked for. By default any where there is a ``login``, otherwise
            ``localhost`` and loopback addresses.
        allow_anyone: show it, without a login, to everybody who can reach it.
        show_arguments: show what the messages' arguments are.

    Raises:
        ConfigError: a value makes no sense.
    """

    def __init__(
        self,
        broker: Broker | Operations,
        *,
        login: security.Login | None = None,
        read_only: bool = False,
        base_url: str | None = None,
        hosts: Iterable[str] | None = None,
        allow_anyone: bool = False,
        show_arguments: bool = True,
    ) -> None:
        if login is not None and not callable(login):
            raise ConfigError(f"RetryQueueWeb: login is {login!r}: give a callable that takes the WSGI environ")
        if isinstance(hosts, str):
            raise ConfigError(f"RetryQueueWeb: hosts is {hosts!r}: give a list of names, as [{hosts!r}]")
        self.operations = broker if isinstance(broker, Operations) else Operations.of(broker)
        self.read_only = read_only
        self.allow_anyone = allow_anyone
        self.show_arguments = show_arguments
        self._login = login
        self._hosts = None if hosts is None else frozenset(host.strip("[]").lower() for host in hosts)
        self._root = None if base_url is None else _path_of(base_url)
        self.charts = Charts(self.operations)
        self.templates = _templates()

    def __repr__(self) -> str:
        return f"<RetryQueueWeb of {self.operations.broker!r}>"

    @property
    def has_login(self) -> bool:
        return self._login is not None

    def root(self, request: Request) -> str:
        """The path that is before every path of ours; empty where we are mounted at the top."""
        if self._root is not None:
            return self._root
        # One slash: what begins with two is the address of another site.
        root = request.root_path.strip("/")
        return f"/{root}" if root else ""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = environ.get("QUERY_STRING", "")
        if not asked.isascii():
            # Bytes of no known encoding, of which werkzeug reads UTF-8 only; a browser sends none.
            environ = {**environ, "QUERY_STRING": quote(asked, safe="%&=+;/?:@,", encoding="latin-1")}
        request = _Request(environ)
        answer = self._answer(request)
        if isinstance(answer, Response):
            security.harden(answer.headers)
        return answer(environ, start_response)

    def _answer(self, request: Request) -> WSGIApplication:
        call = Call(self, request, None)
        try:
            self._check_host(request)
            if request.path.startswith("/static/"):
                return self._static(request)
            answer = self._log_in(request)
            if not isinstance(answer, str):
                return answer
            call = Call(self, request, answer)
            page, _ = _ROUTES.bind_to_environ(request.environ).match()
            if request.method == "POST":
                self._check_form(call)
            return page(call)  # type: ignore[no-any-return]
        except Problem as problem:
            return self._problem(call, problem)
        except NotSupported as error:
            return self._problem(call, Problem(501, "This broker cannot do that", f"{error}"))
        except HTTPException as error:
            return self._http_error(call, error)
        except Exception as error:
            if _is_unavailable(error):
                log(_logger, "warning", "The web page cannot use the store: %s", error)
                links = [("Try again", _again(request))]
                return self._problem(call, Problem(503, "The store cannot be used now", f"{error}", links))
            log(_logger, "exception", "The web page failed at %s %s", request.method, request.path)
            sentence = "Something broke, and it is not known whether anything was done. The log has the error."
            return self._problem(call, Problem(500, "An error", sentence))

    def _check_host(self, request: Request) -> None:
        problem = security.host_problem(
            request, hosts=self._hosts, has_login=self.has_login, allow_anyone=self.allow_anyone
        )
        if problem is not None:
            raise Problem(400, "Not a name of this page", problem)

    def _log_in(self, request: Request) -> str | WSGIApplication:
        """Who is asking, or what they are answered instead of the page."""
        if self._login is None:
            problem = None if self.allow_anyone else security.visitor_problem(request)
            if problem is not None:
                raise Problem(403, "Only from this machine", problem)
            return ""
        try:
            answer = self._login(dict(request.environ))
        except HTTPException as refusal:  # as Flask's abort() does
            return refusal.get_response(request.environ)
        if callable(answer) and not hasattr(answer, "is_authenticated"):
            return answer  # type: ignore[no-any-return]
        user = security.user_of(answer)
        if user is None:
            raise Problem(403, "Not logged in", "The application's login does not let you see this page. Log in there.")
        return user

    def _check_form(self, call: Call) -> None:
        if self.read_only:
            raise Problem(403, "Read only", "This page shows, and changes nothing. Nothing was done.")
        # Read here, so that a form that is too large is refused before anything is done.
        if not security.is_own_form(call.request, call.request.form.getlist("token")):
            raise Problem(
                403,
                "Not from this page",
                "The form was not sent from this page, or the page is older than your cookie. Nothing was done. Go "
                "back, load the page again and repeat it.",
            )

    def _problem(self, call: Call, problem: Problem) -> Response:
        response = call.render("problem.html", code=problem.status, problem=problem)
        if problem.status == 503:
            response.headers["Retry-After"] = "5"
        return response

    def _http_error(self, call: Call, error: HTTPException) -> Response:
        title, sentence = error.name, "The request cannot be understood. Nothing was done."
        if isinstance(error, NotFound):
            title, sentence = "No such page", "There is no page at this address."
        elif isinstance(error, MethodNotAllowed):
            sentence = "This address is for forms, or only for looking. Nothing was done."
        elif isinstance(error, RequestEntityTooLarge):
            title, sentence = "Too much", f"The form has more than {MAX_FORM // 1024} KiB. Nothing was done."
        response = self._problem(call, Problem(error.code or 400, title, sentence))
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response

    def _static(self, request: Request) -> Response:
        found = _files().get(request.path.removeprefix("/static/"))
        if found is None:
            raise NotFound
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        content, kind, version = found
        response = Response(content, content_type=kind)
        response.set_etag(version)
        response.headers["Cache-Control"] = "no-cache"
        response.make_conditional(request)
        return response


@functools.cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    return {name: _file(name, kind) for name, kind in _STATIC.items()}


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("dramatiq_retryq.web"),
        autoescape=True,  # everything: no file name decides what is trusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = ("ago", "clock_time", "cut", "duration", "instant", "machine", "number", "plural")
    templates.filters.update({name: getattr(text, name) for name in filters})
    templates.filters["key_of"] = forms.key_of
    templates.filters["urlencode"] = text.as_query  # jinja's own refuses what is in some people's names
    templates.globals["versions"] = {name: file[2] for name, file in _files().items()}
    return templates


def _file(name: str, kind: str) -> tuple[bytes, str, str]:
    content = importlib.resources.files(__package__).joinpath("static").joinpath(name).read_bytes()
    return content, kind, hashlib.sha256(content).hexdigest()[:16]


def _path_of(base_url: Any) -> str:
    parts = urlsplit(base_url) if isinstance(base_url, str) else None
    # An address without a scheme, //host/path, is more likely a slip than a wish.
    if parts is None or bool(parts.scheme) != bool(parts.netloc) or (parts.path and not parts.path.startswith("/")):
        raise ConfigError(f"RetryQueueWeb: base_url is {base_url!r}: give a path that starts with /, as '/ops/retryq'")
    return parts.path.rstrip("/")


def _is_unavailable(error: Exception) -> bool:
    # By name: redis' and pika's errors are no relations of Python's, and neither package need be installed.
    lost = {"ConnectionError", "TimeoutError", "AMQPConnectionError"}
    if isinstance(error, (StoreUnavailable, ConnectionClosed, ConnectionFailed)):
        return True
    return any(cls.__name__ in lost for cls in type(error).__mro__)


def _again(request: Request) -> str:
    """Where the visitor was, if looking is all they did; else the front page."""
    if request.method not in ("GET", "HEAD"):
        return "/"
    query = request.query_string.decode("latin-1")
    # One slash: what begins with two is the address of another site.
    return f"/{request.path.lstrip('/')}" + (f"?{query}" if query else "")
