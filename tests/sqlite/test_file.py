"""What can happen to the file: others in its place, full disks, locks, damage, backups. Nothing is lost unsaid."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from dramatiq_retryq import SQLiteBroker, database
from dramatiq_retryq.backends import SQLiteRateLimiterBackend, SQLiteResultBackend
from dramatiq_retryq.database import Database
from dramatiq_retryq.errors import ConfigError, RetryQueueError, StoreUnavailable
from dramatiq_retryq.records import QueueCounts
from dramatiq_retryq.schema import MIGRATIONS
from dramatiq_retryq.sqlite_store import SQLiteStore

NOW = 1_767_225_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., SQLiteStore]]:
    opened: list[SQLiteStore] = []

    def open_store(path: Path = path) -> SQLiteStore:
        opened.append(SQLiteStore(path))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk here")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def grow(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)


def put(store: SQLiteStore, data: bytes = b"payload") -> int:
    return store.put("default", data, due_at=NOW, now=NOW)


def claim_all(store: SQLiteStore, owner: str = "elsewhere:1") -> list[Any]:
    return list(store.claim("default", now=NOW, limit=100_000, owner=owner))


def payloads(store: SQLiteStore) -> list[bytes]:
    """What waits, in order; it is claimed and put back for it."""
    claims = claim_all(store)
    store.release(claims, now=NOW)
    return [claim.data for claim in claims]


def counts(store: SQLiteStore) -> QueueCounts:
    return store.counts(now=NOW).get("default", QueueCounts())


# -- Who may read it -------------------------------------------------------------------------------------------------


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_only_the_owner_may_read_the_file_and_the_files_beside_it(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    umask = os.umask(0)
    try:
        store = open_store()
        put(store)
        claim_all(store)
        found = modes(path.parent)
    finally:
        os.umask(umask)
    names = sorted(name.removeprefix("jobs.db").rstrip("0123456789abcdef") for name in found)
    assert names == ["", "-shm", "-turn", "-wal", "-worker-"]
    assert set(found.values()) == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(path: Path, open_store: Callable[..., SQLiteStore]) -> None:
    first = open_store()
    put(first)
    for name in modes(path.parent):
        (path.parent / name).chmod(0o644)
    put(open_store())
    assert set(modes(path.parent).values()) == {0o600}


# -- What is no file for us ------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"These are notes of mine.\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable) as caught:
        SQLiteBroker(path)
    assert str(caught.value) == (f"{path}: file is not a database: this is some other kind of file: give another path")
    assert path.read_bytes() == before


def test_the_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        SQLiteBroker(path)
    assert str(caught.value) == f"{path} is a SQLite database of another program: give a file of its own"
    assert path.read_bytes() == before
    assert set(os.listdir(path.parent)) <= {"jobs.db", "jobs.db-turn"}


def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    newer = (*MIGRATIONS, ("CREATE TABLE what_the_future_brings (id INTEGER PRIMARY KEY)",))
    Database(path, newer).close()
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        SQLiteBroker(path)
    assert str(caught.value) == (
        f"{path} was written by a newer dramatiq_retryq (schema {len(newer)}, this one knows {len(MIGRATIONS)}): "
        "upgrade the package; the file was left untouched"
    )
    assert path.read_bytes() == before
    assert set(os.listdir(path.parent)) <= {"jobs.db", "jobs.db-turn"}


def test_a_file_that_was_refused_is_not_kept_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    path.write_bytes(b"These are notes of mine.\n" * 100)
    monkeypatch.setattr(sqlite3, "connect", remember)
    with pytest.raises(StoreUnavailable):
        SQLiteBroker(path)
    kept = 0
    for connection in opened:
        try:
            connection.total_changes  # noqa: B018
        except sqlite3.ProgrammingError:
            continue
        kept += 1
        connection.close()
    assert (len(opened), kept) == (1, 0)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "path is None: give the path of a file"),
        (7, "path is 7: give the path of a file"),
        (b"jobs.db", "path is b'jobs.db': give the path of a file"),
        ("", "path is '': give the path of a file; for a broker in memory use MemoryBroker"),
        (":memory:", "path is ':memory:': give the path of a file; for a broker in memory use MemoryBroker"),
        (
            "file:jobs.db?mode=memory",
            "path is 'file:jobs.db?mode=memory': give the path of a file; for a broker in memory use MemoryBroker",
        ),
        (
            "sqlite:///jobs.db",
            "path is 'sqlite:///jobs.db', a URL: give the path of a file, or the URL to broker_from_url",
        ),
    ],
)
def test_what_is_no_path_of_a_file_is_an_error_that_says_what_to_give(given: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SQLiteBroker(given)
    assert str(caught.value) == text


def test_a_directory_is_no_path_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        SQLiteBroker(tmp_path)
    assert str(caught.value) == f"path is {str(tmp_path)!r}, a directory: give the path of a file"


def test_a_directory_that_is_missing_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "jobs.db"
    with pytest.raises(StoreUnavailable) as caught:
        SQLiteBroker(path)
    assert str(caught.value) == f"{path}: there is no directory {path.parent}: create it first"
    assert not path.parent.exists()


def test_synchronous_is_normal_or_full(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        SQLiteBroker(path, synchronous="off")  # type: ignore[arg-type]
    assert str(caught.value) == 'synchronous is \'off\': give "normal" or "full"'


@pytest.mark.parametrize(("synchronous", "number"), [("normal", 1), ("full", 2), (None, 1)])
@pytest.mark.parametrize("user", [SQLiteBroker, SQLiteResultBackend, SQLiteRateLimiterBackend])
def test_both_connections_are_as_synchronous_as_was_asked_for(
    path: Path, user: Callable[..., Any], synchronous: str | None, number: int
) -> None:
    options = {"synchronous": synchronous} if synchronous is not None else {}
    with closing(user(path, **options)) as opened:
        database = opened.file.database if user is SQLiteBroker else opened._db

        def asked(con: sqlite3.Connection) -> int:
            return int(con.execute("PRAGMA synchronous").fetchone()[0])

        assert [database.write(asked), database.read(asked)] == [number, number]


def test_a_file_on_a_network_file_system_is_refused_before_it_is_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = path.parent.stat().st_dev
    mounts = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw,noatime shared:1 - nfs4 server:/jobs rw\n"
    monkeypatch.setattr(Path, "read_text", lambda path, *args, **kwargs: mounts)
    with pytest.raises(ConfigError) as caught:
        SQLiteBroker(path)
    assert str(caught.value) == (
        f"{path} is on a network file system (nfs4), where SQLite's locks cannot be trusted: use a local disk"
    )
    assert not path.exists()


def test_a_sqlite_that_is_too_old_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 9))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.9")
    with pytest.raises(ConfigError, match=r"has SQLite 3\.34\.9, and 3\.35 or newer is needed"):
        SQLiteBroker(path)


# -- The schema's version --------------------------------------------------------------------------------------------


def version_and_tables(path: Path) -> tuple[int, list[str]]:
    connection = sqlite3.connect(path)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return version, [row[0] for row in rows]
    finally:
        connection.close()


FIRST = ("CREATE TABLE first (id INTEGER PRIMARY KEY)", "INSERT INTO first VALUES (1)")
SECOND = ("CREATE TABLE second AS SELECT id + 1 AS id FROM first", "DROP TABLE first")


def test_a_file_of_an_older_version_is_migrated_with_all_that_is_in_it(path: Path) -> None:
    Database(path, (FIRST,)).close()
    database = Database(path, (FIRST, SECOND))
    assert database.read(lambda con: con.execute("SELECT id FROM second").fetchall()) == [(2,)]
    database.close()
    assert version_and_tables(path) == (2, ["second"])


def test_a_migration_that_fails_leaves_the_version_and_the_tables_as_they_were(path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        Database(path, ((*FIRST, "CREATE nonsense"),))
    assert version_and_tables(path) == (0, [])
    Database(path, (FIRST,)).close()
    with pytest.raises(StoreUnavailable):
        Database(path, (FIRST, (*SECOND, "CREATE nonsense")))
    assert version_and_tables(path) == (1, ["first"])
    Database(path, (FIRST, SECOND)).close()


# -- A full disk -----------------------------------------------------------------------------------------------------


def fill(store: SQLiteStore, stored: list[bytes]) -> StoreUnavailable:
    """Put until it is refused."""
    for n in range(100_000):
        data = b"%d " % n + bytes(300)
        try:
            put(store, data)
        except StoreUnavailable as error:
            return error
        stored.append(data)
    raise AssertionError("the disk was never full")


def test_a_full_database_refuses_what_is_sent_keeps_what_it_has_and_goes_on_when_there_is_room(
    open_store: Callable[..., SQLiteStore],
) -> None:
    store = open_store()
    stored: list[bytes] = []
    writer = store._db._writer
    assert writer is not None
    writer.execute("PRAGMA max_page_count = 40")
    error = fill(store, stored)
    assert "database or disk is full" in str(error)
    assert "nothing was stored" in str(error)
    assert payloads(store) == stored
    writer.execute("PRAGMA max_page_count = 4000")
    put(store, b"one more")
    assert payloads(store) == [*stored, b"one more"]
    assert store.check() == []


def test_work_that_is_done_makes_room_in_a_full_database(open_store: Callable[..., SQLiteStore]) -> None:
    store = open_store()
    writer = store._db._writer
    assert writer is not None
    writer.execute("PRAGMA max_page_count = 40")
    fill(store, [])
    assert store.finish_many(claim_all(store)) == []
    stored: list[bytes] = []
    fill(store, stored)
    assert len(stored) > 50
    assert payloads(store) == stored


def test_a_full_disk_refuses_what_is_sent_keeps_what_it_has_and_goes_on_when_there_is_room(
    small_disk: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(400_000))
    store = open_store(small_disk / "jobs.db")
    stored: list[bytes] = []
    error = fill(store, stored)
    assert "nothing was stored" in str(error)
    assert counts(store).due == len(stored)
    filler.unlink()
    put(store, b"one more")
    assert payloads(store) == [*stored, b"one more"]
    assert store.check() == []


@pytest.mark.parametrize("move", ["finish", "reschedule", "flush"])
def test_on_a_full_disk_a_move_is_made_or_refused_and_the_message_is_there(
    small_disk: Path, open_store: Callable[..., SQLiteStore], move: str
) -> None:
    path = small_disk / "jobs.db"
    store = open_store(path)
    put(store)
    [claim] = claim_all(store)
    fill(store, [])
    before = counts(store)
    moves: dict[str, Callable[[], object]] = {
        "finish": lambda: store.finish(claim),
        "reschedule": lambda: store.reschedule(claim, data=bytes(100_000), due_at=NOW, now=NOW),
        "flush": lambda: store.flush("default"),
    }
    try:
        moves[move]()
    except StoreUnavailable:
        assert counts(store) == before
    assert store.check() == []
    grow(small_disk)


def test_a_store_that_is_closed_on_a_full_disk_lets_go_of_all_that_it_holds(
    small_disk: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    path = small_disk / "jobs.db"
    store = SQLiteStore(path)
    put(store)
    [claim] = claim_all(store)
    store.finish(claim)
    fill(store, [])
    try:
        store.close()
    except StoreUnavailable:
        pass
    grow(small_disk)
    store.close()
    other = open_store(path)
    other.recover(now=NOW, max_crashes=3)
    assert [name for name in os.listdir(small_disk) if "-worker-" in name] == []


def test_a_worker_that_begins_a_message_on_a_full_disk_is_not_killed_by_it(small_disk: Path) -> None:
    script = """
