"""Dramatiq's Prometheus middleware. It counts into files of its process, so each broker has one of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Counted = dict[tuple[str, str, str], int]


@pytest.fixture
def counted(run: Callable[..., list[str]], kind: str, tmp_path: Path) -> Counted:
    (tmp_path / "metrics").mkdir()
    lines = run("prometheus_script.py", kind, dramatiq_prom_db=str(tmp_path / "metrics"))
    return {(metric, actor, queue): int(value) for metric, actor, queue, value in map(str.split, lines)}


def test_a_retry_is_counted_once_on_our_brokers_and_twice_where_it_goes_through_a_delay_queue(
    counted: Counted, kind: str
) -> None:
    ours = kind in ("memory", "sqlite")
    assert counted["dramatiq_message_retries_total", "flaky", "queue"] == 2
    assert counted.get(("dramatiq_message_retries_total", "flaky", "delayed"), 0) == (0 if ours else 2)


def test_attempts_failures_deaths_and_snoozes_are_counted_as_they_are(counted: Counted) -> None:
    assert {key[1:]: value for key, value in counted.items() if key[0] == "dramatiq_messages_total"} == {
        ("flaky", "queue"): 3,
        ("give_up", "queue"): 1,
        ("snooze", "queue"): 2,
    }
    assert counted["dramatiq_message_errors_total", "flaky", "queue"] == 2
    assert {key[1]: value for key, value in counted.items() if key[0] == "dramatiq_message_rejects_total"} == {
        "give_up": 1
    }
    # A snooze is an error for this middleware, but no retry.
    assert {key[1] for key in counted if key[0] == "dramatiq_message_retries_total"} == {"flaky"}
