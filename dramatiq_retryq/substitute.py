"""Another value for an attribute, for a while."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

__all__ = ["substitute"]

_MISSING: Any = object()


def substitute(stack: ExitStack, owner: Any, name: str, value: Any) -> Any:
    """Set an attribute of an object until ``stack`` is closed; returns what it was.

    What the object had from its class is not written into it when it is put back.
    """
    was = getattr(owner, name, None)
    own = vars(owner).get(name, _MISSING)

    def put_back() -> None:
        if own is not _MISSING:
            setattr(owner, name, own)
        elif name in vars(owner):
            delattr(owner, name)

    setattr(owner, name, value)
    stack.callback(put_back)
    return was
