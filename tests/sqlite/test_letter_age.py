"""max_letter_age on a SQLiteBroker: letters that are older go, as a worker finds, and younger ones stay."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.clock import VirtualClock

HOUR = 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def names(broker: SQLiteBroker) -> list[Any]:
    return [letter.message.args[0] for letter in broker.dead_letters if letter.message is not None]


def fill(broker: SQLiteBroker, clock: VirtualClock, drain: Any) -> None:
    """A letter an hour, for three hours, the last of them now; and a message that has waited for longer than any."""

    @dramatiq.actor(broker=broker, max_retries=0)
    def work(name: str) -> None:
        raise ValueError(name)

    work.send_with_options(args=("waits",), delay=24 * HOUR)
    for name in ("first", "second", "third"):
        work.send(name)
        drain(broker, until=clock.now())
        if name != "third":
            clock.advance(HOUR)
    assert names(broker) == ["third", "second", "first"]


@pytest.mark.parametrize(
    ("age", "kept"),
    [
        (None, ["third", "second", "first"]),
        (timedelta(hours=2), ["third", "second", "first"]),
        (2 * HOUR - 1, ["third", "second"]),
        (HOUR, ["third", "second"]),
        (HOUR - 1, ["third"]),
    ],
)
def test_a_letter_that_is_older_goes_when_a_worker_starts_and_one_that_is_younger_stays(
    path: Path, clock: VirtualClock, drain: Any, age: Any, kept: list[str]
) -> None:
    with closing(SQLiteBroker(path, clock=clock)) as broker:
        fill(broker, clock, drain)
    with closing(SQLiteBroker(path, clock=clock, max_letter_age=age)) as broker:
        broker.emit_before("worker_boot", None)
        try:
            assert names(broker) == kept
            assert broker.counts()["default"].later == 1
            assert broker.check() == []
        finally:
            broker.emit_after("worker_shutdown", None)
