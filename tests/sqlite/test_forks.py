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


#: What a program that forks has: a broker, what of its file is open, and a use of both connections.
WITH_OPEN_CONNECTIONS = """
    import os, sys, threading
    import dramatiq
    from dramatiq_retryq import SQLiteBroker

    broker = SQLiteBroker(sys.argv[1])

    def say(text):
        os.write(1, (text + "\\n").encode())

    def opened():
        links = []
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            except OSError:
                pass  # the one that listed them
        names = (os.path.basename(link) for link in links if link.startswith(os.getcwd()))
        return sorted({name for name in names if name.startswith("jobs.db") and "-worker-" not in name})

    @dramatiq.actor(broker=broker)
    def work(who): ...

    def use(who):
        work.send(who)
        say(f"{who} sent, and {broker.counts()['default'].waiting} wait")
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process has open is read from /proc")
def test_nothing_of_the_file_is_open_across_a_fork_and_both_open_it_again(
    run: Callable[[str], tuple[list[str], str]], left: Callable[[], tuple[int, int]]
) -> None:
    said, logged = run(
        WITH_OPEN_CONNECTIONS
        + """
    use("before")
    say(f"open {opened()}")
    child = os.fork()
    if child == 0:
        say(f"open in the child {opened()}")
        use("child")
        broker.close()
        os._exit(0)
    say(f"child {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    say(f"open in the parent {opened()}")
    use("parent")
    broker.close()
    """
    )
    assert said == [
        "before sent, and 1 wait",
        "open ['jobs.db', 'jobs.db-shm', 'jobs.db-turn', 'jobs.db-wal']",
        "open in the child []",
        "child sent, and 2 wait",
        "child 0",
        "open in the parent []",
        "parent sent, and 3 wait",
    ]
    assert logged == ""
    assert left() == (3, 0)


def test_a_fork_waits_for_a_move_that_another_thread_makes(
    run: Callable[[str], tuple[list[str], str]], left: Callable[[], tuple[int, int]]
) -> None:
    said, logged = run(
        WITH_OPEN_CONNECTIONS
        + """
    begun = threading.Event()

    def move(con):
        con.execute("INSERT INTO pauses VALUES ('actor', 'first', 1)")
        begun.set()
        go_on.wait(0.3)  # the fork is asked for meanwhile
        con.execute("INSERT INTO pauses VALUES ('actor', 'second', 1)")

    go_on = threading.Event()
    thread = threading.Thread(target=broker.file.database.write, args=(move,))
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        say(f"child sees {len(broker.store.paused().actors)}")
        use("child")
        broker.close()
        os._exit(0)
    say(f"child {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    thread.join()
    use("parent")
    broker.close()
    """
    )
    assert said == ["child sees 2", "child sent, and 1 wait", "child 0", "parent sent, and 2 wait"]
    assert logged == ""
    assert left() == (2, 0)
