"""A RabbitMQ that is killed and started again: what was confirmed is there afterwards, and comes to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import DeadLetters
from dramatiq_retryq.rabbitmq_link import Link
from tests.integration.conftest import running
from tests.integration.servers import RabbitmqServer, own_rabbitmq, wait_until

#: How long (s) a test waits for a server that is about to come, or for a worker on it.
PATIENCE = 60


class App:
    """A queue on a server, and what was run of it."""

    def __init__(self, make: Any, url: str, queue: str) -> None:
        self.broker = make(url=url, max_retries=20, backoff=[2_000])
        self.runs: list[str] = []
        self.is_broken = True

        @dramatiq.actor(broker=self.broker, queue_name=queue)
        def work(name: str) -> None:
            self.runs.append(name)
            if self.is_broken:
                raise ValueError(name)

        self.work = work
        self.mortal = dramatiq.actor(work.fn, actor_name="mortal", broker=self.broker, queue_name=queue, max_retries=0)

    @property
    def letters(self) -> DeadLetters:
        return DeadLetters.of(self.broker)

    def move(self, name: str) -> None:
        """Put a message where a worker puts what has become due."""
        message = self.work.message(name)
        Link(self.broker).publish_all([(message.queue_name, message.encode(), None)])

    def run(self, *names: str) -> None:
        """Let a worker run until each of these was run."""
        with running(self.broker):
            wait_until(lambda: set(names) <= set(self.runs), PATIENCE, f"{names} to be run")

    def find(self, name: str) -> Any:
        return next(letter for letter in self.letters if letter.message and letter.message.args == (name,))


@pytest.fixture
def server(rabbitmq_url: str) -> Iterator[RabbitmqServer]:
    with own_rabbitmq() as server:
        yield server


@pytest.fixture
def app(server: RabbitmqServer, make_rabbitmq: Any, name: str) -> App:
    return App(make_rabbitmq, server.url, name)


@pytest.mark.timeout(300)
def test_what_waits_and_what_is_dead_outlives_a_rabbitmq_that_is_killed(app: App, server: RabbitmqServer) -> None:
    for name in ("letter", "replayed", "replayed for later"):
        app.mortal.send(name)
    app.work.send("retried")
    with running(app.broker):
        wait_until(lambda: len(app.letters) == 3 and "retried" in app.runs, PATIENCE, "the failures")
    app.work.send("due")
    app.move("moved")
    app.letters.replay(app.find("replayed"))
    app.letters.replay(app.find("replayed for later"), delay=1_000)

    server.stop()
    server.start()

    letter = app.find("letter")
    assert letter.error is not None, "what is listed is RabbitMQ's own copy"
    assert (letter.reason, letter.error.type, letter.message.args) == ("exhausted", "ValueError", ("letter",))
    app.runs.clear()
    app.is_broken = False
    app.run("moved", "due", "retried", "replayed", "replayed for later")
    # What was acked shortly before may lie there again, as RabbitMQ promises nothing of acks: nothing is said of those.
    app.letters.replay(letter)
    app.run("letter")
    assert "letter" not in [found.message.args[0] for found in app.letters if found.message]
