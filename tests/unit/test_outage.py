"""The simulation of a dependency that is down, and its pictures."""

from __future__ import annotations

import time
from xml.etree import ElementTree

import pytest

from dramatiq_retryq import Backoff
from dramatiq_retryq.drawing import ASCII_BLOCKS, BLOCKS, axis, bars, by_column, columns, horizon, scale, svg, ticks
from dramatiq_retryq.errors import ConfigError
from dramatiq_retryq.outage import Load, Outage, retries_needed, simulate
from dramatiq_retryq.policy import JITTERS, Settings, parse_policy

TEN_MINUTES = Outage(duration=600_000, messages=10_000)


def settings(backoff: object, max_retries: int | None = None, max_age: int | None = None) -> Settings:
    policy = parse_policy(backoff, what="backoff", default=Backoff())
    return Settings(policy=policy, max_retries=max_retries, max_age=max_age)


def one(outage: Outage, backoff: object, **options: int | None) -> Load:
    (load,) = simulate(outage, {"it": settings(backoff, **options)})
    return load


def test_every_attempt_before_the_end_is_in_vain_and_the_first_one_after_it_is_the_last() -> None:
    load = one(Outage(duration=10_000, messages=3), [4_000])
    # At 0, 4 and 8 s in vain, at 12 s done.
    assert (load.attempts, load.in_vain, load.dead) == (12, 9, 0)
    assert load.retries == {4: 3, 8: 3, 12: 3}
    assert (load.done_median, load.done_last) == (2_000, 2_000)


def test_a_message_without_a_retry_left_is_dead() -> None:
    load = one(Outage(duration=10_000, messages=3), [4_000], max_retries=2)
    assert (load.attempts, load.in_vain, load.dead) == (9, 9, 3)
    assert load.done_last is None


def test_a_message_that_would_be_too_old_is_dead() -> None:
    load = one(Outage(duration=10_000, messages=3), [4_000], max_age=8_000)
    assert (load.attempts, load.dead) == (6, 3)


def test_a_policy_that_gives_up_is_heard() -> None:
    load = one(Outage(duration=10_000, messages=3), lambda attempt, error: 100 if attempt == 1 else None)
    assert (load.attempts, load.dead) == (6, 3)


def test_a_policy_that_raises_falls_back_to_the_default_as_in_a_worker() -> None:
    def broken(attempt: int, error: BaseException) -> int:
        raise KeyError(attempt)

    assert one(Outage(duration=50, messages=2), broken).dead == 0


def test_messages_may_be_sent_over_a_time_and_those_after_the_outage_do_not_meet_it() -> None:
    load = one(Outage(duration=10_000, messages=20, over=20_000), [4_000])
    assert load.attempts - load.in_vain == 20
    assert sum(load.retries.values()) == load.attempts - 20
    assert load.in_vain == 18  # sent at 0, 1, … 9 s: 3 + 3 + 2 + 2 + 2 + 2 + 1 + 1 + 1 + 1


def test_the_same_seed_gives_the_same_numbers_whatever_else_is_simulated() -> None:
    alone = simulate(TEN_MINUTES, {"full": settings(Backoff(jitter="full"))}, seed=7)
    among = simulate(TEN_MINUTES, {name: settings(Backoff(jitter=name)) for name in JITTERS}, seed=7)
    assert alone[0] == among[JITTERS.index("full")]
    assert simulate(TEN_MINUTES, {"full": settings(Backoff(jitter="full"))}, seed=8) != alone


def test_jitter_spreads_what_would_come_in_one_second() -> None:
    none, full = simulate(TEN_MINUTES, {name: settings(Backoff(jitter=name)) for name in ("none", "full")})
    assert none.busiest_later == 10_000
    assert full.busiest_later < 1_500


def test_ten_thousand_messages_and_all_jitters_take_less_than_two_seconds() -> None:
    before = time.thread_time()
    simulate(TEN_MINUTES, {name: settings(Backoff(jitter=name), max_retries=20) for name in JITTERS})
    assert time.thread_time() - before < 2


def test_where_all_would_take_too_long_a_sample_stands_for_all() -> None:
    load = one(Outage(duration=600_000, messages=1_000_000), Backoff(1_000, 1_000, jitter="none"))
    assert load.simulated < 1_000
    assert load.attempts == pytest.approx(601 * 1_000_000, rel=0.01)
    assert load.retries[300] == pytest.approx(1_000_000, rel=0.01)


def test_retrying_without_end_and_without_a_pause_is_an_error() -> None:
    with pytest.raises(ConfigError, match="makes more than 100,000 attempts in this outage: raise min_backoff"):
        one(TEN_MINUTES, [0])


@pytest.mark.parametrize("outage", [Outage(duration=0, messages=1), Outage(duration=1, messages=0)])
def test_an_outage_that_makes_no_sense_is_an_error(outage: Outage) -> None:
    with pytest.raises(ConfigError, match="give 1"):
        simulate(outage, {})


def test_the_retries_that_outlast_it_are_counted() -> None:
    assert retries_needed(Outage(duration=7_000, messages=1), Backoff(1_000, 60_000, jitter="none")) == 3
    assert retries_needed(TEN_MINUTES, Backoff(0, 0)) is None


# -- Pictures --------------------------------------------------------------------------------------------------------


def test_columns_are_as_high_as_their_values_and_what_is_little_is_seen() -> None:
    assert columns([0, 1, 50, 100, 1_000], height=2, greatest=100) == ["   ██", " ▁███"]
    assert columns([0, 1, 50, 100], height=1, greatest=100, blocks=ASCII_BLOCKS) == [" .=#"]
    assert len(BLOCKS) == len(ASCII_BLOCKS)


def test_bars_share_one_logarithmic_scale() -> None:
    drawn, below = bars([(0, 50, 100), (1_000, 10_000, 100_000)], width=36)
    assert drawn[0].index("●") < drawn[1].index("●")
    assert drawn[1].endswith("━")
    assert "50 ms" in below
    assert "1 min" in below


def test_bars_of_one_value_stand_somewhere() -> None:
    for value in (0, 5_000):
        drawn, _ = bars([(value, value, value)], width=10)
        assert drawn[0].count("●") == 1


def test_an_axis_has_round_instants_that_do_not_touch() -> None:
    assert ticks(600_000) == [0, 120_000, 240_000, 360_000, 480_000, 600_000]
    assert axis(600_000, width=60).split("  ")[0] == "0 s"
    assert ticks(0) == [0]
    assert len(ticks(10**14)) < 10


def test_a_column_shows_its_busiest_second() -> None:
    assert by_column({0: 5, 1: 9, 9: 3}, seconds=10, width=5) == [9, 0, 0, 0, 3]


def test_the_svg_is_well_formed_and_escapes_names() -> None:
    loads = simulate(TEN_MINUTES, {"<b>&": settings(Backoff(), 5), "none": settings(Backoff(jitter="none"), 40)})
    root = ElementTree.fromstring(svg(TEN_MINUTES, loads, title='A "title" <script>'))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<b>&" in texts
    assert 'A "title" <script>' in texts
    assert any("10,000 dead" in (text or "") for text in texts)
    assert not [*root.iter("{http://www.w3.org/2000/svg}script")]


def test_a_picture_of_nothing_is_a_picture() -> None:
    outage = Outage(duration=1_000, messages=1)
    loads = simulate(outage, {"it": settings([1], 0)})
    assert scale(loads) == 1
    assert horizon(outage, loads) >= 1
    ElementTree.fromstring(svg(outage, loads, title="one"))
