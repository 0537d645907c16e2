"""The command ``retryq``, also as ``python -m dramatiq_retryq``; without its extra it says what to install."""

from __future__ import annotations

import importlib
import os
import sys

from .errors import MissingExtra

__all__ = ["main"]


def main() -> None:
    """Run the command and exit."""
    try:
        _run()
    except KeyboardInterrupt:  # before the command itself hears it, while its modules are imported
        sys.exit(130)


def _run() -> None:
    # Closed by whoever started it, and to read or write there would raise.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
    try:
        for name in ("click", "rich"):
            importlib.import_module(name)
    except ImportError:
        sys.stderr.write(f"retryq: {MissingExtra('cli')}\n")
        sys.exit(3)  # what the command needs is not there; see docs/operating.md
    from .cli import retryq

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no ━ is no reason to fail
    retryq(prog_name="retryq")


if __name__ == "__main__":
    main()
