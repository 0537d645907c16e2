"""What is counted for Prometheus on Redis and RabbitMQ, as tests/metrics has it for the others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from dramatiq_retryq import RetryQueue
from tests.integration.conftest import finish
from tests.metrics.scraping import Samples, counted, of, value


@pytest.fixture(autouse=True)
def _counters_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def samples(broker: Any) -> Samples:
    (retry_queue,) = (m for m in broker.middleware if isinstance(m, RetryQueue))
    counters = retry_queue.counters(broker)
    assert counters is not None
    return counted(counters.directory)


def test_each_retry_is_counted_once(make: Any, name: str) -> None:
    broker = make(metrics=True, max_retries=5, backoff=[10])
    runs: list[int] = []

    @dramatiq.actor(broker=broker, queue_name=name)
    def flaky() -> None:
        runs.append(1)
        if len(runs) < 4:
            raise ConnectionError

    flaky.send()
    finish(broker)
    found = samples(broker)
    assert of(found, "retryq_retries_total") == {f"flaky {name}": 3}
    assert of(found, "retryq_attempts_total") == {f"flaky retried {name}": 3, f"flaky succeeded {name}": 1}
    assert of(found, "retryq_deaths_total") == {}
    seconds = value(found, "retryq_retry_delay_seconds_sum", actor_name="flaky", queue_name=name)
    assert seconds == pytest.approx(0.03)


def test_the_last_attempt_and_the_death_are_counted_once(make: Any, name: str) -> None:
    broker = make(metrics=True, max_retries=1, backoff=[10])

    @dramatiq.actor(broker=broker, queue_name=name)
    def fail() -> None:
        raise ConnectionError

    fail.send()
    finish(broker)
    found = samples(broker)
    assert of(found, "retryq_attempts_total") == {f"fail retried {name}": 1, f"fail died {name}": 1}
    assert of(found, "retryq_deaths_total") == {f"fail {name} exhausted": 1}
