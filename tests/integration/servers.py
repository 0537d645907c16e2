"""The servers of these tests: the ones that run here, or their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: How long (s) a server may take to start.
PATIENCE = 60


def missing(reason: str) -> None:
    """Skip the test; where servers are required, fail it."""
    if os.environ.get("RETRYQ_REQUIRE_SERVERS") == "1":
        pytest.fail(f"RETRYQ_REQUIRE_SERVERS is 1, but {reason}", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_so: Callable[[], object], seconds: float = PATIENCE, what: str = "a condition") -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come about in time.
    """
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        pause.wait(0.01)


class RedisServer:
    """A Redis of the test's own, on a free port, that keeps its data over a restart (``appendonly``)."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.directory = directory
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        import redis

        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with contextlib.closing(redis.Redis(port=self.port)) as client:
                try:
                    return bool(client.ping())
                except redis.AuthenticationError:
                    return True
                except redis.RedisError:
                    return False

        wait_until(answers, what="redis-server to start")

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None


@contextlib.contextmanager
def own_redis(*options: str) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        missing("there is no redis-server on this machine")
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory), *options)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def shared_redis() -> Iterator[str]:
    """The URL of a Redis: the one that runs here, or else one that is started for this run."""
    import redis

    url = os.environ.get("RETRYQ_TEST_REDIS", "redis://127.0.0.1:6379/0")
    try:
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            client.ping()
    except redis.RedisError:
        with own_redis() as server:
            yield server.url
        return
    yield url


class RabbitmqServer:
    """A RabbitMQ of the test's own, on a free port, that keeps its data over a restart."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.binary = binary
        self.port = free_port()
        (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n", encoding="utf-8")
        self.settings = {
            "HOME": str(directory),  # for a cookie of its own
            "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq",  # not the system's
            "RABBITMQ_CONF_ENV_FILE": f"{directory}/env.conf",
            "RABBITMQ_NODENAME": f"retryq{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": f"{directory}/data",
            "RABBITMQ_LOG_BASE": f"{directory}/log",
            "RABBITMQ_PID_FILE": f"{directory}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/plugins",
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def start(self) -> None:
        wait_until(self._is_up, 2 * PATIENCE, "rabbitmq-server to start")

    def _is_up(self) -> bool:
        # It gives up where the name or the port of the one that was killed is not free yet.
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [self.binary],
                cwd=self.settings["HOME"],
                env={**os.environ, **self.settings},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return _rabbitmq_answers(self.url)

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)
            self.process.wait(PATIENCE)
            self.process = None


@contextlib.contextmanager
def own_rabbitmq() -> Iterator[RabbitmqServer]:
    # Debian's script on the path runs as the system's own user only, who may not see this directory.
    binary = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or shutil.which("rabbitmq-server")
    if binary is None:
        missing("there is no rabbitmq-server on this machine")
    assert binary is not None
    with tempfile.TemporaryDirectory() as directory:
        server = RabbitmqServer(binary, Path(directory))
        try:
            yield server
        finally:
            server.stop()


def _rabbitmq_answers(url: str) -> bool:
    import pika
    import pika.exceptions

    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except (pika.exceptions.AMQPError, OSError):
        return False
    return True


@contextlib.contextmanager
def shared_rabbitmq() -> Iterator[str]:
    """The URL of a RabbitMQ: the one that runs here, or else one that is started for this run."""
    url = os.environ.get("RETRYQ_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672/%2F")
    if _rabbitmq_answers(url):
        yield url
        return
    with own_rabbitmq() as server:
        yield server.url


@contextlib.contextmanager
def virtual_host(url: str) -> Iterator[str]:
    """A virtual host of the test's own, on a server that may be shared."""
    name = f"rq-{os.getpid()}-{time.time_ns()}"

    def control(*arguments: str) -> bool:
        command = [shutil.which("rabbitmqctl") or "rabbitmqctl", "-q", *arguments]
        try:
            return subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    if not control("add_vhost", name) or not control("set_permissions", "-p", name, "guest", ".*", ".*", ".*"):
        # No right to make one. On a server that was started for this run nobody else is disturbed.
        if os.environ.get("CI") or os.environ.get("RETRYQ_REQUIRE_SERVERS") == "1":
            yield url
            return
        missing("rabbitmqctl cannot make a virtual host here")
    try:
        yield f"{url.rpartition('/')[0]}/{name}"
    finally:
        control("delete_vhost", name)


class Proxy:
    """Stands before a server on a port of its own, and can be cut off, so that nobody else notices."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener: socket.socket | None = None
        self._pairs: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.port = free_port()
        self.open()

    def open(self) -> None:
        """Let connections through (again)."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener = listener
        self._run(self._accept, listener)

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # shutdown wakes the thread that waits in accept().
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for end in pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, function: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs |= {near, far}
            if self._listener is not listener:  # cut in the meantime
                for end in (near, far):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
            self._run(self._pass, near, far)
            self._run(self._pass, far, near)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
