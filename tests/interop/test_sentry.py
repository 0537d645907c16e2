"""sentry-sdk's Dramatiq integration: it patches Broker for good, so it runs in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable


def test_each_failed_attempt_is_reported_once_with_its_number_and_a_death_not_once_more(
    run: Callable[..., list[str]], kind: str
) -> None:
    reported = sorted(json.loads(line) for line in run("sentry_script.py", kind))
    assert [row[:3] for row in reported] == [
        ["fails", "ConnectionError", 1],
        ["fails", "ConnectionError", 2],
        ["fails", "ConnectionError", 3],
        ["gives_up", "GiveUp", None],
        ["recovers", "ConnectionError", 1],
    ]


def test_with_a_before_send_that_looks_at_the_attempts_only_deaths_are_reported(
    run: Callable[..., list[str]], kind: str
) -> None:
    reported = sorted(json.loads(line) for line in run("sentry_script.py", kind, "at-death-only"))
    assert [row[:3] for row in reported] == [
        ["fails", "ConnectionError", 3],
        ["gives_up", "GiveUp", None],
    ]
