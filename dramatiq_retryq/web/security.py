"""Who may see the page, who may act, and what the browser is told to forbid.

Three questions are asked of each request, in this order, and a "no" ends it:

1.  Is it for us? The ``Host`` header is one of ours. Without that, a site of somebody else whose name leads to
    127.0.0.1 could read the page through the browser of whoever visits it.
2.  May this person see it? The application's own ``login`` says so; without one, only somebody at this machine.
3.  For a change: did it come from our own page? The browser says where from, and the form repeats what the cookie has.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Request

from dramatiq_retryq.errors import ConfigError

__all__ = [
    "COOKIE",
    "Login",
    "harden",
    "host_problem",
    "is_loopback",
    "is_own_form",
    "new_token",
    "read_token",
    "visitor_problem",
]

#: The application's own login: takes the WSGI environ, gives who it is, ``None`` for nobody, or a response (a WSGI
#: application, as Flask's and werkzeug's are) that is answered instead of the page.
Login = Callable[[dict[str, Any]], Any]

COOKIE = "retryq_csrf"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it a browser says "Origin: null" of our own forms, and nobody could tell them from others.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


#: Headers of a request that a proxy has passed on, whatever it says of whom.
_OF_PROXIES = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_", "HTTP_X_REAL_IP", "HTTP_VIA")


def harden(headers: Headers) -> None:
    """Tell the browser to run nothing that is not ours, to keep nothing and to show it in nobody's frame."""
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")


def is_loopback(host: str) -> bool:
    """Whether this name or address is always this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def host_of(request: Request) -> str:
    """The name in the ``Host`` header, without its port; empty if there is none or it is nonsense."""
    text = request.environ.get("HTTP_HOST") or request.environ.get("SERVER_NAME") or ""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+)(?::\d{1,5})?", text)
    return found[1].rstrip(".").lower() if found else ""


def own_names() -> set[str]:
    """What this machine calls itself."""
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0]}


def host_problem(request: Request, *, hosts: Collection[str] | None, has_login: bool, allow_anyone: bool) -> str | None:
    """Why the name in the address bar is not one of ours; ``None`` if it is."""
    host = host_of(request)
    if not host:
        return "The request names no host, or one that cannot be read."
    if is_loopback(host) or (hosts is not None and host in hosts):
        return None
    if hosts is None and has_login:
        return None  # whoever has no session sees nothing, and a browser sends that to its own host only
    if hosts is None and allow_anyone and (_address(host) is not None or host in own_names()):
        return None  # somebody else's name may lead here, but an address is nobody's name
    return (
        f"The page is asked for as {host!r}, and that is not one of its names. If it should be, give "
        f"RetryQueueWeb(…, hosts=[{host!r}])."
    )


def visitor_problem(request: Request) -> str | None:
    """Why somebody without a login is not at this machine; ``None`` if they are."""
    visitor = request.environ.get("REMOTE_ADDR") or ""
    forwarded = [name for name in request.environ if name.startswith(_OF_PROXIES)]
    if (not visitor or is_loopback(visitor)) and not forwarded:
        return None
    return (
        "The page has no login, so it is shown only to somebody at this machine. Give "
        "RetryQueueWeb(…, login=…) the login of the application, or say allow_anyone=True."
    )


def user_of(answer: Any) -> str | None:
    """Who the application's login says it is: a name for the page and the log; ``None`` for nobody.

    Raises:
        ConfigError: it is nothing that is understood. Whatever is true is not somebody: a response of Django's is true.
    """
    # Before it is asked whether it is true: Django's and Flask-Login's anonymous users are.
    is_authenticated = getattr(answer, "is_authenticated", True)
    # A method in some: it is always true, and what it says need not be.
    if not (is_authenticated() if callable(is_authenticated) else is_authenticated) or not answer:
        return None
    if answer is True:
        return ""
    if isinstance(answer, str):
        return answer
    if not hasattr(answer, "is_authenticated"):
        raise ConfigError(
            f"RetryQueueWeb: login gave {answer!r}: give a name, a user that has is_authenticated, None for nobody, or "
            "a response that is a WSGI application, as werkzeug.utils.redirect('/login') makes"
        )
    name = getattr(answer, "get_username", None)
    return str(name() if callable(name) else answer)


def new_token() -> str:
    return secrets.token_urlsafe(24)


def read_token(request: Request) -> str | None:
    """The token in the visitor's cookie, if it has our form."""
    token = request.cookies.get(COOKIE, "")
    return token if _TOKEN.fullmatch(token) else None


def is_own_form(request: Request, sent: Iterable[str]) -> bool:
    """Whether a form comes from our own page, and not from one that somebody else put before the visitor."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        if site != "same-origin":
            return False
    elif origin is not None and origin.partition("://")[2] != request.environ.get("HTTP_HOST"):
        return False
    token = read_token(request)
    return token is not None and any(hmac.compare_digest(token.encode(), one.encode()) for one in sent)
