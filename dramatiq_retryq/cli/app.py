"""What every command has: the broker it is about, the options they share, and how it ends."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, NoReturn, TypeVar

import click
from dramatiq import Broker
from dramatiq.errors import ConnectionClosed, ConnectionFailed

from dramatiq_retryq.broker import MemoryBroker, StoreBroker
from dramatiq_retryq.clock import SystemClock, VirtualClock, clock_of
from dramatiq_retryq.errors import (
    ConfigError,
    MissingExtra,
    NotSupported,
    RetryQueueError,
    StoreUnavailable,
)
from dramatiq_retryq.naming import ImportFailed, named_broker
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.patience import USUAL, waiting_at_most
from dramatiq_retryq.time_words import parse_duration, parse_instant

from .output import FORMATS, note, plain

__all__ = [
    "DURATION",
    "ExitCode",
    "Group",
    "Instant",
    "Opened",
    "beside_output",
    "broker_argument",
    "confirm",
    "fail",
    "format_option",
    "limit_option",
    "names",
    "opened",
    "show_format_option",
    "warn_of_strangers",
    "yes_option",
]

#: Seconds.
_LOOK_PATIENCE = 3.0

F = TypeVar("F", bound=Callable[..., Any])


class ExitCode:
    """How a command ends, beside 0: documented in docs/operating.md."""

    FOUND = 1  #: a finding, something that is not there (any more), or not confirmed
    USAGE = 2  #: an argument that makes no sense
    UNAVAILABLE = 3  #: what the command needs is not there: the file, the module, the server, an extra, a free port
    NOT_SUPPORTED = 4  #: this broker cannot tell or do that
    INTERRUPTED = 130  #: Ctrl-C


class _Failed(click.ClickException):
    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"retryq: {plain(self.message)}", file=file, err=file is None)


def fail(text: str, exit_code: int) -> NoReturn:
    """End the command with a sentence on stderr."""
    raise _Failed(text, exit_code)


class Group(click.Group):
    """The command itself: every error of the package ends it with a sentence and an exit code, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where nobody complains if its reader is gone, and not as Python ends
            return result
        except NotSupported as error:
            fail(str(error), ExitCode.NOT_SUPPORTED)
        except (StoreUnavailable, MissingExtra) as error:
            fail(str(error), ExitCode.UNAVAILABLE)
        except (ConnectionClosed, ConnectionFailed) as error:
            fail(f"the broker cannot be reached: {_said(error)}", ExitCode.UNAVAILABLE)
        except ConfigError as error:
            fail(str(error), ExitCode.USAGE)
        except RetryQueueError as error:
            fail(str(error), ExitCode.FOUND)
        except BrokenPipeError:
            raise  # click ends quietly: whoever read has read enough
        except OSError as error:
            fail(_said(error), ExitCode.UNAVAILABLE)
        except KeyboardInterrupt:
            fail("interrupted", ExitCode.INTERRUPTED)
        except Exception as error:
            if type(error).__module__.split(".")[0] in ("redis", "pika"):
                fail(f"the broker cannot be reached: {_said(error)}", ExitCode.UNAVAILABLE)
            raise


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


class Opened:
    """A broker that a command is about: ``app:broker``, a file or a URL."""

    def __init__(self, name: str, broker: Broker) -> None:
        self.name = name
        self.broker = broker
        self.operations = Operations.of(broker)
        #: The broker's own, which a test may have given it.
        self.clock = clock_of(broker)

    def now(self) -> int:
        return self.clock.now()

    def is_elsewhere(self) -> bool:
        """Whether what is meant is in another process, and this broker an empty one of the same name."""
        # One on a virtual clock is a test's, in this process.
        return isinstance(self.broker, MemoryBroker) and not isinstance(self.broker.clock, VirtualClock)

    def require_shared(self, instead: str) -> None:
        """End the command where it would act on an empty broker of this process, or call it well."""
        if self.is_elsewhere():
            fail(instead, ExitCode.NOT_SUPPORTED)

    def require_queues(self) -> None:
        """End the command where nothing would be seen and that taken for good news: a server's broker made from a URL.

        Redis and RabbitMQ are asked for the queues that are declared, and nothing has declared any.
        """
        if not isinstance(self.broker, StoreBroker) and not self.broker.get_declared_queues():
            fail(
                f"this {type(self.broker).__name__} knows no queues, so it cannot tell what is in them: name the "
                "application's broker, as in app:broker, in whose module the actors are declared",
                ExitCode.NOT_SUPPORTED,
            )


