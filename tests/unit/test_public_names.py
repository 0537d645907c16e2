"""The front door: what is there, and what comes in with it."""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dramatiq_retryq

NAMES = {
    "Attempt",
    "Backoff",
    "DeadLetter",
    "DeadLetters",
    "GiveUp",
    "MemoryBroker",
    "RetryQueue",
    "SQLiteBroker",
    "SQLiteRateLimiterBackend",
    "SQLiteResultBackend",
    "Snooze",
    "broker_from_url",
    "current_attempt",
    "run_worker",
}


def test_the_public_names_are_these() -> None:
    assert set(dramatiq_retryq.__all__) == NAMES
    assert len(dramatiq_retryq.__all__) == len(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(dramatiq_retryq, name))


def test_nothing_else_is_there_but_the_modules_of_the_package() -> None:
    for name in NAMES:
        getattr(dramatiq_retryq, name)  # they are imported at use
    others = {name: value for name, value in vars(dramatiq_retryq).items() if not name.startswith("__")}
    modules = {name: module for name, module in sys.modules.items() if name.startswith("dramatiq_retryq.")}
    assert {name for name, value in others.items() if value not in modules.values()} == NAMES


def test_the_modules_of_the_package_are_there_without_being_imported() -> None:
    code = "import dramatiq_retryq; print(dramatiq_retryq.policy.Backoff is dramatiq_retryq.Backoff)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'RetryQeue'"):
        dramatiq_retryq.RetryQeue  # type: ignore[attr-defined]  # noqa: B018


def test_every_public_name_is_listed_by_dir() -> None:
    assert set(dir(dramatiq_retryq)) >= NAMES


def test_every_name_that_a_docstring_refers_to_in_full_is_there() -> None:
    package = Path(dramatiq_retryq.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    names = set(re.findall(r":[a-z]+:`~?(dramatiq_retryq[\w.]+)`", text))
    assert len(names) > 10
    for name in sorted(names):
        assert pkgutil.resolve_name(name) is not None


def test_the_package_has_types() -> None:
    assert (Path(dramatiq_retryq.__file__).parent / "py.typed").exists()


def test_a_bare_import_pulls_in_nothing_but_the_standard_library_and_dramatiq(tmp_path: Path) -> None:
    code = """
import sys
import dramatiq
before = set(sys.modules)
import dramatiq_retryq
pulled_in = {name.partition(".")[0] for name in set(sys.modules) - before}
known = {"dramatiq", "dramatiq_retryq", "__mp_main__"}  # the last is multiprocessing's name for this script
print(*sorted(pulled_in - sys.stdlib_module_names - known))
print(*sorted({"dramatiq.brokers.redis", "dramatiq.brokers.rabbitmq"} & set(sys.modules)))
"""
    package = str(Path(dramatiq_retryq.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == []
