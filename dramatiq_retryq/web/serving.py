"""The page by itself: ``retryq web``, or :func:`serve` in a script."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from dramatiq_retryq.endpoint import PortTaken
from dramatiq_retryq.errors import ConfigError

from .app import RetryQueueWeb
from .security import is_loopback

__all__ = ["PORT", "Server", "serve"]

PORT = 9293
_log = logging.getLogger("dramatiq_retryq.web")


class _Handler(WSGIRequestHandler):
    #: Seconds. Somebody who opens a connection and says nothing does not keep a thread.
    timeout = 30

    def version_string(self) -> str:
        return "retryq"  # not which Python and which werkzeug

    def log(self, type: str, message: str, *args: Any) -> None:
        # Not werkzeug's logger, which writes to the terminal at INFO. A query may name an actor, never an argument.
        _log.debug(message, *args)


class Server:
    """The page on a port of its own. The port is taken once this is made; ``run`` answers.

    Args:
        app: the page.
        host: a name or an address of this machine. Beyond loopback only with a login, or with ``allow_anyone`` too.
        port: 0 takes one that is free; see ``url``.

    Raises:
        ConfigError: the host is not this machine, the port is taken, or anybody could use the page.
    """

    def __init__(self, app: RetryQueueWeb, host: str = "127.0.0.1", port: int = PORT) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ConfigError(f"web page: port is {port!r}: give a whole number from 0 to 65535")
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise PortTaken(f"web page: host is {host!r}: this is no name or address of this machine") from error
        family, _, _, _, address = found[0]
        if not is_loopback(str(address[0])) and not app.has_login and not app.allow_anyone:
            raise ConfigError(
                f"web page: host is {host!r}, so anybody who reaches this machine could replay and discard messages, "
                "and there is no login: stay on 127.0.0.1 and use a tunnel, give a login, or say allow_anyone=True too "
                "(--allow-anyone)"
            )
        self._socket = _bound(family, address, host, port)
        taken = self._socket.getsockname()
        try:
            self._server: BaseWSGIServer = make_server(
                str(taken[0]), taken[1], app, threaded=True, request_handler=_Handler, fd=self._socket.fileno()
            )
        except BaseException:
            self._socket.close()
            raise
        shown = host if (host and not host.startswith(("0.0.0.0", "::"))) or is_loopback(host) else socket.gethostname()
        #: Where to point a browser.
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{taken[1]}/"

    def run(self) -> None:
        """Answer until :meth:`stop`, or KeyboardInterrupt."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End :meth:`run`, from another thread."""
        self._server.shutdown()

    def close(self) -> None:
        """Let go of the port. Closing twice is no error."""
        self._server.server_close()
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def serve(
    app: RetryQueueWeb,
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    It is answered by werkzeug's server, which is good for a handful of people. For more, mount the page in the
    application, behind the server that this has already.

    Args:
        app: the page.
        host: a name or an address of this machine. Beyond loopback only with a login, or with ``allow_anyone`` too.
        port: 0 takes one that is free.
        ready: called with the page's address once it can be opened.

    Raises:
        ConfigError: the host is not this machine, the port is taken, or anybody could use the page.
    """
    with Server(app, host, port) as server:
        if ready is not None:
            ready(server.url)
        try:
            server.run()
        except KeyboardInterrupt:
            return


def _bound(family: int, address: Any, host: str, port: int) -> socket.socket:
    # Not left to werkzeug, which prints and ends the process where a port is taken.
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise PortTaken(
            f"web page: port {port} of {host!r} cannot be taken ({error.strerror}): give another port, or 0 for any "
            "that is free"
        ) from error
    return bound
