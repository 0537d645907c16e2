"""What the tests of metrics and health share."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dramatiq_retryq.endpoint import Address, Endpoint, Routes

ANY_PORT = Address("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the counters of this test lie."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def endpoint() -> Iterator[Any]:
    """Serves routes on a free port: ``endpoint({"/path": answer})`` gives the endpoint."""
    started: list[Endpoint] = []

    def endpoint(routes: Routes, address: Address = ANY_PORT) -> Endpoint:
        started.append(Endpoint(address, routes, logging.getLogger("test")))
        started[-1].start()
        return started[-1]

    yield endpoint
    for one in started:
        one.stop()
