"""Numbers out of a SQLite file that do not take longer the more there is in it, and the counters by minute.

How many entries there are is kept, for all but the newest; see the second version of the tables in
:mod:`dramatiq_retryq.schema`. How many of them are due is found by counting either those that are or those that are
not, whichever are fewer.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from . import schema as sql
from .database import Database
from .errors import StoreUnavailable
from .records import Claim, QueueCounts
from .status import MINUTE, Minute
from .tally import KEPT_MINUTES, Happening, Tally, minutes_of

__all__ = ["Counters", "catch_up", "check", "count_anew", "count_on", "count_out", "counts", "places", "unfinished"]

T = TypeVar("T")

#: How many are counted on both sides before it is guessed which side is the smaller one.
_BOTH_SIDES = 1_000
#: How many entries are looked at to guess it.
_SAMPLES = 32
#: So many entries that the totals do not know of, or happenings, are worth a write of their own.
_MANY = 20_000


class Counters:
    """What happened, by minute: noted in memory, and written along with some other commit, once a second at the most.

    A process that is killed takes its last second of them with it.
    """

    #: How often (ms) they are written.
    EVERY = 1_000

    def __init__(self, db: Database) -> None:
        self._db = db
        self.forget()

    def forget(self) -> None:
        """In the child of a fork: what was counted is the parent's."""
        #: At these instants (ms since the epoch) nothing is written: what happens is appended to one of the two below.
        #: They are of one minute.
        self.quiet = range(0)
        #: The queues of what was sent and of what was done, once for each message. Without a lock: an append is atomic.
        self.sent: deque[str] = deque()
        self.done: deque[str] = deque()
        self._lock = threading.Lock()
        self._tally = Tally()

    def is_due(self, now: int) -> bool:
        """Whether it is time to write: then a move goes through :meth:`write`, else it is noted when it is done."""
        return now not in self.quiet or len(self.sent) > _MANY

    def write(
        self,
        move: Callable[[sqlite3.Connection], T],
        *,
        now: int,
        happened: Callable[[T], Iterable[Happening]],
        single: bool = False,
    ) -> T:
        """Commit a move, and count what happened with it, told by what the move returned."""
        if not self.is_due(now):
            result = self._db.write(move, single=single)
            with self._lock:
                for what, queue_name, times in happened(result):
                    self._tally.add(what, queue_name, now, times)
            return result
        taken = self._take()
        minute = now - now % MINUTE
        self.quiet = range(max(minute, now - self.EVERY), min(minute + MINUTE, now + self.EVERY))

        def move_and_count(con: sqlite3.Connection) -> T:
            result, own = move(con), Tally()
            for what, queue_name, times in happened(result):
                own.add(what, queue_name, now, times)
            _add_minutes(con, (taken, own), now)
            return result

        try:
            return self._db.write(move_and_count)
        except BaseException:
            with self._lock:
                self._tally.merge(taken)
            raise

    def _take(self) -> Tally:
        """All that was counted and not written, which is forgotten here."""
        with self._lock:
            taken = self._tally.take()
            for what, noted in (("sent", self.sent), ("succeeded", self.done)):
                # So many, and not until there are none: others go on to append.
                times_by_queue = Counter(noted.popleft() for _ in range(len(noted)))
                for queue_name, times in times_by_queue.items():
                    taken.add(what, queue_name, self.quiet.start, times)
        return taken

    def keep(self, *, now: int, at_once: bool = False) -> None:
        """Write what was counted and not written yet, if it is time to.

        Raises:
            StoreUnavailable: it cannot be written now, and is kept.
        """
        if not (self.sent or self.done or self._tally):
            return
        if at_once:
            self.quiet = range(self.quiet.start, self.quiet.start)
        if self.is_due(now):
            self.write(lambda con: None, now=now, happened=lambda _: ())

    def keep_last(self) -> None:
        """Write what is left, at the end."""
        taken = self._take()
        last = taken.last_at()
        if last is not None:
            with self._lock:
                self._tally.merge(taken)
            self.keep(now=last, at_once=True)

    def minutes(self, *, since_at: int) -> list[Minute]:
        found: dict[tuple[int, str], dict[str, int]] = {}
        rows = self._db.read(lambda con: con.execute(sql.MINUTES, (since_at - MINUTE,)).fetchall())
        for at, queue_name, what, times in rows:
            found.setdefault((at, queue_name), {})[what] = times
        return minutes_of(((*key, happened) for key, happened in found.items()), since_at=since_at)


def _add_minutes(con: sqlite3.Connection, tallies: Sequence[Tally], now: int) -> None:
    rows = [
        (at, queue_name, what, times)
        for tally in tallies
        for at, queue_name, happened in tally.rows()
        for what, times in happened.items()
    ]
    con.executemany(sql.ADD_MINUTE, rows)
    day = KEPT_MINUTES * MINUTE
    con.execute(sql.FORGET_MINUTES, (now - day, now + day))
    count_on(con)


def count_on(con: sqlite3.Connection) -> None:
    """Take into the totals what came in since this was last done."""
    con.execute(sql.COUNT_ON)
    con.execute(sql.COUNTED)


def count_out(con: sqlite3.Connection, claims: Sequence[Claim]) -> None:
    """Take out of the totals what is no longer there, or is dead."""
    (up_to,) = con.execute(sql.UP_TO).fetchone()
    gone = [claim.queue_name for claim in claims if claim.id <= up_to]
    if gone:
        con.executemany(sql.COUNT_OUT, [(number, queue_name) for queue_name, number in Counter(gone).items()])


