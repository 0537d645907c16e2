"""What this process is called, for people: as the holder of a claim, as the worker of an attempt."""

from __future__ import annotations

import functools
import os
import socket

__all__ = ["this_process"]


@functools.cache
def this_process() -> str:
    """The host and the process id, as ``host:4711``."""
    return f"{socket.gethostname()}:{os.getpid()}"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=this_process.cache_clear)
