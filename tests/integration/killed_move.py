"""Processes that kill themselves in the middle of moving messages. Run as a script by test_killed_moves.py.

For each case, one line of JSON, a child is forked that sends some messages and moves them. It counts what it asks of
the file and of the servers, and kills itself by SIGKILL after one of these. A second child lets workers at both ends do
what they can get, perhaps, goes on with the move, and does all the work that there is.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika.channel
import redis
from dramatiq import Message
from dramatiq.common import dq_name

from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.errors import MoveRefused
from dramatiq_retryq.moving import move
from dramatiq_retryq.moving.rabbitmq_end import RabbitmqEnd
from tests.integration import places, servers

HOUR = 3_600_000
#: After which step to die. Nothing is counted before it is set.
deadly: int | None = None
counted = 0


def deadly_step(act: Callable[..., Any], name: Callable[..., str | None]) -> Callable[..., Any]:
    """The same function, but counted, and the end of the process if it is its turn."""

    def step(*args: Any, **kwargs: Any) -> Any:
        global counted
        called = name(*args, **kwargs)
        if deadly is None or called is None:
            return act(*args, **kwargs)
        result = act(*args, **kwargs)
        counted += 1
        if counted == deadly:
            die(called)
        return result

    return step


def die(what: str) -> None:
    say(step=what)
    os.kill(os.getpid(), signal.SIGKILL)


def writes(_: object, sql: str, *args: object) -> str | None:
    return " ".join(sql.split()) if re.match(r"(?!SELECT|PRAGMA)", sql.lstrip()) else None


class Doomed(sqlite3.Connection):
    execute = deadly_step(sqlite3.Connection.execute, writes)  # type: ignore[assignment]


def make_deadly() -> None:
    sqlite3.connect = functools.partial(sqlite3.connect, factory=Doomed)  # type: ignore[assignment]
    redis.Redis.execute_command = deadly_step(  # type: ignore[method-assign]
        redis.Redis.execute_command, lambda client, *args, **kwargs: f"redis: {args[0]}"
    )
    for name in ("basic_publish", "basic_get", "basic_ack", "queue_delete", "tx_commit"):
        act = getattr(pika.channel.Channel, name)
        setattr(pika.channel.Channel, name, deadly_step(act, lambda *args, _name=name, **kwargs: f"rabbitmq: {_name}"))


def tell_journeys() -> None:
    """Say the names of the journeys, whose notes on RabbitMQ the test clears away."""
    expect = RabbitmqEnd.expect

    def telling(end: RabbitmqEnd, journey: str) -> None:
        say(note=f"{journey}.move")
        expect(end, journey)

    RabbitmqEnd.expect = telling  # type: ignore[method-assign]


def ends(case: dict[str, Any]) -> tuple[Any, Any]:
    made = []
    for side in ("source", "target"):
        kind = case[side]
        url = {"redis": case["redis_url"], "rabbitmq": case["rabbitmq_url"]}.get(kind)
        broker = places.make(kind, url, f"{case['name']}{side}", Path(case["directory"]))
        broker.declare_queue(case["name"])
        made.append(broker)
    return made[0], made[1]


def moving(case: dict[str, Any]) -> None:
    global deadly
    make_deadly()
    tell_journeys()
    source, target = ends(case)
    for number in range(4):
        sent = Message(
            queue_name=case["name"], actor_name="work", args=(), kwargs={}, options={}, message_id=f"m{number}"
        )
        source.enqueue(sent, delay=HOUR if number == 3 else None)
    deadly = case["number"]
    move(source, target, batch=2)
    os._exit(0)  # nothing is closed: as if it had been killed at the very end


def work(broker: Any, queue_name: str) -> list[str]:
    """What a worker would do, as if everything were due: fetch and ack."""
    if isinstance(broker, (MemoryBroker, SQLiteBroker)):
        claims = broker.store.claim(queue_name, now=1 << 62, limit=100, owner="a worker")
        broker.store.finish_many(claims)
        return [Message.decode(claim.data).message_id for claim in claims]
    done = []
    for name in (queue_name, dq_name(queue_name)):
        consumer = broker.consume(name, prefetch=100, timeout=20)
        while (message := next(consumer)) is not None:
            consumer.ack(message)
            done.append(message.message_id)
        consumer.close()
    return done


def going_on(case: dict[str, Any]) -> None:
    source, target = ends(case)
    ran = work(source, case["name"]) + work(target, case["name"]) if case["between"] else []

    def moved() -> bool:
        try:
            move(source, target, batch=2)
        except MoveRefused:  # a server has not noticed yet that the other process is gone
            return False
        return True

    servers.wait_until(moved)
    left = places.waiting(source, case["name"])
    ran += work(source, case["name"]) + work(target, case["name"])
    findings = [finding for broker in (source, target) for finding in getattr(broker, "check", list)()]
    say(ran=ran, left=len(left), findings=findings)


say: Callable[..., None] = lambda **fields: None  # noqa: E731


def in_child(function: Callable[[dict[str, Any]], None], case: dict[str, Any]) -> dict[str, Any]:
    """Run a function in a forked child: how that ended, and what it said."""
    global say
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        # Unbuffered: what was said must be heard, even if the process is killed in the next moment.
        say = lambda **fields: os.write(writing, json.dumps(fields).encode() + b"\n")  # noqa: E731
        try:
            function(case)
        except BaseException:
            say(error=traceback.format_exc())
        os._exit(0)
    os.close(writing)
    result: dict[str, Any] = {}
    with open(reading, "rb") as pipe:
        for line in pipe:
            result |= json.loads(line)
    result["status"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return result


def main() -> None:
    logging.disable()
    for line in sys.stdin:
        case = json.loads(line)
        first = in_child(moving, case)
        second = in_child(going_on, case) if "error" not in first else {}
        print(json.dumps({**first, **second, "killed": first["status"] == -signal.SIGKILL}), flush=True)


if __name__ == "__main__":
    main()
