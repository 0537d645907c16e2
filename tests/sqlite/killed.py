"""Processes that kill themselves in the middle of a move. Run as a script by test_kill_matrix.py.

The process that reads the cases, one line of JSON each, opens no file. For each case it forks a child that makes ready,
and then makes the move over a connection that counts the statements which write, and kills the process by SIGKILL
before or after one of them. A second child looks at what is left, starts as a worker would, and does all the work.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from queue import PriorityQueue
from typing import Any

import dramatiq
import version_1  # it lies beside this script
from dramatiq import Message
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_retryq import RetryQueue, SQLiteBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.records import read_attempts

QUEUE = "default"
NOW = VirtualClock().now()

#: Which statement is deadly: its number, and whether "before" or "after" it. Nothing is counted before it is set.
deadly: tuple[int, str] | None = None
counted = 0
is_up = True
ran: list[str] = []
told: list[str] = []
say: Callable[..., None] = lambda **fields: None  # noqa: E731


class Doomed(sqlite3.Connection):
    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        global counted
        # All but those that only look, or set what concerns this connection only.
        writes = re.match(r"(?!SELECT|PRAGMA(?! (application_id|user_version|journal_mode) =))", sql.lstrip())
        if deadly is None or not writes:
            return super().execute(sql, *args)
        counted += 1
        if (counted, "before") == deadly:
            self.die(sql)
        cursor = super().execute(sql, *args)
        if (counted, "after") == deadly:
            self.die(sql)
        return cursor

    def die(self, sql: str) -> None:
        say(statement=" ".join(sql.split()))
        os.kill(os.getpid(), signal.SIGKILL)


class App:
    """A broker with its actors, and a worker that is driven by hand."""

    def __init__(self, path: str, **options: Any) -> None:
        self.clock = VirtualClock()
        self.broker = SQLiteBroker(path, clock=self.clock, retry_queue=RetryQueue(jitter="none"), **options)
        dramatiq.set_broker(self.broker)
        self.operations = Operations.of(self.broker)

        @dramatiq.actor(broker=self.broker)
        def call(message: str) -> None:
            say(ran=message)
            ran.append(message)
            if not is_up:
                raise ConnectionError("it is down")

        @dramatiq.actor(broker=self.broker)
        def undertaker(letter: dict[str, Any]) -> None:
            told.append(letter["message"]["message_id"])

        self.consumer = self.broker.consume(QUEUE, prefetch=100, timeout=0)
        self.work: PriorityQueue[Any] = PriorityQueue()
        self.thread = ConsumerThread(
            broker=self.broker, queue_name=QUEUE, prefetch=1, work_queue=self.work, worker_timeout=0
        )
        self.thread.consumer = self.consumer
        self.worker = WorkerThread(
            broker=self.broker, consumers={QUEUE: self.thread}, work_queue=self.work, worker_timeout=0
        )

    def send(self, *names: str, attempts: int = 0, **options: Any) -> None:
        history = [{"n": n + 1, "started_at": NOW, "duration": 0, "error": "E", "message": ""} for n in range(attempts)]
        for name in names:
            if history:
                options |= {"attempts": history, "retries": attempts}
            self.broker.enqueue(
                Message(
                    queue_name=QUEUE,
                    actor_name="call",
                    args=(name,),
                    kwargs={},
                    options=dict(options),
                    message_id=name,
                    message_timestamp=NOW,
                )
            )

    def take(self, count: int) -> list[Any]:
        return [next(self.consumer) for _ in range(count)]

    def process(self, message: Any) -> None:
        self.thread.handle_message(message)
        item = self.work.get_nowait()
        self.worker.process_message(item[1] if isinstance(item, tuple) else item.message)

    def drain(self) -> None:
        """Do all the work there is, leaping from due to due."""
        while True:
            due_at = self.broker.store.next_due(QUEUE)
            if due_at is not None:
                self.clock.move_to(max(self.clock.now(), due_at))
            message = next(self.consumer)
            if message is not None:
                self.process(message)
            elif due_at is None:
                return


# -- The moves: each makes ready and returns what is to be interrupted -----------------------------------------------


def opening(path: str) -> Callable[[], object]:
    return lambda: App(path)


def put(path: str) -> Callable[[], object]:
    app = App(path)
    return lambda: app.send("a")


def claim(path: str) -> Callable[[], object]:
    """The first claim of a process, which registers it as a worker too."""
    app = App(path)
    app.send("a", "b", "c")
    return lambda: app.take(1)


def claim_again(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a")
    app.take(1)
    app.send("b", "c")
    return lambda: app.take(1)


def acks(path: str) -> Callable[[], object]:
    """Several acks that have come together, and one message that was not begun."""
    app = App(path)
    app.send("a", "b", "c", "d")
    for message in app.take(4)[:3]:
        app.process(message)
    return app.consumer.commit_acks  # type: ignore[attr-defined,no-any-return]


def ack_at_the_end(path: str) -> Callable[[], object]:
    """A worker's orderly end: acks are committed, and what was fetched and not begun goes back."""
    app = App(path)
    app.send("a", "b", "c", "d")
    done, *fetched = app.take(2)
    app.process(done)

    def end() -> None:
        app.consumer.requeue(fetched)
        app.consumer.close()

    return end


