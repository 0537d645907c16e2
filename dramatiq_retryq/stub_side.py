"""What is kept beside a ``StubBroker``: next to nothing, since it keeps the rejected messages themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from dramatiq import Message, MessageProxy, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.worker import ConsumerThread

from ._dramatiq import plain_message
from .errors import LetterNotFound
from .records import DeadLetter
from .shelf import DueAt, Renew, Shelf, plain_letter

__all__ = ["StubShelf", "StubSide"]


class StubSide:
    """Beside a ``StubBroker``."""

    longest_delay: int | None = None

    def __init__(self, broker: StubBroker) -> None:
        self._broker = broker
        self.shelf: Shelf = StubShelf(broker)

    def letter_id(self, message: MessageProxy) -> str:
        return message.message_id

    def reschedule(self, message: MessageProxy, *, delay: int) -> None:
        # No delay rather than one of 0: that would go through the delay queue and a worker's memory.
        self._broker.enqueue(plain_message(message).copy(), delay=delay or None)

    def boot(self, worker: Worker) -> None:
        pass

    def attend(self, thread: ConsumerThread) -> None:
        pass

    def shut_down(self, worker: Worker) -> None:
        pass

    def may_have_crashed(self, message: MessageProxy) -> bool:
        return False  # a broker within the process dies with its workers

    def begin(self, message: MessageProxy) -> int:
        return 0

    def end(self, message: MessageProxy) -> None:
        pass


class StubShelf:
    """The dead messages of a ``StubBroker``: what it forgets (``flush_all``) is gone here too."""

    max_age: int | None = None

    def __init__(self, broker: StubBroker) -> None:
        self._broker = broker
        self._lock = threading.Lock()

    def add(self, letter: DeadLetter) -> None:
        pass  # the message that the broker keeps has it already

    def letters(self, queue: str | None = None) -> Iterator[DeadLetter]:
        found = [letter for letter, _ in self._lying() if queue is None or letter.queue_name == queue]
        # The latest to die is the last in its queue, and first here.
        found.sort(key=lambda letter: letter.died_at)
        yield from reversed(found)

    def letter(self, letter_id: str) -> DeadLetter:
        for letter, _ in self._lying():
            if letter.id == letter_id:
                return letter
        raise LetterNotFound(letter_id)

    def revive(self, wanted: Sequence[DeadLetter], renew: Renew, *, due_at: DueAt, now: int) -> Sequence[str]:
        revived: list[str] = []
        for wanted_letter in wanted:
            taken = self._take(wanted_letter.id)
            if taken is None:
                continue
            letter, proxy = taken
            try:
                message: Message[Any] | None = renew(letter)
                if message is None:
                    message = plain_message(proxy)
                delay = due_at(len(revived)) - now
                self._broker.enqueue(message, delay=delay if delay > 0 else None)
            except BaseException:
                self._broker.dead_letters_by_queue[letter.queue_name].append(proxy)
                raise
            revived.append(letter.id)
        return revived

    def discard(self, letter_ids: Sequence[str]) -> int:
        return sum(self._take(letter_id) is not None for letter_id in letter_ids)

    def count(self, *, now: int) -> int:
        return len(self._lying())

    def _lying(self) -> list[tuple[DeadLetter, MessageProxy]]:
        return [
            (self._letter_of(proxy), proxy)
            for proxies in list(self._broker.dead_letters_by_queue.values())
            for proxy in list(proxies)
        ]

    def _letter_of(self, proxy: MessageProxy) -> DeadLetter:
        letter: DeadLetter | None = proxy.__dict__.get("dead_letter")
        if letter is None:
            message = plain_message(proxy)
            died_at = message.options.get("requeue_timestamp")
            letter = plain_letter(
                message.encode(),
                letter_id=message.message_id,
                queue_name=message.queue_name,
                died_at=died_at if isinstance(died_at, int) else message.message_timestamp,
            )
        return letter

    def _take(self, letter_id: str) -> tuple[DeadLetter, MessageProxy] | None:
        with self._lock:
            for letter, proxy in self._lying():
                if letter.id != letter_id:
                    continue
                for proxies in self._broker.dead_letters_by_queue.values():
                    for i, other in enumerate(proxies):
                        if other is proxy:  # not by ==, which compares messages
                            del proxies[i]
                            return letter, proxy
        return None
