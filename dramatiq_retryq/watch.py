"""Looking at a broker without having to wait for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from .errors import NotSupported, StoreUnavailable
from .operations import Operations
from .records import Reason
from .status import Status

__all__ = ["Reading", "Watch", "read", "status_of"]

#: How long (s) whoever asks waits for the store: the answer is there within a second, whatever the store does.
PATIENCE = 0.8


class Reading(NamedTuple):
    """What one look at the store gave."""

    #: ``None`` where nobody can tell.
    status: Status | None
    #: Dead letters by reason; likewise.
    reasons: Mapping[Reason, int] | None


class Watch:
    """Looks at a broker when it is asked to, on a thread of its own: whoever asks waits no longer than they mean to.

    All who ask while it looks get what it then finds, so that a store which is slow is not asked by many at once.

    Args:
        operations: what is looked at.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._changed = threading.Condition()
        self._is_wanted = self._is_stopped = False
        self._looks = 0
        self._found: Reading | Exception | None = None
        self._thread: threading.Thread | None = None

    def look(self, patience: float = PATIENCE) -> Reading:
        """What is there now.

        Args:
            patience: how long to wait for it at the most, in seconds.

        Raises:
            StoreUnavailable: it did not answer in that time.
            Exception: what the broker raised.
        """
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="retryq-watch", daemon=True)
                self._thread.start()
            before = self._looks
            self._is_wanted = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._looks > before or self._is_stopped, patience):
                raise StoreUnavailable(f"the store did not answer within {patience} s")
            found = self._found
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise StoreUnavailable("this is being stopped")
        return found

    def stop(self) -> None:
        """Look no more. A look that does not come back is left alone."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_wanted or self._is_stopped)
                if self._is_stopped:
                    return
            found: Reading | Exception
            try:
                found = read(self._operations)
            except Exception as error:
                found = error
            with self._changed:
                self._found = found
                self._is_wanted = False
                self._looks += 1
                self._changed.notify_all()


def read(operations: Operations) -> Reading:
    """Look at a broker, for as long as it takes.

    Raises:
        StoreUnavailable: the store cannot be read; whatever else a foreign broker's client raises.
    """
    reasons: Mapping[Reason, int] | None
    try:
        reasons = operations.dead_by_reason()
    except NotSupported:
        reasons = None
    return Reading(status_of(operations), reasons)


def status_of(operations: Operations) -> Status | None:
    """A broker's status; ``None`` if it is one that can tell nothing at all."""
    try:
        return operations.status()
    except NotSupported:
        return None
