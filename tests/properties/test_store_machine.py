"""Every store beside a plain dict: whatever is done to both, in any order, they stay the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
from dramatiq import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dramatiq_retryq.errors import ClaimLost, LetterNotFound, MessageNotFound, QueueFull
from dramatiq_retryq.memory_store import MemoryStore
from dramatiq_retryq.records import Claim, DeadLetter, Entry, QueueCounts
from dramatiq_retryq.sqlite_store import SQLiteStore
from dramatiq_retryq.status import Rates
from dramatiq_retryq.store import Store


class Make(NamedTuple):
    """How a store is made in an empty directory of its own, which limits it knows, and how often it is tried."""

    open: Callable[..., Store]
    limits: tuple[str, ...] = ("max_messages", "max_dead_letters")
    runs: int = 40


STORES = {
    "memory": Make(lambda directory, **limits: MemoryStore(**limits)),
    "sqlite": Make(lambda directory, **limits: SQLiteStore(directory / "jobs.db", **limits), ("max_dead_letters",), 20),
}

NOW = 1_767_225_600_000
QUEUES = ["default", "other"]
queues = st.sampled_from(QUEUES)
actors = st.sampled_from(["add", "subtract"])
#: How far from now an entry is due (ms): so near that instants often meet.
offsets = st.integers(-3, 3)


@dataclass
class Row:
    """An entry, as far as a dict needs to know it."""

    arrival: int
    message_id: str
    queue: str
    data: bytes
    due_at: int
    state: str = "waiting"
    claim: Claim | None = None
    died_at: int = 0
    held_for: str | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.due_at, self.arrival


# When a rule makes sense. No lambdas: older Hypotheses parse this file anew for each one at each step.


def there_is_room(machine: StoreBesideADict) -> bool:
    return len(machine.among("waiting")) < 10


def anything_waits(machine: StoreBesideADict) -> bool:
    return bool(machine.among("waiting"))


def anything_is_held(machine: StoreBesideADict) -> bool:
    return bool(machine.held())


def anything_was_held(machine: StoreBesideADict) -> bool:
    return bool(machine.held() or machine.lost)


def anything_is_lost(machine: StoreBesideADict) -> bool:
    return bool(machine.lost)


def anything_is_dead(machine: StoreBesideADict) -> bool:
    return bool(machine.among("dead"))


def anything_is_alive(machine: StoreBesideADict) -> bool:
    return bool(machine.among("waiting", "claimed"))


def there_is_much(machine: StoreBesideADict) -> bool:
    return len(machine.rows) > 6


class StoreBesideADict(RuleBasedStateMachine):
    make: Make

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.rows: dict[int, Row] = {}
        self.lost: list[Claim] = []
        self.arrivals = 0
        self.deaths = 0
        self.paused: set[str] = set()
        self.happened: Counter[str] = Counter()

    @initialize(
        max_messages=st.none() | st.integers(4, 12),
        max_dead_letters=st.none() | st.integers(1, 3),
        loads=st.tuples(*[st.lists(offsets, max_size=3)] * 3),
    )
    def open(
        self,
        max_messages: int | None,
        max_dead_letters: int | None,
        loads: tuple[list[int], list[int], list[int]],
    ) -> None:
        self.directory = tempfile.TemporaryDirectory()
        drawn = {"max_messages": max_messages, "max_dead_letters": max_dead_letters}
        limits = {name: drawn[name] for name in self.make.limits}
        self.max_messages, self.max_dead_letters = limits.get("max_messages"), limits.get("max_dead_letters")
        self.store = self.make.open(Path(self.directory.name), **limits)
        # Something dead, something claimed and something waiting, or it takes most of a run to get there.
        for queue in QUEUES:
            dead, claimed, waiting = loads
            self.put(queue, dead, exempt=True)
            self.claim(queue, limit=3, after=3)
            for claim in self.held():
                if claim.queue_name == queue:
                    self.bury(claim, notice_to=None)
            self.put(queue, claimed, exempt=True)
            self.claim(queue, limit=3, after=3)
            self.put(queue, waiting, exempt=True)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.directory.cleanup()

    # -- What the dict knows -------------------------------------------------------------------------------------

    def among(self, *states: str, queue: str | None = None) -> list[tuple[int, Row]]:
        return [
            (entry_id, row)
            for entry_id, row in self.rows.items()
            if row.state in states and (queue is None or row.queue == queue)
        ]

    def held(self) -> list[Claim]:
        return [row.claim for _, row in self.among("claimed") if row.claim is not None]

    def letters(self) -> list[tuple[int, Row]]:
        return sorted(self.among("dead"), key=lambda item: item[1].died_at, reverse=True)

    def lose(self, claim: Claim) -> Row:
        self.lost.append(claim)
        row = self.rows[claim.id]
        row.claim = None
        return row

    def note(self, entry_id: int, queue: str, data: bytes, message_id: str, due_at: int) -> None:
        assert entry_id not in self.rows, "an id was given twice"
        self.rows[entry_id] = Row(self.arrivals, message_id, queue, data, due_at)

    def message(self, queue: str) -> tuple[str, bytes]:
        self.arrivals += 1
        message_id = f"m-{self.arrivals}-"
        return message_id, self.payload(queue, message_id)

    def payload(self, queue: str, message_id: str, **options: int) -> bytes:
        return Message(
            queue_name=queue,
            actor_name="add",
            args=(),
            kwargs={},
            options=dict(options),
            message_id=message_id,
            message_timestamp=self.now,
        ).encode()

    # -- Moves: few rules with much to draw, since Hypothesis leaves rules out of most of its runs -----------------

    @precondition(there_is_room)
    @rule(queue=queues, load=st.lists(offsets, min_size=1, max_size=4), exempt=st.booleans())
    def put(self, queue: str, load: list[int], exempt: bool) -> None:
        for offset in load:
            message_id, data = self.message(queue)
            due_at = self.now + offset
            full = self.max_messages is not None and len(self.among("waiting", "claimed")) >= self.max_messages
            if full and not exempt:
                with pytest.raises(QueueFull):
                    self.store.put(queue, data, due_at=due_at, now=self.now)
            else:
                entry_id = self.store.put(queue, data, due_at=due_at, now=self.now, exempt=exempt)
                self.happened["sent"] += 1
                self.note(entry_id, queue, data, message_id, due_at)

    @precondition(anything_waits)
    @rule(queue=queues, limit=st.integers(0, 4), after=offsets)
    def claim(self, queue: str, limit: int, after: int) -> None:
        self.now += after  # back too, as when the clock is set
        due = [
            (entry_id, row)
            for entry_id, row in self.among("waiting", queue=queue)
            if row.due_at <= self.now and row.held_for is None
        ]
        due = sorted(due, key=lambda item: item[1].place)[:limit]
        claims = self.store.claim(queue, now=self.now, limit=limit, owner="host:1")
        assert [(c.id, c.queue_name, c.data, c.due_at, c.deliveries, c.claimed_at) for c in claims] == [
            (entry_id, queue, row.data, row.due_at, 1, self.now) for entry_id, row in due
        ]
        for claim, (_, row) in zip(claims, due, strict=True):
            row.state, row.claim = "claimed", claim

    @precondition(anything_is_held)
    @rule(move=st.sampled_from(["finish", "reschedule", "bury"]), notice_to=st.none() | queues, data=st.data())
    def settle(self, move: str, notice_to: str | None, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.held()))
        if move == "finish":
            self.store.finish(claim)
            self.happened["succeeded"] += 1
            self.lose(claim)
            del self.rows[claim.id]
        elif move == "reschedule":
            self.reschedule(claim, due_at=self.now + data.draw(offsets))
        else:
            self.bury(claim, notice_to=notice_to)

    def reschedule(self, claim: Claim, *, due_at: int) -> None:
        row = self.lose(claim)
        row.state, row.due_at = "waiting", due_at
        row.data = self.payload(row.queue, row.message_id, retries=len(self.lost))
        self.store.reschedule(claim, data=row.data, due_at=row.due_at, now=self.now)
        self.happened["retried"] += 1

    def bury(self, claim: Claim, *, notice_to: str | None) -> None:
        self.deaths += 1
        row = self.rows[claim.id]
        row.died_at = NOW + self.deaths
        row.data = self.payload(row.queue, row.message_id, dead=self.deaths)
        notice = None if notice_to is None else (notice_to, self.message(notice_to)[1])
        known = {entry.id for entry in self.everything()}
        dropped = self.store.bury(claim, self.letter(claim.id, row), notice=notice)
        self.lose(claim).state = "dead"
        self.happened["died"] += 1
        if notice is not None:
            self.happened["sent"] += 1
            [told] = [entry for entry in self.everything() if entry.id not in known]
            self.note(told.id, notice[0], notice[1], f"m-{self.arrivals}-", row.died_at)
        surplus = [] if self.max_dead_letters is None else self.letters()[self.max_dead_letters :]
        assert dropped == len(surplus)
        for entry_id, _ in surplus:
            del self.rows[entry_id]

    @precondition(anything_was_held)
    @rule(move=st.sampled_from(["release", "finish"]), data=st.data())
    def settle_many(self, move: str, data: st.DataObject) -> None:
        def some(claims: list[Claim]) -> list[Claim]:
            return data.draw(st.lists(st.sampled_from(claims), max_size=4, unique_by=id)) if claims else []

        good, bad = some(self.held()), some(self.lost)
        if move == "release":
            assert self.store.release(iter([*good, *bad]), now=self.now) == len(good)
            for claim in good:
                self.lose(claim).state = "waiting"
        else:
            assert list(self.store.finish_many(iter([*bad, *good]))) == bad
            self.happened["succeeded"] += len(good)
            for claim in good:
                self.lose(claim)
                del self.rows[claim.id]

    @rule(actor=actors, is_paused=st.booleans())
    def pause(self, actor: str, is_paused: bool) -> None:
        if is_paused:
            self.store.pause(actor_name=actor, now=self.now)
            self.paused.add(actor)
        else:
            self.store.resume(actor_name=actor, now=self.now)
            self.paused.discard(actor)
            for _, row in self.among("waiting"):
                if row.held_for == actor:
                    row.held_for = None
        assert self.store.paused().actors == self.paused

    @precondition(anything_is_held)
    @rule(actor=actors, data=st.data())
    def hold(self, actor: str, data: st.DataObject) -> None:
        claims = data.draw(st.lists(st.sampled_from(self.held()), max_size=3, unique_by=id))
        is_paused = actor in self.paused
        assert self.store.hold(iter(claims), actor, now=self.now) == (len(claims) if is_paused else 0)
        for claim in claims:
            row = self.lose(claim)
            row.state, row.held_for = "waiting", actor if is_paused else None

    @precondition(anything_waits)
    @rule(offset=st.none() | offsets, data=st.data())
    def redirect(self, offset: int | None, data: st.DataObject) -> None:
        entry_id, row = data.draw(st.sampled_from(self.among("waiting")))
        if offset is None:
            assert self.store.cancel(str(entry_id)) == row.queue
            del self.rows[entry_id]
        else:
            row.due_at = self.now + offset
            assert self.store.move(str(entry_id), due_at=row.due_at, now=self.now) == row.queue

    @precondition(anything_is_held)
    @rule(data=st.data())
    def redirect_what_is_claimed(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.held()))
        with pytest.raises(MessageNotFound):
            self.store.cancel(str(claim.id))
        with pytest.raises(MessageNotFound):
            self.store.move(str(claim.id), due_at=self.now, now=self.now)

    @rule(after=st.integers(0, 3_000))
    def keep_counts(self, after: int) -> None:
        self.now += after
        self.store.keep_counts(now=self.now)

    @precondition(anything_is_lost)
    @rule(move=st.sampled_from(["finish", "reschedule", "bury"]), data=st.data())
    def settle_what_is_lost(self, move: str, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.lost))
        row = Row(0, "", claim.queue_name, b"lost", self.now, died_at=self.now)
        moves: dict[str, Callable[[], object]] = {
            "finish": lambda: self.store.finish(claim),
            "reschedule": lambda: self.store.reschedule(claim, data=b"lost", due_at=self.now, now=self.now),
            "bury": lambda: self.store.bury(claim, self.letter(claim.id, row), notice=("default", b"lost")),
        }
        with pytest.raises(ClaimLost):
            moves[move]()

    @precondition(anything_is_dead)
    @rule(move=st.sampled_from(["revive", "discard"]), offset=offsets, data=st.data())
    def disturb(self, move: str, offset: int, data: st.DataObject) -> None:
        entry_id, row = data.draw(st.sampled_from(self.among("dead")))
        if move == "revive":
            row.state, row.due_at = "waiting", self.now + offset
            row.data = self.payload(row.queue, row.message_id, replays=offset)
            self.store.revive(str(entry_id), data=row.data, due_at=row.due_at, now=self.now)
        else:
            self.store.discard(str(entry_id))
            del self.rows[entry_id]

    @precondition(anything_is_alive)
    @rule(data=st.data())
    def disturb_what_is_not_dead(self, data: st.DataObject) -> None:
        entry_id, _ = data.draw(st.sampled_from(self.among("waiting", "claimed")))
        with pytest.raises(LetterNotFound):
            self.store.revive(str(entry_id), data=b"lost", due_at=self.now, now=self.now)
        with pytest.raises(LetterNotFound):
            self.store.discard(str(entry_id))

    @precondition(there_is_much)
    @rule(queue=queues)
    def flush(self, queue: str) -> None:
        waiting = self.among("waiting", queue=queue)
        assert self.store.flush(queue) == len(waiting)
        for entry_id, _ in waiting:
            del self.rows[entry_id]

    # -- What must always be so ----------------------------------------------------------------------------------

    @invariant()
    def the_store_finds_itself_sane(self) -> None:
        assert self.store.check() == []

    @invariant()
    def the_counts_are_those_of_the_dict(self) -> None:
        wanted = {}
        for queue in QUEUES:
            waiting = [row.due_at for _, row in self.among("waiting", queue=queue)]
            free = [row.due_at for _, row in self.among("waiting", queue=queue) if row.held_for is None]
            due = sum(due_at <= self.now for due_at in waiting)
            counts = QueueCounts(
                due=due,
                later=len(waiting) - due,
                claimed=len(self.among("claimed", queue=queue)),
                dead=len(self.among("dead", queue=queue)),
                held=len(waiting) - len(free),
                oldest_due_at=min(waiting, default=None),
            )
            if counts != QueueCounts():
                wanted[queue] = counts
            assert self.store.next_due(queue) == min(free, default=None)
            assert self.store.unfinished(queue) == len(waiting) + counts.claimed
            assert self.store.is_idle(queue) == (not free and not counts.claimed)
            assert self.store.is_idle(queue, paused=True) == (not counts.claimed)
        assert self.store.counts(now=self.now) == wanted

    @invariant()
    def the_entries_are_those_of_the_dict_in_order(self) -> None:
        wanted = sorted(self.among("waiting", "claimed"), key=lambda item: (item[1].due_at, item[0]))
        listed = list(self.store.entries())
        assert [(entry.id, entry.state, entry.held_for) for entry in listed] == [
            (entry_id, row.state, row.held_for) for entry_id, row in wanted
        ]
        if listed:
            middle = listed[len(listed) // 2]
            behind = list(self.store.entries(after=(middle.due_at, middle.id)))
            assert behind == listed[len(listed) // 2 + 1 :]

    @invariant()
    def what_happened_was_counted(self) -> None:
        rates = Rates.sum(minute.rates for minute in self.store.minutes(since_at=0, now=self.now))
        counted = {"sent": rates.sent, "succeeded": rates.succeeded, "retried": rates.retried, "died": rates.died}
        assert counted == {name: self.happened[name] for name in counted}

    @invariant()
    def the_letters_are_those_of_the_dict(self) -> None:
        letters = [self.letter(entry_id, row) for entry_id, row in self.letters()]
        assert list(self.store.letters()) == letters
        assert [self.store.letter(letter.id) for letter in letters] == letters

    @invariant()
    def every_message_is_found_in_its_state_and_no_other(self) -> None:
        for entry_id, row in self.rows.items():
            found = self.store.find(row.message_id)
            if row.state == "dead":
                assert found == self.letter(entry_id, row)
                continue
            wanted = Entry(
                id=entry_id,
                queue_name=row.queue,
                state="waiting",
                data=row.data,
                due_at=row.due_at,
                deliveries=0,
                held_for=row.held_for,
            )
            if row.claim is not None:
                claimed_at, owner = row.claim.claimed_at, row.claim.owner
                wanted = replace(wanted, state="claimed", deliveries=1, claimed_at=claimed_at, owner=owner)
            assert found == wanted

    # -- Parts ---------------------------------------------------------------------------------------------------

    def everything(self) -> list[Entry]:
        found = [self.store.find(f"m-{arrival}-") for arrival in range(1, self.arrivals + 1)]
        return [entry for entry in found if isinstance(entry, Entry)]

    def letter(self, entry_id: int, row: Row) -> DeadLetter:
        return DeadLetter(
            id=str(entry_id),
            reason="exhausted",
            queue_name=row.queue,
            actor_name="add",
            died_at=row.died_at,
            data=row.data,
        )


@pytest.mark.parametrize("name", STORES)
def test_a_store_does_what_a_plain_dict_would(name: str) -> None:
    machine = type(f"{name}_beside_a_dict", (StoreBesideADict,), {"make": STORES[name]})
    run_state_machine_as_test(machine, settings=settings(max_examples=STORES[name].runs, stateful_step_count=40))
