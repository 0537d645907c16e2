"""A proxy that ends a connection at a request, or at an answer, that is given by its number."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

from tests.integration.servers import Proxy

#: A request that never reaches the server, or an answer that never comes back from it.
Loss = Literal["request", "answer"]


class Cutter(Proxy):
    """Counts the requests and answers that pass, and loses one of them together with its connection.

    A request is an AMQP frame, or what a Redis client sends at once; and so is an answer.

    Args:
        port: the server's.
    """

    def __init__(self, port: int) -> None:
        self.passed = {"request": 0, "answer": 0}
        self._lose: tuple[Loss, int] | None = None
        self._counting = threading.Lock()
        super().__init__(port)

    def arm(self, loss: Loss | None = None, number: int = 0) -> None:
        """Count from one again, and lose what comes with this number; nothing, if there is none."""
        with self._counting:
            self.passed = {"request": 0, "answer": 0}
            self._lose = (loss, number) if loss is not None else None

    @property
    def has_cut(self) -> bool:
        """Whether what was to be lost has come by."""
        return self._lose is None

    def _is_lost(self, kind: Loss) -> bool:
        with self._counting:
            self.passed[kind] += 1
            if self._lose != (kind, self.passed[kind]):
                return False
            self._lose = None
            return True

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the line may be cut by now
            # Frame by frame, each would wait for the last one to be acknowledged.
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kind: Loss = "request" if source.getsockname()[1] == self.port else "answer"
            for part in _parts(source):
                if self._is_lost(kind):
                    break
                target.sendall(part)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


def _parts(source: socket.socket) -> Iterator[bytes]:
    """What comes, in AMQP frames; what is none of these, as it comes."""
    left = b""
    while data := source.recv(65536):
        left += data
        while left:
            size = _frame_size(left)
            if size > len(left):
                break
            yield left[:size]
            left = left[size:]


def _frame_size(data: bytes) -> int:
    """How long the frame is with which the data begins: type, channel, size, payload, end."""
    if data[0] not in (1, 2, 3, 8):
        return len(data)
    return 8 + int.from_bytes(data[3:7], "big") if len(data) >= 7 else 8
