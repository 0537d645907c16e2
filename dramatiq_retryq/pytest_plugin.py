"""The pytest plugin: fixtures over :mod:`dramatiq_retryq.testing`, imported by the first test that uses one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dramatiq import Worker

    from .broker import MemoryBroker
    from .testing import Kit

_KIT: pytest.StashKey[Kit] = pytest.StashKey()
_IS_SHOWN: pytest.StashKey[bool] = pytest.StashKey()

_MARKER_OPTIONS = ("broker", "seed", "jitter", "raise_errors", "leftovers")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dramatiq_retryq", "tests of Dramatiq actors")
    group.addoption(
        "--retryq-broker",
        metavar="MODULE:NAME",
        help="the application's broker for the fixtures retryq and memory_broker, over the ini option",
    )
    parser.addini(
        "retryq_broker", "where the application's broker is, as package.module:name; default: the global broker"
    )
    parser.addini(
        "retryq_leftovers",
        "what to do about messages that a test sent and forgot: warn, error or ignore",
        default="warn",
    )
    parser.addini("retryq_seed", "what the jitter of retries is rolled with; default: none, and no jitter")
    parser.addini("retryq_raise_errors", "let drain() raise what actors raise", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "retryq(broker=…, seed=…, jitter=…, raise_errors=…, leftovers=…): options of the fixtures retryq and "
        "memory_broker for this test",
    )


@pytest.fixture
def retryq(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """The application's broker, replaced for this test by one in memory on a clock that the test moves.

    See docs/testing.md; what it yields is a :class:`dramatiq_retryq.testing.Kit`.
    """
    from .testing import swap_broker

    with swap_broker(**_options(request)) as kit:
        request.node.stash[_KIT] = kit
        yield kit


@pytest.fixture
def memory_broker(request: pytest.FixtureRequest) -> Iterator[MemoryBroker]:
    """The application's broker, replaced for this test by a ``MemoryBroker`` in real time; for ``memory_worker``."""
    from .broker import MemoryBroker
    from .swap import find_broker, swapped

    with swapped(find_broker(_options(request).get("old"))) as broker:
        assert isinstance(broker, MemoryBroker)
        yield broker
        broker.flush_all()


@pytest.fixture
def memory_worker(memory_broker: MemoryBroker) -> Iterator[Worker]:
    """Dramatiq's own worker, on real threads, for as long as this test lasts."""
    from dramatiq import Worker

    worker = Worker(memory_broker, worker_timeout=100)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    kit = item.stash.get(_KIT, None)
    if kit is None:
        return report
    if call.excinfo is not None:
        # What is left behind by a test that broke off is no news; be it skipped, or one that is expected to fail.
        kit.on_leftovers = "ignore"
    if report.failed and not item.stash.get(_IS_SHOWN, False):
        item.stash[_IS_SHOWN] = True
        # Lone surrogates, as an error's text may have, are more than pytest-xdist can send.
        report.sections.append(("retryq timeline", kit.timeline().encode(errors="replace").decode()))
    return report


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What was said nearest to the test: a parameter of the fixture, the marker, the command line, the ini file."""
    config = request.config
    options: dict[str, Any] = {
        "old": config.getoption("--retryq-broker") or config.getini("retryq_broker") or None,
        "leftovers": config.getini("retryq_leftovers"),
        "raise_errors": config.getini("retryq_raise_errors"),
    }
    seed = config.getini("retryq_seed")
    if seed:
        if not seed.lstrip("-").isdigit():
            raise pytest.UsageError(f"the ini option retryq_seed is {seed!r}: give a whole number")
        options["seed"] = int(seed)
    marker = request.node.get_closest_marker("retryq")
    if marker is not None:
        given = dict(marker.kwargs)
        unknown = sorted(given.keys() - set(_MARKER_OPTIONS))
        if marker.args or unknown:
            raise pytest.UsageError(
                f"the marker retryq has no {', '.join(map(repr, (*marker.args, *unknown)))}: its options are "
                f"{', '.join(_MARKER_OPTIONS)}, by keyword"
            )
        if given.get("jitter") is False:
            options.pop("seed", None)
        if "broker" in given:
            options["old"] = given.pop("broker")
        options.update(given)
    if hasattr(request, "param"):
        options["old"] = request.param
    return options
