"""The stores under contract. A new store is one more line in ``STORES``, and every test here runs against it."""

from __future__ import annotations

import os
import random
import select
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import dramatiq_retryq
from dramatiq_retryq.memory_store import MemoryStore
from dramatiq_retryq.sqlite_store import SQLiteStore
from dramatiq_retryq.store import Store

TraceFunction = Callable[[FrameType, str, object], object]


class Reopened:
    """A SQLite store that is closed and opened again between any two calls: what it knows, it knows from the file.

    Beyond the first fifty calls only now and then, since a test that puts a thousand entries would take seconds.
    """

    def __init__(self, path: Path, **limits: Any) -> None:
        self._open = lambda: SQLiteStore(path, **limits)
        self._store = self._open()
        self._calls = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            if 1 < self._calls <= 50 or self._calls % 50 == 0:
                self._store.close()
                self._store = self._open()
            result = getattr(self._store, name)(*args, **kwargs)
            return iter(list(result)) if isinstance(result, Iterator) else result

        return call

    def close(self) -> None:
        self._store.close()


def in_a_file(make: Callable[..., Any]) -> Callable[..., Store]:
    def open_store(directory: Path, *, max_messages: int | None = None, **limits: int | None) -> Store:
        if max_messages is not None:
            pytest.skip("a SQLite store has no max_messages: its messages take no memory")
        store: Store = make(directory / "jobs.db", **limits)
        return store

    return open_store


# By name: a function of an empty directory of its own and of the limits max_messages and max_dead_letters.
STORES: dict[str, Callable[..., Store]] = {
    "memory": lambda directory, **limits: MemoryStore(**limits),
    "sqlite": in_a_file(SQLiteStore),
    "sqlite-reopened": in_a_file(Reopened),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "open_store" in metafunc.fixturenames:
        # Opened for each call and traced line by line, the tests with threads would take minutes.
        # And a store that is closed is no longer that of a process that works.
        left_out = {"sqlite-reopened"} if {"eager_threads", "kept_open"} & {*metafunc.fixturenames} else set()
        metafunc.parametrize("open_store", [name for name in STORES if name not in left_out], indirect=True)


@pytest.fixture
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store]:
    """Opens empty stores of each kind. To close them is the caller's business."""
    opened = 0

    def open_store(**limits: int | None) -> Store:
        nonlocal opened
        directory = tmp_path / f"store-{opened}"
        directory.mkdir()
        opened += 1
        return STORES[request.param](directory, **limits)

    return open_store


@pytest.fixture
def make_store(open_store: Callable[..., Store]) -> Iterator[Callable[..., Store]]:
    """Makes empty stores with ``make_store(**limits)``; their invariants hold at the end of every test."""
    made: list[Store] = []

    def make_store(**limits: int | None) -> Store:
        made.append(open_store(**limits))
        return made[-1]

    yield make_store
    for store in made:
        assert store.check() == []
        store.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """An empty store without limits, of each kind."""
    return make_store(max_dead_letters=None)


@pytest.fixture
def kept_open() -> None:
    """What is tested ends when the store is closed."""


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads started from here on are switched at any line of the package, so that a missing lock shows."""
    package = os.path.dirname(dramatiq_retryq.__file__)
    dice = random.Random(0)

    def at_every_line(frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        if not frame.f_code.co_filename.startswith(package):
            return None
        if dice.random() < 0.2:
            select.select((), (), (), 0)  # returns at once, and lets another thread run meanwhile
        return at_every_line

    interval, trace = sys.getswitchinterval(), threading.gettrace()
    sys.setswitchinterval(1e-6)
    threading.settrace(at_every_line)
    yield
    threading.settrace(trace)  # type: ignore[arg-type]
    sys.setswitchinterval(interval)
