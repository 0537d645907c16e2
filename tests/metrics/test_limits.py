"""A status against limits: values in, values out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.health import HealthLimits
from dramatiq_retryq.limits import HealthReport, judge
from dramatiq_retryq.status import QueueStatus, Rates, Status, WorkerStatus

NOW = 1_767_225_600_000


def queue(name: str = "default", **fields: Any) -> QueueStatus:
    return QueueStatus(name=name, **{"due": 0, "later": 0, "claimed": 0, "dead": 0, **fields})


def status(*queues: QueueStatus, workers: int | None = 1, **rates: int) -> Status:
    return Status(
        now=NOW,
        queues=queues,
        workers=None if workers is None else tuple(WorkerStatus(owner=f"h:{n}", started_at=0) for n in range(workers)),
        last_minute=Rates(**rates),
        last_hour=Rates(),
    )


def problems(status: Status, **limits: Any) -> tuple[str, ...]:
    return judge(status, HealthLimits(**limits)).problems


def blind(name: str = "default", due: int | None = 0, **fields: Any) -> QueueStatus:
    """What RabbitMQ tells of a queue: how many are due, and not since when."""
    return QueueStatus(name=name, due=due, later=0, dead=0, **fields)


def test_without_limits_all_is_well() -> None:
    report = judge(status(queue(due=10_000, dead=10_000, oldest_due_at=0), workers=0, failed=9), HealthLimits())
    assert report.is_ok
    assert report.asdict()["status"] == "ok"


def test_an_age_is_too_great_when_it_is_past_the_limit_and_not_before() -> None:
    found = status(queue("mail", due=1, oldest_due_at=NOW - 60_000))
    assert problems(found, max_oldest_due_age=timedelta(minutes=1)) == ()
    (problem,) = problems(found, max_oldest_due_age=59_999)
    assert problem == "queue 'mail': a message has been due for 60000 ms, more than max_oldest_due_age=59999"


def test_what_is_due_later_has_no_age() -> None:
    report = judge(status(queue(later=1, oldest_due_at=NOW + 5_000)), HealthLimits(max_oldest_due_age=0))
    assert report.is_ok
    assert report.oldest_due_age == 0


def test_a_paused_queue_may_grow_old() -> None:
    found = status(queue(due=1, oldest_due_at=0, paused=True))
    assert problems(found, max_oldest_due_age=0) == ()
    assert judge(found, HealthLimits()).oldest_due_age == NOW


def test_the_oldest_of_all_queues_is_told() -> None:
    found = status(queue("a", due=1, oldest_due_at=NOW - 5), queue("b", due=1, oldest_due_at=NOW - 7), queue("c"))
    assert judge(found, HealthLimits()).oldest_due_age == 7


def test_where_nothing_is_due_nothing_has_been_due_for_long() -> None:
    report = judge(status(blind()), HealthLimits(max_oldest_due_age=1_000))
    assert report.is_ok
    assert report.oldest_due_age == 0


def test_what_is_due_since_nobody_knows_when_has_no_age_and_is_not_called_well() -> None:
    found = status(blind("mail", due=3), queue("a", due=1, oldest_due_at=NOW - 5))
    (problem,) = problems(found, max_oldest_due_age=1_000)
    assert "cannot tell how long messages of queue 'mail' have been due" in problem
    told = judge(found, HealthLimits()).asdict()
    assert told["status"] == "ok"
    assert told["oldest_due_age"] is None
    assert {name: of["oldest_due_age"] for name, of in told["queues"].items()} == {"mail": None, "a": 5}


def test_a_paused_queue_of_which_no_age_is_known_may_hold_what_it_likes() -> None:
    assert problems(status(blind(due=3, paused=True)), max_oldest_due_age=0) == ()


@pytest.mark.parametrize(("failed", "is_ok"), [(5, True), (6, False)])
def test_failures_are_judged_as_a_part_of_the_last_minutes_attempts(failed: int, is_ok: bool) -> None:
    found = status(queue(), succeeded=10 - failed, failed=failed)
    assert judge(found, HealthLimits(max_failure_rate=0.5)).is_ok is is_ok


def test_a_few_failures_are_not_judged_before_there_are_enough_attempts() -> None:
    found = status(queue(), failed=9)
    assert problems(found, max_failure_rate=0.5, min_attempts=10) == ()
    (problem,) = problems(found, max_failure_rate=0.5, min_attempts=9)
    assert problem == "9 of 9 attempts of the last minute failed, more than max_failure_rate=0.5"


def test_a_minute_without_attempts_has_no_failure_rate() -> None:
    report = judge(status(queue()), HealthLimits(max_failure_rate=0))
    assert report.is_ok
    assert report.failure_rate is None


def test_too_few_workers_are_a_problem() -> None:
    assert problems(status(queue(), workers=2), min_workers=2) == ()
    assert problems(status(queue(), workers=1), min_workers=2) == ("1 worker processes live, fewer than min_workers=2",)


def test_messages_are_counted_over_all_queues() -> None:
    found = status(queue("a", due=2, dead=1), queue("b", due=3, dead=1))
    assert problems(found, max_due=5, max_dead=2) == ()
    assert problems(found, max_due=4, max_dead=1) == (
        "5 messages are due, more than max_due=4",
        "2 messages lie dead, more than max_dead=1",
    )


def test_a_limit_on_what_the_broker_cannot_tell_is_a_problem() -> None:
    found = Status(now=NOW, queues=(QueueStatus(name="default", due=3),))
    everything = {"max_oldest_due_age": 1, "max_failure_rate": 1.0, "min_workers": 1, "max_due": 3, "max_dead": 1}
    said = problems(found, **everything)
    assert [problem.split()[0] for problem in said] == [name for name in everything if name != "max_due"]
    assert all("cannot tell" in problem for problem in said)


def test_what_nobody_can_tell_is_null() -> None:
    told = judge(Status(now=NOW, queues=(QueueStatus(name="default"),)), HealthLimits()).asdict()
    assert told == {
        "status": "ok",
        "problems": [],
        "now": NOW,
        "workers": None,
        "queues": {
            "default": {
                "due": None,
                "later": None,
                "claimed": None,
                "dead": None,
                "oldest_due_age": None,
                "paused": False,
            }
        },
        "due": None,
        "dead": None,
        "oldest_due_age": None,
        "failure_rate": None,
        "last_minute": None,
    }


def test_a_broker_that_can_tell_nothing_is_well_unless_there_are_limits() -> None:
    assert judge(None, HealthLimits()).is_ok
    everything = {"max_oldest_due_age": 1, "max_failure_rate": 1.0, "min_workers": 1, "max_due": 3, "max_dead": 1}
    assert [problem.split()[0] for problem in judge(None, HealthLimits(**everything)).problems] == [*everything]


def test_a_report_of_nothing_but_a_problem_can_be_told() -> None:
    assert HealthReport(problems=("no",)).asdict()["status"] == "failing"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_failure_rate": 50}, "max_failure_rate is 50: give a part, from 0 to 1"),
        ({"max_failure_rate": True}, "max_failure_rate is True"),
        ({"max_oldest_due_age": -1}, "max_oldest_due_age is -1 ms: a duration cannot be negative"),
        ({"max_oldest_due_age": "1m"}, "max_oldest_due_age is '1m'"),
        ({"min_workers": -1}, "min_workers is -1: give a whole number of 0 or more"),
        ({"min_attempts": None}, "min_attempts is None"),
        ({"max_dead": 1.5}, "max_dead is 1.5"),
        ({"max_due": True}, "max_due is True"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        HealthLimits(**options)
    assert text in str(raised.value)


def test_an_age_that_nobody_knows_is_no_sample_of_the_gauge() -> None:
    pytest.importorskip("prometheus_client")
    from dramatiq_retryq.metrics import _gauges

    found = status(blind("mail", due=3), blind("idle"), queue("a", due=1, oldest_due_at=NOW - 5_000))
    (ages,) = (one for one in _gauges(found, None) if one.name == "retryq_oldest_due_age_seconds")
    assert {sample.labels["queue_name"]: sample.value for sample in ages.samples} == {"idle": 0, "a": 5}