def finish(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a")
    [message] = app.take(1)
    say(ran="a")
    return lambda: app.broker.store.finish(message.claim)


def reschedule(path: str) -> Callable[[], object]:
    """The third attempt fails."""
    global is_up
    app = App(path)
    app.send("a", attempts=2)
    [message] = app.take(1)
    is_up = False
    return lambda: app.process(message)


def release(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a", "b", "c")
    messages = app.take(3)
    return lambda: app.consumer.requeue(messages)


def bury(path: str) -> Callable[[], object]:
    """The last attempt fails, the dead-letter actor is told, and the oldest letter has to make room."""
    global is_up
    app = App(path, max_dead_letters=1)
    is_up = False
    app.send("oldest", max_retries=0)
    app.process(app.take(1)[0])
    app.send("a", attempts=1, max_retries=1, dead_letter_actor="undertaker")
    [message] = app.take(1)
    return lambda: app.process(message)


def revive(path: str) -> Callable[[], object]:
    app = _with_dead(path)
    letter = app.broker.dead_letters.one()
    return lambda: app.broker.dead_letters.replay(letter)


def discard(path: str) -> Callable[[], object]:
    app = _with_dead(path)
    letter = app.broker.dead_letters.one()
    return lambda: app.broker.dead_letters.discard(letter)


def _with_dead(path: str) -> App:
    global is_up
    is_up = False
    app = App(path)
    app.send("a", attempts=2, max_retries=2)
    app.process(app.take(1)[0])
    return app


def recover(path: str) -> Callable[[], object]:
    """Two worker processes have died, each while it was running one message and had fetched another."""
    _leave_dead_worker(path, "a", "b")
    _leave_dead_worker(path, "c", "d")
    app = App(path)
    return lambda: app.broker.emit_before("worker_boot", None)


def recover_dead(path: str) -> Callable[[], object]:
    """A worker process has died while it was running a message that killed others before."""
    _leave_dead_worker(path, "a", "b", dead_letter_actor="undertaker")
    app = App(path, max_crashes=1)
    return lambda: app.broker.emit_before("worker_boot", None)


def recover_by_age(path: str) -> Callable[[], object]:
    """A worker process has died, and of two letters one is too old."""
    global is_up
    is_up = False
    for name, died_at in (("old", NOW), ("young", NOW + 8_000)):
        app = App(path)
        app.clock.move_to(died_at)
        app.send(name, max_retries=0)
        app.process(app.take(1)[0])
    _leave_dead_worker(path, "a", "b")
    app = App(path, max_letter_age=5_000)
    app.clock.move_to(NOW + 10_000)
    return lambda: app.broker.emit_before("worker_boot", None)


def _leave_dead_worker(path: str, begun: str, *fetched: str, **options: Any) -> None:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            app = App(path)
            app.send(begun, *fetched, attempts=1, **options)
            message, *_ = app.take(1 + len(fetched))
            say(ran=begun)
            app.broker.emit_before("process_message", message)
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def migrate(path: str) -> Callable[[], object]:
    """A file of the first version is opened."""
    messages = []
    for state, name in (("waiting", "a"), ("waiting", "b"), ("claimed", "c")):
        fields = {"queue_name": QUEUE, "actor_name": "call", "args": (name,), "kwargs": {}, "options": {}}
        data = Message(**fields, message_id=name, message_timestamp=NOW).encode()
        messages.append((state, QUEUE, NOW, data))
    version_1.make(path, messages)
    return lambda: App(path)


def pause(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a")
    return lambda: app.operations.pause(actor="call")


def hold(path: str) -> Callable[[], object]:
    """Three messages of a paused actor are claimed and set aside."""
    app = App(path)
    app.send("a", "b", "c")
    app.operations.pause(actor="call")
    claims = app.broker.store.claim(QUEUE, now=NOW, limit=3, owner="host:1")
    return lambda: app.broker.store.hold(claims, "call", now=NOW)


def resume(path: str) -> Callable[[], object]:
    hold(path)()
    app = App(path)
    return lambda: app.operations.resume(actor="call")


def move(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a", "b")
    return lambda: app.operations.move("a", due_at=NOW + 5)


def cancel(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a", "b")
    return lambda: app.operations.cancel("a")


def flush(path: str) -> Callable[[], object]:
    """A message waits, one was set aside, and one is claimed."""
    app = App(path)
    app.send("a", "b", "c")
    app.operations.pause(actor="call")
    claims = app.broker.store.claim(QUEUE, now=NOW, limit=2, owner="host:1")
    app.broker.store.hold(claims[:1], "call", now=NOW)
    return lambda: app.broker.flush(QUEUE)


def keep_counts(path: str) -> Callable[[], object]:
    app = App(path)
    app.send("a", "b", "c")
    return lambda: app.broker.store.keep_counts(now=NOW + 5_000)


MOVES: dict[str, Callable[[str], Callable[[], object]]] = {
    "open": opening,
    "put": put,
    "claim": claim,
    "claim again": claim_again,
    "acks": acks,
    "a worker's end": ack_at_the_end,
    "finish": finish,
    "reschedule": reschedule,
    "release": release,
    "bury": bury,
    "revive": revive,
    "discard": discard,
    "recover": recover,
    "recover and bury": recover_dead,
    "recover by age": recover_by_age,
    "migrate": migrate,
    "pause": pause,
    "hold": hold,
    "resume": resume,
    "move": move,
    "cancel": cancel,
    "flush": flush,
    "keep counts": keep_counts,
}


# -- The cases ---------------------------------------------------------------------------------------------------


def rows(path: str) -> list[dict[str, Any]]:
    """What lies in the file, as far as it is the same from one run to the next."""
    con = sqlite3.connect(path)
    try:
        found = con.execute("SELECT data, state, deliveries, reason FROM messages ORDER BY id").fetchall()
    except sqlite3.OperationalError:  # killed before there was a table
        return []
    finally:
        con.close()
    result = []
    for data, state, deliveries, reason in found:
        message = Message.decode(data)
        result.append(
            {
                # A notice has an id of its own that is another one each time.
                "message": message.message_id if message.actor_name == "call" else message.actor_name,
                "state": state,
                "deliveries": deliveries,
                "reason": reason,
                "attempts": len(read_attempts(message.options)),
            }
        )
    return result


def make_move(path: str, move: str, moment: str, number: int) -> None:
    global deadly
    sqlite3.connect = functools.partial(sqlite3.connect, factory=Doomed)  # type: ignore[assignment]
    act = MOVES[move](path)
    if move != "open":
        say(before=rows(path))
    deadly = (number, moment)
    act()
    os._exit(0)  # nothing is closed: as if it had been killed at the very end


def look(path: str) -> None:
    left = rows(path)
    app = App(path)
    findings = app.broker.check()
    app.broker.emit_before("worker_boot", None)
    for actor in app.operations.paused().actors:
        app.operations.resume(actor=actor)
    recovered = rows(path)
    findings += app.broker.check()
    app.drain()
    app.broker.emit_after("worker_shutdown", None)
    findings += app.broker.check()
    done = rows(path)
    app.send("one more")
    app.drain()
    app.broker.close()
    directory, name = os.path.split(path)
    say(
        left=left,
        recovered=recovered,
        done=done,
        findings=findings,
        ran_later=ran,
        told=told,
        files=sorted(other.removeprefix(name) for other in os.listdir(directory)),
    )


def in_child(function: Callable[..., None], *args: Any) -> tuple[int, Iterator[dict[str, Any]]]:
    """Run a function in a forked child: how that ended, and what it said."""
    global say
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        # Unbuffered: what was said must be heard, even if the process is killed in the next moment.
        say = lambda **fields: os.write(writing, json.dumps(fields).encode() + b"\n")  # noqa: E731
        try:
            function(*args)
        except BaseException:
            say(error=traceback.format_exc())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = [json.loads(line) for line in pipe]
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), iter(said)


def main() -> None:
    logging.disable()
    for line in sys.stdin:
        case = json.loads(line)
        status, said = in_child(make_move, case["path"], case["move"], case["moment"], case["number"])
        result: dict[str, Any] = {"status": status, "ran": []}
        for fields in said:
            if "ran" in fields:
                result["ran"].append(fields["ran"])
            else:
                result |= fields
        if "error" not in result:
            _, said = in_child(look, case["path"])
            for fields in said:
                if "ran" not in fields:
                    result |= fields
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
