"""How a broker of this package calls the hooks of its middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq import Broker
from dramatiq.middleware import Interrupt, Middleware, MiddlewareError

__all__ = ["SignallingBroker"]

# The name of a hook, the middlewares that have it, and what the broker itself does then.
_Hooks = tuple[str, list[Middleware], Callable[..., None] | None]


class SignallingBroker(Broker):
    """A broker whose signals cost nothing where nobody listens, in Dramatiq's order and with its rules for errors.

    What a subclass itself does at a signal is a method with the hook's name and an underscore, called last; first where
    a worker is about to be stopped.
    """

    def __init__(self, middleware: list[Middleware]) -> None:
        self._before_hooks: tuple[list[Middleware], dict[str, _Hooks]] = ([], {})
        self._after_hooks: tuple[list[Middleware], dict[str, _Hooks]] = ([], {})
        super().__init__(middleware)

    # More than half of what a message costs in Dramatiq are calls of hooks that nobody overrides. Who overrides which
    # is found out once, and anew whenever the list of middleware is no longer the one that was looked at: comparing
    # the lists goes element by element, by identity first, takes 0.1 µs, and sees every way to change one. Where a
    # middleware has an idea of its own of what equals it, they are looked up at each signal.

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        known, hooks = self._before_hooks
        found = hooks.get(signal) if known == self.middleware else None
        name, hooked, own = found or self._find_hooks("before_", signal)
        if signal == "worker_shutdown" and own is not None:
            own(self, *args, **kwargs)  # ShutdownNotifications interrupts actors: what they give back is not for us
            own = None
        for middleware in hooked:
            try:
                getattr(middleware, name)(self, *args, **kwargs)
            except MiddlewareError:
                # What was done cannot be refused: Dramatiq's worker would leave the message claimed for ever.
                if signal not in ("ack", "nack"):
                    raise
                self.logger.critical("Unexpected failure in %s of %r.", name, middleware, exc_info=True)
            except Exception:
                self.logger.critical("Unexpected failure in %s of %r.", name, middleware, exc_info=True)
            except Interrupt:
                # A time limit or shutdown that comes now is too late: the message is done, or dead.
                if signal not in ("ack", "nack"):
                    raise
                self._call_again(middleware, name, *args, **kwargs)
        if own is not None:
            own(self, *args, **kwargs)

    def _call_again(self, middleware: Middleware, name: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(middleware, name)(self, *args, **kwargs)
        except Exception:
            self.logger.critical("Unexpected failure in %s of %r.", name, middleware, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        known, hooks = self._after_hooks
        found = hooks.get(signal) if known == self.middleware else None
        name, hooked, own = found or self._find_hooks("after_", signal)
        for middleware in hooked:
            try:
                getattr(middleware, name)(self, *args, **kwargs)
            except Exception:
                self.logger.critical("Unexpected failure in %s of %r.", name, middleware, exc_info=True)
        if own is not None:
            own(self, *args, **kwargs)

    def _find_hooks(self, when: str, signal: str) -> _Hooks:
        """Who is called at a signal, in which order: the middlewares that override the hook, then this broker."""
        name, middlewares = when + signal, list(self.middleware)
        empty = getattr(Middleware, name, None)
        hooked = [m for m in middlewares if getattr(type(m), name, None) is not empty or name in vars(m)]
        if when == "after_":
            hooked.reverse()
        found = (name, hooked, getattr(type(self), "_" + name, None))
        if any(type(m).__eq__ is not object.__eq__ for m in middlewares):
            return found
        cache = self._before_hooks if when == "before_" else self._after_hooks
        if cache[0] != middlewares:
            cache = (middlewares, {})
            if when == "before_":
                self._before_hooks = cache
            else:
                self._after_hooks = cache
        cache[1][signal] = found
        return found
