"""What the processes of test_processes.py do. Run as a script with the path of a socket to listen on.

Each connection is a new process, forked from one that has everything imported and nothing opened. It is told in one
line of JSON what to do, says what happens in such lines, and the connection ends when the process does.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.results import Results

from dramatiq_retryq import RetryQueue, SQLiteBroker, current_attempt, run_worker
from dramatiq_retryq.backends import SQLiteRateLimiterBackend, SQLiteResultBackend


class Channel:
    """The connection to the test."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()

    def say(self, **fields: Any) -> None:
        with self._lock:
            self._connection.sendall(json.dumps(fields).encode() + b"\n")

    def hear(self) -> Any:
        line = self._lines.readline()
        return json.loads(line) if line else None


def make_broker(channel: Channel, path: str, *, results: bool = False, **options: Any) -> SQLiteBroker:
    broker = SQLiteBroker(path, retry_queue=RetryQueue(jitter="none"), **options)
    if results:
        broker.add_middleware(Results(backend=SQLiteResultBackend(path)))

    def say(event: str, name: str) -> None:
        attempt = current_attempt()
        previous = [[a.error, a.worker] for a in attempt.previous] if attempt is not None else []
        channel.say(event=event, name=name, previous=previous)

    @dramatiq.actor(broker=broker)
    def note(name: str) -> None:
        say("ran", name)

    @dramatiq.actor(broker=broker)
    def hang(name: str) -> None:
        say("began", name)
        threading.Event().wait()

    @dramatiq.actor(broker=broker)
    def wait_for_file(name: str, file: str) -> None:
        say("began", name)
        pause = threading.Event()
        while not os.path.exists(file):
            pause.wait(0.01)
        say("ran", name)

    @dramatiq.actor(broker=broker)
    def hold_interpreter(name: str, milliseconds: int) -> None:
        say("began", name)
        ctypes.PyDLL(None).usleep(milliseconds * 1000)  # a PyDLL does not let go of the interpreter's lock
        say("ran", name)

    @dramatiq.actor(broker=broker)
    def kill_worker(name: str) -> None:
        say("began", name)
        os.kill(os.getpid(), signal.SIGKILL)

    @dramatiq.actor(broker=broker)
    def undertaker(letter: dict[str, Any]) -> None:
        channel.say(event="told", name=letter["message"]["args"][0], reason=letter["reason"])

    if results:

        @dramatiq.actor(broker=broker, store_results=True, result_ttl=60_000)
        def add(x: int, y: int) -> int:
            return x + y

    return broker


# -- What a process can be -------------------------------------------------------------------------------------------


def work(channel: Channel, path: str, threads: int = 1, worker_timeout: int = 50, **options: Any) -> None:
    """A worker that stops when it is told anything."""
    broker = make_broker(channel, path, **options)
    with run_worker(broker, threads=threads, worker_timeout=worker_timeout):
        channel.say(event="ready")
        channel.hear()
    broker.close()


def replay(channel: Channel, path: str) -> None:
    broker = make_broker(channel, path)
    channel.say(event="ready")
    channel.hear()
    channel.say(replayed=broker.dead_letters.replay_all())
    broker.close()


def claim(channel: Channel, path: str) -> None:
    broker = make_broker(channel, path)
    channel.say(event="ready")
    channel.hear()
    claimed: list[str] = []
    while claims := broker.store.claim("default", now=broker.clock.now(), limit=3, owner="host:1"):
        claimed += [dramatiq.Message.decode(claim.data).args[0] for claim in claims]
        broker.store.finish_many(claims)
    channel.say(claimed=claimed)
    broker.close()


def fork_while_writing(channel: Channel, path: str, children: int, each: int) -> None:
    """Forks, with threads that write meanwhile; the children send too."""
    broker = make_broker(channel, path)
    note = broker.get_actor("note")
    note.send("held")
    [held] = broker.store.claim(
        "default", now=broker.clock.now(), limit=1, owner=f"{socket.gethostname()}:{os.getpid()}"
    )
    names: list[str] = []
    stop = threading.Event()

    def write(thread: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            note.send(f"thread-{thread}-{n}")
            names.append(f"thread-{thread}-{n}")

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    pids = []
    for child in range(children):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for n in range(each):
                    note.send(f"child-{child}-{n}")
                findings = broker.check()
                broker.close()
                status = len(findings)
            finally:
                os._exit(status)
        pids.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    stop.set()
    for thread in threads:
        thread.join()
    names += [f"child-{child}-{n}" for child in range(children) for n in range(each)]
    channel.say(statuses=statuses, names=names, findings=broker.check(), held=held.id)
    channel.hear()
    broker.store.finish(held)
    channel.say(event="finished")
    broker.close()


def fork_and_hang(channel: Channel, path: str) -> None:
    """Claims a message, and has a child that lives on when this process is killed."""
    broker = make_broker(channel, path)
    consumer = broker.consume("default")
    message = next(consumer)
    broker.emit_before("process_message", message)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"!")  # it is past what is done in the child of a fork
        signal.pause()
    os.read(reading, 1)
    channel.say(child=pid)
    channel.hear()


def hold_limit(channel: Channel, path: str) -> None:
    limiter = ConcurrentRateLimiter(SQLiteRateLimiterBackend(path), "shared", limit=1)
    with limiter.acquire():
        channel.say(event="held")
        channel.hear()
    channel.say(event="released")


ROLES: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (work, replay, claim, fork_while_writing, fork_and_hang, hold_limit)
}


def main() -> None:
    logging.disable()
    warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork() with threads, which is what is tested
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[1])
    listening.listen()
    print("listening", flush=True)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            channel = Channel(connection)
            task = channel.hear()
            channel.say(pid=os.getpid())
            ROLES[task.pop("role")](channel, **task)
            sys.stdout.flush()
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    main()
