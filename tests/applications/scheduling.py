"""Something that is done every day, each run planning the next, after Dramatiq's example `scheduling`."""

from __future__ import annotations

from datetime import datetime, timedelta

import dramatiq
from dramatiq.brokers.stub import StubBroker

broker = StubBroker()
printed: list[datetime] = []


@dramatiq.actor(broker=broker, max_retries=0)
def print_the_date() -> None:
    print_the_date.send_with_options(delay=timedelta(days=1))
    printed.append(datetime.now())
