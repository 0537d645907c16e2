"""A crawler whose actor sends to itself, after Dramatiq's example `crawler`."""

from __future__ import annotations

import re

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_retryq import RetryQueue

broker = RedisBroker(url="redis://127.0.0.1:1/0")
broker.add_middleware(RetryQueue())

ANCHOR = re.compile(r'href="(https?://[^"]+)"')
visited: set[str] = set()


def get(url: str) -> str:
    raise NotImplementedError("the network")


@dramatiq.actor(broker=broker, max_retries=3, time_limit=10_000)
def crawl(url: str) -> None:
    if url in visited:
        return
    page = get(url)
    visited.add(url)
    for found in ANCHOR.findall(page):
        crawl.send(found)
