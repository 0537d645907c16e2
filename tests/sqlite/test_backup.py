"""SQLiteBroker.backup: a copy that is taken while the file is in use."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dramatiq
import pytest

from dramatiq_retryq import SQLiteBroker, run_worker
from dramatiq_retryq.errors import ConfigError


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SQLiteBroker]:
    with closing(SQLiteBroker(tmp_path / "jobs.db")) as broker:
        yield broker


def test_a_backup_has_what_the_file_has_and_is_sound(broker: SQLiteBroker, tmp_path: Path) -> None:
    @dramatiq.actor(broker=broker)
    def work(number: int) -> None: ...

    sent = [work.send(number).message_id for number in range(5)]
    broker.backup(tmp_path / "copy.db")
    with closing(SQLiteBroker(tmp_path / "copy.db")) as copy:
        assert copy.check() == []
        assert [copy.lookup(message_id).state for message_id in sent] == ["waiting"] * 5
    assert broker.counts()["default"].waiting == 5


def test_only_the_owner_may_read_a_backup(broker: SQLiteBroker, tmp_path: Path) -> None:
    broker.backup(tmp_path / "copy.db")
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


def test_a_backup_never_overwrites_a_file(broker: SQLiteBroker, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists already: give the path of a file that does not"):
        broker.backup(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes() == b"precious"


def test_what_was_being_worked_on_during_a_backup_runs_again_from_the_copy(
    broker: SQLiteBroker, tmp_path: Path
) -> None:
    @dramatiq.actor(broker=broker)
    def copy_all() -> None:
        broker.backup(tmp_path / "copy.db")

    copy_all.send()
    with run_worker(broker, threads=1, worker_timeout=50):
        broker.join("default")

    ran = []
    with closing(SQLiteBroker(tmp_path / "copy.db")) as copy:

        @dramatiq.actor(broker=copy, actor_name="copy_all")
        def again() -> None:
            ran.append(1)

        assert copy.counts()["default"].waiting == 1
        with run_worker(copy, threads=1, worker_timeout=50):
            copy.join("default")
    assert ran == [1]


def test_a_file_that_is_opened_by_a_link_is_known_by_its_own_name(broker: SQLiteBroker, tmp_path: Path) -> None:
    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    work.send()
    [claim] = broker.store.claim("default", now=broker.clock.now(), limit=1, owner="elsewhere:1")
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    with closing(SQLiteBroker(tmp_path / "link.db")) as other:
        assert list(other.store.recover(now=other.clock.now(), max_crashes=3)) == []
        assert other.counts()["default"].claimed == 1
    broker.store.finish(claim)
