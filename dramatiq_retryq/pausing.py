"""How a broker of this package keeps from running what is paused, also what its workers have fetched already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq.middleware import Middleware

from .consumer import ClaimedMessage, SetAside
from .errors import StoreUnavailable
from .line import Line
from .signals import SignallingBroker
from .status import Paused
from .store import Store

__all__ = ["PausingBroker"]


class PausingBroker(SignallingBroker):
    """A broker over a store in which queues and actors may be paused."""

    def __init__(self, store: Store, middleware: list[Middleware]) -> None:
        self.store = store
        self._lines: dict[str, Line] = {}
        #: What is paused, as far as this process knows; see refresh_pauses().
        self.paused = Paused()
        #: Whether anything is: looked at for each message.
        self.is_pausing = False
        self._emit_after: Callable[..., None] | None = None
        super().__init__(middleware)

    def refresh_pauses(self) -> None:
        """Find out what is paused, and tell those who wait.

        Raises:
            StoreUnavailable: it cannot be found out now.
        """
        paused = self.store.paused()
        if paused == self.paused:
            return
        if self._emit_after is None:
            # Here and not as methods: only who has ever paused anything is to pay for it.
            self._emit_after = self.emit_after
            self.emit_before = self._emit_before_unless_paused  # type: ignore[method-assign]
            self.emit_after = self._emit_after_unless_set_aside  # type: ignore[method-assign]
        self.paused, self.is_pausing = paused, bool(paused)
        for line in self._lines.values():
            line.wake_all()
            line.notify_joiners()

    def _emit_before_unless_paused(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Stop what a worker has fetched, and was paused before its turn came.

        Before any middleware hears of it: to all of them it is as if the message had never been fetched. A SkipMessage
        would tell them that it is done: Results would store one.
        """
        message = args[0] if args else None
        if isinstance(message, ClaimedMessage):
            if signal == "process_message" and self.paused and self._give_back(message):
                raise SetAside("paused")
            if message.set_aside:
                return
        super().emit_before(signal, *args, **kwargs)

    def _emit_after_unless_set_aside(self, signal: str, *args: Any, **kwargs: Any) -> None:
        is_set_aside = bool(args) and isinstance(args[0], ClaimedMessage) and args[0].set_aside
        if self._emit_after is not None and not is_set_aside:
            self._emit_after(signal, *args, **kwargs)

    def _give_back(self, message: ClaimedMessage) -> bool:
        try:
            return message.give_back(self.paused)
        except StoreUnavailable:
            return False  # it runs: to have it claimed and not run would be worse
