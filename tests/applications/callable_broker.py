"""An application whose broker is made by a function, as the `dramatiq` command takes it too; and async actors."""

from __future__ import annotations

import asyncio
import functools

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO


@functools.cache
def make_broker() -> dramatiq.Broker:
    broker = RabbitmqBroker(url="amqp://127.0.0.1:1")
    broker.add_middleware(AsyncIO())
    return broker


added: list[int] = []


@dramatiq.actor(broker=make_broker(), max_retries=2, min_backoff=1_000)
async def add(x: int, y: int) -> None:
    await asyncio.sleep(0)
    added.append(x + y)
