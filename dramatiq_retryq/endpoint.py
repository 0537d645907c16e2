"""A small HTTP server for machines that ask how things are: on its own threads, few of them, patient with nobody.

It is there for as long as a worker runs, in its process or beside it, so whoever connects must not be able to hold it
up: a client has 5 seconds in all, there are never more than a handful, and the newest is heard first.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import monotonic
from typing import Any

from .errors import ConfigError
from .logs import log

__all__ = ["LOOPBACK", "Address", "Endpoint", "PortTaken", "Reply", "parse_address"]

LOOPBACK = "127.0.0.1"

#: How long (s) a client may take in all, from its connection to the last byte of its answer.
PATIENCE = 5.0
#: How many clients are heard at once. One more, and the one that has been there longest is cut off.
MAX_CLIENTS = 8
#: How often (s) it is seen who took too long, and whether this is being stopped.
LOOK_EVERY = 0.1


class PortTaken(ConfigError):
    """The address cannot be listened at: another program does, or this machine has no such address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object, what: str) -> Address:
    """An address that a person typed: ``"host:port"``, ``"[::1]:port"``, or a port, which then is on loopback.

    Args:
        value: the text, or the port as a number. Port 0 is any that is free.
        what: how the error calls it, for example ``"RetryQueue: health"``.

    Raises:
        ConfigError: it is none of these.
    """
    wanted = f'{what} is {value!r}: give "host:port", as "127.0.0.1:9292", or a port alone for this machine only'
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(wanted)
    found = re.fullmatch(r"(?:(\[[^\[\]]+\]|[^\[\]:\s/]*):)?([0-9]{1,5})", str(value))
    if found is None or int(found[2]) > 65_535:
        raise ConfigError(wanted)
    host = found[1] or LOOPBACK
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigError(f"{what} is {value!r}: {host!r} in brackets is no IPv6 address") from None
    return Address(host, int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is sent to a client."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


#: By path; the one of ``"*"`` answers for all that are not named.
Routes = Mapping[str, Callable[[], Reply]]


class Endpoint:
    """Answers GET on a few paths, on threads of its own.

    Args:
        address: where to listen.
        routes: what is answered; called on several threads at once.
        logger: for what goes wrong.

    Raises:
        PortTaken: somebody else listens there.
    """

    def __init__(self, address: Address, routes: Routes, logger: logging.Logger) -> None:
        self._server = _listen(address, routes, logger)
        #: Where it listens: with the port that the system chose, if that was left to it.
        self.address = Address(address.host, self._server.server_address[1])
        self._thread: threading.Thread | None = None
        _endpoints.add(self)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        """Serve on a thread, until :meth:`stop`."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_EVERY,), name="retryq-endpoint", daemon=True
        )
        self._thread.start()

    def serve(self) -> None:
        """Serve on this thread, until an exception ends it."""
        self._server.serve_forever(LOOK_EVERY)

    def stop(self) -> None:
        """Stop serving and let go of the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.close()

    def _after_fork(self) -> None:
        # Or the child would hold the port for as long as it lives, and answer nobody.
        self._server.socket.close()


def _listen(address: Address, routes: Routes, logger: logging.Logger) -> _Server:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        return _Server(family, place, routes, logger)
    except OSError as error:
        raise PortTaken(
            f"cannot listen at {address}: {error.strerror or error}: choose another port, or end the program there"
        ) from error


class _Server(HTTPServer):
    # A burst of clients that is longer is refused by the system.
    request_queue_size = 64

    def __init__(self, family: int, place: Any, routes: Routes, logger: logging.Logger) -> None:
        self.address_family = family
        self.routes = routes
        self.logger = logger
        self._clients: dict[socket.socket, tuple[float, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._room = threading.Semaphore(MAX_CLIENTS)
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name server for this machine's name and may wait for it.
        # A port stays busy for a minute after a server is gone, unless one says that this is no matter.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self._cut(oldest=True)
            if not self._room.acquire(timeout=1.0):
                self.shutdown_request(request)
                return
        thread = threading.Thread(
            target=self._answer, args=(request, client_address), name="retryq-client", daemon=True
        )
        with self._lock:
            self._clients[request] = monotonic(), thread
        thread.start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            pass  # the client is gone, or was cut off
        finally:
            with self._lock:
                self._clients.pop(request, None)
            self.shutdown_request(request)
            self._room.release()

    def service_actions(self) -> None:
        self._cut()

    def _cut(self, *, oldest: bool = False) -> None:
        """Cut off the clients whose time is over, or the one that has been there longest."""
        with self._lock:
            clients = [*self._clients.items()]
        late = [client for client, (since, _) in clients if oldest or monotonic() - since > PATIENCE]
        for client in late[:1] if oldest else late:
            try:
                client.shutdown(socket.SHUT_RDWR)  # it wakes the thread that reads from it
            except OSError:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the standard one prints a traceback for each client that goes too early."""

    def close(self) -> None:
        self.server_close()
        with self._lock:
            clients = [*self._clients.items()]
        for client, (_, thread) in clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            thread.join(1.0)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    protocol_version = "HTTP/1.0"  # one request for each connection: nobody keeps a thread
    server_version = "dramatiq_retryq"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        routes = self.server.routes
        answer = routes.get(path) or routes.get("*")
        if answer is None:
            named = " and ".join(route for route in routes)
            self._send(Reply(status=404, body=f"There is nothing here but {named}.\n".encode()))
            return
        try:
            reply = answer()
        except Exception as error:
            log(self.server.logger, "error", "GET %.100r failed: %s.", path, type(error).__name__)
            reply = Reply(status=500, body=f"This failed: {type(error).__name__}.\n".encode())
        self._send(reply)

    do_HEAD = do_GET

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""


_endpoints: weakref.WeakSet[Endpoint] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for endpoint in list(_endpoints):
        endpoint._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
