"""A process forks while it works: whatever it has claimed stays its own, whatever becomes of the child."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import dramatiq_retryq
from dramatiq_retryq import SQLiteBroker

PATIENCE = 60
PACKAGE = Path(dramatiq_retryq.__file__).parents[1]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

#: Runs `fork` with a worker, after four messages that wait in the hands of the worker meanwhile.
IN_AN_ACTOR = """
    import os, sys, threading
    import dramatiq
    from dramatiq_retryq import SQLiteBroker, run_worker

    broker = SQLiteBroker(sys.argv[1])
    dramatiq.set_broker(broker)

    def say(text):
        os.write(1, (text + "\\n").encode())

    @dramatiq.actor
    def fork():
        child = os.fork()
        if child == 0:
            {leave}
        say(f"child {{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}}")

    @dramatiq.actor
    def work(number):
        say(f"ran {{number}}")

    fork.send()
    for number in range(4):
        work.send(number)
    with run_worker(broker, threads=1, worker_timeout=20):
        broker.join("default", timeout=30_000)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], tuple[list[str], str]]:
    """What a program that is given the path of a file wrote, line by line, and what it logged."""

    def run(program: str) -> tuple[list[str], str]:
        (tmp_path / "program.py").write_text(textwrap.dedent(program))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "program.py", "jobs.db"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    return run


@pytest.fixture
def left(tmp_path: Path) -> Callable[[], tuple[int, int]]:
    """How many messages wait or are held, and how many are dead."""

    def left() -> tuple[int, int]:
        broker = SQLiteBroker(tmp_path / "jobs.db")
        try:
            assert broker.check() == []
            count = broker.counts().get("default")
            return (count.waiting + count.claimed, count.dead) if count is not None else (0, 0)
        finally:
            broker.close()

    return left


@pytest.mark.parametrize(
    ("leave", "code"),
    [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('text')", 1), ("return", 0), ("raise ValueError('odd')", 1)],
)
def test_a_child_that_an_actor_forks_ends_where_it_leaves_the_actor_and_its_parent_goes_on(
    run: Callable[[str], tuple[list[str], str]], left: Callable[[], tuple[int, int]], leave: str, code: int
) -> None:
    said, logged = run(IN_AN_ACTOR.format(leave=leave))
    assert said == [f"child {code}", "ran 0", "ran 1", "ran 2", "ran 3"]
    assert left() == (0, 0)
    assert ("was left in a child that it had forked" in logged) == ("exit" not in leave)


def test_a_child_that_ends_beside_a_worker_puts_nothing_back_that_its_parent_has(
    run: Callable[[str], tuple[list[str], str]], left: Callable[[], tuple[int, int]]
) -> None:
    said, _ = run("""
        import os, sys, threading
        import dramatiq
        from dramatiq_retryq import SQLiteBroker, run_worker

        broker = SQLiteBroker(sys.argv[1])
        dramatiq.set_broker(broker)
        begun, go_on = threading.Event(), threading.Event()

        @dramatiq.actor
        def work(number):
            begun.set()
            go_on.wait(30)

        for number in range(4):
            work.send(number)
        with run_worker(broker, threads=1, worker_timeout=20):
            begun.wait(30)
            while broker.counts()["default"].due > 2:  # one is run, one has been fetched
                pass
            before = broker.counts()["default"]
            child = os.fork()
            if child == 0:
                sys.exit()
            os.waitpid(child, 0)
            print(broker.counts()["default"] == before)
            go_on.set()
            broker.join("default", timeout=30_000)
    """)
    assert said == ["True"]
    assert left() == (0, 0)
