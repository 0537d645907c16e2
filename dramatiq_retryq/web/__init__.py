"""The web page: what waits, what failed and why, and what to do about it. Needs the extra ``web``.

It is a WSGI application, so it can be mounted in Django, Flask or anything else, or served by itself::

    from dramatiq_retryq.web import RetryQueueWeb, serve

    serve(RetryQueueWeb(broker))  # http://127.0.0.1:9293/

Read ``app`` first, then ``pages`` and ``actions``; the rest is edges.
"""

from __future__ import annotations

from dramatiq_retryq.errors import MissingExtra

try:
    import jinja2  # noqa: F401 - asked for here, so that the error names the extra
    import werkzeug  # noqa: F401
except ImportError as missing:
    raise MissingExtra("web") from missing

from .app import RetryQueueWeb
from .serving import Server, serve

__all__ = ["RetryQueueWeb", "Server", "serve"]
