"""What is paused in a SQLite file, and what is held until it is resumed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from . import schema as sql
from .database import Database
from .records import Claim
from .status import Paused

__all__ = ["Pauses"]

#: How many held entries are let go in one transaction.
_TURN = 5_000


class Pauses:
    """The paused queues and actors; see :class:`~dramatiq_retryq.store.Store`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def pause(self, queue_name: str | None, actor_name: str | None, now: int) -> None:
        parameters = (*_thing(queue_name, actor_name), now)
        self._db.write(lambda con: con.execute(sql.PAUSE, parameters), single=True)

    def resume(self, queue_name: str | None, actor_name: str | None) -> None:
        thing = _thing(queue_name, actor_name)
        self._db.write(lambda con: con.execute(sql.RESUME, thing), single=True)
        # If this is interrupted, recover() goes on with it.
        self.let_go()

    def let_go(self) -> None:
        """Held → waiting, for all that is held for actors that are not paused any more."""
        for (actor_name,) in self._db.read(lambda con: con.execute(sql.HELD_FOR_NOBODY).fetchall()):
            # In turns with others who write: a million of them take seconds.
            turn = (actor_name, _TURN)
            while self._db.write(lambda con, turn=turn: con.execute(sql.LET_GO, turn).rowcount) == _TURN:  # type: ignore[misc]
                pass

    def paused(self) -> Paused:
        rows = self._db.read(lambda con: con.execute(sql.PAUSES).fetchall())
        return Paused.since_when(
            queues={name: since for kind, name, since in rows if kind == "queue"},
            actors={name: since for kind, name, since in rows if kind == "actor"},
        )

    def hold(self, claims: Sequence[Claim], actor_name: str) -> int:
        def move(con: sqlite3.Connection) -> int:
            held = 0
            for claim in claims:
                if con.execute(sql.HOLD, (actor_name, claim.id, claim.token, actor_name)).rowcount:
                    held += 1
                else:
                    con.execute(sql.RELEASE, (claim.id, claim.token))
            return held

        return self._db.write(move) if claims else 0


def _thing(queue_name: str | None, actor_name: str | None) -> tuple[str, str]:
    return ("queue", queue_name) if queue_name is not None else ("actor", actor_name or "")
