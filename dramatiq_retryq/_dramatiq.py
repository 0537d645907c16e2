"""The one place that knows what Dramatiq does not promise.

``tests/unit/test_dramatiq_internals.py`` fails with a sentence for each of these that a new Dramatiq changes.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple

from dramatiq import Broker, Consumer, Message, MessageProxy, Worker
from dramatiq.common import current_millis
from dramatiq.worker import ConsumerThread

__all__ = [
    "WORKER_LOGGER",
    "AttemptLogger",
    "Exposition",
    "command_arguments",
    "consumer_of",
    "consumers_of",
    "dead_consumers",
    "exception_of",
    "exposition_of",
    "extend_exposition",
    "is_attempt_error",
    "load_application",
    "messages_in_memory",
    "move_in_batches",
    "plain_message",
    "restart_consumer",
    "serve_plain_exposition",
    "settle_moved",
    "silence_attempt_errors",
    "take_connection",
    "wait_for_command",
]

#: The logger on which Dramatiq's worker reports every failed attempt, before any middleware hears of it.
WORKER_LOGGER = "dramatiq.worker.WorkerThread"
_ATTEMPT_ERROR = "Failed to process message %s with unhandled exception."
_SKIPPED = "Message %s was skipped."


def exception_of(message: MessageProxy) -> BaseException | None:
    """What the worker stuffed into this message, if anything."""
    # .__dict__, since Dramatiq 2.0 deletes the attribute where later ones set it to None.
    exception: BaseException | None = message.__dict__.get("_exception")
    return exception


def plain_message(message: Message[Any] | MessageProxy) -> Message[Any]:
    """The message itself, without the proxy that a consumer wrapped it in."""
    if isinstance(message, MessageProxy):
        return message._message
    return message


def is_attempt_error(record: logging.LogRecord) -> MessageProxy | None:
    """The message whose failed attempt this log record reports; ``None`` for any other record."""
    if record.msg == _ATTEMPT_ERROR and isinstance(record.args, tuple) and record.args:
        message = record.args[0]
        return message if isinstance(message, MessageProxy) else None
    return None


def dead_consumers(worker: Worker) -> list[str]:
    """The queues whose consumer thread has ended, while the worker goes on.

    On Redis that happens when the server does not answer in time: the thread hands back the delayed messages that it
    has, that raises too, and nothing catches it.
    """
    return [name for name, thread in list(worker.consumers.items()) if thread.running and not thread.is_alive()]


def restart_consumer(worker: Worker, queue_name: str) -> None:
    """Put a new consumer thread in the place of one that has ended."""
    del worker.consumers[queue_name]
    worker._add_consumer(queue_name, delay=queue_name.endswith(".DQ"))


def consumer_of(worker: Worker, queue_name: str) -> Consumer | None:
    """The consumer that a worker has for a queue now: another one after the connection was lost."""
    thread = worker.consumers.get(queue_name)
    return thread.consumer if thread is not None else None


def consumers_of(worker: object) -> list[Consumer]:
    """The consumers that a worker has now; none where a test emits the signal of a worker that is not there."""
    threads = list(worker.consumers.values()) if isinstance(worker, Worker) else []
    return [thread.consumer for thread in threads if thread.consumer is not None]


def messages_in_memory(worker: Worker, queue_name: str) -> Iterator[Message[Any] | MessageProxy]:
    """What a worker has fetched from a queue and holds: delayed, waiting for a thread, or not handed out yet.

    What a thread works on at the moment is not among them.
    """
    thread = worker.consumers.get(queue_name)
    delayed = list(thread.delay_queue.queue) if thread is not None else []
    item: Any
    for item in (*delayed, *list(worker.work_queue.queue)):
        # Dramatiq 2.0 has pairs and bare messages where later ones have items.
        yield item[-1] if isinstance(item, tuple) else getattr(item, "message", item)
    for data in list(getattr(consumer_of(worker, queue_name), "message_cache", ())):
        try:
            yield Message.decode(data)
        except Exception:
            continue


#: How many delayed messages that are due are moved at once.
MOVED_AT_ONCE = 100

#: Moves delayed messages that are due to the queue where they are run; false where they stay where they are.
Move = Callable[[ConsumerThread, Sequence[MessageProxy]], bool]


def move_in_batches(thread: ConsumerThread, move: Move) -> None:
    """Have a consumer thread move the delayed messages that are due many at a time, and not each by itself.

    Where ``enqueue`` is somebody's own, it goes on as before: what that does would be left out.
    """
    broker, plain = thread.broker, thread.handle_delayed_messages
    known: type[Any] = next(cls for cls in type(broker).__mro__ if cls.__module__.startswith("dramatiq."))
    if type(broker).enqueue is not known.enqueue or "enqueue" in vars(broker):
        return

    passed_over = 0

    def handle_delayed_messages() -> None:
        nonlocal passed_over
        # Called after each message that comes, of which in a storm most are due by then: it would be one at a time.
        if passed_over < MOVED_AT_ONCE and _has_more(thread):
            passed_over += 1
            return
        passed_over = 0
        while items := _take_due(thread):
            # Dramatiq 2.0 has pairs where later ones have items.
            messages = [item[-1] if isinstance(item, tuple) else item.message for item in items]
            is_moved = False
            try:
                is_moved = move(thread, messages)
            except Exception:
                _put_back(thread, items)
                plain()  # one at a time, and with whatever Dramatiq does about an error
                return
            if not is_moved:
                _put_back(thread, items)
                return
            for _ in items:
                thread.delay_queue.task_done()

    thread.handle_delayed_messages = handle_delayed_messages  # type: ignore[method-assign]


def _has_more(thread: ConsumerThread) -> bool:
    """Whether the next message is there already, so that nobody will wait for it."""
    consumer: Any = thread.consumer
    cache = getattr(consumer, "message_cache", None)
    return bool(consumer.channel.get_waiting_message_count() if cache is None else cache)


def _take_due(thread: ConsumerThread) -> list[Any]:
    now, items = current_millis(), list[Any]()
    while len(items) < MOVED_AT_ONCE:
        try:
            item: Any = thread.delay_queue.get_nowait()
        except Empty:
            break
        if (item[0] if isinstance(item, tuple) else item.priority) > now:
            _put_back(thread, [item])
            break
        items.append(item)
    return items


def _put_back(thread: ConsumerThread, items: Sequence[Any]) -> None:
    for item in items:
        thread.delay_queue.put(item)
        thread.delay_queue.task_done()


def settle_moved(thread: ConsumerThread, message: MessageProxy) -> None:
    """What comes of an ack by a consumer of ``RedisBroker``, but for the call: the server has done that already."""
    thread.broker.emit_before("ack", message)
    thread.consumer.queued_message_ids.discard(message.message_id)  # type: ignore[union-attr]
    thread.broker.emit_after("ack", message)


def take_connection(broker: Any) -> Any:
    """The connection of a ``RabbitmqBroker`` and this thread, which forgets it; ``None`` if there is none."""
    mine = broker.state.__dict__
    broker.channels.discard(mine.pop("channel", None))
    connection = mine.pop("connection", None)
    broker.connections.discard(connection)
    return connection


class _Silence(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.is_handled: Callable[[MessageProxy], bool] | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == _SKIPPED and isinstance(record.args, tuple) and record.args:
            return "retryq_quiet" not in getattr(record.args[0], "__dict__", ())
        message = is_attempt_error(record)
        return message is None or not self.drops(message)

    def drops(self, message: MessageProxy) -> bool:
        return self.is_handled is not None and self.is_handled(message)


_silence = _Silence()


if TYPE_CHECKING:
    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter  # takes no parameter before Python 3.11


class AttemptLogger(_LoggerAdapter):
    """The worker's logger, for one that has no threads: a report that would be dropped is not made in the first place.

    Making the record, and finding out who logs it, is a tenth of what a failing attempt costs.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})
        # Four times a message, and nobody listens: through the adapter each would cost three calls more.
        self.debug = logger.debug  # type: ignore[method-assign, assignment]

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        if msg == _ATTEMPT_ERROR and len(args) == 1 and isinstance(args[0], MessageProxy) and _silence.drops(args[0]):
            return
        self.logger.error(msg, *args, stacklevel=2, **kwargs)


