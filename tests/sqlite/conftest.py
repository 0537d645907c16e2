from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dramatiq_retryq

HERE = Path(__file__).parent
PACKAGE = Path(dramatiq_retryq.__file__).parents[1]


@pytest.fixture(scope="module")
def quick_directory() -> Iterator[Path]:
    """A directory in memory where there is one: for many files, whose way to the disk is not what is looked at."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script of this folder in a process of its own, with pipes to it; what runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_python(script: str, *args: object, **kwargs: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])},
            **kwargs,
        )
        started.append(process)
        return process

    yield start_python
    for process in started:
        process.kill()
        process.communicate()
