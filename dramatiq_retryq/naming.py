"""Brokers and actors by their names: ``app:broker`` as the ``dramatiq`` command has it, the path of a file, a URL."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from dramatiq import Actor, Broker, get_broker

from .broker import SQLiteBroker
from .errors import ConfigError
from .urls import broker_from_url

__all__ = ["ImportFailed", "named_actor", "named_broker"]

_FILE_ENDINGS = (".db", ".sqlite", ".sqlite3", ".db3")


class ImportFailed(ConfigError):
    """The application's module was found, and raised when it was imported; the cause is chained."""


def named_broker(name: str, *, path: str = ".", create: bool = False) -> Broker:
    """The broker that somebody means by a name.

    Args:
        name: ``module``, ``module:broker`` or ``module:function``, as for the ``dramatiq`` command; the path of a
            SQLite file; or a URL (``sqlite:///jobs.db``, ``redis://…``, ``amqp://…``). A broker made from a path or a
            URL knows no actors.
        path: where modules are looked for first.
        create: make a file that does not exist.

    Raises:
        ConfigError: it names none. A file that does not exist is not made unless that is said.
        ImportFailed: the module raised.
        StoreUnavailable: the file cannot be opened.
    """
    if "://" in name:
        if not create:
            _check_url(name)
        return broker_from_url(name)
    if _is_path(name):
        if not create:
            _check_file(name)
        return SQLiteBroker(name)
    module, found = _imported(name, path)
    if callable(found) and not isinstance(found, (Broker, Actor)):
        _called(found, name)
        found = None
    if found is None:
        return get_broker()
    if not isinstance(found, Broker):
        raise ConfigError(f"{name} is {_article(found)}, and no broker: {_brokers_of(module)}")
    return found


def _brokers_of(module: ModuleType) -> str:
    brokers = [f"{module.__name__}:{key}" for key, value in vars(module).items() if isinstance(value, Broker)]
    there_is = f"; there is {', '.join(brokers)}" if brokers else ""
    return f"name one as module:broker{there_is}"


def named_actor(name: str, *, path: str = ".") -> Actor[Any, Any]:
    """The actor that somebody means by ``module:actor``, by its variable or by the name it is declared under.

    Raises:
        ConfigError: it names none.
        ImportFailed: the module raised.
    """
    modname, _, varname = name.partition(":")
    module, _ = _imported(modname, path)
    found: Any
    try:
        found = functools.reduce(getattr, varname.split("."), module) if varname else None
    except AttributeError:
        found = None
    actors = {key: value for key, value in vars(module).items() if isinstance(value, Actor)}
    if found is None and varname:
        brokers = {id(actor.broker): actor.broker for actor in actors.values()}
        found = next((broker.actors[varname] for broker in brokers.values() if varname in broker.actors), None)
    if isinstance(found, Actor):
        return found
    known = f"; there is {', '.join(f'{modname}:{key}' for key in sorted(actors))}" if actors else ""
    what = f"module {modname} has no {varname!r}" if found is None and varname else f"{name} is no actor"
    raise ConfigError(f"{what}: name one as module:actor{known}")


def _is_path(name: str) -> bool:
    # A package's directory is a module, whatever else it is.
    return os.sep in name or name.lower().endswith(_FILE_ENDINGS) or os.path.isfile(name)


def _check_file(name: str) -> None:
    if name.endswith(".py"):
        module = name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise ConfigError(f"{name} is a Python file: name the module, {module} or {module}:broker")
    if not os.path.exists(name):
        raise ConfigError(f"there is no file {name}: give the path that the application gives to SQLiteBroker")
    if os.path.isfile(name) and os.path.getsize(name) == 0:
        raise ConfigError(f"{name} is empty, and no store of messages: no SQLiteBroker has opened it yet")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return  # broker_from_url says so, without the password that may be in it
    if parts.scheme.lower() == "sqlite" and not parts.netloc and parts.path[1:]:
        _check_file(unquote(parts.path[1:]))


def _imported(name: str, path: str) -> tuple[ModuleType, Any]:
    modname, _, varname = name.partition(":")
    path = os.path.abspath(path)
    if path not in sys.path:
        sys.path.insert(0, path)
    try:
        module = importlib.import_module(modname)
    except ModuleNotFoundError as error:
        if error.name is not None and (modname == error.name or modname.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is neither a module nor a file {modname!r} here: give module:broker as for the dramatiq "
                "command, the path of a file, or a URL"
            ) from None
        raise ImportFailed(f"importing {modname} failed: {error}") from error
    except (ValueError, TypeError) as error:
        if not modname or modname.startswith("."):
            raise ConfigError(
                f"{name!r} names no broker: give module:broker as for the dramatiq command, a file's path, or a URL"
            ) from None
        raise ImportFailed(f"importing {modname} failed: {type(error).__name__}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"importing {modname} failed: {type(error).__name__}: {error}") from error
    if not varname:
        return module, None
    try:
        return module, functools.reduce(getattr, varname.split("."), module)
    except AttributeError:
        raise ConfigError(f"module {modname} has no {varname!r}: {_brokers_of(module)}") from None


def _called(function: Any, name: str) -> None:
    try:
        function()
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"calling {name} failed: {type(error).__name__}: {error}") from error


def _article(found: Any) -> str:
    kind = type(found).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
