"""Whose turn it is to write."""

from __future__ import annotations

import fcntl
import os
import random
from pathlib import Path

from dramatiq_retryq.turn import Turn


def test_who_will_not_wait_for_ever_does_without_a_turn(tmp_path: Path) -> None:
    path = str(tmp_path / "turn")
    held = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)  # as a process that was stopped in the middle
    slept: list[float] = []
    turn = Turn(path, slept.append, random.Random(1), patience=2.0)
    turn.open()
    turn.take()
    assert 2.0 <= sum(slept) < 2.1
    turn.end()
    os.close(held)
    slept.clear()
    turn.take()
    assert slept == []
    turn.end()
    turn.close()
