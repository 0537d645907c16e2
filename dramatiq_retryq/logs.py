"""Logging where nothing may go wrong."""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["log"]


def log(logger: logging.Logger, level: str, text: str, *args: object, **kwargs: Any) -> None:
    """Log a line; never raise.

    A log handler is other people's code, and raises when its disk is full. The message must not pay for that.
    """
    try:
        getattr(logger, level)(text, *args, stacklevel=2, **kwargs)
    except Exception:
        pass
