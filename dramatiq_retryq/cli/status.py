"""``retryq status``: is it stuck, what fails, who works."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from dramatiq_retryq.errors import NotSupported
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.status import QueueStatus, Rates, RunningMessage, Status, WorkerStatus
from dramatiq_retryq.time_words import ago, spoken

from .app import DURATION, Opened, broker_argument, format_option, opened
from .output import Column, Format, listing, note, one_line, table, write_json

__all__ = ["status"]

_HOUR = timedelta(hours=1)


@click.command()
@broker_argument
@click.option("--watch", "-w", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--every", type=DURATION, default="2s", show_default=True, metavar="DURATION", help="How often, with --watch."
)
@format_option
def status(broker: str, path: str, watch: bool, every: int, format: Format) -> None:
    """How much waits, runs and lies dead, who works, and what failed in the last minute and hour.

    \b
    Examples: retryq status app:broker
              retryq status jobs.db --watch
              retryq status jobs.db --format json
    """
    if watch and every < 100:
        raise click.BadParameter("give 100ms or more", param_hint="'--every'")
    with opened(broker, path) as at:
        at.require_queues()
        while True:
            found = at.operations.status()
            if watch and format == "table":
                click.clear()  # does nothing in a pipe
                click.echo(f"{one_line(at.name)}, every {spoken(every)}; Ctrl-C ends this.\n")
            _WRITERS[format](found, at)
            if not watch:
                return
            try:
                at.clock.sleep(every)
            except KeyboardInterrupt:
                return  # that is how one ends it


def _write_table(found: Status, at: Opened) -> None:
    table(found.queues, _queues(found.now), empty="No queue has any message.")
    if found.paused.actors:
        note(f"Paused actors: {', '.join(sorted(found.paused.actors))}.")
    idle = found.paused.queues - {queue.name for queue in found.queues}
    if idle:
        note(f"Paused queues without any message: {', '.join(sorted(idle))}.")
    if found.workers is not None:
        rows = [(worker, message) for worker in found.workers for message in worker.running or (None,)]
        click.echo()
        table(rows, _workers(found.now), empty="No worker lives.")
    rates = [("last minute", found.last_minute), ("last hour", found.last_hour)]
    click.echo()
    table([(name, rate) for name, rate in rates if rate is not None], _RATES)
    for sentence in _unknown(at.operations, found):
        note(sentence)


def _write_json(found: Status, _: Opened, indent: int | None = 2) -> None:
    write_json(asdict(found), indent=indent)


def _write_line(found: Status, at: Opened) -> None:
    _write_json(found, at, None)


def _write_csv(found: Status, _: Opened) -> None:
    listing(found.queues, _queues(found.now), "csv", empty="No queue has any message.")


_WRITERS: dict[str, Callable[[Status, Opened], None]] = {
    "table": _write_table,
    "json": _write_json,
    "jsonl": _write_line,
    "csv": _write_csv,
}


def asdict(found: Status) -> dict[str, Any]:
    """A status as plain values, under the library's own names."""
    return {
        "now": found.now,
        "queues": [dataclasses.asdict(queue) for queue in found.queues],
        "workers": None if found.workers is None else [dataclasses.asdict(worker) for worker in found.workers],
        "last_minute": _rates(found.last_minute),
        "last_hour": _rates(found.last_hour),
        "paused": {"queues": dict(found.paused.since_queues), "actors": dict(found.paused.since_actors)},
    }


def _rates(rates: Rates | None) -> dict[str, Any] | None:
    if rates is None:
        return None
    counted = {field.name: getattr(rates, field.name) for field in dataclasses.fields(rates)}
    return {**counted, "deaths": dict(rates.deaths), "failure_rate": rates.failure_rate}


def _unknown(operations: Operations, found: Status) -> list[str]:
    """Why the broker cannot tell what it cannot tell, in its own words."""
    asked: list[Callable[[], object]] = []
    if found.workers is None:
        asked.append(operations.workers)
    if found.last_hour is None:
        asked.append(lambda: operations.minutes(_HOUR))
    sentences = []
    for ask in asked:
        try:
            ask()
        except NotSupported as error:
            sentences.append(str(error))
    return list(dict.fromkeys(sentences))


def _queues(now: int) -> list[Column[QueueStatus]]:
    return [
        Column(name="name", value=lambda x: x.name, header="queue"),
        Column(name="due", value=lambda x: x.due, header="due", right=True),
        Column(name="later", value=lambda x: x.later, header="later", right=True),
        Column(name="claimed", value=lambda x: x.claimed, header="running", right=True),
        Column(name="dead", value=lambda x: x.dead, header="dead", right=True),
        Column(
            name="oldest_due_at",
            value=lambda x: x.oldest_due_at,
            header="oldest due",
            cell=lambda x: "–" if x.oldest_due_at is None else ago(x.oldest_due_at, now=now),
        ),
        Column(name="held", value=lambda x: x.held),
        Column(name="paused", value=lambda x: x.paused, header="", cell=_remark),
    ]


def _remark(queue: QueueStatus) -> str:
    if queue.paused:
        return "paused"
    return f"{queue.held:,} held: their actor is paused" if queue.held else ""


_Row = tuple[WorkerStatus, "RunningMessage | None"]


def _workers(now: int) -> list[Column[_Row]]:
    def started(row: _Row) -> str:
        return "–" if row[0].started_at is None else ago(row[0].started_at, now=now)

    def since(row: _Row) -> str:
        return "–" if row[1] is None or row[1].since is None else spoken(now - row[1].since)

    return [
        Column(name="owner", value=lambda row: row[0].owner, header="worker"),
        Column(name="started_at", value=lambda row: row[0].started_at, expendable=1, header="started", cell=started),
        Column(
            name="actor_name",
            value=lambda row: row[1].actor_name if row[1] else None,
            header="runs",
            cell=lambda row: row[1].actor_name if row[1] else "nothing",
        ),
        Column(name="since", value=lambda row: row[1].since if row[1] else None, header="for", cell=since, right=True),
        Column(
            name="queue_name", value=lambda row: row[1].queue_name if row[1] else None, expendable=2, header="queue"
        ),
        Column(name="message_id", value=lambda row: row[1].message_id if row[1] else None, header="message"),
    ]


_RATES: list[Column[tuple[str, Rates]]] = [
    Column(name="", value=lambda row: row[0], header=""),
    Column(name="sent", value=lambda row: row[1].sent, expendable=1, header="sent", right=True),
    Column(name="succeeded", value=lambda row: row[1].succeeded, header="succeeded", right=True),
    Column(name="failed", value=lambda row: row[1].failed, header="failed", right=True),
    Column(name="retried", value=lambda row: row[1].retried, expendable=2, header="retried", right=True),
    Column(name="snoozed", value=lambda row: row[1].snoozed, expendable=3, header="snoozed", right=True),
    Column(name="crashed", value=lambda row: row[1].crashed, header="crashed", right=True),
    Column(name="died", value=lambda row: row[1].died, header="died", right=True),
    Column(
        name="deaths",
        value=lambda row: dict(row[1].deaths),
        header="of",
        elastic=True,
        cell=lambda row: ", ".join(f"{reason} {count:,}" for reason, count in row[1].deaths.items()),
    ),
]
