from __future__ import annotations

import dramatiq
import pytest


@pytest.fixture(autouse=True)
def no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is the application's, unless a test has one."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
