"""The same contract with several threads at once: nothing is lost, nothing is there twice.

Real threads, held together by barriers, semaphores and joins. What they do takes no time of its own: every instant is
handed in.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import pytest

from dramatiq_retryq.clock import VirtualClock
from dramatiq_retryq.dead_letters import DeadLetters
from dramatiq_retryq.errors import ClaimLost, LetterNotFound, QueueFull
from dramatiq_retryq.records import Claim, DeadLetter, QueueCounts
from dramatiq_retryq.store import Store
from tests.contract.steps import NOW, letter_for

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("eager_threads")

THREADS = 4
#: How long to wait for a thread that should be done at once, in seconds: only a broken store ever waits.
PATIENCE = 30


def together(*functions: Callable[[], object]) -> None:
    """Run each function in a thread of its own, all starting at once; raise the first error of any."""
    barrier = threading.Barrier(len(functions))
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            barrier.wait(PATIENCE)
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def race(rounds: Iterable[T], *contenders: Callable[[T], object]) -> None:
    """Call each contender with the same argument at the same time, round after round."""
    rounds = list(rounds)
    barrier = threading.Barrier(len(contenders))

    def run(contender: Callable[[T], object]) -> None:
        try:
            for contested in rounds:
                barrier.wait(PATIENCE)
                contender(contested)
        except BaseException:
            barrier.abort()
            raise

    together(*[lambda contender=contender: run(contender) for contender in contenders])


def fill(store: Store, count: int, queue: str = "default") -> list[int]:
    return [store.put(queue, b"%d" % i, due_at=NOW, now=NOW) for i in range(count)]


def claims(store: Store, *, limit: int = 1, now: int = NOW) -> Iterator[Claim]:
    """Claim until nothing that is due is left."""
    while claimed := store.claim("default", now=now, limit=limit, owner="host:1"):
        yield from claimed


def bury_all(store: Store) -> None:
    for claim in claims(store):
        store.bury(claim, letter_for(claim))


def test_threads_that_claim_at_once_are_each_handed_different_entries(store: Store) -> None:
    entries = fill(store, 800)
    handed_out: list[Claim] = []
    together(*[lambda: handed_out.extend(claims(store, limit=3))] * THREADS)
    assert sorted(claim.id for claim in handed_out) == entries
    assert store.counts(now=NOW) == {"default": QueueCounts(claimed=800)}


def test_each_of_several_threads_is_handed_entries_in_their_order(store: Store) -> None:
    fill(store, 400)
    by_thread: list[list[int]] = [[] for _ in range(THREADS)]
    together(*[lambda own=own: own.extend(c.id for c in claims(store)) for own in by_thread])
    assert all(own == sorted(own) for own in by_thread)


def test_what_several_threads_put_and_several_claim_is_handed_out_once_each(store: Store) -> None:
    each, there_is_one = 150, threading.Semaphore(0)
    done: list[bytes] = []

    def produce(name: int) -> None:
        for i in range(each):
            store.put("default", b"%d-%d" % (name, i), due_at=NOW, now=NOW)
            there_is_one.release()

    def consume() -> None:
        for _ in range(each):
            assert there_is_one.acquire(timeout=PATIENCE)
            [claim] = store.claim("default", now=NOW, limit=1, owner="host:1")
            store.finish(claim)
            done.append(claim.data)

    producers = [lambda name=name: produce(name) for name in range(THREADS)]
    together(*producers, *[consume] * THREADS)
    assert Counter(done) == Counter(b"%d-%d" % (name, i) for name in range(THREADS) for i in range(each))
    assert store.unfinished("default") == 0


def test_entries_put_by_several_threads_have_ids_of_their_own(store: Store) -> None:
    ids: list[int] = []
    together(*[lambda: ids.extend(fill(store, 200))] * THREADS)
    assert len(set(ids)) == THREADS * 200
    assert store.unfinished("default") == THREADS * 200


def test_an_entry_is_held_by_one_thread_at_a_time_through_all_its_reschedules(store: Store) -> None:
    entries, times = fill(store, 60), 5
    one_waits = threading.Semaphore(len(entries))
    held: set[int] = set()
    runs: Counter[int] = Counter()
    lock = threading.Lock()

    def work() -> None:
        for _ in range(len(entries) * times // THREADS):
            assert one_waits.acquire(timeout=PATIENCE)
            [claim] = store.claim("default", now=NOW, limit=1, owner="host:1")
            with lock:
                assert claim.id not in held
                held.add(claim.id)
                runs[claim.id] += 1
                last = runs[claim.id] == times
            with lock:
                held.remove(claim.id)
            if last:
                store.finish(claim)
            else:
                store.reschedule(claim, data=b"again", due_at=NOW, now=NOW)
                one_waits.release()

    together(*[work] * THREADS)
    assert runs == Counter(dict.fromkeys(entries, times))
    assert store.unfinished("default") == 0


def test_a_rescheduled_entry_is_seen_once_by_whoever_looks_meanwhile(store: Store) -> None:
    fill(store, 1)
    done = threading.Event()
    seen: set[int] = set()

    def move() -> None:
        try:
            for claim in islice(claims(store), 1_000):
                store.reschedule(claim, data=b"again", due_at=NOW, now=NOW)
        finally:
            done.set()

    def watch() -> None:
        while not done.is_set():
            counts = store.counts(now=NOW).get("default", QueueCounts())
            seen.add(counts.waiting + counts.claimed)
            seen.add(store.unfinished("default"))

    together(move, watch, watch)
    assert seen <= {1}
    assert store.unfinished("default") == 1


def test_of_several_threads_that_settle_the_same_claim_one_wins(store: Store) -> None:
    fill(store, 200)
    held = list(claims(store, limit=200))
    won: list[tuple[str, int]] = []
    lost: list[int] = []

    def settle(name: str, move: Callable[[Claim], object]) -> Callable[[Claim], None]:
        def contend(claim: Claim) -> None:
            try:
                move(claim)
            except ClaimLost:
                lost.append(claim.id)
            else:
                won.append((name, claim.id))

        return contend

    def reschedule(claim: Claim) -> None:
        store.reschedule(claim, data=b"again", due_at=NOW, now=NOW)

    def bury(claim: Claim) -> None:
        store.bury(claim, letter_for(claim))

    race(held, settle("finish", store.finish), settle("finish", store.finish), *[settle("move", reschedule)] * 2)
    assert sorted(entry for _, entry in won) == [claim.id for claim in held]
    assert len(lost) == 3 * len(held)
    moved = [entry for name, entry in won if name == "move"]
    assert store.counts(now=NOW).get("default", QueueCounts()).due == len(moved)

    won.clear()
    held = list(claims(store, limit=200))
    race(held, settle("bury", bury), settle("bury", bury), settle("finish", store.finish))
    assert sorted(entry for _, entry in won) == sorted(moved)
    assert len(list(store.letters())) == sum(name == "bury" for name, _ in won)


def test_threads_that_release_the_same_claim_release_it_once(store: Store) -> None:
    entries = fill(store, 200)
    held = list(claims(store, limit=200))
    released: list[int] = []
    race(held, *[lambda claim: released.append(store.release([claim], now=NOW))] * THREADS)
    assert sum(released) == len(entries)
    assert [claim.id for claim in claims(store)] == entries


def test_what_is_released_while_others_claim_is_never_held_twice(store: Store) -> None:
    entries = fill(store, 50)
    finished: list[int] = []

    def hesitate() -> None:
        for i, claim in enumerate(islice(claims(store), 300)):
            if i % 3:
                store.release([claim], now=NOW)
            else:
                store.finish(claim)
                finished.append(claim.id)

    together(*[hesitate] * THREADS)
    finished += [claim.id for claim in claims(store)]
    assert sorted(finished) == entries


def test_what_other_threads_of_a_living_process_hold_is_not_recovered(store: Store) -> None:
    entries = fill(store, 100)
    finished: list[int] = []

    def work() -> None:
        for claim in claims(store, limit=2):
            store.begin(claim)
            store.finish(claim)
            store.end(claim)
            finished.append(claim.id)

    def recover() -> None:
        for _ in range(50):
            assert list(store.recover(now=NOW + 10**9, max_crashes=1)) == []

    together(work, work, recover)
    assert sorted(finished) == entries


def test_a_flush_and_claims_at_once_share_the_entries_between_them(store: Store) -> None:
    claimed: list[Claim] = []
    flushed: list[int] = []

    def refill(_: int) -> None:
        fill(store, 5)

    def take(_: int) -> None:
        claimed.extend(store.claim("default", now=NOW, limit=2, owner="host:1"))

    race(range(100), refill, take, take, lambda _: flushed.append(store.flush("default")))
    flushed.append(store.flush("default"))
    assert len({claim.id for claim in claimed}) == len(claimed)
    assert len(claimed) + sum(flushed) == 500
    assert store.counts(now=NOW).get("default", QueueCounts()).claimed == len(claimed)


def test_puts_at_once_never_pass_max_messages(make_store: Callable[..., Store]) -> None:
    store = make_store(max_messages=100)
    refused: list[str] = []

    def send() -> None:
        for i in range(60):
            try:
                store.put("default", b"%d" % i, due_at=NOW, now=NOW)
            except QueueFull as full:
                refused.append(full.queue_name)

    together(*[send] * THREADS)
    assert store.unfinished("default") == 100
    assert len(refused) == THREADS * 60 - 100


def test_burials_at_once_never_pass_max_dead_letters(make_store: Callable[..., Store]) -> None:
    store = make_store(max_dead_letters=20)
    fill(store, 200)
    dropped: list[int] = []
    together(*[lambda: dropped.extend(store.bury(claim, letter_for(claim)) for claim in claims(store))] * THREADS)
    assert len(list(store.letters())) == 20
    assert sum(dropped) == 180


def test_of_several_threads_that_revive_or_discard_the_same_letter_one_wins(store: Store) -> None:
    entries = fill(store, 200)
    bury_all(store)
    revived: list[str] = []
    discarded: list[str] = []

    def revive(letter: DeadLetter) -> None:
        try:
            store.revive(letter.id, data=b"again", due_at=NOW, now=NOW)
        except LetterNotFound:
            return
        revived.append(letter.id)

    def discard(letter: DeadLetter) -> None:
        try:
            store.discard(letter.id)
        except LetterNotFound:
            return
        discarded.append(letter.id)

    race(store.letters(), revive, revive, discard, discard)
    assert sorted(map(int, revived + discarded)) == entries
    assert [claim.id for claim in claims(store)] == sorted(map(int, revived))
    assert list(store.letters()) == []


def test_two_threads_that_replay_the_same_letters_revive_each_once(store: Store, clock: VirtualClock) -> None:
    entries = fill(store, 300)
    bury_all(store)
    woken: list[str] = []
    dead_letters = DeadLetters(store, clock, lambda queue_name, due_at: woken.append(queue_name))
    replayed: list[int] = []
    together(*[lambda: replayed.append(dead_letters.replay_all())] * 2)
    assert sum(replayed) == len(entries)
    assert len(woken) == len(entries)
    assert sorted(claim.id for claim in claims(store, now=clock.now())) == entries


def test_of_a_replay_and_a_discard_of_the_same_letter_one_wins(store: Store, clock: VirtualClock) -> None:
    entries = fill(store, 300)
    bury_all(store)
    dead_letters = DeadLetters(store, clock, lambda queue_name, due_at: None)
    replayed: list[int] = []
    discarded: list[int] = []
    together(
        lambda: replayed.append(dead_letters.replay_all()),
        lambda: discarded.append(dead_letters.discard_all()),
    )
    assert sum(replayed) + sum(discarded) == len(entries)
    assert store.unfinished("default") == sum(replayed)
    assert list(store.letters()) == []


def test_threads_that_claim_finish_reschedule_bury_and_revive_at_once_lose_and_double_nothing(store: Store) -> None:
    entries = fill(store, 240)
    one_waits, one_is_dead = threading.Semaphore(len(entries)), threading.Semaphore(0)
    finished: list[int] = []
    runs: Counter[int] = Counter()
    lock = threading.Lock()
    # Each entry goes through the end of this life, by the remainder of its place when divided by 3.
    life = ["reschedule", "bury", "reschedule", "finish"]
    start = {entry: i % 3 for i, entry in enumerate(entries)}

    def work() -> None:
        for _ in range(len(entries) * (4 + 3 + 2) // 3 // THREADS):
            assert one_waits.acquire(timeout=PATIENCE)
            [claim] = store.claim("default", now=NOW, limit=1, owner="host:1")
            with lock:
                step = life[start[claim.id] + runs[claim.id]]
                runs[claim.id] += 1
            if step == "reschedule":
                store.reschedule(claim, data=b"again", due_at=NOW, now=NOW)
                one_waits.release()
            elif step == "bury":
                store.bury(claim, letter_for(claim))
                one_is_dead.release()
            else:
                store.finish(claim)
                finished.append(claim.id)

    def revive() -> None:
        for _ in range(len(entries) // 3):
            assert one_is_dead.acquire(timeout=PATIENCE)
            with lock:  # or both would choose the same one
                letter = next(iter(store.letters()))
                store.revive(letter.id, data=b"revived", due_at=NOW, now=NOW)
            one_waits.release()

    together(revive, revive, *[work] * THREADS)
    assert sorted(finished) == entries
    assert store.counts(now=NOW) == {}
