"""The webhooks example on each broker, by its one environment variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.servers import own_redis

ROOT = Path(__file__).parents[2]


def run(url: str, directory: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.webhooks", "--fast", "--output", str(directory)],
        cwd=ROOT,
        env={**os.environ, "RETRYQ_BROKER": url},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Every event was delivered or explained." in ended.stdout
    assert "died, was replayed, and delivered at attempt 11" in ended.stdout


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_without_a_server(kind: str, tmp_path: Path) -> None:
    run("memory://" if kind == "memory" else f"sqlite:///{tmp_path}/jobs.db", tmp_path)


def test_on_redis(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    with own_redis() as server:
        run(server.url, tmp_path)


def test_on_rabbitmq(rabbitmq_of_its_own: str, tmp_path: Path) -> None:
    run(rabbitmq_of_its_own, tmp_path)