def silence_attempt_errors(is_handled: Callable[[MessageProxy], bool]) -> None:
    """Drop the worker's own report of a failed attempt where ``is_handled`` says that somebody else reports it."""
    _silence.is_handled = is_handled
    logging.getLogger(WORKER_LOGGER).addFilter(_silence)  # a filter that is there already is not added twice


# -- The dramatiq command --------------------------------------------------------------------------------------------


def command_arguments() -> argparse.Namespace | None:
    """What the ``dramatiq`` command was called with, if this is called on the main thread of one of its processes."""
    # They are handed to these two functions and kept nowhere. sys.argv is another program's where that calls main().
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "dramatiq.cli" and frame.f_code.co_name in (
            "worker_process",
            "fork_process",
        ):
            arguments: argparse.Namespace | None = frame.f_locals.get("args")
            return arguments
    return None


def load_application() -> Broker:
    """The broker that the ``dramatiq`` command runs, with its actors declared; for a process beside the workers.

    Raises:
        LookupError: this is no process of the command.
        ImportError: the application cannot be imported.
    """
    arguments = command_arguments()
    if arguments is None:
        raise LookupError("this is not called in a process of the dramatiq command")
    from dramatiq.cli import import_broker

    _, broker = import_broker(arguments.broker)  # type: ignore[no-untyped-call]
    for module in arguments.modules:
        importlib.import_module(module)
    return broker  # type: ignore[no-any-return]


