"""What is logged: a WARNING a retry, an ERROR with traceback at death, and nothing of the arguments."""

from __future__ import annotations

import io
import logging
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

from dramatiq_retryq import GiveUp, MemoryBroker, RetryQueue, Snooze
from dramatiq_retryq.clock import VirtualClock

OURS = "dramatiq_retryq.RetryQueue"
WORKER = "dramatiq.worker.WorkerThread"
SECRET = "hunter2-the-argument"
OUTCOMES = ["retry", "Retry", "Snooze", "GiveUp", "throws", "expired", "unknown actor", "bad policy", "bad morgue"]


def of(caplog: pytest.LogCaptureFixture, logger: str = OURS, level: int = logging.WARNING) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == logger and record.levelno >= level]


def levels(records: list[logging.LogRecord]) -> list[str]:
    return [record.levelname for record in records]


def formatted(record: logging.LogRecord) -> str:
    """The record as a handler would write it, and every field that a JSON formatter could."""
    return logging.Formatter("%(message)s").format(record) + repr(vars(record))


# -- A retry ---------------------------------------------------------------------------------------------------------


def test_each_retry_is_one_warning_and_the_death_one_error(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=2)

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert levels(of(caplog)) == ["WARNING", "WARNING", "ERROR"]


def test_an_error_cannot_forge_a_line_nor_speak_to_a_terminal(
    broker: MemoryBroker, drain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(max_retries=1, backoff=[250])
    def fail() -> None:
        raise ValueError("no\nERROR all is lost\x1b[2J\r\u2028\x85end")

    fail.send()
    drain(broker)
    warning, error = of(caplog)
    for text in (warning.getMessage(), error.getMessage(), vars(warning)["error"], vars(error)["error"]):
        assert "ValueError: no ERROR all is lost [2J   end" in text
        assert text.isprintable()
    letter = broker.dead_letters.one()
    assert letter.error is not None
    assert "\n" in letter.error.message


def test_the_warning_tells_the_attempt_the_limit_and_the_delay(
    broker: MemoryBroker, drain: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(max_retries=1, backoff=[250])
    def fail() -> None:
        raise ValueError("no")

    message = fail.send()
    drain(broker)
    assert of(caplog)[0].getMessage() == (
        f"Attempt 1 of 2 of actor fail failed (message {message.message_id}): ValueError: no. Next in 250 ms."
    )


def test_the_warning_has_its_facts_as_fields_too(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=1, backoff=[3])

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    message = fail.send()
    here.run()
    fields = vars(of(caplog)[0])
    assert {name: fields[name] for name in ("actor", "message_id", "attempt", "limit", "delay", "error")} == {
        "actor": "fail",
        "message_id": message.message_id,
        "attempt": 1,
        "limit": 2,
        "delay": 3,
        "error": "ValueError: no",
    }


def test_the_warning_has_no_traceback(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=1)

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert of(caplog)[0].exc_info is None


def test_a_message_without_a_limit_says_so(broker: MemoryBroker, drain: Any, caplog: pytest.LogCaptureFixture) -> None:
    @dramatiq.actor(max_retries=None, backoff=lambda attempt, error: 1 if attempt == 1 else None)
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    drain(broker)
    record = of(caplog)[0]
    assert record.getMessage().startswith("Attempt 1 of any of actor fail failed")
    assert vars(record)["limit"] is None


@pytest.mark.parametrize("error", [dramatiq.Retry(delay=1), Snooze(1)], ids=["Retry", "Snooze"])
def test_what_an_actor_asks_for_is_no_warning(world: Any, caplog: pytest.LogCaptureFixture, error: Any) -> None:
    caplog.set_level(logging.INFO)
    here = world(max_retries=1)
    runs: list[int] = []

    @dramatiq.actor
    def ask() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise error

    ask.send()
    here.run()
    assert levels([record for record in of(caplog, level=logging.INFO) if "Attempt" in record.msg]) == ["INFO"]


# -- A death ---------------------------------------------------------------------------------------------------------


def test_the_error_at_death_has_the_traceback(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=0)

    def deep_down() -> None:
        raise ValueError("no")

    @dramatiq.actor
    def fail() -> None:
        deep_down()

    message = fail.send()
    here.run()
    (record,) = of(caplog)
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith(
        f"Message {message.message_id} of actor fail is dead (exhausted) after 1 attempt(s): ValueError: no.\n"
    )
    assert "in deep_down" in text


def test_the_error_at_death_has_its_facts_as_fields_too(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=1)

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    message = fail.send()
    here.run()
    fields = vars(of(caplog)[-1])
    assert {name: fields[name] for name in ("actor", "message_id", "reason", "attempt", "error")} == {
        "actor": "fail",
        "message_id": message.message_id,
        "reason": "exhausted",
        "attempt": 2,
        "error": "ValueError: no",
    }


def test_giving_up_is_logged_as_an_error(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world()

    @dramatiq.actor
    def give_up() -> None:
        raise GiveUp("410 Gone")

    give_up.send()
    here.run()
    (record,) = of(caplog)
    assert record.levelname == "ERROR"
    assert "is dead (rejected) after 1 attempt(s): GiveUp: 410 Gone." in record.getMessage()


@pytest.mark.parametrize("error", [KeyError("expected"), dramatiq.Retry(delay=1)], ids=["throws", "Retry"])
def test_a_death_by_what_is_expected_is_no_error(world: Any, caplog: pytest.LogCaptureFixture, error: Any) -> None:
    here = world(max_retries=0)

    @dramatiq.actor(throws=KeyError)
    def fail() -> None:
        raise error

    fail.send()
    here.run()
    assert here.dead()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# -- The worker's own report -----------------------------------------------------------------------------------------


def test_the_workers_own_report_of_each_attempt_is_silenced(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=2)

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    assert of(caplog, WORKER) == []


def test_log_every_attempt_brings_the_workers_report_back(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = world(max_retries=2, log_every_attempt=True)

    @dramatiq.actor
    def fail() -> None:
        raise ValueError("no")

    fail.send()
    here.run()
    records = of(caplog, WORKER)
    assert levels(records) == ["ERROR"] * 3
    assert all(record.exc_info is not None for record in records)


def test_a_broker_without_retry_queue_still_has_the_workers_report(caplog: pytest.LogCaptureFixture) -> None:
    RetryQueue()  # whose filter sits on the worker's logger
    broker = StubBroker(middleware=[Retries(max_retries=0)])

    @dramatiq.actor(broker=broker)
    def fail() -> None:
        raise ValueError("no")

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=5)
    worker.start()
    try:
        fail.send()
        broker.join("default", timeout=10_000, fail_fast=False)
        worker.join()
    finally:
        worker.stop()
    assert levels(of(caplog, WORKER)) == ["ERROR"]


# -- Nothing of the arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_no_record_holds_anything_of_the_arguments(world: Any, caplog: pytest.LogCaptureFixture, outcome: str) -> None:
    here = world(max_retries=1)
    caplog.set_level(logging.INFO)
    runs: list[int] = []

    def bad_policy(attempt: int, error: BaseException) -> int:
        raise LookupError(SECRET)

    @dramatiq.actor(
        throws=KeyError,
        max_age=60_000 if outcome == "expired" else None,
        backoff=bad_policy if outcome == "bad policy" else None,
        dead_letter_actor="nobody" if outcome == "bad morgue" else None,
    )
    def work(password: str, *, key: str) -> None:
        runs.append(1)
        if outcome == "Snooze" and len(runs) == 1:
            raise Snooze(1)
        raise {"Retry": dramatiq.Retry(delay=1), "GiveUp": GiveUp(), "throws": KeyError("expected")}.get(
            outcome, ValueError("no")
        )

    if outcome == "expired":
        here.send_aged(work, 120_000, args=(SECRET,), kwargs={"key": SECRET})
    elif outcome == "unknown actor":
        here.broker.enqueue(work.message(SECRET, key=SECRET)._replace(actor_name="nobody"))
    else:
        work.send(SECRET, key=SECRET)
    if outcome == "bad morgue":
        here.retry_queue.before_worker_boot = lambda broker, worker: None  # which would not let a worker start
    here.run()
    assert here.dead()
    # Below WARNING Dramatiq's own worker writes the message with its arguments, and we do not.
    records = [r for r in caplog.records if r.levelno >= logging.WARNING or r.name.startswith("dramatiq_retryq")]
    if outcome == "expired":  # Dramatiq's worker warns of each message that was skipped, arguments and all
        records = [r for r in records if r.name != WORKER]
    assert any(record.name == OURS for record in records)
    assert [record.getMessage() for record in records if SECRET in formatted(record)] == []


# -- redact ----------------------------------------------------------------------------------------------------------


def hide(text: str) -> str:
    return text.replace(SECRET, "[hidden]")


class Kept:
    """What is kept and logged of one message that fails with a secret in its error's text."""

    def __init__(self, clock: VirtualClock, drain: Any, **options: Any) -> None:
        broker = MemoryBroker([RetryQueue(max_retries=1, dead_letter_actor="morgue", **options)], clock=clock)
        self.told: list[dict[str, Any]] = []
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logger = logging.getLogger(OURS)

        @dramatiq.actor(broker=broker)
        def morgue(letter: dict[str, Any]) -> None:
            self.told.append(letter)

        @dramatiq.actor(broker=broker)
        def fail() -> None:
            try:
                raise ValueError(SECRET)
            except ValueError as error:
                raise RuntimeError(f"login with {SECRET} refused") from error

        fail.send()
        logger.addHandler(handler)
        try:
            drain(broker)
        finally:
            logger.removeHandler(handler)
        self.log = stream.getvalue()
        self.letter = broker.dead_letters.one()


def test_without_redact_a_secret_in_an_errors_text_is_kept(clock: VirtualClock, drain: Any) -> None:
    kept = Kept(clock, drain)
    assert SECRET in kept.log
    assert SECRET in repr(kept.letter)


def test_redact_cleans_the_log_of_retries_and_of_the_death(clock: VirtualClock, drain: Any) -> None:
    kept = Kept(clock, drain, redact=hide)
    assert SECRET not in kept.log
    assert kept.log.count("RuntimeError: login with [hidden] refused") >= 2


def test_redact_cleans_the_traceback_with_its_causes(clock: VirtualClock, drain: Any) -> None:
    kept = Kept(clock, drain, redact=hide)
    assert kept.letter.traceback is not None
    assert SECRET not in kept.letter.traceback
    assert "ValueError: [hidden]" in kept.letter.traceback
    assert "ValueError: [hidden]" in kept.log


def test_redact_cleans_the_history(clock: VirtualClock, drain: Any) -> None:
    kept = Kept(clock, drain, redact=hide)
    assert [attempt.message for attempt in kept.letter.attempts] == ["login with [hidden] refused"] * 2


def test_redact_cleans_the_whole_letter_and_what_the_dead_letter_actor_is_sent(clock: VirtualClock, drain: Any) -> None:
    kept = Kept(clock, drain, redact=hide)
    assert SECRET not in repr(kept.letter)
    assert SECRET.encode() not in kept.letter.data
    assert SECRET not in repr(kept.told)
    assert kept.told


def test_a_text_that_redact_cannot_clean_is_withheld(clock: VirtualClock, drain: Any) -> None:
    def broken(text: str) -> str:
        raise LookupError(text)

    kept = Kept(clock, drain, redact=broken)
    assert SECRET not in kept.log
    assert SECRET not in repr(kept.letter) + repr(kept.told)
    assert "<withheld: redact raised LookupError>" in kept.log
