"""The customers' side: a real HTTP server on loopback, flaky in the ways real ones are.

| customer            | what its endpoint does                                                                |
| ------------------- | ------------------------------------------------------------------------------------- |
| `acme-tools`        | admits some requests a second and answers the others 503 with `Retry-After`           |
| `globex-freight`    | takes some events but answers too late: the sender sees a time-out and sends it again |
| `harbour-coffee`    | cannot read the amount "1.299,00": answers 500 to that event until the bug is fixed   |
| `old-mill-antiques` | is closed: 410                                                                        |
| all of them         | cannot be reached for some seconds: the port is closed, connections are refused       |

Every request must carry a valid signature. An event that arrives twice is stored once.

`python -m examples.webhooks.receiver` runs it alone: it prints the two addresses it listens on, chosen by the
system, as one line of JSON and serves until Ctrl-C. The second address is for whoever plays with it: `GET /`
says what was received, `POST /fix` fixes the bug.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import signing

REQUESTS_BEFORE_OUTAGE = 160
ADMITTED_PER_SECOND = 10
ANSWER_DELAY = 1.5
"""Seconds that a slow endpoint takes: longer than the sender waits."""


@dataclass(frozen=True)
class Answer:
    status: HTTPStatus
    retry_after: int | None = None
    delay: float = 0


class Receiver:
    """What the customers' applications do with an event, without any HTTP. Safe to call from many threads."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.outage_is_due = threading.Event()
        self.bug_is_fixed = False
        self._lock = threading.Lock()
        self._requests = 0
        self._duplicates = 0
        self._stored: dict[str, dict[str, Any]] = {}
        self._admitted: Counter[int] = Counter()

    def receive(self, customer: str, signature: str, body: bytes) -> Answer:
        """Take one request and return the answer to it."""
        with self._lock:
            self._requests += 1
            if self._requests == REQUESTS_BEFORE_OUTAGE:
                self.outage_is_due.set()

            if not signing.is_valid(signature, self.secret, body, now=time.time()):
                return Answer(HTTPStatus.UNAUTHORIZED)
            if customer == "old-mill-antiques":
                return Answer(HTTPStatus.GONE)
            if customer == "acme-tools" and not self._admit():
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, retry_after=1)
            return self._store(customer, json.loads(body))

    def report(self) -> dict[str, Any]:
        with self._lock:
            return {
                "requests": self._requests,
                "duplicates": self._duplicates,
                "stored": sorted(self._stored),
            }

    def _admit(self) -> bool:
        second = int(time.monotonic())
        self._admitted[second] += 1
        return self._admitted[second] <= ADMITTED_PER_SECOND

    def _store(self, customer: str, event: dict[str, Any]) -> Answer:
        event_id = event["id"]
        if event_id in self._stored:
            self._duplicates += 1
            return Answer(HTTPStatus.OK)
        try:
            if "amount" in event["data"]:
                self._parse_amount(event["data"]["amount"])
        except ArithmeticError:
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._stored[event_id] = event
        is_slow = customer == "globex-freight" and zlib.crc32(event_id.encode()) % 4 == 0
        return Answer(HTTPStatus.ACCEPTED, delay=ANSWER_DELAY if is_slow else 0)

    def _parse_amount(self, text: str) -> Decimal:
        if self.bug_is_fixed and "," in text:
            text = text.replace(".", "").replace(",", ".")
        return Decimal(text)


class Listener(ThreadingHTTPServer):
    """An HTTP server on a thread of its own that can go down while clients are connected."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[Handler], receiver: Receiver) -> None:
        self.receiver = receiver
        self._connections: set[Any] = set()
        super().__init__(("127.0.0.1", port), handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def go_down(self) -> None:
        """Close the port, and the connections that clients keep open."""
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A sender that ran out of patience has hung up: nothing to report.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def reply(self, status: HTTPStatus, *, body: bytes = b"", retry_after: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No access log: the sender tells the story."""


class HookHandler(Handler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        customer = self.path.removeprefix("/hooks/")
        answer = self.server.receiver.receive(customer, self.headers.get(signing.HEADER, ""), body)
        time.sleep(answer.delay)
        self.reply(answer.status, retry_after=answer.retry_after)


class AdminHandler(Handler):
    def do_GET(self) -> None:
        self.reply(HTTPStatus.OK, body=json.dumps(self.server.receiver.report()).encode())

    def do_POST(self) -> None:
        if self.path != "/fix":
            return self.reply(HTTPStatus.NOT_FOUND)
        self.server.receiver.bug_is_fixed = True
        self.reply(HTTPStatus.NO_CONTENT)


def have_one_outage(hooks: Listener, *, seconds: float) -> None:
    """Wait until the outage is due, then refuse connections for that long."""
    hooks.receiver.outage_is_due.wait()
    hooks.go_down()
    # Bound but not listening: connections are refused, and nobody else is given the port meanwhile.
    with socket.socket() as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(hooks.server_address)
        time.sleep(seconds)
    Listener(hooks.server_port, HookHandler, hooks.receiver)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.webhooks.receiver", description="A flaky receiver.")
    parser.add_argument("--outage", type=float, default=2, metavar="SECONDS", help="how long the port stays closed")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the parent process does")
    args = parser.parse_args()

    receiver = Receiver(signing.shared_secret())
    hooks = Listener(0, HookHandler, receiver)
    admin = Listener(0, AdminHandler, receiver)
    print(json.dumps({"hooks": hooks.url + "/hooks", "admin": admin.url}), flush=True)

    threading.Thread(target=have_one_outage, args=(hooks,), kwargs={"seconds": args.outage}, daemon=True).start()
    with suppress(KeyboardInterrupt):
        if args.until_stdin_closes:
            sys.stdin.read()
        else:
            threading.Event().wait()


if __name__ == "__main__":
    main()
