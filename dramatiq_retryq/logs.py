"""Logging where nothing may go wrong."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["log", "one_line", "said_by"]

#: How much is told of what a server or its client says.
_SAID = 200

_CREDENTIALS = re.compile(r"//\S*@")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log(
    logger: logging.Logger,
    level: str,
    text: str,
    *args: object,
    extra: Mapping[str, object] | None = None,
    exc_info: Any = None,
) -> None:
    """Log a line; never raise.

    A log handler is other people's code, and raises when its disk is full. The message must not pay for that.

    Args:
        logger: where.
        level: ``debug``, ``info``, ``warning``, ``error``, or ``exception``: an error with the traceback of what is
            being handled.
        text: the line, with places for ``args``.
        args: what is put there.
        extra: fields of the record.
        exc_info: the exception whose traceback comes with it.
    """
    try:
        if level == "exception":
            level, exc_info = "error", True
        if exc_info is not None:
            logger.log(_LEVELS[level], text, *args, stacklevel=2, extra=extra, exc_info=exc_info)
        elif logger.isEnabledFor(_LEVELS[level]):
            # The record is made here: to look for the caller frame by frame is a third of what a line costs.
            caller = sys._getframe(1)
            code, line = caller.f_code, caller.f_lineno
            logger.handle(
                logger.makeRecord(
                    logger.name, _LEVELS[level], code.co_filename, line, text, args, None, code.co_name, extra
                )
            )
    except Exception:
        pass


def one_line(text: str) -> str:
    """The text without what speaks to a terminal, or begins a line of a log that nobody logged."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def said_by(error: BaseException) -> str:
    """What a server or its client says, for a log or a sentence: one short line without the password of any URL."""
    text = " ".join(_CREDENTIALS.sub("//…@", str(error)).split())
    text = text if len(text) <= _SAID else f"{text[: _SAID - 1]}…"
    return text or type(error).__name__
