"""The closing table, and the check that every event was delivered or explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .journal import Delivery, Journal


def print_tables(console: Console, journal: Journal, received: dict[str, Any]) -> None:
    """Print what became of the events, what the attempts led to, and what the receiver says."""
    deliveries = sorted(journal.deliveries, key=lambda d: (not d.delivered, d.replays, d.attempts))
    outcomes = Counter(outcome_of(delivery) for delivery in deliveries)
    console.print(_table("What became of the events", "events", outcomes.items()))
    console.print(_table("What the attempts led to", "attempts", journal.attempts.most_common()))
    console.print(
        f"The receiver stored {len(received['stored'])} events; "
        f"{received['duplicates']} came a second time and were recognised by their id."
    )


def outcome_of(delivery: Delivery) -> str:
    """Say what became of one event, in words that events with the same fate share."""
    retries = delivery.attempts - 1
    if delivery.delivered and delivery.replays:
        return f"died, was replayed, and delivered at attempt {delivery.attempts}"
    if delivery.delivered and retries:
        return f"delivered after {retries} {'retry' if retries == 1 else 'retries'}"
    if delivery.delivered:
        return "delivered at the first attempt"
    if delivery.gave_up:
        return f"gave up: {delivery.error}"
    return "dead after all attempts" if delivery.is_dead else "lost, neither delivered nor dead"


def unexplained(journal: Journal, received: dict[str, Any]) -> list[str]:
    """Return the ids of the events that the receiver does not have, but for those given up with a reason."""
    stored = set(received["stored"])
    ids = (delivery.event["id"] for delivery in journal.deliveries if not delivery.gave_up)
    return [event_id for event_id in ids if event_id not in stored]


def _table(title: str, unit: str, rows: Collection[tuple[str, int]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column(title, footer="total", min_width=60)
    table.add_column(unit, footer=str(sum(count for _, count in rows)), justify="right", min_width=8)
    for name, count in rows:
        table.add_row(name, str(count))
    return table
