"""The dead letters of the memory store, the oldest first. Whoever calls holds the store's lock."""

from __future__ import annotations

from collections import Counter

from .errors import LetterNotFound
from .records import DeadLetter, Reason

__all__ = ["MemoryLetters"]


class MemoryLetters:
    """Dead letters by their id, in the order in which they died."""

    def __init__(self) -> None:
        self._letters: dict[str, DeadLetter] = {}

    def add(self, letter: DeadLetter) -> None:
        """Lay down one that has died just now."""
        self._letters[letter.id] = letter

    def add_in_order(self, letter: DeadLetter) -> None:
        """Lay down one that may have died long ago."""
        last = next(reversed(self._letters.values()), None)
        self.add(letter)
        if last is not None and letter.died_at < last.died_at:
            self._letters = dict(sorted(self._letters.items(), key=lambda item: item[1].died_at))

    def trim(self, most: int | None) -> int:
        """Drop the oldest beyond ``most``. Returns how many those were."""
        dropped = 0
        while most is not None and len(self._letters) > most:
            del self._letters[next(iter(self._letters))]
            dropped += 1
        return dropped

    def get(self, letter_id: str) -> DeadLetter:
        """One of them.

        Raises:
            LetterNotFound: it does not lie here (any more).
        """
        try:
            return self._letters[letter_id]
        except KeyError:
            raise LetterNotFound(letter_id) from None

    def remove(self, letter_id: str) -> None:
        """Take one away.

        Raises:
            LetterNotFound: it does not lie here (any more).
        """
        self.get(letter_id)
        del self._letters[letter_id]

    def all(self) -> list[DeadLetter]:
        return list(self._letters.values())

    def by_queue(self) -> dict[str, int]:
        return Counter(letter.queue_name for letter in self._letters.values())

    def by_reason(self) -> dict[Reason, int]:
        return dict(Counter(letter.reason for letter in self._letters.values()))

    def ids(self) -> list[int]:
        return [int(letter_id) for letter_id in self._letters]

    def check(self) -> list[str]:
        """A sentence for each invariant that is broken."""
        return [
            f"dead letter {letter_id} calls itself {letter.id}"
            for letter_id, letter in self._letters.items()
            if letter.id != letter_id
        ]
