"""What the middleware counts for Prometheus, in files that the processes beside it can read.

The values lie in the memory-mapped files of ``prometheus_client``'s multiprocess mode, one set for each process.
Whoever answers a scrape adds them up, so each retry is counted where it was stored and nowhere else. The files are
written without that library's own ``Counter`` and ``Histogram``: whether those go to files is settled for a whole
process by an environment variable at the first import, and an application with metrics of its own has long imported it.
"""

from __future__ import annotations

import bisect
import fcntl
import importlib.util
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, Literal

from .errors import MissingExtra
from .records import REASONS, Reason

__all__ = [
    "ATTEMPTS",
    "ATTEMPT_DURATION",
    "DEATHS",
    "OUTCOMES",
    "RETRIES",
    "RETRY_DELAY",
    "UNKNOWN",
    "Counted",
    "Counters",
    "Outcome",
    "family_directory",
    "is_installed",
]

#: How an attempt ended. ``succeeded``; ``retried``: it failed and a retry is stored; ``died``: it failed and was the
#: last; ``snoozed``: the actor raised ``Snooze``; ``interrupted``: the worker was stopped.
Outcome = Literal["succeeded", "retried", "died", "snoozed", "interrupted"]
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "retried", "died", "snoozed", "interrupted")

#: Stands for an actor or a queue that this process does not know: its name is somebody else's text.
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A counter or histogram. The name is without ``_total``, as Prometheus' library has it."""

    name: str
    help: str
    labels: tuple[str, ...]
    #: The upper bounds of a histogram's buckets, in seconds; empty for a counter.
    bounds: tuple[float, ...] = ()


#: What is counted, and the values of its labels.
_Series = tuple[Any, ...]

_ACTOR_LABELS = ("queue_name", "actor_name")

ATTEMPTS = Counted(name="retryq_attempts", help="Attempts that ended, by outcome.", labels=(*_ACTOR_LABELS, "outcome"))
RETRIES = Counted(name="retryq_retries", help="Retries that were stored.", labels=_ACTOR_LABELS)
DEATHS = Counted(name="retryq_deaths", help="Messages that died, by reason.", labels=(*_ACTOR_LABELS, "reason"))
ATTEMPT_DURATION = Counted(
    name="retryq_attempt_duration_seconds",
    help="How long attempts took, whatever their outcome.",
    labels=_ACTOR_LABELS,
    bounds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, float("inf")),
)
RETRY_DELAY = Counted(
    name="retryq_retry_delay_seconds",
    help="The delays that were chosen for retries.",
    labels=_ACTOR_LABELS,
    bounds=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400, 604800, float("inf")),
)


def is_installed() -> bool:
    """Whether the extra ``prometheus`` is there."""
    return importlib.util.find_spec("prometheus_client") is not None


class Counters:
    """The counters and histograms of this process.

    Everything here may be called from any thread, and may raise what the file system raises.

    Args:
        directory: where the files lie; the processes that are scraped together share it.

    Raises:
        MissingExtra: ``prometheus_client`` is not installed.
    """

    def __init__(self, directory: str) -> None:
        if not is_installed():
            raise MissingExtra("prometheus")
        self.directory = directory
        self._pid = 0
        self._keys: dict[_Series, tuple[str, ...]] = {}

    def attempted(self, queue_name: str, actor_name: str, outcome: Outcome, duration: int) -> None:
        """An attempt ended after ``duration`` ms."""
        counter = self._keys_of((ATTEMPTS, queue_name, actor_name, outcome))
        histogram = self._keys_of((ATTEMPT_DURATION, queue_name, actor_name))
        self._add(counter, *_observed(ATTEMPT_DURATION, histogram, duration))

    def retried(self, queue_name: str, actor_name: str, delay: int) -> None:
        """A retry was stored that is due in ``delay`` ms."""
        counter = self._keys_of((RETRIES, queue_name, actor_name))
        histogram = self._keys_of((RETRY_DELAY, queue_name, actor_name))
        self._add(counter, *_observed(RETRY_DELAY, histogram, delay))

    def died(self, queue_name: str, actor_name: str, reason: Reason) -> None:
        """A message died."""
        self._add(self._keys_of((DEATHS, queue_name, actor_name, reason)))

    def prepare(self, queue_name: str, actor_name: str) -> None:
        """Show an actor's counters as 0: a series that begins at 1 hides its first event from ``increase()``."""
        self._keys_of((RETRIES, queue_name, actor_name))
        for outcome in OUTCOMES:
            self._keys_of((ATTEMPTS, queue_name, actor_name, outcome))
        for reason in REASONS:
            self._keys_of((DEATHS, queue_name, actor_name, reason))

    def _add(self, counter: tuple[str, ...], *observed: tuple[str, float]) -> None:
        self._files().add(((counter[0], 1), *observed))

    def _keys_of(self, series: _Series) -> tuple[str, ...]:
        """A series' keys in the files: of a counter one, of a histogram those of its buckets and that of its sum."""
        files = self._files()
        keys = self._keys.get(series)
        if keys is None:
            keys = self._make(series)
            # All of them, and as 0: a histogram without its last bucket cannot be read.
            files.begin("histogram" if series[0].bounds else "counter", keys)
            self._keys[series] = keys
        return keys

    def _make(self, series: _Series) -> tuple[str, ...]:
        from prometheus_client.mmap_dict import mmap_key
        from prometheus_client.utils import floatToGoString

        counted, *values = series
        name, labels = counted.name, list(counted.labels)
        if not counted.bounds:
            return (mmap_key(name, f"{name}_total", labels, values, counted.help),)
        buckets = [
            mmap_key(name, f"{name}_bucket", [*labels, "le"], [*values, floatToGoString(bound)], counted.help)
            for bound in counted.bounds
        ]
        return (*buckets, mmap_key(name, f"{name}_sum", labels, values, counted.help))

    def _files(self) -> _Files:
        if self._pid != os.getpid():
            # In the child of a fork too: the files of the parent are the parent's, and so is what they hold.
            self._opened, self._pid, self._keys = _files_of(self.directory), os.getpid(), {}
        return self._opened


