"""The command ``retryq``: what :class:`~dramatiq_retryq.operations.Operations` offers, for a terminal.

Needs the extra ``cli``. There is no logic here: a command reads its options, calls the library and writes what it got.
"""

from __future__ import annotations

from importlib.metadata import version

import click

from .app import Group
from .dead import dead
from .moving import move
from .pending import pending
from .planning import plan
from .serving import health, web
from .status import status
from .upkeep import backup, check, pause, resume

__all__ = ["retryq"]


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 something was found wrong or missing; 2 usage; 3 the broker is not there; "
    "4 it cannot do that; 130 interrupted.",
)
@click.version_option(version("dramatiq_retryq"), prog_name="retryq")
def retryq() -> None:
    """See what waits in a Dramatiq broker and why, and act on it.

    BROKER is module:broker as for the dramatiq command, the path of a SQLite file, or a URL.

    \b
    Example: retryq status app:broker
    """


for _command in (status, pending, dead, pause, resume, plan, check, backup, move, web, health):
    retryq.add_command(_command)
