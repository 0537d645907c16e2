"""The pytest plugin, seen from test suites that use it: each is run by pytest, in a directory of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator

import dramatiq
import dramatiq.brokers.redis
import pytest

import dramatiq_retryq.testing

pytest_plugins = ["pytester"]

# Imported here, since a suite that runs in this process would import all of it anew each time: a second.
assert dramatiq.brokers.redis
assert dramatiq_retryq.testing

APP = """
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq_retryq import RetryQueue

broker = RedisBroker(url="redis://127.0.0.1:1/0")  # nothing listens there
broker.add_middleware(RetryQueue(max_retries=3))
dramatiq.set_broker(broker)

@dramatiq.actor
def deliver(url):
    if "gone" in url:
        raise ConnectionError("refused")
"""


@pytest.fixture(autouse=True)
def own_broker() -> Iterator[None]:
    """The suites run in this process: their broker is not the next one's."""
    before = dramatiq.broker.global_broker
    yield
    dramatiq.set_broker(before)  # type: ignore[arg-type]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty suite beside an application, ``app.py``."""
    pytester.makepyfile(app=APP)
    pytester.makeini(
        """
        [pytest]
        # Hypothesis' plugin imports Hypothesis at the end of each run, which takes a second.
        addopts = -p no:hypothesispytest
        filterwarnings =
            error
            ignore:MemcachedBackend is not available:ImportWarning
        """
    )
    return pytester


def test_the_fixture_is_there_and_replaces_the_applications_broker(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        from app import broker, deliver

        def test_it(retryq):
            deliver.send("https://example.org/gone")
            assert deliver.broker is retryq.broker is not broker
            assert retryq.drain().died == 1
            assert retryq.delays(deliver) == [100, 200, 400]

        def test_everything_is_back():
            assert deliver.broker is broker
    """
    )
    suite.runpytest("-p", "no:randomly").assert_outcomes(passed=2)


def test_a_failing_test_shows_the_timeline_and_everything_is_put_back(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        from app import broker, deliver

        def test_that_fails(retryq):
            deliver.send("https://example.org/gone")
            retryq.drain()
            deliver.send("left behind")
            assert retryq.dead_letters.one().reason == "rejected"

        def test_everything_is_back():
            assert deliver.broker is broker
    """
    )
    result = suite.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)  # and no error at the teardown
    result.stdout.fnmatch_lines(
        [
            "*- retryq timeline -*",
            "deliver('https://example.org/gone')  [[]????????, queue default]",
            "    +0 ms  sent",
            "    +0 ms  attempt 1  ConnectionError: refused (*) → again in 100 ms",
            "  +700 ms  attempt 4  ConnectionError: refused (*) → dead: exhausted",
        ]
    )


def test_a_passing_test_shows_no_timeline(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        from app import deliver

        def test_it(retryq):
            deliver.send("x")
            retryq.drain()
    """
    )
    result = suite.runpytest("-rA")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*retryq timeline*")


# -- Leftovers -------------------------------------------------------------------------------------------------------

FORGETS = """
from app import deliver

def test_that_forgets(retryq):
    deliver.send("https://example.org/forgotten")
"""


def test_messages_that_a_test_forgets_are_a_warning_that_names_them(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app=FORGETS)
    result = suite.runpytest("-W", "default::dramatiq_retryq.testing.LeftoverWarning")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*LeftoverWarning*sent a message*", "*deliver('https://example.org/forgotten')*"])


@pytest.mark.parametrize(("how", "outcomes"), [("error", {"errors": 1}), ("ignore", {})])
def test_forgotten_messages_can_be_an_error_or_be_ignored(
    suite: pytest.Pytester, how: str, outcomes: dict[str, int]
) -> None:
    suite.makepyfile(test_app=FORGETS)
    result = suite.runpytest("-o", f"retryq_leftovers={how}")
    result.assert_outcomes(passed=1, **outcomes)
    if outcomes:
        result.stdout.fnmatch_lines(["E *LeftoverMessages: the test sent a message*"])


def test_what_was_run_looked_at_cleared_or_left_by_until_is_not_forgotten(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        from app import deliver

        def test_looked_at(retryq):
            deliver.send("x")
            retryq.assert_enqueued(deliver, args=("x",))

        def test_cleared(retryq):
            deliver.send("x")
            retryq.clear()

        def test_left_by_until(retryq):
            deliver.send_with_options(args=("x",), delay=10_000)
            retryq.drain(until=5_000)

        def test_sends_nothing(retryq):
            pass
    """
    )
    suite.runpytest().assert_outcomes(passed=4)


