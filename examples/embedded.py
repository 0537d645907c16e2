"""A web application that does its slow work in the background, in one process and with nothing else to run.

    python -m examples.embedded               two people sign up, and the program ends
    python -m examples.embedded --port 8000   serve until Ctrl-C:

        curl -d ada@example.com http://127.0.0.1:8000/    answers at once with the id of the background job
        curl http://127.0.0.1:8000/<id>                   says where that job is

`run_worker` runs Dramatiq's own worker on threads of this process while the `with` block lasts. Without
`--port` the program prints that both people were answered at once, that their mails wait for another attempt,
the mail server being away, and that they went out at the third.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import dramatiq

from dramatiq_retryq import MemoryBroker, current_attempt, run_worker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger("examples.embedded")
broker = MemoryBroker()
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=10, min_backoff=200, max_backoff=60_000)
def send_welcome_mail(address: str) -> None:
    attempt = current_attempt().number
    if attempt < 3:
        raise ConnectionError("the mail server does not answer")  # It is flaky; who has not seen one?
    log.info("mailed %s at attempt %d", address, attempt)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """POST / with an address: sign up. GET /<id>: where is the mail to that address?"""
    if environ["REQUEST_METHOD"] == "POST":
        address = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        status, answer = "202 Accepted", send_welcome_mail.send(address).message_id
    else:
        status, answer = "200 OK", describe(environ["PATH_INFO"].lstrip("/"))
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [answer.encode() + b"\n"]


def describe(message_id: str) -> str:
    """Say where a message is now."""
    job = broker.lookup(message_id)
    if job.state == "waiting":
        return f"the mail waits for attempt {job.retries + 1}"
    if job.state == "claimed":
        return "the mail is being sent"
    if job.state == "dead":
        return f"the mail could not be sent ({job.reason})"
    return "the mail is out"  # A finished message is gone. So is one that never was: a real service would know.


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No access log."""


def sign_up_two_people(url: str) -> None:
    """Do what a browser would do."""
    jobs = {address: ask(url, address) for address in ("ada@example.com", "alan@example.com")}
    time.sleep(0.1)
    for address, job in jobs.items():
        log.info("%s has signed up; %s", address, ask(url + job))
    broker.join(send_welcome_mail.queue_name)
    for address, job in jobs.items():
        log.info("%s: %s", address, ask(url + job))


def ask(url: str, body: str | None = None) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # Not by way of a proxy.
    with opener.open(url, body.encode() if body else None) as response:
        answer: bytes = response.read()
    return answer.decode().strip()


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="python -m examples.embedded", description="A worker in a web application.")
    parser.add_argument("--port", type=int, help="serve on this port until Ctrl-C")
    args = parser.parse_args()
    server: WSGIServer
    with (
        run_worker(broker, threads=2),
        make_server("127.0.0.1", args.port or 0, application, handler_class=QuietHandler) as server,
        suppress(KeyboardInterrupt),
    ):
        if args.port is not None:
            log.info("Serving on http://127.0.0.1:%d/, Ctrl-C ends it.", server.server_port)
            server.serve_forever()
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            sign_up_two_people(f"http://127.0.0.1:{server.server_port}/")
            server.shutdown()


if __name__ == "__main__":
    main()