def wait_for_command() -> None:
    """Wait until the ``dramatiq`` command is gone; SIGTERM ends this sooner, with ``SystemExit``.

    A command that was killed tells nobody, and what its processes hold, as a port, would stay taken.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        threading.Event().wait()
    else:
        parent.join()


# -- Dramatiq's Prometheus middleware --------------------------------------------------------------------------------


class Exposition(NamedTuple):
    """Where Dramatiq's Prometheus middleware counts, and where its server listens."""

    directory: str
    host: str
    port: int


def exposition_of(broker: Broker) -> Exposition | None:
    """What Dramatiq's Prometheus middleware uses, if the broker has it."""
    # Not imported here: that makes its directory.
    module: Any = sys.modules.get("dramatiq.middleware.prometheus")
    if module is None or not any(isinstance(each, module.Prometheus) for each in broker.middleware):
        return None
    return Exposition(module.DB_PATH, module.HTTP_HOST, module.HTTP_PORT)


def extend_exposition(broker: Broker, serve: Callable[[], int]) -> None:
    """Have the Prometheus middleware start ``serve`` in place of its own server.

    Its server runs in a process that has no broker, and knows the files of its directory and nothing else. What is
    read when it is scraped has no place there.
    """
    module: Any = sys.modules.get("dramatiq.middleware.prometheus")
    for middleware in broker.middleware if module is not None else ():
        if isinstance(middleware, module.Prometheus) and module._run_exposition_server in middleware.forks:
            # The object stays: whoever holds it, and what it has counted so far, is not concerned.
            middleware.__class__ = _extended(type(middleware), middleware.forks, module._run_exposition_server, serve)


def _extended(kind: type[Any], forks: list[Any], plain: object, serve: object) -> type[Any]:
    forks = [serve if fork is plain else fork for fork in forks]
    return type(kind.__name__, (kind,), {"forks": property(lambda self: forks)})


def serve_plain_exposition() -> int:
    """Dramatiq's own server; returns its exit code."""
    from dramatiq.middleware import prometheus

    return prometheus._run_exposition_server()  # type: ignore[no-untyped-call, no-any-return]
