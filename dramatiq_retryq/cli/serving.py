"""``retryq web`` and ``retryq health``."""

from __future__ import annotations

from typing import Any

import click

from .app import DURATION, ExitCode, broker_argument, fail, opened
from .output import write_json

__all__ = ["health", "web"]


@click.command()
@broker_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; loopback unless told twice.")
@click.option("--port", type=click.IntRange(0, 65_535), default=9293, show_default=True, help="0 for any that is free.")
@click.option("--read-only", is_flag=True, help="Nothing can be changed from it.")
@click.option("--allow-anyone", is_flag=True, help="Listen beyond loopback although there is no login.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name that browsers may call it by; may be given again.",
)
@click.option("--base-url", metavar="PATH", help="Where a proxy has it, as in /retryq.")
@click.option("--hide-arguments", is_flag=True, help="Do not show the messages' arguments.")
def web(
    broker: str,
    path: str,
    host: str,
    port: int,
    read_only: bool,
    allow_anyone: bool,
    hosts: tuple[str, ...],
    base_url: str | None,
    hide_arguments: bool,
) -> None:
    """Serve the page, until Ctrl-C. Needs the extra web.

    \b
    Examples: retryq web app:broker
              retryq web jobs.db --port 8080 --read-only
    """
    from dramatiq_retryq.web import RetryQueueWeb, serve

    with opened(broker, path) as at:
        page = RetryQueueWeb(
            at.operations,
            read_only=read_only,
            base_url=base_url,
            hosts=list(hosts) or None,
            allow_anyone=allow_anyone,
            show_arguments=not hide_arguments,
        )
        _serving(lambda: serve(page, host, port, ready=_say_ready))


@click.command()
@broker_argument
@click.option(
    "--address",
    default="127.0.0.1:9292",
    show_default=True,
    metavar="HOST:PORT",
    help="Where it listens; port 0 for any that is free.",
)
@click.option(
    "--max-oldest-due-age", type=DURATION, metavar="DURATION", help="503 if a message has been due for longer."
)
@click.option(
    "--max-failure-rate", type=float, metavar="RATE", help="503 if more of the last minute's attempts failed, 0 to 1."
)
@click.option(
    "--min-attempts",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Below so many attempts no rate is judged.",
)
@click.option("--min-workers", type=click.IntRange(0), metavar="N", help="503 if fewer workers live.")
@click.option("--max-due", type=click.IntRange(0), metavar="N", help="503 if more messages are due.")
@click.option("--max-dead", type=click.IntRange(0), metavar="N", help="503 if more lie dead.")
@click.option("--once", is_flag=True, help="Say it once, and end with exit code 1 where it would be 503.")
def health(broker: str, path: str, address: str, once: bool, **limits: Any) -> None:
    """Serve /healthz (and /metrics, with the extra prometheus), until Ctrl-C; or say it once.

    \b
    Examples: retryq health app:broker --max-oldest-due-age 5m --min-workers 1
              retryq health jobs.db --once --max-dead 0
    """
    from dramatiq_retryq.health import HealthLimits, examine, serve

    wanted = HealthLimits(**limits)
    with opened(broker, path) as at:
        at.require_queues()
        at.require_shared("let that process say it: RetryQueue(health=…)")
        if once:
            report = examine(at.operations, wanted)
            write_json(report.asdict())
            if not report.is_ok:
                fail("; ".join(report.problems), ExitCode.FOUND)
            return
        _serving(lambda: serve(at.operations, address, limits=wanted, ready=_say_ready))


def _serving(serve: Any) -> None:
    from dramatiq_retryq.endpoint import PortTaken  # with it comes http.server, which takes as long as all the rest

    try:
        serve()
    except PortTaken as error:
        fail(str(error), ExitCode.UNAVAILABLE)  # or this machine has no such address
    except KeyboardInterrupt:
        pass  # that is how one ends it


def _say_ready(url: str) -> None:
    click.echo(f"Serving {url}; Ctrl-C ends it.")