def test_a_message_sent_after_the_last_drain_is_forgotten(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        from app import deliver

        def test_it(retryq):
            deliver.send("x")
            retryq.drain()
            deliver.send("y")
    """
    )
    suite.runpytest("-o", "retryq_leftovers=error").assert_outcomes(passed=1, errors=1)


def test_what_a_test_that_was_skipped_or_expected_to_fail_leaves_behind_is_no_news(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        import pytest
        from app import deliver

        def test_skipped(retryq):
            deliver.send("x")
            pytest.skip("not today")

        @pytest.mark.xfail
        def test_expected(retryq):
            deliver.send("x")
            assert False
    """
    )
    suite.runpytest("-o", "retryq_leftovers=error").assert_outcomes(skipped=1, xfailed=1)


def test_a_fixture_that_fails_shows_the_timeline_too_and_each_test_shows_it_once(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        import pytest
        from app import deliver

        @pytest.fixture
        def before(retryq):
            deliver.send("before")
            assert retryq.drain().died

        @pytest.fixture
        def after(retryq):
            yield
            deliver.send("after")
            retryq.drain()
            assert retryq.dead_letters.one()

        def test_setup(before): ...

        def test_teardown(after): ...

        def test_both(after): assert False
    """
    )
    result = suite.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1, errors=3)
    text = result.stdout.str()
    assert text.count("retryq timeline") == 3
    assert text.count("deliver('before')") == text.count("deliver('after')") == 1


# -- Which broker ----------------------------------------------------------------------------------------------------

TWO_BROKERS = """
import dramatiq, pytest
from dramatiq.brokers.stub import StubBroker
from app import broker as main

other = StubBroker()

@dramatiq.actor(broker=other)
def theirs(): ...

def check(kit):
    assert theirs.broker is kit.broker
    theirs.send()
    assert kit.drain().succeeded == 1
    assert dramatiq.get_broker() is kit.broker is not main
"""


def test_the_broker_is_named_by_the_ini_option(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app=f"{TWO_BROKERS}\ndef test_it(retryq): check(retryq)\n")
    suite.runpytest("-o", "retryq_broker=test_app:other").assert_outcomes(passed=1)


def test_the_broker_is_named_on_the_command_line(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app=f"{TWO_BROKERS}\ndef test_it(retryq): check(retryq)\n")
    suite.runpytest("--retryq-broker", "test_app:other", "-o", "retryq_broker=app:broker").assert_outcomes(passed=1)


def test_the_broker_is_named_by_the_marker(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app=f"""{TWO_BROKERS}
@pytest.mark.retryq(broker=other)
def test_the_object(retryq): check(retryq)

@pytest.mark.retryq(broker="test_app:other")
def test_the_place(retryq): check(retryq)

@pytest.mark.parametrize("retryq", [other, "test_app:other"], indirect=True)
def test_the_parameter(retryq): check(retryq)
"""
    )
    suite.runpytest("--strict-markers").assert_outcomes(passed=4)


def test_a_broker_that_is_not_there_is_an_error_that_names_it(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app="def test_it(retryq): ...")
    result = suite.runpytest("-o", "retryq_broker=app:brocker")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *ConfigError: the broker 'app:brocker' cannot be had*"])


def test_the_marker_has_the_other_options_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        import pytest
        from app import deliver

        def delays(retryq):
            deliver.send("gone")
            retryq.drain()
            return retryq.delays(deliver)

        @pytest.mark.retryq(seed=3)
        def test_seed(retryq):
            assert delays(retryq) != [100, 200, 400]

        @pytest.mark.retryq(jitter=True)
        def test_jitter(retryq):
            assert delays(retryq) != [100, 200, 400]

        @pytest.mark.retryq(jitter=False)
        def test_no_jitter(retryq):
            assert delays(retryq) == [100, 200, 400]

        @pytest.mark.retryq(raise_errors=True, leftovers="ignore")
        def test_errors(retryq):
            deliver.send("gone")
            with pytest.raises(ConnectionError):
                retryq.drain()
            deliver.send("gone")
    """
    )
    suite.runpytest("-o", "retryq_seed=7").assert_outcomes(passed=4)


@pytest.mark.parametrize("marker", ["retryq(sead=1)", "retryq('app:broker')"])
def test_a_marker_that_makes_no_sense_is_an_error(suite: pytest.Pytester, marker: str) -> None:
    suite.makepyfile(test_app=f"import pytest, app\n@pytest.mark.{marker}\ndef test_it(retryq): ...\n")
    result = suite.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the marker retryq has no *its options are broker, seed, *"])


