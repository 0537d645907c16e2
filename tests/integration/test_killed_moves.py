"""A process is killed after each step of a move, and in the end every message was run once.

What is done to the processes stands in killed_move.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import forget_rabbitmq, forget_redis

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")

HERE = Path(__file__).parent
ALL = Counter(f"m{number}" for number in range(4))


@pytest.fixture
def cases(
    redis_url: str, rabbitmq_url: str, name: str, tmp_path: Path
) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """All cases of a move between two kinds of broker; the last is that of a process not killed."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "killed_move.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    names = []

    def cases(source: str, target: str, *, between: bool) -> list[dict[str, Any]]:
        found = []
        for number in range(1, 200):
            names.append(f"{name}-{len(names)}")
            directory = tmp_path / names[-1]
            directory.mkdir()
            case = {
                "source": source,
                "target": target,
                "between": between,
                "number": number,
                "name": names[-1],
                "directory": str(directory),
                "redis_url": redis_url,
                "rabbitmq_url": rabbitmq_url,
            }
            print(json.dumps(case), file=process.stdin, flush=True)
            found.append(json.loads(process.stdout.readline()))
            names.append(found[-1].get("note", name))
            assert "error" not in found[-1], found[-1]["error"]
            found[-1]["where"] = f"killed after step {number}: {found[-1].get('step', 'complete')}"
            if not found[-1]["killed"]:
                break
        return found

    yield cases
    process.kill()
    process.communicate()
    forget_redis(redis_url, f"{name}-*")
    forget_rabbitmq(rabbitmq_url, set(names))


@pytest.mark.parametrize("between", [False, True], ids=["at rest", "with workers at both ends"])
@pytest.mark.parametrize(("source", "target"), [("sqlite", "redis"), ("redis", "sqlite")])
def test_every_message_is_run_once_wherever_the_move_between_a_file_and_redis_was_killed(
    cases: Callable[..., list[dict[str, Any]]], source: str, target: str, between: bool
) -> None:
    found = cases(source, target, between=between)
    assert len(found) > 15
    for case in found:
        assert Counter(case["ran"]) == ALL, case["where"]
        assert case["left"] == 0, case["where"]
        assert case["findings"] == [], case["where"]


@pytest.mark.parametrize(("source", "target"), [("sqlite", "sqlite"), ("rabbitmq", "sqlite")])
def test_every_message_is_run_once_wherever_another_move_was_killed(
    cases: Callable[..., list[dict[str, Any]]], source: str, target: str
) -> None:
    for case in cases(source, target, between=False):
        assert Counter(case["ran"]) == ALL, case["where"]
        assert case["left"] == 0, case["where"]


def test_on_the_way_to_rabbitmq_no_message_is_lost_and_only_those_of_one_batch_may_be_run_twice(
    cases: Callable[..., list[dict[str, Any]]],
) -> None:
    for case in cases("sqlite", "rabbitmq", between=False):
        assert Counter(case["ran"]) >= ALL, case["where"]
        assert sum(Counter(case["ran"]).values()) <= 4 + 2, case["where"]
        assert case["left"] == 0, case["where"]
