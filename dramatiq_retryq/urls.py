"""A broker from one line of settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from dramatiq import Broker
from dramatiq.middleware import Middleware, Retries, default_middleware

from .broker import MemoryBroker, SQLiteBroker
from .errors import ConfigError, MissingExtra
from .middleware import RetryQueue

__all__ = ["broker_from_url"]

_FORMS = (
    "memory://, sqlite:///jobs.db (relative) or sqlite:////srv/jobs.db (absolute), redis://host:6379/0, rediss://…, "
    "unix:///run/redis.sock, amqp://user:password@host:5672/vhost or amqps://…"
)


def broker_from_url(
    url: str,
    *,
    retry_queue: RetryQueue | None = None,
    middleware: list[Middleware] | None = None,
    **options: Any,
) -> Broker:
    """The broker that a URL names, with ``RetryQueue`` in place.

    No connection is made yet: a server that is down is noticed by the first ``send()`` and by the worker, which
    waits for it.

    ========================================  ==================================================================
    ``memory://``                             :class:`~dramatiq_retryq.MemoryBroker`
    ``sqlite:///jobs.db``                     :class:`~dramatiq_retryq.SQLiteBroker`, relative to the working directory
    ``sqlite:////srv/jobs.db``                the same, absolute
    ``redis://``, ``rediss://``, ``unix://``  Dramatiq's ``RedisBroker``; needs the extra ``redis``
    ``amqp://``, ``amqps://``                 Dramatiq's ``RabbitmqBroker`` with ``confirm_delivery``, unless that is
                                              given as false; needs the extra ``rabbitmq``
    ========================================  ==================================================================

    What stands after a ``?`` are options of the broker for ``memory`` and ``sqlite`` (``?synchronous=full``), and of
    the client for the others (``?heartbeat=30``).

    Args:
        url: as above.
        retry_queue: a ``RetryQueue`` of yours: ``retry_queue=RetryQueue(max_retries=5)``.
        middleware: in place of Dramatiq's default. ``RetryQueue`` takes the place of ``Retries`` in it, and is added if
            there is neither.
        options: further options of the broker: ``namespace="shop"`` for Redis, ``max_crashes=5`` for SQLite.

    Raises:
        ConfigError: the URL or an option makes no sense. The text never holds a password.
        MissingExtra: the client is not installed.
        StoreUnavailable: the file of ``sqlite`` cannot be opened.
    """
    scheme, parts = _parsed(url)
    chain = _with_retry_queue(middleware, retry_queue)
    make = {
        "memory": _memory,
        "sqlite": _sqlite,
        "redis": _redis,
        "rediss": _redis,
        "unix": _redis,
        "amqp": _rabbitmq,
        "amqps": _rabbitmq,
    }[scheme]
    return make(url, parts, {**options, "middleware": chain})


def _parsed(url: str) -> tuple[str, SplitResult]:
    if not isinstance(url, str) or not url:
        # Not the value: bytes or a URL object may hold a password.
        raise ConfigError(
            f"the broker's URL is {type(url).__name__ if url else repr(url)}: give a text, one of {_FORMS}"
        )
    try:
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
    except ValueError:
        raise ConfigError(f"the broker's URL {_shown(url)} cannot be read: give one of {_FORMS}") from None
    if "://" not in url or scheme not in ("memory", "sqlite", "redis", "rediss", "unix", "amqp", "amqps"):
        raise ConfigError(f"the broker's URL is {_shown(url)}: give one of {_FORMS}")
    return scheme, parts


def _shown(url: str) -> str:
    """The URL for an error's text: no password, and none of the values after the question mark."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        # A value that was meant for something else, perhaps a secret.
        return f"a text of {len(url)} characters without ://"
    userinfo, at, place = rest.rpartition("@")  # the last one: a password may hold an unescaped @, / or ?
    if at:
        user, colon, _ = userinfo.partition(":")
        userinfo = f"{user}:***@" if colon else "***@"
    place, mark, query = place.partition("?")
    if mark:
        query = "&".join(f"{pair.partition('=')[0]}=…" for pair in query.split("&"))
    return repr(f"{scheme}://{userinfo}{place}{mark}{query}")


