"""The packages that Dramatiq's users have, run as they are on all four brokers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker

from tests.integration import servers
from tests.interop import four

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """As elsewhere, but for dramatiq-abort's watcher, which cannot be stopped."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and "TimeoutManager" not in type(t).__name__]
    left = [t for t in left if "(_watcher)" not in t.name]
    for thread in left:
        thread.join(timeout=5)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture
def name() -> str:
    """A name that nothing else on the servers has."""
    return f"retryq-interop-{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[None]:
    """A Redis, whose URL is in the environment."""
    with servers.shared_redis() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRYQ_TEST_REDIS", url)
        yield


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[None]:
    """A RabbitMQ, likewise."""
    with servers.shared_rabbitmq() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRYQ_TEST_RABBITMQ", url)
        yield


@pytest.fixture(params=four.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the four brokers."""
    if request.param in ("redis", "rabbitmq"):
        request.getfixturevalue(f"{request.param}_server")
    return str(request.param)


@pytest.fixture
def make(name: str, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Makes a broker by its kind and sets it as the global one: ``make(kind, middleware=[…])``."""
    made: list[tuple[str, Any]] = []
    previous = dramatiq.broker.global_broker

    def make(kind: str, **options: Any) -> Broker:
        broker = four.make(kind, name, str(tmp_path), **options)
        made.append((kind, broker))
        dramatiq.set_broker(broker)
        return broker

    yield make
    for kind, broker in made:
        check = getattr(broker, "check", list)
        assert check() == []
        four.clear(broker)
        broker.close()
        if kind == "redis":
            broker.client.close()
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


@pytest.fixture
def run(name: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a script of this folder in a process of its own; returns the lines that it printed."""

    def run(script: str, *arguments: str, **environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", str(HERE / script), *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(four.ROOT)]),
                "INTEROP_NAME": name,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=four.PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return run