import os, sys
from dramatiq_retryq.sqlite_store import SQLiteStore
store = SQLiteStore(sys.argv[1])
store.put("default", b"payload", due_at=0, now=0)
[claim] = store.claim("default", now=0, limit=1, owner="here:1")
with open(sys.argv[2], "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
store.begin(claim)
store.end(claim)
"""
    arguments = [sys.executable, "-c", script, str(small_disk / "jobs.db"), str(small_disk / "filler")]
    package = str(Path(database.__file__).parents[1])
    ended = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": package}, capture_output=True)
    assert ended.returncode != -signal.SIGBUS


def test_a_disk_that_became_read_only_refuses_what_is_sent_and_goes_on_when_it_is_writable_again(
    small_disk: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    path = small_disk / "jobs.db"
    first = open_store(path)
    put(first, b"first")
    first.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreUnavailable) as caught:
        put(open_store(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "may be written to" in str(caught.value)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    store = open_store(path)
    put(store, b"second")
    assert payloads(store) == [b"first", b"second"]


# -- Deleted, replaced, damaged --------------------------------------------------------------------------------------


def test_a_file_that_was_deleted_while_in_use_refuses_what_is_sent_and_works_once_it_is_back(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store, b"first")
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable) as caught:
        put(store, b"refused")
    assert str(caught.value) == (
        f"{path} was deleted or replaced while in use: nothing was stored; put the file back, or restart every "
        "process that uses it"
    )
    assert not path.exists()
    path.with_name("elsewhere").rename(path)
    put(store, b"second")
    assert payloads(store) == [b"first", b"second"]


@pytest.mark.parametrize("move", ["put", "claim", "finish", "release", "flush"])
def test_no_move_is_made_on_a_file_that_was_deleted(
    path: Path, open_store: Callable[..., SQLiteStore], move: str
) -> None:
    store = open_store()
    put(store)
    [claim] = store.claim("default", now=NOW, limit=1, owner="here:1")
    put(store)
    path.rename(path.with_name("elsewhere"))
    moves: dict[str, Callable[[], object]] = {
        "put": lambda: put(store),
        "claim": lambda: claim_all(store),
        "finish": lambda: store.finish(claim),
        "release": lambda: store.release([claim], now=NOW),
        "flush": lambda: store.flush("default"),
    }
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        moves[move]()
    path.with_name("elsewhere").rename(path)
    assert counts(store).waiting + counts(store).claimed == 2


def test_who_looks_for_the_first_time_after_the_file_was_deleted_makes_no_other(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable):
        store.counts(now=NOW)
    assert not path.exists()


def test_who_looked_for_the_first_time_while_the_file_was_deleted_sees_it_once_it_is_back(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable):
        store.counts(now=NOW)
    path.with_name("elsewhere").replace(path)
    assert counts(store) == QueueCounts(due=1, oldest_due_at=NOW)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_file_that_was_deleted_after_a_fork_refuses_what_is_sent(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StoreUnavailable):
        put(store)
    assert not path.exists()


def test_the_first_claim_of_a_process_says_so_when_the_whole_directory_is_gone(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    directory = path.parent / "jobs"
    directory.mkdir()
    store = open_store(directory / "jobs.db")
    put(store)
    assert counts(store).due == 1
    directory.rename(path.parent / "elsewhere")
    with pytest.raises(StoreUnavailable):
        claim_all(store)
    (path.parent / "elsewhere").rename(directory)
    assert len(claim_all(store)) == 1


def test_a_file_that_was_replaced_by_another_refuses_what_is_sent_and_the_other_is_unharmed(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    other = SQLiteStore(path.with_name("other.db"))
    put(other, b"of the other")
    other.close()
    store = open_store()
    put(store)
    before = path.with_name("other.db").read_bytes()
    path.with_name("other.db").replace(path)
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        put(store)
    assert path.read_bytes() == before


PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with something in each state and no page to spare."""
    path = tmp_path_factory.mktemp("sound") / "jobs.db"
    store = SQLiteStore(path)
    for n in range(60):
        put(store, b"%d " % n + bytes(200))
    store.claim("default", now=NOW, limit=20, owner="elsewhere:1")
    store._workers.own = None  # as if this process had died
    store.close()
    assert not path.with_name("jobs.db-wal").exists()
    return path


def findings(path: Path) -> list[str]:
    """All that opening, looking, sending and claiming say of a file's damage."""
    found: list[str] = []
    try:
        store = SQLiteStore(path)
    except RetryQueueError as error:
        return [str(error)]
    steps: tuple[Callable[[], object], ...] = (
        lambda: found.extend(store.check()),
        lambda: store.counts(now=NOW),
        lambda: put(store),
        lambda: claim_all(store),
        lambda: store.find("nobody"),
        lambda: list(store.letters()),
        lambda: store.recover(now=NOW, max_crashes=3),
    )
    try:
        for step in steps:
            try:
                step()
            except StoreUnavailable as error:
                found.append(str(error))
    finally:
        try:
            store.close()
        except StoreUnavailable as error:
            found.append(str(error))
    return found


def test_a_sound_file_has_no_findings(path: Path, sound: Path) -> None:
    shutil.copy(sound, path)
    assert findings(path) == []


@pytest.mark.parametrize("garbage", [b"\xff", b"\x00", b"\x5a"])
def test_a_page_that_was_overwritten_is_found_wherever_it_is(path: Path, sound: Path, garbage: bytes) -> None:
    pages = sound.stat().st_size // PAGE
    assert pages > 10
    unnoticed = []
    for page in range(pages):
        shutil.copy(sound, path)
        with path.open("r+b") as file:
            file.seek(page * PAGE)
            file.write(garbage * PAGE)
        if not findings(path):
            unnoticed.append(page)
        for left in path.parent.glob("jobs.db*"):
            left.unlink()
    assert unnoticed == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process has open is read from /proc")
def test_a_file_that_cannot_be_opened_is_let_go(path: Path, sound: Path) -> None:
    refused = []
    for page in range(sound.stat().st_size // PAGE):
        shutil.copy(sound, path)
        with path.open("r+b") as file:
            file.seek(page * PAGE)
            file.write(b"\xff" * PAGE)
        try:
            SQLiteStore(path).close()
        except RetryQueueError as error:
            refused.append(error)  # kept, as a caller may: what its frames hold must be closed all the same
        assert opened_in(path.parent) == []
        for left in path.parent.glob("jobs.db*"):
            left.unlink()
    assert len(refused) > 1


def opened_in(directory: Path) -> list[str]:
    """The files of a directory that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except OSError:
            continue  # the one that listed them
    return [link for link in links if link.startswith(str(directory))]


def test_a_file_that_was_cut_off_in_the_middle_is_found(path: Path, sound: Path) -> None:
    shutil.copy(sound, path)
    os.truncate(path, sound.stat().st_size // PAGE // 2 * PAGE)
    assert findings(path) != []


def test_an_index_that_lost_an_entry_is_found(path: Path, sound: Path) -> None:
    shutil.copy(sound, path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("DELETE FROM sqlite_master WHERE name = 'waiting'")
    connection.commit()
    connection.close()
    assert findings(path) != []


def test_a_claim_of_a_worker_that_is_not_registered_is_found(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store)
    [claim] = claim_all(store)
    assert store.check() == []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM workers")
    assert store.check() == [f"entry {claim.id} is claimed by a worker that is not registered"]


# -- Locks -----------------------------------------------------------------------------------------------------------


class Lock:
    """Another connection that locks the file; time passes only in sleep()."""

    def __init__(self, path: Path) -> None:
        self.slept = 0.0
        self.until = float("inf")
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("BEGIN EXCLUSIVE")

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        if self.slept >= self.until and self.connection.in_transaction:
            self.connection.execute("COMMIT")


@pytest.fixture
def lock(path: Path) -> Iterator[Lock]:
    Database(path, MIGRATIONS).close()
    lock = Lock(path)
    yield lock
    lock.connection.close()


INSERT = "INSERT INTO results (key, data, expires_at) VALUES ('key', x'00', 1)"


@pytest.mark.parametrize("single", [True, False])
def test_a_write_waits_for_as_long_as_a_backup_holds_the_lock(path: Path, lock: Lock, single: bool) -> None:
    database = Database(path, MIGRATIONS, sleep=lock.sleep)
    lock.until = 30
    assert database.write(lambda con: con.execute(INSERT).rowcount, single=single) == 1
    assert 30 <= lock.slept < 30.1
    assert database.read(lambda con: con.execute("SELECT count(*) FROM results").fetchone()) == (1,)
    database.close()


@pytest.mark.parametrize("single", [True, False])
def test_a_write_that_has_waited_beyond_its_patience_is_refused_and_stored_nothing(
    path: Path, lock: Lock, single: bool
) -> None:
    database = Database(path, MIGRATIONS, sleep=lock.sleep, patience=40)
    with pytest.raises(StoreUnavailable) as caught:
        database.write(lambda con: con.execute(INSERT).rowcount, single=single)
    assert str(caught.value) == (
        f"{path}: another process has held the database's lock for 40 s: nothing was stored; see which one does with "
        "'fuser' or 'lsof', and let it finish"
    )
    assert 40 <= lock.slept < 41
    lock.connection.execute("COMMIT")
    assert database.read(lambda con: con.execute("SELECT count(*) FROM results").fetchone()) == (0,)
    database.write(lambda con: con.execute(INSERT).rowcount, single=single)
    database.close()


def test_who_only_reads_does_not_wait(path: Path, lock: Lock) -> None:
    database = Database(path, MIGRATIONS, sleep=lock.sleep)
    assert database.read(lambda con: con.execute("SELECT count(*) FROM results").fetchone()) == (0,)
    assert lock.slept == 0
    database.close()


def test_the_waits_are_short_and_of_random_length_so_that_no_writer_starves(path: Path, lock: Lock) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        lock.sleep(seconds)

    database = Database(path, MIGRATIONS, sleep=sleep)
    lock.until = 0.2
    database.write(lambda con: con.execute(INSERT).rowcount)
    assert max(waits) <= 0.001
    assert len(set(waits)) > len(waits) // 2
    database.close()


# -- Backups ---------------------------------------------------------------------------------------------------------

BACKUP = """
import sqlite3, sys
source, target = sqlite3.connect(sys.argv[1]), sqlite3.connect(sys.argv[2])
print("begins", flush=True)
source.backup(target, pages=20, sleep=0.001)
target.close()
print("done", flush=True)
"""


def test_a_backup_made_while_messages_come_and_go_is_a_good_copy(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    for n in range(2_000):
        put(store, b"old %d " % n + bytes(200))
    copy = path.with_name("copy.db")
    with subprocess.Popen(
        [sys.executable, "-c", BACKUP, str(path), str(copy)], stdout=subprocess.PIPE, text=True
    ) as backup:
        assert backup.stdout is not None
        assert backup.stdout.readline() == "begins\n"
        while backup.poll() is None:
            put(store, b"new")
            store.finish_many(store.claim("default", now=NOW, limit=1, owner="elsewhere:1"))
        assert backup.returncode == 0
    copied = open_store(copy)
    assert copied.check() == []
    assert counts(copied).waiting + counts(copied).claimed >= 2_000
    put(copied, b"to the copy")
    assert store.check() == []


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="SQLite's command line tool is not installed")
def test_a_backup_by_the_command_line_tool_while_messages_come_now_and_then_is_a_good_copy(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    for n in range(50):
        put(store, b"old %d" % n)
    for number in range(5):
        copy = path.with_name(f"copy-{number}.db")
        with subprocess.Popen(["sqlite3", str(path), f".backup '{copy}'"], stderr=subprocess.PIPE, text=True) as backup:
            while backup.poll() is None:
                put(store, b"new")
                with suppress(subprocess.TimeoutExpired):
                    backup.wait(0.01)
            assert backup.stderr is not None
            assert (backup.returncode, backup.stderr.read()) == (0, "")
        copied = open_store(copy)
        assert copied.check() == []
        assert payloads(copied)[:50] == [b"old %d" % n for n in range(50)]
        put(copied, b"to the copy")
    assert store.check() == []


def test_what_was_claimed_when_a_copy_was_made_is_run_again_where_a_worker_starts_on_the_copy(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store)
    claim_all(store, owner="another-host:1")
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    target = sqlite3.connect(elsewhere / "jobs.db")
    source = sqlite3.connect(path)
    source.backup(target)
    source.close()
    target.close()
    copied = open_store(elsewhere / "jobs.db")
    assert counts(copied) == QueueCounts(claimed=1)
    copied.recover(now=NOW, max_crashes=3)
    assert counts(copied) == QueueCounts(due=1, oldest_due_at=NOW)
    assert copied.check() == []
    # The original is not concerned: there it is claimed as before.
    store.recover(now=NOW, max_crashes=3)
    assert counts(store) == QueueCounts(claimed=1)


# -- Growth ----------------------------------------------------------------------------------------------------------


def test_the_file_and_its_log_do_not_grow_with_what_has_gone_through_them(quick_directory: Path) -> None:
    path = quick_directory / "growth.db"
    store = SQLiteStore(path)
    sizes: list[tuple[int, int]] = []
    for _ in range(20):
        for _ in range(500):
            put(store, bytes(200))
        store.finish_many(claim_all(store))
        sizes.append((path.stat().st_size, path.with_name("growth.db-wal").stat().st_size))
    store.close()
    assert path.stat().st_size < 1_000_000
    assert max(file for file, _ in sizes) < 1_000_000
    assert max(log for _, log in sizes) < 20_000_000


def test_the_log_is_gone_once_the_last_process_has_closed_the_file(
    path: Path, open_store: Callable[..., SQLiteStore]
) -> None:
    store = open_store()
    put(store)
    store.finish_many(claim_all(store))
    store.close()
    assert set(os.listdir(path.parent)) <= {"jobs.db", "jobs.db-turn"}