def _with_retry_queue(middleware: list[Middleware] | None, retry_queue: RetryQueue | None) -> list[Middleware]:
    if retry_queue is not None and not isinstance(retry_queue, RetryQueue):
        raise ConfigError(f"broker_from_url: retry_queue is {retry_queue!r}: give a RetryQueue(…)")
    if middleware is None:
        own = RetryQueue() if retry_queue is None else retry_queue
        return [own if cls is Retries else cls() for cls in default_middleware]
    chain = list(middleware)
    present = [m for m in chain if isinstance(m, RetryQueue)]
    if present and retry_queue is not None and present != [retry_queue]:
        raise ConfigError(
            "broker_from_url: middleware has a RetryQueue, and retry_queue is given as well: each would retry every "
            "message; keep one of them"
        )
    if present:
        return [m for m in chain if not isinstance(m, Retries)]
    own = RetryQueue() if retry_queue is None else retry_queue
    place = next((i for i, m in enumerate(chain) if isinstance(m, Retries)), len(chain))
    chain = [m for m in chain if not isinstance(m, Retries)]
    chain.insert(place, own)
    return chain


def _memory(url: str, parts: SplitResult, options: dict[str, Any]) -> Broker:
    if parts.netloc or parts.path.strip("/"):
        raise ConfigError(f"the broker's URL is {_shown(url)}: memory:// has no host and no path")
    return _made(url, MemoryBroker, {**_query(url, parts, _MEMORY_OPTIONS), **options})


def _sqlite(url: str, parts: SplitResult, options: dict[str, Any]) -> Broker:
    path = unquote(parts.path[1:])
    if parts.netloc or not parts.path.startswith("/") or not path or "\0" in path:
        raise ConfigError(
            f"the broker's URL is {_shown(url)}: give sqlite:///jobs.db for a file in the working directory, "
            "sqlite:////srv/jobs.db for an absolute path, or memory:// for no file at all"
        )
    return _made(url, SQLiteBroker, {**_query(url, parts, _SQLITE_OPTIONS), **options}, path)


def _redis(url: str, parts: SplitResult, options: dict[str, Any]) -> Broker:
    try:
        import redis  # noqa: F401  Dramatiq's own error would be a bare ModuleNotFoundError.
        from dramatiq.brokers.redis import RedisBroker
    except ImportError as error:
        raise MissingExtra("redis") from error
    _check_port(url, parts)
    if parts.scheme.lower() != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
        # The client takes no notice of it and uses database 0.
        raise ConfigError(f"the broker's URL is {_shown(url)}: after the host comes the database's number, as in /0")
    return _made(url, RedisBroker, {"url": url, **options})


def _rabbitmq(url: str, parts: SplitResult, options: dict[str, Any]) -> Broker:
    try:
        import pika  # noqa: F401
        from dramatiq.brokers.rabbitmq import RabbitmqBroker
    except ImportError as error:
        raise MissingExtra("rabbitmq") from error
    for one in url.split(";"):  # several servers, as RabbitmqBroker takes them
        _check_port(url, _parsed(one)[1])
    return _made(url, RabbitmqBroker, {"url": url, "confirm_delivery": True, **options})


def _check_port(url: str, parts: SplitResult) -> None:
    try:
        _ = parts.port
    except ValueError:
        raise ConfigError(f"the broker's URL is {_shown(url)}: its port is no number up to 65535") from None


def _made(url: str, cls: Callable[..., Broker], options: dict[str, Any], *args: Any) -> Broker:
    try:
        return cls(*args, **options)
    except (ConfigError, OSError):
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        given = ", ".join(sorted(options.keys() - {"url", "middleware"})) or "no options"
        text = str(error)
        if "://" in text or any(secret in text for secret in _secrets(url)):  # some clients quote what they were given
            text = type(error).__name__
        raise ConfigError(
            f"{getattr(cls, '__name__', cls)} cannot be made from {_shown(url)} with {given}: {text}"
        ) from (error if isinstance(error, TypeError) else None)


def _secrets(url: str) -> set[str]:
    """What of a URL no error may show: the user's part, and what options are set to."""
    userinfo, _, rest = url.partition("://")[2].rpartition("@")
    texts = [*userinfo.split(":"), *(pair.partition("=")[2] for pair in rest.partition("?")[2].split("&"))]
    return {secret for text in texts for secret in (text, unquote(text)) if secret}


def _whole(text: str) -> int:
    return int(text, 10)


_MEMORY_OPTIONS: dict[str, Callable[[str], Any]] = {"max_messages": _whole, "max_dead_letters": _whole}
_SQLITE_OPTIONS: dict[str, Callable[[str], Any]] = {
    "synchronous": str,
    "max_crashes": _whole,
    "max_dead_letters": _whole,
    "max_letter_age": _whole,
}


def _query(url: str, parts: SplitResult, known: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise ConfigError(f"the broker's URL is {_shown(url)}: {name!r} is none of {', '.join(known)}")
        try:
            found[name] = known[name](text)
        except ValueError:
            raise ConfigError(f"the broker's URL has {name}={text!r}: give a whole number") from None
    return found
