"""Ctrl-C anywhere in a replay, and two replays at once: each letter is a letter or a message, and never neither."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from dramatiq_retryq import DeadLetters
from tests.integration.bench import Bench, bench, replay_all

__all__ = ["bench"]

#: Where Ctrl-C is pressed: in this package, its brokers and their clients.
PLACES = ("dramatiq_retryq", "dramatiq/brokers", "/pika/", "/redis/")

#: How often. The places are spread over the way.
TIMES = 16


class CtrlC:
    """Raises KeyboardInterrupt at the line with a number, of those that are run; counts them if it is 0."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> CtrlC | None:
        if not any(place in frame.f_code.co_filename for place in PLACES):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                raise KeyboardInterrupt
        return self


def press(number: int, letters: DeadLetters, queue: str) -> int:
    """Replay all, and press Ctrl-C at a line; returns how many lines were run."""
    ctrl_c = CtrlC(number)
    before = sys.gettrace()
    sys.settrace(ctrl_c)
    try:
        replay_all(letters, queue)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return ctrl_c.lines


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_anywhere_in_a_replay_loses_nothing_and_leaves_a_connection_that_works(bench: Bench) -> None:
    bench.lay_out()
    lines = bench.act(lambda letters, queue: press(0, letters, queue))
    bench.waiting()
    for n in range(TIMES):
        number = lines - n * lines // TIMES
        bench.lay_out()

        def interrupted(letters: DeadLetters, queue: str, number: int = number) -> list[int]:
            press(number, letters, queue)
            found = bench.waiting()
            assert sorted(bench.letters() + found) == [0, 1, 2], number
            # The same connection, or another one in its place.
            assert letters.replay_all(queue=queue) == 3 - len(found), number
            return found

        found = bench.act(interrupted)
        assert sorted(found + bench.waiting()) == [0, 1, 2], number


def test_two_replays_at_once_revive_each_letter_once(bench: Bench) -> None:
    bench.lay_out(50)
    barrier = threading.Barrier(3)
    results: list[int] = []

    def replay_too() -> None:
        barrier.wait(30)
        results.append(bench.act(replay_all))

    threads = [threading.Thread(target=replay_too) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(results) == 50
    assert bench.waiting() == list(range(50))
    assert bench.letters() == []
