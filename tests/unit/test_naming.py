"""Brokers and actors by their names."""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest

from dramatiq_retryq import MemoryBroker, SQLiteBroker
from dramatiq_retryq.errors import ConfigError, RetryQueueError, StoreUnavailable
from dramatiq_retryq.naming import ImportFailed, named_actor, named_broker

APPLICATION = """
    import dramatiq
    from dramatiq_retryq import MemoryBroker, RetryQueue

    broker = MemoryBroker()
    other = MemoryBroker()

    class Box:
        broker = other

    def set_up():
        dramatiq.set_broker(other)

    def breaks():
        raise RuntimeError("no settings")

    dramatiq.set_broker(broker)

    @dramatiq.actor
    def work(): ...

    @dramatiq.actor(actor_name="the-other-name")
    def renamed(): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into the working directory and gives its name, which no other test uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before, modules = dramatiq.broker.global_broker, {*sys.modules}

    def module(text: str) -> str:
        name = f"naming_{os.urandom(4).hex()}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return name

    yield module
    dramatiq.set_broker(before)  # type: ignore[arg-type]
    for name in {*sys.modules} - modules:
        del sys.modules[name]


def test_a_module_names_the_broker_that_it_makes_the_global_one(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    assert named_broker(name) is sys.modules[name].broker


def test_a_broker_is_named_by_its_variable_also_within_an_object(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    assert named_broker(f"{name}:other") is sys.modules[name].other
    assert named_broker(f"{name}:Box.broker") is sys.modules[name].other


def test_a_function_is_called_and_sets_the_broker(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    assert named_broker(f"{name}:set_up") is sys.modules[name].other


def test_a_package_is_a_module_though_it_is_a_directory_too(module: Callable[[str], str], tmp_path: Path) -> None:
    name = module(APPLICATION)
    (tmp_path / f"{name}_package").mkdir()
    (tmp_path / f"{name}.py").rename(tmp_path / f"{name}_package" / "__init__.py")
    assert isinstance(named_broker(f"{name}_package"), MemoryBroker)


def test_a_module_in_another_directory_is_found_by_the_path(module: Callable[[str], str], tmp_path: Path) -> None:
    name = module(APPLICATION)
    (tmp_path / "src").mkdir()
    (tmp_path / f"{name}.py").rename(tmp_path / "src" / f"{name}.py")
    assert isinstance(named_broker(name, path="src"), MemoryBroker)


def test_a_file_is_opened_and_knows_no_actors(module: Callable[[str], str], tmp_path: Path) -> None:
    SQLiteBroker(tmp_path / "jobs.db").close()
    for name in (
        "jobs.db",
        "./jobs.db",
        str(tmp_path / "jobs.db"),
        "sqlite:///jobs.db",
        f"sqlite:///{tmp_path}/jobs.db",
    ):
        broker = named_broker(name)
        assert isinstance(broker, SQLiteBroker)
        assert not broker.actors
        broker.close()


@pytest.mark.parametrize(
    "name", ["typo.db", "./typo", "/nowhere/jobs.db", "sqlite:///typo.db", "sqlite:////nowhere/jobs.db"]
)
def test_a_file_that_is_not_there_is_not_made(module: Callable[[str], str], tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        named_broker(name)
    assert [*tmp_path.iterdir()] == []


def test_an_empty_file_is_left_empty(module: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch()
    with pytest.raises(ConfigError, match="is empty"):
        named_broker("jobs.db")
    assert (tmp_path / "jobs.db").stat().st_size == 0


def test_a_file_of_another_program_is_refused_and_left_alone(module: Callable[[str], str], tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE songs (name)")
    connection.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        named_broker("other.db")
    assert (tmp_path / "other.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(module: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database " * 100)
    with pytest.raises(StoreUnavailable, match="some other kind of file"):
        named_broker("text.db")


def test_a_file_of_a_newer_version_is_refused(module: Callable[[str], str], tmp_path: Path) -> None:
    SQLiteBroker(tmp_path / "jobs.db").close()
    connection = sqlite3.connect(tmp_path / "jobs.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer dramatiq_retryq"):
        named_broker("jobs.db")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nobody_wrote_this", "neither a module nor a file 'nobody_wrote_this' here"),
        ("", "names no broker"),
        (":broker", "names no broker"),
        (".relative:broker", "names no broker"),
        ("ftp://host", "the broker's URL is"),
        ("redis://user:secret@host:99999/0", "its port is no number"),
    ],
)
def test_a_name_of_nothing_is_an_error_that_says_what_to_give(
    module: Callable[[str], str], name: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=text) as raised:
        named_broker(name)
    assert "secret" not in str(raised.value)


def test_a_python_file_is_an_error_that_says_the_modules_name(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    with pytest.raises(ConfigError, match=f"name the module, {name} or {name}:broker"):
        named_broker(f"{name}.py")


def test_a_module_that_has_no_such_name_is_an_error(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    with pytest.raises(ConfigError, match=f"has no 'brocker': name one as module:broker; there is {name}:broker"):
        named_broker(f"{name}:brocker")


def test_what_is_no_broker_is_an_error_that_names_those_there_are(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    with pytest.raises(ConfigError, match=f"is an Actor, and no broker: .*there is {name}:broker, {name}:other"):
        named_broker(f"{name}:work")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import nobody_wrote_this", "No module named 'nobody_wrote_this'"),
        ("def (", "SyntaxError"),
        ("raise SystemExit('no settings')", "SystemExit: no settings"),
        ("raise ValueError('no settings')", "ValueError: no settings"),
    ],
)
def test_a_module_that_raises_is_an_error_with_its_cause(module: Callable[[str], str], text: str, said: str) -> None:
    with pytest.raises(ImportFailed, match=said) as raised:
        named_broker(module(text))
    assert raised.value.__cause__ is not None


def test_a_function_that_raises_is_an_error_with_its_cause(module: Callable[[str], str]) -> None:
    with pytest.raises(ImportFailed, match=r"calling .*:breaks failed: RuntimeError: no settings"):
        named_broker(f"{module(APPLICATION)}:breaks")


def test_an_actor_is_named_by_its_variable_or_by_the_name_it_is_declared_under(module: Callable[[str], str]) -> None:
    name = module(APPLICATION)
    assert named_actor(f"{name}:work") is sys.modules[name].work
    assert named_actor(f"{name}:the-other-name") is sys.modules[name].renamed


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("", "is no actor"), (":wrok", "has no 'wrok'"), (":broker", "is no actor"), (":Box.nothing", "has no")],
)
def test_what_is_no_actor_is_an_error_that_names_those_there_are(
    module: Callable[[str], str], suffix: str, text: str
) -> None:
    name = module(APPLICATION)
    with pytest.raises(RetryQueueError, match=f"{text}.*there is {name}:renamed, {name}:work"):
        named_actor(f"{name}{suffix}")