def test_a_seed_that_is_no_number_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app="import app\ndef test_it(retryq): ...\n")
    result = suite.runpytest("-o", "retryq_seed=x")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the ini option retryq_seed is 'x'*"])


# -- Real threads ----------------------------------------------------------------------------------------------------


def test_memory_broker_and_memory_worker_are_stub_brokers_customary_pair(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app="""
        import threading
        import pytest
        from app import broker, deliver

        def test_it(memory_broker, memory_worker):
            assert deliver.broker is memory_broker
            deliver.send("https://example.org/fine")
            memory_broker.join(deliver.queue_name)
            memory_worker.join()
            assert len(memory_broker.dead_letters) == 0

        def test_a_death_is_raised_by_join(memory_broker, memory_worker):
            deliver.send_with_options(args=("https://example.org/gone",), max_retries=0)
            with pytest.raises(ConnectionError, match="refused"):
                memory_broker.join(deliver.queue_name)
            assert memory_broker.dead_letters.one(queue=deliver.queue_name).reason == "exhausted"

        def test_what_is_left_is_no_warning(memory_broker):
            deliver.send("x")
            assert memory_broker.queues["default"].qsize() == 1

        def test_everything_is_back():
            assert deliver.broker is broker
            assert threading.active_count() == 1
    """
    )
    suite.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=4)


def test_both_kinds_of_broker_in_one_test_are_an_error_that_says_so(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app="import app\ndef test_it(retryq, memory_broker): ...\n")
    result = suite.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *KitError: a broker is swapped already*only one of the fixtures*"])


# -- Beside others ---------------------------------------------------------------------------------------------------


def test_a_run_that_does_not_use_it_imports_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_other="""
        import sys

        def test_it():
            assert "dramatiq_retryq.pytest_plugin" in sys.modules
            assert not {name for name in sys.modules if name.split(".")[0] == "dramatiq"}
            ours = {name for name in sys.modules if name.startswith("dramatiq_retryq.")}
            assert ours == {"dramatiq_retryq.pytest_plugin", "dramatiq_retryq.lazy"}
    """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_plugin_can_be_turned_off(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_app="def test_it(retryq): ...")
    result = suite.runpytest_subprocess("-p", "no:dramatiq_retryq")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *fixture 'retryq' not found*"])


MANY = """
import threading
import dramatiq, pytest
from freezegun import freeze_time
from app import broker, deliver

@pytest.mark.parametrize("n", range(30))
def test_it(retryq, n):
    deliver.send("gone" if n % 3 else "fine")
    outcome = retryq.drain()
    assert outcome.processed == (4 if n % 3 else 1)
    assert len(retryq.attempts(deliver)) == outcome.processed

@freeze_time("2030-01-01")
def test_frozen(retryq):
    deliver.send_with_options(args=("fine",), delay=5_000)
    assert retryq.drain().succeeded == 1

def test_back():
    assert deliver.broker is broker
    assert threading.active_count() <= 2  # xdist's own
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-n2",), id="xdist"),
        pytest.param(("-p", "randomly", "-p", "no:xdist"), id="randomly"),
        pytest.param(("-p", "randomly", "-n2"), id="both"),
    ],
)
def test_beside_xdist_and_randomly(suite: pytest.Pytester, options: tuple[str, ...]) -> None:
    for module in ("xdist", "pytest_randomly"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'dramatiq_retryq[tests]'")
    given = [option for option in options if option not in ("-p", "randomly")] if "no:xdist" not in options else []
    suite.makepyfile(test_app=MANY)
    result = suite.runpytest_subprocess(*given, *(() if "randomly" in options else ("-p", "no:randomly")))
    result.assert_outcomes(passed=32)


def test_the_fixture_works_in_a_class_and_in_a_module_of_doctests(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_app='''
        from app import deliver

        class TestDelivery:
            def test_it(self, retryq):
                deliver.send("x")
                assert retryq.drain().succeeded == 1

        def double(x):
            """
            >>> retryq = getfixture("retryq")
            >>> _ = deliver.send("x")
            >>> print(retryq.drain())
            1 succeeded, 0 ms elapsed
            """
    '''
    )
    suite.runpytest("--doctest-modules", "test_app.py").assert_outcomes(passed=2)


def test_the_entry_point_leads_to_the_plugin() -> None:
    (entry,) = (e for e in importlib.metadata.entry_points(group="pytest11") if e.name == "dramatiq_retryq")
    assert entry.value == "dramatiq_retryq.pytest_plugin"
    assert "dramatiq_retryq.pytest_plugin" in sys.modules
