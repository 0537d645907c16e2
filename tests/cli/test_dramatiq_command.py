"""A memory broker under the ``dramatiq`` command: what is sent within the worker process is run there."""

from __future__ import annotations

from typing import Any

APPLICATION = """
    import logging
    import os
    import threading

    import dramatiq
    from dramatiq.middleware import Middleware

    from dramatiq_retryq import MemoryBroker, RetryQueue


    class SendsAtBoot(Middleware):
        def after_worker_boot(self, broker, worker):
            for number in range(3):
                work.send(number)
            flaky.send()
            slow.send()


    broker = MemoryBroker(retry_queue=RetryQueue(min_backoff=10, max_backoff=10))
    broker.add_middleware(SendsAtBoot())
    dramatiq.set_broker(broker)
    logger = logging.getLogger("small_app")
    runs = []


    @dramatiq.actor
    def work(number):
        logger.info("ran %d in %d", number, os.getpid())


    @dramatiq.actor(max_retries=2)
    def flaky():
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("no")
        logger.info("made it in run %d", len(runs))


    @dramatiq.actor
    def slow():
        logger.info("slow begins")
        threading.Event().wait(0.5)
        logger.info("slow ends")
"""

SEVERAL = "A MemoryBroker runs in several worker processes."


def test_one_process_runs_what_it_sends_and_ends_well(command: Any) -> None:
    running = command(APPLICATION, "--processes", "1", "--threads", "2")
    running.wait_for("made it in run 3")
    running.wait_for("slow begins")
    assert running.terminate() == 0
    assert [len(running.with_text(f"ran {number} in")) for number in range(3)] == [1, 1, 1]
    assert running.with_text("slow ends")  # what was worked on was finished
    assert running.with_text("WARNING") == [line for line in running.with_text("WARNING") if "Attempt" in line]
    assert len(running.with_text("Attempt")) == 2
    assert running.with_text("Traceback") == []


def test_several_processes_are_warned_about_once_and_run_each_their_own(command: Any) -> None:
    running = command(APPLICATION, "--processes", "2", "--threads", "1")
    running.wait_for("made it in run 3", times=2)
    assert running.terminate() == 0
    (warning,) = running.with_text(SEVERAL)
    assert "[WARNING]" in warning
    assert len(running.with_text("ran 1 in")) == 2
    assert len({line.split(" in ")[1] for line in running.with_text("ran ")}) == 2


def test_an_application_whose_dead_letter_actor_does_not_exist_does_not_start(command: Any) -> None:
    application = APPLICATION.replace("min_backoff=10", 'dead_letter_actor="nobody", min_backoff=10')
    running = command(application, "--processes", "1", "--threads", "1")
    assert running.process.wait(30) != 0
    running.wait_for("RetryQueue: dead_letter_actor is 'nobody', and no such actor is declared on this broker")
    assert running.with_text("ran ") == []
