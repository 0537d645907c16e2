"""flask-dramatiq: the broker comes from the application's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from flask import Flask, current_app
from flask_dramatiq import Dramatiq

from dramatiq_retryq import current_attempt
from tests.interop import four


@pytest.fixture(autouse=True)
def global_broker() -> Iterator[None]:
    previous = dramatiq.broker.global_broker
    yield
    dramatiq.set_broker(previous)  # type: ignore[arg-type]


def run_until_done(broker: Any, ran: list[Any]) -> None:
    with four.running(broker):
        four.eventually(lambda: len(ran) == 2)


def test_flask_dramatiq_gets_its_broker_from_a_url(kind: str, name: str, tmp_path: Path) -> None:
    app = Flask("shop")
    app.config["DRAMATIQ_BROKER"] = "dramatiq_retryq:broker_from_url"
    app.config["DRAMATIQ_BROKER_URL"] = four.url(kind, tmp_path)
    app.config["SHOP"] = "old-mill-antiques"
    extension = Dramatiq(middleware=four.middleware())
    ran: list[tuple[str, int]] = []

    @extension.actor(queue_name=name)
    def work() -> None:
        ran.append((current_app.config["SHOP"], current_attempt().number))
        if current_attempt().number == 1:
            raise ConnectionError("nobody answers")

    extension.init_app(app)
    broker = extension.broker
    work.send()
    run_until_done(broker, ran)
    assert ran == [("old-mill-antiques", 1), ("old-mill-antiques", 2)]
    four.clear(broker, name)
    broker.close()