def catch_up(db: Database) -> None:
    """Take in what the totals do not know of, if that is much: a file that was filled by other means."""
    # By the connection that is open already: it writes nothing.
    if db.write(lambda con: con.execute(sql.MANY_UNCOUNTED, (_MANY,)).fetchone(), single=True) is not None:
        try:
            db.write(count_on)
        except StoreUnavailable:
            pass  # whoever counts looks at them one by one, and tries again


def counts(db: Database, *, now: int) -> dict[str, QueueCounts]:
    """How many entries of each queue are in which state."""
    uncounted = 0

    def query(con: sqlite3.Connection) -> dict[str, QueueCounts]:
        nonlocal uncounted
        con.execute("BEGIN")  # so that all of them look at the same instant
        try:
            alive, uncounted = _alive(con)
            held = {row[0]: row[1:] for row in con.execute(sql.COUNT_HELD, (now,)).fetchall()}
            claimed = dict(con.execute(sql.COUNT_CLAIMED).fetchall())
            dead = dict(con.execute(sql.COUNT_DEAD).fetchall())
            found = {}
            for queue in sorted({*alive, *claimed, *dead}):
                total = alive.get(queue, 0) - claimed.get(queue, 0)
                set_aside, due_then, oldest = held.get(queue, (0, 0, None))
                due = due_then + _due(con, queue, total - set_aside, now)
                first = con.execute(sql.HEAD, (queue,)).fetchone()
                found[queue] = QueueCounts(
                    due=due,
                    later=total - due,
                    claimed=claimed.get(queue, 0),
                    dead=dead.get(queue, 0),
                    held=set_aside,
                    oldest_due_at=min((at for at in (oldest, first and first[0]) if at is not None), default=None),
                )
            return found
        finally:
            con.execute("COMMIT")

    found = db.read(query)
    if uncounted > _MANY:
        try:
            db.write(count_on)
        except StoreUnavailable:
            pass  # it is counted again the next time
    return found


def unfinished(db: Database, queue_name: str) -> int:
    """How many entries of a queue are waiting or claimed."""

    def query(con: sqlite3.Connection) -> int:
        con.execute("BEGIN")
        try:
            return _alive(con)[0].get(queue_name, 0)
        finally:
            con.execute("COMMIT")

    return db.read(query)


def places(con: sqlite3.Connection) -> tuple[list[str], list[tuple[str, str]]]:
    """The queues in which anything waits and is not held, and the actors and queues for and in which anything is."""
    held = [
        (actor, queue)
        for (actor,) in con.execute(sql.HELD_FOR).fetchall()
        for queue in _names(con, sql.NEXT_HELD, actor)
    ]
    return list(_names(con, sql.NEXT_QUEUE)), held


def _names(con: sqlite3.Connection, next_one: str, *where: str) -> Iterator[str]:
    # One by one, each found by the index: a SELECT DISTINCT reads all that waits.
    name: str | None = ""
    while (name := con.execute(next_one, (*where, name)).fetchone()[0]) is not None:
        yield name


def _alive(con: sqlite3.Connection) -> tuple[dict[str, int], int]:
    """How many wait or are claimed in each queue that has any, and how many of all were looked at one by one."""
    alive: dict[str, int] = dict(con.execute(sql.TOTALS).fetchall())
    uncounted = con.execute(sql.UNCOUNTED).fetchall()
    for queue, number in uncounted:
        alive[queue] = alive.get(queue, 0) + number
    return {queue: number for queue, number in alive.items() if number}, sum(number for _, number in uncounted)


def _due(con: sqlite3.Connection, queue: str, total: int, now: int) -> int:
    """How many of a queue's entries are due, ``total`` being how many wait and are not held."""
    if total <= 0:
        return 0
    last = con.execute(sql.LAST, (queue,)).fetchone()
    if last is not None and last[0] <= now:
        return total

    def count(statement: str, *limit: int) -> int:
        return int(con.execute(statement, (queue, now, *limit)).fetchone()[0])

    if (due := count(sql.SOME_DUE, _BOTH_SIDES)) < _BOTH_SIDES:
        return due
    if (later := count(sql.SOME_LATER, _BOTH_SIDES)) < _BOTH_SIDES:
        return total - later
    return total - count(sql.COUNT_LATER) if _mostly_due(con, now) else count(sql.COUNT_DUE)


def _mostly_due(con: sqlite3.Connection, now: int) -> bool:
    """Whether more entries seem to be due than not. It is no more than a guess at which ones to count."""
    least, greatest = con.execute(sql.LEAST_AND_GREATEST).fetchone()
    step = max(1, (greatest - least) // _SAMPLES)
    sample = [con.execute(sql.SAMPLE, (least + number * step,)).fetchone() for number in range(_SAMPLES)]
    due = sum(1 for row in sample if row is not None and row[0] <= now)
    return 2 * due > len(sample)


def check(con: sqlite3.Connection) -> list[str]:
    """A sentence for each total that is not what is there."""
    kept, _ = _alive(con)
    found: dict[str, int] = {}
    for queue, number in con.execute(sql.COUNT_ALIVE):
        found[queue] = found.get(queue, 0) + number
    findings = [
        f"queue {queue!r}: {found.get(queue, 0)} entries wait or are claimed, and {kept.get(queue, 0)} were counted: "
        "they are counted anew"
        for queue in sorted({*kept, *found})
        if kept.get(queue, 0) != found.get(queue, 0)
    ]
    findings += [
        f"entry {row_id} is set aside in one place and not in the other"
        for (row_id,) in con.execute(sql.SET_ASIDE_IN_ONE_PLACE)
    ]
    return findings


def count_anew(con: sqlite3.Connection) -> None:
    """Count all of them, whatever the totals say: another program has changed the file."""
    con.execute(sql.CLEAR_SET_ASIDE)
    con.execute(sql.FORGET_TOTALS)
    con.execute(sql.COUNT_FROM_THE_START)
    count_on(con)
