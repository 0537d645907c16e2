"""What is told of what a server or its client says."""

from __future__ import annotations

import pytest

from dramatiq_retryq.logs import said_by


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host:6379/0", "amqp://me:hun@ter2@host/v", "redis://me:hun/ter2@host", "//hunter2@host"]
)
def test_the_password_of_a_url_is_not_told(url: str) -> None:
    said = said_by(OSError(f"cannot reach {url} now, nor {url}"))
    assert "ter2" not in said
    assert "hun" not in said
    assert said.startswith("cannot reach ")
    assert said.count("…@host") == 2


def test_what_is_said_is_one_short_line() -> None:
    said = said_by(OSError("one\ntwo  three" + "x" * 1_000))
    assert said.startswith("one two three")
    assert len(said) == 200


def test_an_error_that_says_nothing_is_called_by_its_class() -> None:
    assert said_by(AssertionError()) == "AssertionError"