def _observed(counted: Counted, keys: tuple[str, ...], duration: int) -> tuple[tuple[str, float], tuple[str, float]]:
    """What an observation of so many ms adds to a histogram: to one of its buckets, and to its sum."""
    seconds = duration / 1000
    return (keys[bisect.bisect_left(counted.bounds, seconds)], 1), (keys[-1], seconds)


class _Files:
    """This process's files in a directory; one object for all that count there."""

    def __init__(self, directory: str) -> None:
        self._lock = threading.Lock()
        # What stands before the first underscore is the type, for the reader. The rest tells them from the files that
        # prometheus_client itself writes for this process, in which nobody else may write.
        self._files = {
            kind: _File(os.path.join(directory, f"{kind}_retryq-{os.getpid()}.db")) for kind in ("counter", "histogram")
        }
        #: By key: the file, and the value that stands there.
        self._values: dict[str, tuple[_File, float]] = {}

    def begin(self, kind: str, keys: Iterable[str]) -> None:
        """Have keys in a file; with 0, or what an earlier process of this number left."""
        with self._lock:
            for key in keys:
                if key not in self._values:
                    self._values[key] = self._files[kind], self._files[kind].find(key)

    def add(self, amounts: tuple[tuple[str, float], ...]) -> None:
        """Add to the values of keys that are there."""
        with self._lock:
            for key, amount in amounts:
                file, value = self._values[key]
                value += amount
                self._values[key] = file, value
                file.write(key, value)

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()


class _File:
    """A file of ``prometheus_client`` that has a block on the disk for every page."""

    def __init__(self, path: str) -> None:
        from prometheus_client.mmap_dict import MmapedDict

        self._path = path
        self._length = 0
        self._lengthen(65_536)
        file = MmapedDict(path)
        self._close = file.close
        self._find: Callable[[str], tuple[float, float]] = file.read_value
        self._write: Callable[[str, float, float], None] = file.write_value
        # A process that had this number before may have left it; its counts go on.
        self._used = 8 + sum(_room(key) for key, _, _ in file.read_all_values())

    def find(self, key: str) -> float:
        """The value of a key; 0 for one that is new."""
        self._used += _room(key)
        if self._used > self._length:
            self._lengthen(2 * self._length)
        return self._find(key)[0]

    def write(self, key: str, value: float) -> None:
        self._write(key, value, 0.0)

    def close(self) -> None:
        self._close()

    def _lengthen(self, length: int) -> None:
        # Written, where MmapedDict only makes it longer: on a full disk, touching a page that has no block kills the
        # process. Here it raises.
        with open(self._path, "ab") as file:
            self._length = max(file.tell(), length)
            file.write(bytes(self._length - file.tell()))


def _room(key: str) -> int:
    """How much of a file a key and its value take at the most."""
    return len(key.encode()) + 28


_open_files: dict[tuple[str, int], _Files] = {}
_opening = threading.Lock()


def _files_of(directory: str) -> _Files:
    with _opening:
        key = (directory, os.getpid())
        if key not in _open_files:
            files = _open_files[key] = _Files(directory)
            _at_exit(files.close, 1)
        return _open_files[key]


def _after_fork_in_child() -> None:
    # Another thread may have held it.
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# -- The directory of a family of processes --------------------------------------------------------------------------


class _Directory:
    """A directory that is there for as long as one process holds its lock."""

    def __init__(self, path: str) -> None:
        self.path = path
        while True:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                _check_own(path)
            try:
                self._fd = os.open(os.path.join(path, "lock"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:  # somebody swept it away meanwhile
                continue
            fcntl.flock(self._fd, fcntl.LOCK_SH)
            if os.fstat(self._fd).st_nlink:
                return
            os.close(self._fd)

    def close(self) -> None:
        """Leave it; the last one takes it away."""
        os.close(self._fd)
        _sweep(self.path)


_directories: dict[tuple[str, int], _Directory] = {}


def family_directory() -> str:
    """The directory in which this process and its siblings count: the worker processes of one ``dramatiq`` command.

    It is made when it is first asked for, readable by its owner only, and goes with the last of them.

    Raises:
        OSError: it cannot be made.
    """
    parent = multiprocessing.parent_process()
    family = os.getpid() if parent is None else parent.pid
    prefix = f"dramatiq-retryq-{os.geteuid()}-"
    path = os.path.join(tempfile.gettempdir(), f"{prefix}{family}")
    with _opening:
        if (path, os.getpid()) not in _directories:
            for name in os.listdir(tempfile.gettempdir()):
                if name.startswith(prefix):
                    _sweep(os.path.join(tempfile.gettempdir(), name))
            directory = _directories[path, os.getpid()] = _Directory(path)
            _at_exit(directory.close, 0)
    return path


def _at_exit(close: Callable[[], None], priority: int) -> None:
    # Not atexit, which is not run in the processes that multiprocessing starts.
    Finalize(None, close, exitpriority=priority)


def _sweep(path: str) -> None:
    """Take a directory away that nobody counts in any more."""
    try:
        _check_own(path)
        fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def _check_own(path: str) -> None:
    """Refuse what another user may have put in place of our directory.

    Raises:
        PermissionError: it is not ours alone.
    """
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or found.st_mode & 0o170077 != 0o040000:
        raise PermissionError(f"{path} is not a directory of this user's alone: remove it, or set TMPDIR")
