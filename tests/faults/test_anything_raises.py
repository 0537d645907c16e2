"""The same by brute force: something raises at each line of the failure path in turn, wherever that is.

Not at the lines of a store, whose moves are one step each, nor at those of a ``with``, where no interrupt can come
between the end of the block and the release of the lock.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import TimeLimitExceeded

import dramatiq_retryq
from dramatiq_retryq import MemoryBroker, RetryQueue
from dramatiq_retryq.clock import VirtualClock

PACKAGE = str(Path(dramatiq_retryq.__file__).parent)
HOOKS = ("after_process_message", "before_nack", "after_nack")
STORE = ("_store.py", "memory_letters.py", "memory_queue.py")
ERROR, INTERRUPT = RuntimeError("anything"), TimeLimitExceeded()


class Saboteur:
    """Raises at the line number ``number`` that the hooks of a middleware come to."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number = number
        self.error = error
        self.lines = 0
        #: Where it raised; ``None`` if there were not so many lines.
        self.place: str | None = None

    def sabotage(self, middleware: RetryQueue, hooks: tuple[str, ...]) -> None:
        for name in hooks:
            setattr(middleware, name, self._traced(getattr(middleware, name)))

    def _traced(self, hook: Any) -> Any:
        def traced(*args: Any, **kwargs: Any) -> Any:
            sys.settrace(self._enter)
            try:
                return hook(*args, **kwargs)
            finally:
                sys.settrace(None)

        return traced

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        return self._line if name.startswith(PACKAGE) and not name.endswith(STORE) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        name, line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and not linecache.getline(name, line).strip().startswith("with "):
            self.lines += 1
            if self.lines == self.number:
                self.place = f"{Path(name).name}:{line}"
                sys.settrace(None)
                raise self.error
        return self._line


@pytest.fixture
def quiet() -> Iterator[None]:
    """Hundreds of failures need no log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool is tracing")
@pytest.mark.parametrize("metrics", [False, True], ids=["not counted", "counted"])
@pytest.mark.parametrize(
    ("max_retries", "error", "hooks"),
    [
        pytest.param(1, ERROR, HOOKS, id="an error at a retry"),
        pytest.param(0, ERROR, HOOKS, id="an error at a death"),
        pytest.param(1, INTERRUPT, HOOKS, id="an interrupt at a retry"),
        pytest.param(0, INTERRUPT, HOOKS[:1], id="an interrupt at a death"),
        pytest.param(0, INTERRUPT, HOOKS[1:2], id="an interrupt at a nack"),
    ],
)
def test_wherever_something_raises_the_message_is_there_once(
    clock: VirtualClock, drain: Any, max_retries: int, error: BaseException, hooks: tuple[str, ...], metrics: bool
) -> None:
    wrong = []
    number = 0
    while True:
        number += 1
        saboteur = Saboteur(number, error)
        retry_queue = RetryQueue(max_retries=max_retries, backoff=[1000], dead_letter_actor="morgue", metrics=metrics)
        saboteur.sabotage(retry_queue, hooks)
        broker = MemoryBroker([retry_queue], clock=clock)
        dramatiq.actor(lambda letter: None, broker=broker, actor_name="morgue", queue_name="morgue")

        @dramatiq.actor(broker=broker)
        def fail() -> None:
            raise ValueError("no")

        fail.send()
        with contextlib.suppress(TimeLimitExceeded):  # at the first lines of a hook nothing can catch it
            drain(broker, until=clock.now(), limit=100)
        if saboteur.place is None:
            break
        count = broker.counts()["default"]
        if (count.due, count.claimed, count.later + count.dead) != (0, 0, 1) or broker.check():
            wrong.append((saboteur.place, count, broker.check()))
    assert number > 100
    assert wrong == []