@contextmanager
def beside_output() -> Iterator[None]:
    """What an application prints when it is imported goes to stderr: it is no part of the listing that a pipe gets."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def opened(name: str, path: str = ".", *, create: bool = False, to_act: bool = False) -> Iterator[Opened]:
    """Open a broker by its name, and close it if nobody else has it.

    Who looks waits for a file that is locked a few seconds only; who is to act, as long as a worker would.

    Whatever is wrong with the name, the module, the file or the server ends the command with exit code 3.
    """
    try:
        with beside_output(), waiting_at_most(USUAL if to_act else _LOOK_PATIENCE):
            broker = named_broker(name, path=path, create=create)
    except ImportFailed as error:
        cause = error.__cause__
        if cause is not None and not isinstance(cause, (SystemExit, StoreUnavailable)):
            click.echo(plain("".join(traceback.format_exception(type(cause), cause, cause.__traceback__))), err=True)
        fail(str(error), ExitCode.UNAVAILABLE)
    except RetryQueueError as error:
        fail(str(error), ExitCode.UNAVAILABLE)
    at = Opened(name, broker)
    if at.is_elsewhere():
        note(
            "A MemoryBroker's messages are in the process that made it, and cannot be seen from another one: this one "
            "is empty."
        )
    try:
        yield at
    finally:
        # One that belongs to a module may be in use there: a test's, say.
        if "://" in name or name.partition(":")[0] not in sys.modules:
            broker.close()


def warn_of_strangers(at: Opened, queues: Iterable[str], actors: Iterable[str]) -> None:
    """Say on stderr which names nobody knows here: one with a slip in it pauses nothing, and nothing matches it."""
    known = at.broker.get_declared_queues()
    with suppress(NotSupported):
        known = known | {queue.name for queue in at.operations.status().queues}
    for queue in queues:
        if queue not in known:
            note(f"Queue {queue} has no message here, and is not declared: is that its name?")
    for actor in actors:
        if at.broker.actors and actor not in at.broker.actors:  # a file or a URL knows none
            note(f"Actor {actor} is not declared on this broker: is that its name?")


# -- Arguments and options ---------------------------------------------------------------------------------------------


class _Duration(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has none
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


#: A duration in words; the command gets milliseconds.
DURATION = _Duration()


class Instant(click.ParamType):  # type: ignore[type-arg]
    """An instant in words; the command gets a function that takes the broker's present instant.

    Args:
        bare: which way ``2h`` points, without ``ago`` or ``in``.
    """

    name = "time"

    def __init__(self, bare: Any) -> None:
        self.bare = bare

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if callable(value):
            return value

        def instant(now: int) -> int:
            return parse_instant(value, now=now, bare=self.bare)

        try:
            instant(SystemClock().now())
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        return instant


def broker_argument(function: F) -> F:
    """The argument BROKER, and where modules are looked for."""
    function = click.option(
        "--path", "-P", default=".", show_default=True, metavar="DIR", help="Where the module is looked for first."
    )(function)
    return click.argument("broker")(function)


def format_option(function: F) -> F:
    return click.option(
        "--format",
        "format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How it is written; instants and durations are milliseconds in all but the table.",
    )(function)


def show_format_option(function: F) -> F:
    """For what is one thing and no list."""
    return click.option(
        "--format",
        "format",
        type=click.Choice(("table", "json")),
        default="table",
        show_default=True,
        help="How it is written.",
    )(function)


def limit_option(function: F) -> F:
    return click.option(
        "--limit",
        type=click.IntRange(min=0),
        metavar="N",
        help="At most so many. [default: 100 in a table, else all]",
    )(function)


def yes_option(function: F) -> F:
    function = click.option("--dry-run", is_flag=True, help="Show what it would be done to, and do nothing.")(function)
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(function)


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        click.echo(err=True)
        if isinstance(abort.__context__, KeyboardInterrupt):
            fail("interrupted: nothing was done", ExitCode.INTERRUPTED)
        fail("nobody answered, and nothing was done: say --yes", ExitCode.FOUND)
    if not agreed:
        fail("nothing was done", ExitCode.FOUND)


def names(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
