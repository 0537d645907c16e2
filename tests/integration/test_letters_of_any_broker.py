"""``DeadLetters.of`` has one interface on every broker."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.common import current_millis

from dramatiq_retryq import DeadLetters, GiveUp, current_attempt
from dramatiq_retryq.errors import ConfigError, LetterNotFound
from tests.integration.conftest import finish


class Shop:
    """A broker with dead letters, and what its actor was run with."""

    def __init__(self, make: Any, queue: str, **options: Any) -> None:
        self.make = make
        self.queue = queue
        self.broker = make(**{"max_retries": 1, "backoff": [1], **options})
        self.runs: list[Any] = []
        #: When each of them began, in ms since the epoch.
        self.run_at: list[int] = []
        self.broken = True

        @dramatiq.actor(queue_name=queue, actor_name="sell")
        def sell(n: int) -> None:
            self.runs.append((n, current_attempt().number))
            self.run_at.append(current_millis())
            if self.broken:
                raise {0: ValueError, 1: KeyError, 2: GiveUp}[n % 3](f"no {n}")

        @dramatiq.actor(queue_name=f"{queue}-b", actor_name="buy", max_retries=0)
        def buy(n: int) -> None:
            if self.broken:
                raise OSError(f"no {n}")

        self.sell, self.buy = sell, buy

    @property
    def letters(self) -> DeadLetters:
        return DeadLetters.of(self.broker)

    def die(self, *numbers: int) -> None:
        """Let these die, one after the other."""
        for n in numbers:
            self.sell.send(n)
            finish(self.broker, threads=1)
        self.runs.clear()
        self.run_at.clear()

    def numbers(self, **filters: Any) -> list[int]:
        return [letter.message.args[0] for letter in self.letters.list(**filters) if letter.message is not None]


@pytest.fixture
def shop(make_any: Any, name: str) -> Shop:
    return Shop(make_any, name)


def test_letters_are_listed_newest_first(shop: Shop) -> None:
    shop.die(0, 1, 2, 3)
    assert shop.numbers() == [3, 2, 1, 0]
    assert [letter.message.args[0] for letter in shop.letters if letter.message] == [3, 2, 1, 0]
    assert len(shop.letters) == 4


def test_each_death_is_one_letter(shop: Shop) -> None:
    shop.die(0, 3)
    assert len(shop.letters) == len(shop.letters.list()) == 2


def test_a_letter_tells_the_last_error_its_traceback_and_every_attempt(shop: Shop) -> None:
    shop.die(0)
    letter = shop.letters.one()
    assert (letter.reason, letter.actor_name, letter.queue_name) == ("exhausted", "sell", shop.queue)
    assert letter.error is not None
    assert (letter.error.type, letter.error.message) == ("ValueError", "no 0")
    assert "ValueError: no 0" in (letter.traceback or "")
    assert [(a.n, a.error, a.message) for a in letter.attempts] == [
        (1, "ValueError", "no 0"),
        (2, "ValueError", "no 0"),
    ]


def test_a_letter_is_got_by_its_id(shop: Shop) -> None:
    shop.die(0, 1)
    for letter in shop.letters:
        assert shop.letters.get(letter.id) == letter


def test_an_id_that_does_not_exist_is_an_error(shop: Shop) -> None:
    shop.die(0)
    for use in (shop.letters.get, shop.letters.replay, shop.letters.discard):
        with pytest.raises(LetterNotFound, match="no-such-id"):
            use("no-such-id")
    assert len(shop.letters) == 1


def test_the_filters_are_heard(shop: Shop) -> None:
    shop.die(0, 1, 2, 3)
    shop.buy.send(9)
    finish(shop.broker, threads=1)
    assert shop.numbers(actor="buy") == [9]
    assert shop.numbers(actor=shop.buy) == [9]
    assert shop.numbers(queue=shop.queue) == [3, 2, 1, 0]
    assert shop.numbers(queue=f"{shop.queue}-b") == [9]
    assert shop.numbers(queue="nobody-declared-this") == []
    assert shop.numbers(reason="rejected") == [2]
    assert shop.numbers(error=ValueError) == [3, 0]
    assert shop.numbers(error="KeyError") == [1]
    assert shop.numbers(since=timedelta(hours=1)) == [9, 3, 2, 1, 0]
    assert shop.numbers(since=timedelta(0)) == []
    assert shop.numbers(limit=2) == [9, 3]
    assert shop.numbers(limit=0) == []
    with pytest.raises(ConfigError, match="reason"):
        shop.letters.list(reason="bored")  # type: ignore[arg-type]


def test_a_replayed_message_runs_again_with_a_new_budget_and_its_history(shop: Shop) -> None:
    shop.die(0)
    letter = shop.letters.one()
    assert shop.letters.replay(letter) == letter
    assert len(shop.letters) == 0
    finish(shop.broker)
    assert shop.runs == [(0, 1), (0, 2)]
    again = shop.letters.one()
    assert again.replays == 1
    assert [attempt.n for attempt in again.attempts] == [1, 2, 3, 4]
    assert again.message_id == letter.message_id


def test_a_replayed_message_that_goes_well_leaves_nothing(shop: Shop) -> None:
    shop.die(0, 1, 2)
    shop.broken = False
    assert shop.letters.replay_all() == 3
    finish(shop.broker, threads=1)
    # Dramatiq 2.0 hands out messages of the same priority in any order.
    assert sorted(n for n, _ in shop.runs) == [0, 1, 2]
    assert len(shop.letters) == 0
    assert shop.letters.list() == []


def test_one_from_the_middle_is_replayed_and_the_others_keep_their_order(shop: Shop) -> None:
    shop.die(0, 1, 3, 4, 6)
    shop.broken = False
    shop.letters.replay(shop.letters.list()[2].id)
    finish(shop.broker)
    assert shop.runs == [(3, 1)]
    assert shop.numbers() == [6, 4, 1, 0]


def test_what_matches_the_filters_is_replayed(shop: Shop) -> None:
    shop.die(0, 1, 3)
    shop.broken = False
    assert shop.letters.replay_all(error=ValueError) == 2
    finish(shop.broker, threads=1)
    assert sorted(n for n, _ in shop.runs) == [0, 3]
    assert shop.numbers() == [1]


def test_a_letter_is_replayed_once(shop: Shop) -> None:
    shop.die(0)
    letter = shop.letters.one()
    shop.letters.replay(letter)
    with pytest.raises(LetterNotFound):
        shop.letters.replay(letter)
    shop.broken = False
    finish(shop.broker)
    assert shop.runs == [(0, 1)]


def test_several_that_replay_at_once_revive_each_letter_once(shop: Shop) -> None:
    shop.die(*[0] * 12)
    replayed: list[int] = []

    def replay() -> None:
        replayed.append(shop.letters.replay_all())

    threads = [threading.Thread(target=replay) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shop.broken = False
    finish(shop.broker)
    assert sum(replayed) == 12
    assert len(shop.runs) == 12


def test_a_replay_can_wait(shop: Shop) -> None:
    shop.die(0)
    shop.broken = False
    asked = current_millis()
    shop.letters.replay(shop.letters.one(), delay=timedelta(milliseconds=800))
    finish(shop.broker)
    assert shop.runs == [(0, 1)]
    assert shop.run_at[0] >= asked + 800


def test_a_rate_spreads_them(shop: Shop) -> None:
    shop.die(0, 0, 0, 0)
    shop.broken = False
    asked = current_millis()
    assert shop.letters.replay_all(rate=4) == 4
    finish(shop.broker)
    assert len(shop.runs) == 4
    early = [n for n, run_at in enumerate(sorted(shop.run_at)) if run_at < asked + n * 1000 / 4]
    assert early == []


def test_a_discarded_letter_is_gone(shop: Shop) -> None:
    shop.die(0, 1, 2)
    shop.letters.discard(shop.letters.list()[1])
    assert shop.numbers() == [2, 0]
    with pytest.raises(LetterNotFound):
        shop.letters.discard("gone")
    assert shop.letters.discard_all(reason="rejected") == 1
    assert shop.letters.discard_all() == 1
    assert shop.letters.discard_all() == 0
    assert len(shop.letters) == 0


def test_looking_changes_nothing(shop: Shop) -> None:
    shop.die(0, 1, 2)
    before = shop.letters.list()
    for _ in range(3):
        assert shop.letters.list() == before
        assert shop.letters.get(before[1].id) == before[1]
        next(iter(shop.letters))
        assert len(shop.letters) == 3


def test_those_who_look_at_once_see_all_letters(shop: Shop) -> None:
    shop.die(0, 1, 2, 3)
    seen: list[list[int]] = []

    def look() -> None:
        seen.extend(shop.numbers() for _ in range(5))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[3, 2, 1, 0]] * 15


def test_a_letter_of_an_actor_that_no_longer_exists_is_replayed_and_dies_as_unknown_actor(shop: Shop) -> None:
    shop.die(0)
    del shop.broker.actors["sell"]
    shop.letters.replay(shop.letters.one())
    finish(shop.broker)
    again = shop.letters.one()
    assert (again.reason, again.actor_name, again.replays) == ("unknown_actor", "sell", 1)
    assert [attempt.error for attempt in again.attempts] == ["ValueError", "ValueError"]
