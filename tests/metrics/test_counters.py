"""The files in which processes count together, and the directory they lie in."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from dramatiq_retryq import prometheus_files as module
from dramatiq_retryq.errors import MissingExtra
from dramatiq_retryq.prometheus_files import Counters, family_directory
from tests.metrics.scraping import counted, of, value


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path)


def test_what_is_counted_is_read_by_the_client_library(directory: str) -> None:
    counters = Counters(directory)
    counters.attempted("default", "add", "succeeded", 30)
    counters.retried("default", "add", 1_500)
    counters.died("default", "add", "exhausted")
    found = counted(directory)
    labels = {"queue_name": "default", "actor_name": "add"}
    assert value(found, "retryq_attempts_total", outcome="succeeded", **labels) == 1
    assert value(found, "retryq_retries_total", **labels) == 1
    assert value(found, "retryq_deaths_total", reason="exhausted", **labels) == 1
    assert value(found, "retryq_attempt_duration_seconds_count", **labels) == 1
    assert value(found, "retryq_attempt_duration_seconds_sum", **labels) == 0.03
    assert value(found, "retryq_retry_delay_seconds_sum", **labels) == 1.5


@pytest.mark.parametrize(
    ("duration", "least"),
    [(0, "0.005"), (5, "0.005"), (6, "0.01"), (3_600_000, "3600.0"), (3_600_001, "+Inf"), (10**12, "+Inf")],
)
def test_a_duration_lies_in_each_bucket_that_is_no_less(directory: str, duration: int, least: str) -> None:
    Counters(directory).attempted("q", "a", "succeeded", duration)
    buckets = of(counted(directory), "retryq_attempt_duration_seconds_bucket")
    bounds = sorted(float(labels.split()[1]) for labels in buckets)
    assert bounds[0] == float(least)
    assert bounds[-1] == float("inf")
    assert set(buckets.values()) == {1}


def test_a_prepared_actor_is_there_before_anything_happens(directory: str) -> None:
    Counters(directory).prepare("default", "add")
    found = counted(directory)
    assert set(found.values()) == {0}
    assert value(found, "retryq_deaths_total", queue_name="default", actor_name="add", reason="crashed") == 0


def test_several_processes_are_added_up(directory: str) -> None:
    counters = Counters(directory)
    counters.retried("default", "add", 10)
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            counters.retried("default", "add", 10)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    counters.retried("default", "add", 10)
    assert of(counted(directory), "retryq_retries_total") == {"add default": 4}


def test_several_counters_of_a_process_count_together(directory: str) -> None:
    first, second = Counters(directory), Counters(directory)
    for _ in range(3):
        first.died("default", "add", "expired")
        second.died("default", "add", "expired")
        second.died("default", "other", "expired")
    assert of(counted(directory), "retryq_deaths_total") == {"add default expired": 6, "other default expired": 3}


def test_threads_lose_no_count(directory: str) -> None:
    counters = Counters(directory)

    def count() -> None:
        for number in range(500):
            counters.attempted("default", f"actor{number % 7}", "succeeded", number)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(of(counted(directory), "retryq_attempts_total").values()) == 2_000


def test_a_process_with_the_number_of_an_earlier_one_goes_on_counting(directory: str) -> None:
    Counters(directory).died("default", "add", "expired")
    module._open_files.pop((directory, os.getpid())).close()
    Counters(directory).died("default", "add", "expired")
    assert of(counted(directory), "retryq_deaths_total") == {"add default expired": 2}


def test_many_actors_fit(directory: str) -> None:
    counters = Counters(directory)
    for number in range(500):
        counters.retried("default", f"actor{number}", 10)
    assert len(of(counted(directory), "retryq_retries_total")) == 500
    # Every page of it has a block on the disk: touching one that had none would kill the process when the disk is full.
    for file in Path(directory).glob("*.db"):
        assert file.stat().st_blocks * 512 >= file.stat().st_size


def test_a_full_disk_raises_and_leaves_what_was_counted(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = Counters(directory)
    counters.died("default", "add", "expired")

    def full(self: Any, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module._File, "_lengthen", full)
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - after so many, whichever
        for number in range(10_000):
            counters.died("default", f"actor{number}", "expired")
    counters.died("default", "add", "expired")
    assert of(counted(directory), "retryq_deaths_total")["add default expired"] == 2


def test_names_are_kept_as_they_are(directory: str) -> None:
    Counters(directory).died("default", 'a"b\\c\nd é', "expired")
    assert of(counted(directory), "retryq_deaths_total") == {'a"b\\c\nd é default expired': 1}


def test_the_applications_own_metrics_stay_in_memory(directory: str) -> None:
    Counters(directory).died("default", "add", "expired")
    assert prometheus_client.values.ValueClass is prometheus_client.values.MutexValue
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_without_the_library_the_error_names_the_extra(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as raised:
        Counters(directory)
    assert "pip install 'dramatiq_retryq[prometheus]'" in str(raised.value)


# The directory.


def test_a_process_and_its_children_of_multiprocessing_share_a_directory(temporary: Path) -> None:
    code = """
import multiprocessing, os, sys, tempfile
tempfile.tempdir = sys.argv[1]
from dramatiq_retryq.prometheus_files import family_directory
def child():
    os.write(1, family_directory().encode() + b" ")
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        processes = [multiprocessing.get_context(method).Process(target=child) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
"""
    script = temporary.parent / "family.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(temporary)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(module.__file__).parents[1])},
    )
    assert len(done.stdout.split()) == 4
    assert len(set(done.stdout.split())) == 1
    assert list(temporary.iterdir()) == []  # the last of them took it away


def test_the_directory_is_its_owners_alone(temporary: Path) -> None:
    path = family_directory()
    assert Path(path).parent == temporary
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert family_directory() == path


def test_what_killed_processes_left_is_swept_away(temporary: Path) -> None:
    left = temporary / f"dramatiq-retryq-{os.geteuid()}-1"
    left.mkdir(0o700)
    (left / "lock").touch()
    (left / "counter_retryq-7.db").touch()
    other = temporary / "dramatiq-retryq-and-something-else"
    other.mkdir(0o700)
    (other / "lock").touch()
    path = family_directory()
    assert sorted(temporary.iterdir()) == sorted([other, Path(path)])


def test_the_directory_of_a_family_that_lives_is_left_alone(temporary: Path) -> None:
    path = family_directory()
    module._sweep(path)
    assert Path(path).is_dir()


@pytest.mark.parametrize("kind", ["open to all", "a link", "a file"])
def test_what_another_user_may_have_put_there_is_refused(temporary: Path, kind: str) -> None:
    path = temporary / f"dramatiq-retryq-{os.geteuid()}-{os.getpid()}"
    if kind == "open to all":
        path.mkdir()
        path.chmod(0o777)
    elif kind == "a link":
        (temporary / "elsewhere").mkdir(0o700)
        path.symlink_to(temporary / "elsewhere")
    else:
        path.touch()
    with pytest.raises(PermissionError, match="is not a directory of this user's alone"):
        family_directory()
