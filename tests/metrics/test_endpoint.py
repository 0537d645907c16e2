"""The little server: who may hold it up (nobody), and where it listens."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dramatiq_retryq import endpoint as module
from dramatiq_retryq.endpoint import MAX_CLIENTS, Address, Endpoint, PortTaken, Reply, parse_address
from dramatiq_retryq.errors import ConfigError
from tests.metrics.scraping import get

HELLO = {"/hello": lambda: Reply(status=200, body=b"hello")}


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("127.0.0.1:9292", "127.0.0.1", 9292),
        ("0.0.0.0:9292", "0.0.0.0", 9292),
        ("localhost:1", "localhost", 1),
        (":9292", "127.0.0.1", 9292),
        ("9292", "127.0.0.1", 9292),
        (9292, "127.0.0.1", 9292),
        (0, "127.0.0.1", 0),
        ("[::1]:9292", "::1", 9292),
        ("[::]:65535", "::", 65535),
    ],
)
def test_an_address_without_a_host_is_on_loopback(given: str | int, host: str, port: int) -> None:
    assert parse_address(given, "health") == Address(host, port)


@pytest.mark.parametrize(
    "given",
    ["", "host", "host:", "host:http", "1.2.3.4:65536", "::1:9292", "[nobody]:1", "[1.2.3.4]:1", "a b:1", -1, True,
     None, 9292.0, "http://127.0.0.1:9292", "127.0.0.1:9292/", "[::1]", "127.0.0.1:٩٢"],
)  # fmt: skip
def test_what_is_no_address_is_refused_by_its_value(given: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_address(given, "RetryQueue: health")
    assert f"RetryQueue: health is {given!r}: " in str(raised.value)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("jobs.example.com", False)],
)  # fmt: skip
def test_loopback_is_what_no_other_machine_reaches(host: str, is_loopback: bool) -> None:
    assert Address(host, 1).is_loopback is is_loopback


def test_a_path_is_answered_and_its_query_passed_over(endpoint: Any) -> None:
    url = endpoint(HELLO).url
    assert get(f"{url}/hello?x=1") == (200, b"hello")


def test_an_unknown_path_says_what_there_is(endpoint: Any) -> None:
    assert get(f"{endpoint(HELLO).url}/<b>") == (404, b"There is nothing here but /hello.\n")


def test_a_head_has_no_body(endpoint: Any) -> None:
    assert get(f"{endpoint(HELLO).url}/hello", "HEAD") == (200, b"")


def test_nothing_can_be_posted(endpoint: Any) -> None:
    assert get(f"{endpoint(HELLO).url}/hello", "POST")[0] == 501


def test_an_answer_that_raises_is_a_500_that_quotes_nothing(endpoint: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Reply:
        raise ValueError("password")

    url = endpoint({"/hello": fail}).url
    assert get(f"{url}/hello") == (500, b"This failed: ValueError.\n")
    assert "password" not in caplog.text


def test_ipv6_is_served(endpoint: Any) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    url = endpoint(HELLO, Address("::1", 0)).url
    assert url.startswith("http://[::1]:")
    assert get(f"{url}/hello") == (200, b"hello")


def test_a_port_that_is_taken_is_said(endpoint: Any) -> None:
    taken = endpoint(HELLO).address
    with pytest.raises(PortTaken) as raised:
        Endpoint(taken, HELLO, logging.getLogger("test"))
    assert str(raised.value).startswith(f"cannot listen at {taken}: Address already in use: ")


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(PortTaken) as raised:
        Endpoint(Address("192.0.2.1", 0), HELLO, logging.getLogger("test"))
    assert str(raised.value).startswith("cannot listen at 192.0.2.1:0: ")


def test_a_host_that_nobody_knows_is_said() -> None:
    with pytest.raises(PortTaken) as raised:
        Endpoint(Address("no-such-host.invalid", 0), HELLO, logging.getLogger("test"))
    assert "no-such-host.invalid" in str(raised.value)


def test_the_port_is_free_once_it_is_stopped() -> None:
    first = Endpoint(Address("127.0.0.1", 0), HELLO, logging.getLogger("test"))
    first.start()
    assert get(f"{first.url}/hello")[0] == 200
    first.stop()
    second = Endpoint(first.address, HELLO, logging.getLogger("test"))
    second.start()
    assert get(f"{second.url}/hello")[0] == 200
    second.stop()


@pytest.fixture
def client() -> Iterator[Any]:
    """Connects, and closes what is left at the end."""
    clients: list[socket.socket] = []

    def client(address: Address, sends: bytes = b"") -> socket.socket:
        clients.append(socket.create_connection((address.host, address.port), timeout=10))
        clients[-1].sendall(sends)
        return clients[-1]

    yield client
    for one in clients:
        one.close()


def test_clients_that_say_nothing_hold_nobody_up(endpoint: Any, client: Any) -> None:
    served = endpoint(HELLO)
    silent = [client(served.address, b"GET /hel") for _ in range(5 * MAX_CLIENTS)]
    assert get(f"{served.url}/hello") == (200, b"hello")
    assert len([thread for thread in threading.enumerate() if thread.name == "retryq-client"]) <= MAX_CLIENTS
    # The first to come were cut off to make room for the others.
    assert silent[0].recv(100) == b""


def test_a_client_that_takes_too_long_is_cut_off(endpoint: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.setattr(module._Handler, "timeout", 60)  # it would be patient with one that sends a byte now and then
    slow = client(endpoint(HELLO).address, b"GET /hello HTTP/1.0\r\n")
    assert slow.recv(100) == b""


@pytest.mark.parametrize(
    "sent",
    [b"\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET /hello HTTP/9.9\r\n\r\n",
     b"GET /" + 70_000 * b"a" + b" HTTP/1.0\r\n\r\n", b"GET /hello HTTP/1.0\r\n" + 200 * b"x: y\r\n" + b"\r\n"],
)  # fmt: skip
def test_nonsense_is_survived_in_silence(
    endpoint: Any, client: Any, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    served = endpoint(HELLO)
    one = client(served.address, sent)
    one.shutdown(socket.SHUT_WR)
    while one.recv(1_000):
        pass
    assert get(f"{served.url}/hello") == (200, b"hello")
    assert capfd.readouterr() == ("", "")


def test_a_client_that_goes_too_early_is_survived_in_silence(
    endpoint: Any, client: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    served = endpoint({"/hello": lambda: Reply(status=200, body=bytes(10_000_000))})
    client(served.address, b"GET /hello HTTP/1.0\r\n\r\n").close()
    assert get(f"{served.url}/hello")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_the_child_of_a_fork_does_not_keep_the_port(endpoint: Any) -> None:
    served = Endpoint(Address("127.0.0.1", 0), HELLO, logging.getLogger("test"))
    served.start()
    ends_child, child_ends = os.pipe()
    ready, says_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(says_ready, b"x")
        os.close(child_ends)
        os.read(ends_child, 1)
        os._exit(0)
    os.read(ready, 1)
    served.stop()
    try:
        again = endpoint(HELLO, served.address)
        assert get(f"{again.url}/hello")[0] == 200
    finally:
        os.close(child_ends)
        os.waitpid(pid, 0)
        for end in (ends_child, ready, says_ready):
            os.close(end)
