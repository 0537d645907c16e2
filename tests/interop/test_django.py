"""django-dramatiq: brokers and RetryQueue from settings, its admin's task table, its management command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop import four

SETTINGS = """
    import os

    from dramatiq_retryq import RetryQueue

    NAME = os.environ["INTEROP_NAME"]
    DEBUG = True
    SECRET_KEY = "not one"
    USE_TZ = True
    INSTALLED_APPS = ["django_dramatiq", "shop"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db", "OPTIONS": {"timeout": 20}}}
    REDIS = {"url": os.environ.get("RETRYQ_TEST_REDIS"), "namespace": NAME}
    RABBITMQ = {"url": os.environ.get("RETRYQ_TEST_RABBITMQ")}
    BROKERS = {
        "memory": ("dramatiq_retryq.MemoryBroker", {}),
        "sqlite": ("dramatiq_retryq.SQLiteBroker", {"path": "jobs.db"}),
        "redis": ("dramatiq.brokers.redis.RedisBroker", REDIS),
        "rabbitmq": ("dramatiq.brokers.rabbitmq.RabbitmqBroker", RABBITMQ),
    }
    DRAMATIQ_BROKER = {
        "BROKER": BROKERS[os.environ["KIND"]][0],
        "OPTIONS": BROKERS[os.environ["KIND"]][1],
        "MIDDLEWARE": [
            "dramatiq.middleware.AgeLimit",
            "dramatiq.middleware.TimeLimit",
            "dramatiq.middleware.Callbacks",
            "dramatiq.middleware.Pipelines",
            # By its path with the defaults, or, with options, as an object.
            "dramatiq_retryq.RetryQueue" if os.environ["FORM"] == "path" else RetryQueue(backoff=[0], max_retries=1),
            "django_dramatiq.middleware.DbConnectionsMiddleware",
            "django_dramatiq.middleware.AdminMiddleware",
        ],
    }
    DRAMATIQ_RESULT_BACKEND = {
        "BACKEND": "dramatiq_retryq.SQLiteResultBackend",
        "BACKEND_OPTIONS": {"path": "results.db"},
    }
"""
TASKS = """
    import os

    import dramatiq
    from django.db import connection

    from dramatiq_retryq import current_attempt


    @dramatiq.actor(queue_name=os.environ["INTEROP_NAME"], store_results=True)
    def recover(name):
        if current_attempt().number == 1:
            raise ConnectionError("nobody answers")
        return [name, current_attempt().number]


    @dramatiq.actor(queue_name=os.environ["INTEROP_NAME"], throws=KeyError)
    def die():
        raise KeyError("expected")
"""
# What a view would do, and what somebody sees in the admin afterwards.
DRIVE = """
    import contextlib
    import os
    import sys

    import django

    django.setup()

    import dramatiq
    from django.core.management import call_command
    from django_dramatiq.models import Task
    from shop.tasks import die, recover

    from dramatiq_retryq import RetryQueue
    from tests.interop import four

    call_command("migrate", verbosity=0)
    broker = dramatiq.get_broker()
    assert sum(isinstance(middleware, RetryQueue) for middleware in broker.middleware) == 1
    # Before a worker is there: django-dramatiq notes a message after it was sent, and a worker may be faster.
    message, dead = recover.send("a"), die.send()
    worker = contextlib.nullcontext() if "elsewhere" in sys.argv else four.running(broker)
    with contextlib.closing(broker):
        with worker:
            print(message.get_result(block=True, timeout=20_000))
            if "elsewhere" not in sys.argv:
                four.eventually(lambda: Task.tasks.get(id=dead.message_id).status == Task.STATUS_FAILED)
        if "elsewhere" not in sys.argv:
            four.clear(broker)
    for task in Task.tasks.all().order_by("actor_name"):
        print(task.actor_name, task.status)
"""
SEEN = ["['a', 2]", "die failed", "recover done"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Django project with one app."""
    (tmp_path / "shop").mkdir()
    for path, text in {
        "settings.py": SETTINGS,
        "shop/__init__.py": "",
        "shop/tasks.py": TASKS,
        "drive.py": DRIVE,
    }.items():
        (tmp_path / path).write_text(textwrap.dedent(text))
    return tmp_path


def environment(kind: str, form: str) -> dict[str, str]:
    return {"DJANGO_SETTINGS_MODULE": "settings", "KIND": kind, "FORM": form}


@pytest.mark.parametrize("form", ["path", "object"])
def test_settings_name_the_broker_and_retry_queue_and_the_tasks_are_seen_in_the_admin(
    run: Callable[..., list[str]], project: Path, kind: str, form: str
) -> None:
    seen = run(str(project / "drive.py"), **environment(kind, form))
    # On Dramatiq's own brokers a worker sends a delayed message once more, and django-dramatiq notes that as it comes.
    assert seen == SEEN if kind in ("memory", "sqlite") else seen[:2] == SEEN[:2]


@pytest.mark.parametrize("arguments", [[], ["--use-gevent"]], ids=["threads", "gevent"])
def test_rundramatiq_runs_what_another_process_sends(
    run: Callable[..., list[str]], project: Path, name: str, arguments: list[str]
) -> None:
    variables = environment("sqlite", "object")
    command = subprocess.Popen(
        [sys.executable, "-m", "django", "rundramatiq", "--processes", "1", "--threads", "2", *arguments],
        cwd=project,
        env={**os.environ, **variables, "INTEROP_NAME": name, "PYTHONPATH": os.pathsep.join([".", str(four.ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert run(str(project / "drive.py"), "elsewhere", **variables)[0] == SEEN[0]
        command.send_signal(signal.SIGTERM)
        output, _ = command.communicate(timeout=four.PATIENCE)
        assert command.returncode == 0, output
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
            command.communicate()
