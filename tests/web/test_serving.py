"""The page on a port of its own."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.web import Server, serve

if TYPE_CHECKING:
    from .conftest import Desk


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(20)
        server.close()


def ask(server: Server, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2].strip("/")), timeout=20)
    connection.request("GET", path, headers={"Connection": "close", **headers})
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def test_it_answers_on_loopback_and_says_where(desk: Desk) -> None:
    with running(Server(desk.app, port=0)) as server:
        assert server.url.startswith("http://127.0.0.1:")
        response = ask(server)
        assert response.status == 200
        assert b"Overview" in response.body  # type: ignore[attr-defined]
        assert response.headers["Server"] == "retryq"


def test_a_name_of_somebody_else_that_leads_here_is_refused(desk: Desk) -> None:
    with running(Server(desk.app, port=0)) as server:
        assert ask(server, Host="evil.example").status == 400


def test_several_visitors_are_answered_at_once(desk: Desk) -> None:
    with running(Server(desk.app, port=0)) as server:
        silent = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2].strip("/"))))
        assert ask(server).status == 200
        silent.close()


def test_requests_are_not_written_to_the_terminal(desk: Desk, capfd: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), running(Server(desk.app, port=0)) as server:
        ask(server, "/dead?actor=deliver")
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_beyond_loopback_it_wants_a_login_or_to_be_told_twice(desk: Desk, host: str) -> None:
    with pytest.raises(ConfigError, match="there is no login"):
        Server(desk.app, host, 0)


def test_told_twice_it_is_there_for_all(desk: Desk) -> None:
    with Server(desk.open(allow_anyone=True).app, "0.0.0.0", 0) as server:
        assert server.url == f"http://{socket.gethostname()}:{server.url.rpartition(':')[2]}"


def test_with_a_login_it_is_there_for_all(desk: Desk) -> None:
    Server(desk.open(login=lambda environ: None).app, "0.0.0.0", 0).close()


def test_a_port_that_is_taken_is_said_and_nothing_is_printed(desk: Desk, capfd: Any) -> None:
    with Server(desk.app, port=0) as server:
        port = int(server.url.rpartition(":")[2].strip("/"))
        with pytest.raises(ConfigError, match=f"port {port} of '127.0.0.1' cannot be taken"):
            Server(desk.app, port=port)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("port", [-1, 65_536, "9293", True, 1.5])
def test_a_port_that_is_none_is_refused(desk: Desk, port: Any) -> None:
    with pytest.raises(ConfigError, match="give a whole number from 0 to 65535"):
        Server(desk.app, port=port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, "1.2.3.4.5"])
def test_a_host_that_is_not_this_machine_is_refused(desk: Desk, host: str) -> None:
    with pytest.raises(ConfigError, match="no name or address of this machine"):
        Server(desk.app, host, 0)


def test_an_address_of_another_machine_is_refused(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="cannot be taken"):
        Server(desk.open(allow_anyone=True).app, "192.0.2.1", 0)


def test_serving_ends_at_control_c_and_frees_the_port(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    urls: list[str] = []

    def interrupted(self: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "run", interrupted)
    serve(desk.app, port=0, ready=urls.append)
    port = int(urls[0].rpartition(":")[2].strip("/"))
    Server(desk.app, port=port).close()


def test_closing_twice_is_no_error(desk: Desk) -> None:
    server = Server(desk.app, port=0)
    server.close()
    server.close()


def test_a_visitor_who_is_gone_before_the_answer_breaks_nothing(desk: Desk) -> None:
    with running(Server(desk.app, port=0)) as server:
        visitor = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2].strip("/"))))
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        visitor.close()
        assert ask(server).status == 200
