"""A row that somebody's accident has torn: it is shown as far as it can be read, and the others as ever."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dramatiq
import pytest

from dramatiq_retryq import SQLiteBroker
from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.operations import Operations
from dramatiq_retryq.records import DeadLetter, ErrorInfo

Tear = Callable[..., None]


@pytest.fixture
def broker(tmp_path: Path, clock: VirtualClock) -> Iterator[SQLiteBroker]:
    """A broker with three dead letters, of which the second will be torn."""
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)

    @dramatiq.actor(broker=broker)
    def work(number: int) -> None:
        """Never run."""

    for number in (1, 2, 3):
        message = work.message(number)
        broker.store.put("default", message.encode(), due_at=clock.now(), now=clock.now())
        [claim] = broker.store.claim("default", now=clock.now(), limit=1, owner="test")
        clock.advance(1)
        broker.store.bury(
            claim,
            DeadLetter(
                id=str(claim.id),
                reason="exhausted",
                queue_name="default",
                actor_name="work",
                died_at=clock.now(),
                error=ErrorInfo(type="ValueError", message="no"),
                data=claim.data,
            ),
        )
    yield broker
    broker.close()


@pytest.fixture
def tear(broker: SQLiteBroker, tmp_path: Path) -> Tear:
    """Puts something in place of a column of the second letter."""

    def tear(column: str, value: object) -> str:
        letter_id = [letter.id for letter in broker.dead_letters][1]
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as con, con:
            con.execute(f"UPDATE messages SET {column} = {value} WHERE id = ?", (int(letter_id),))
        return letter_id

    return tear


TORN_LETTERS = [
    "''",
    "'{'",
    "'null'",
    "'[]'",
    "'{}'",
    """'{"actor": "work", "error": ["ValueError"], "traceback": null}'""",
    """'{"actor": "work", "error": 5, "traceback": null}'""",
    """'{"actor": 5, "error": [1, 2, 3], "traceback": []}'""",
    "CAST(x'7bff' AS TEXT)",
    "x'7bff'",
    "7",
]


@pytest.mark.parametrize("letter", TORN_LETTERS)
def test_a_torn_letter_is_listed_and_can_be_replayed(broker: SQLiteBroker, tear: Tear, letter: str) -> None:
    letter_id = tear("letter", letter)
    letters = [*broker.dead_letters]
    assert len(letters) == 3
    torn = letters[1]
    assert (torn.id, torn.reason, torn.actor_name, torn.traceback) == (letter_id, "exhausted", "work", None)
    assert torn.message is not None
    assert torn.message.args == (2,)
    assert torn.error is not None
    assert broker.dead_letters.get(letter_id) == torn
    assert torn.asdict()["error"]["type"] == torn.error.type
    broker.dead_letters.replay(letter_id)
    assert [pending.message_id for pending in Operations.of(broker).pending()] == [torn.message_id]


@pytest.mark.parametrize("letter", TORN_LETTERS)
def test_what_was_torn_is_said_by_check(broker: SQLiteBroker, tear: Tear, letter: str) -> None:
    assert broker.check() == []
    letter_id = tear("letter", letter)
    assert broker.check() == [f"dead letter {letter_id}: what was kept of its error cannot be read"]


def test_a_torn_letter_can_be_discarded(broker: SQLiteBroker, tear: Tear) -> None:
    broker.dead_letters.discard(tear("letter", "'{'"))
    assert len(broker.dead_letters) == len([*broker.dead_letters]) == 2


def test_a_reason_that_nobody_knows_is_shown_as_rejected(broker: SQLiteBroker, tear: Tear) -> None:
    letter_id = tear("reason", "'bored'")
    assert broker.dead_letters.get(letter_id).reason == "rejected"
    assert Operations.of(broker).dead_by_reason() == {"exhausted": 2, "rejected": 1}


@pytest.mark.parametrize("data", ["''", "'{'", "x'ff'", "7", "CAST(data AS TEXT)", "CAST(x'ff' AS TEXT)"])
def test_a_torn_payload_of_a_letter_is_listed(broker: SQLiteBroker, tear: Tear, data: str) -> None:
    letter_id = tear("data", data)
    letters = [*broker.dead_letters]
    assert [letter.id for letter in letters][1] == letter_id
    assert letters[1].asdict()["reason"] == "exhausted"
    assert Operations.of(broker).find("nobody's") is None
    broker.dead_letters.discard(letter_id)


@pytest.mark.parametrize("data", ["''", "'{'", "x'ff'", "7", "CAST(data AS TEXT)", "CAST(x'ff' AS TEXT)"])
def test_a_torn_payload_of_what_waits_is_listed(broker: SQLiteBroker, tmp_path: Path, data: str) -> None:
    operations = Operations.of(broker)
    broker.dead_letters.replay_all()
    broker.clock.advance(1_000)  # type: ignore[attr-defined]
    first, second, third = operations.pending()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as con, con:
        con.execute(f"UPDATE messages SET data = {data} WHERE id = ?", (int(second.id),))
    assert [one.id for one in operations.pending()] == [first.id, second.id, third.id]
    assert [one.id for one in operations.pending(actor="work")][:1] == [first.id]
    assert operations.find(str(third.message_id)) == third
    found = operations.find(second.id)
    assert found is not None
    operations.cancel(second.id)
    assert [*operations.pending()] == [first, third]


@pytest.mark.parametrize("data", ["'{'", "CAST(x'ff' AS TEXT)"])
def test_a_torn_payload_does_not_keep_a_worker_from_the_others(broker: SQLiteBroker, tmp_path: Path, data: str) -> None:
    broker.dead_letters.replay_all()
    now = broker.clock.now() + 1_000
    [_, second, _] = Operations.of(broker).pending()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as con, con:
        con.execute(f"UPDATE messages SET data = {data} WHERE id = ?", (int(second.id),))
    claims = broker.store.claim("default", now=now, limit=3, owner="test")
    assert [type(claim.data) for claim in claims] == [bytes] * 3
    broker.store.release(claims, now=now)
