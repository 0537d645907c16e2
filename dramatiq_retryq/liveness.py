"""How the processes that share a file know of each other whether they live, and what a dead one was doing.

Each process that claims messages keeps a small file beside the database. The file is locked for as long as the process
lives: the kernel drops the lock with the process, however it ends, and with nothing but it, so an actor that holds the
interpreter's lock for a minute is not taken for dead. In it stand the entries that are being run at this moment,
written through a memory map: that costs less than a microsecond, and the kernel keeps it when the process is killed. So
of all the messages that a dead process had fetched, those that may have killed it are known.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import uuid
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager

__all__ = ["WorkerFile", "dead_worker", "living_worker", "other_worker_files", "remove_worker_file"]

# How many entries a process can run at once and be known for. Beyond it, they count as fetched and not begun.
_SLOTS = 4096
_ENTRY = struct.Struct("<q")
# Three parts: the ids of what is being run, since when each is (ms since the epoch), and since when the process works
# for the queues. An older version of this package wrote and reads the first only.
_SINCE = _SLOTS * _ENTRY.size
_WORKS_SINCE = 2 * _SINCE
_SIZE = _WORKS_SINCE + _ENTRY.size


class WorkerFile:
    """This process's own file: locked, and holding the ids of the entries that are being run.

    Args:
        database: the path of the database; the file lies beside it.
    """

    def __init__(self, database: str) -> None:
        while True:
            self.path = f"{database}-worker-{uuid.uuid4().hex[:12]}"
            # Not inherited by programs that are started from here; what forks itself closes it, see abandon().
            self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # somebody who clears up was faster, and takes it away
                os.close(self._fd)
                continue
            if os.fstat(self._fd).st_nlink:
                break
            os.close(self._fd)
        try:
            # Written and not only made this long: on a full disk, touching a page that has no block kills the process.
            os.write(self._fd, bytes(_SIZE))
            self._map = mmap.mmap(self._fd, _SIZE)
        except BaseException:
            os.unlink(self.path)
            os.close(self._fd)
            raise
        self._free = deque(range(_SLOTS))
        self._slots: dict[int, int] = {}
        #: Of which entry each slot says since when it is run.
        self._stamped = [0] * _SLOTS

    def works_since(self, instant: int) -> None:
        """Say since when this process works; 0: it does not any more, but may hold claims."""
        _ENTRY.pack_into(self._map, _WORKS_SINCE, instant)

    def begin(self, entry_id: int, since: int | None = None) -> None:
        """An entry is being run from now on.

        Args:
            entry_id: which one.
            since: since when; :meth:`stamp` says it later if not given.
        """
        try:
            slot = self._free.pop()
        except IndexError:
            return
        self._slots[entry_id] = slot
        if since is not None:
            self._stamp(slot, entry_id, since)
        _ENTRY.pack_into(self._map, slot * _ENTRY.size, entry_id)

    def stamp(self, now: int) -> None:
        """Say of what is being run, and of which it was not said yet, that it is so since now.

        Called now and then, and not for each message: most of them are done by then, and nobody asks.
        """
        for entry_id, slot in list(self._slots.items()):
            if self._stamped[slot] != entry_id:
                self._stamp(slot, entry_id, now)

    def _stamp(self, slot: int, entry_id: int, since: int) -> None:
        _ENTRY.pack_into(self._map, _SINCE + slot * _ENTRY.size, since)
        self._stamped[slot] = entry_id

    def end(self, entry_id: int) -> None:
        """An entry is no longer being run. What never began is passed over."""
        slot = self._slots.pop(entry_id, None)
        if slot is not None:
            _ENTRY.pack_into(self._map, slot * _ENTRY.size, 0)
            if self._stamped[slot]:
                self._stamp(slot, 0, 0)
            self._free.append(slot)

    def remove(self) -> None:
        """Take the file away: this process holds no claims any more."""
        remove_worker_file(self.path)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file and leave it where it is. In the child of a fork, which must not keep the lock alive."""
        self._map.close()  # it has a descriptor of its own, which holds the lock as well
        os.close(self._fd)


def living_worker(path: str, *, is_own: bool = False) -> tuple[int | None, dict[int, int]] | None:
    """Since when the process of a worker file works, and the entries that it is running with since when each is.

    Args:
        path: the file.
        is_own: it is this process's own, and need not be asked whether it lives.

    Returns:
        ``None`` if it lives no more. In the place of an instant that the file does not tell is ``None``, and 0 if the
        process works no more.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if not is_own:
            try:
                # Shared, and let go at once: two who look do not take each other for the worker.
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return None
        data = os.pread(fd, _SIZE, 0)
    finally:
        os.close(fd)
    if len(data) < _SIZE:
        data = data[:_SINCE].ljust(_SIZE, b"\0")
        works_since = None
    else:
        (works_since,) = _ENTRY.unpack_from(data, _WORKS_SINCE)
    ids = _ENTRY.iter_unpack(data[:_SINCE])
    since = _ENTRY.iter_unpack(data[_SINCE:_WORKS_SINCE])
    return works_since, {entry_id: at for (entry_id,), (at,) in zip(ids, since, strict=True) if entry_id}


@contextmanager
def dead_worker(path: str, owner: str) -> Iterator[frozenset[int] | None]:
    """Whether the process of a worker file is dead; if so, nobody else can find that out until the block ends.

    ::

        with dead_worker(path, owner) as running:
            if running is not None:
                ...  # it is dead; these are the ids of the entries that it was running
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        # Not beside this database: it is a copy of another one, a backup that was put in place, or somebody cleaned up.
        yield None if _is_alive(owner) else frozenset()
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if os.fstat(fd).st_nlink == 0:  # somebody else recovered it between the two calls
            yield None
            return
        data = os.pread(fd, _SINCE, 0)
        whole = len(data) - len(data) % _ENTRY.size
        yield frozenset(entry_id for (entry_id,) in _ENTRY.iter_unpack(data[:whole]) if entry_id)
    finally:
        os.close(fd)


def other_worker_files(database: str, known: Collection[str]) -> list[str]:
    """The worker files beside a database whose names are not ``known``."""
    directory, name = os.path.split(database)
    return [
        os.path.join(directory, found)
        for found in os.listdir(directory)
        if found.startswith(f"{name}-worker-") and found not in known
    ]


def remove_worker_file(path: str) -> None:
    """Take a worker file away, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _is_alive(owner: str) -> bool:
    """Whether ``host:pid`` is a process of this machine that lives."""
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return False  # whoever asks does not mean itself: a process of the same number, in another container or time
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
