"""All SQL: the tables of a file, by version, and the statements, a constant for each move.

A move is one statement with the old state in its WHERE: that no row was changed means that the race was lost.
"""

from __future__ import annotations

# The CHECK holds the state machine: each state has the columns it needs, and no others.
_VERSION_1 = (
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        state TEXT NOT NULL,
        due_at INTEGER NOT NULL,
        deliveries INTEGER NOT NULL CHECK (deliveries >= 0),
        data BLOB NOT NULL,
        worker INTEGER,
        token INTEGER,
        claimed_at INTEGER,
        died_at INTEGER,
        reason TEXT,
        letter TEXT,
        CHECK (CASE state
            WHEN 'waiting' THEN coalesce(worker, token, claimed_at, died_at, reason, letter) IS NULL
            WHEN 'claimed' THEN worker + token + claimed_at IS NOT NULL
                AND coalesce(died_at, reason, letter) IS NULL
            WHEN 'dead' THEN coalesce(worker, token, claimed_at) IS NULL
                AND died_at IS NOT NULL AND reason IS NOT NULL AND letter IS NOT NULL
            ELSE 0 END)
    )
    """,
    "CREATE INDEX waiting ON messages (queue, due_at, id) WHERE state = 'waiting'",
    "CREATE INDEX claimed ON messages (worker) WHERE state = 'claimed'",
    "CREATE INDEX dead ON messages (died_at, id) WHERE state = 'dead'",
    """
    CREATE TABLE workers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        file TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        started_at INTEGER NOT NULL
    )
    """,
    # What the result backend and the rate limiter backend keep, each until it expires.
    "CREATE TABLE results (key TEXT PRIMARY KEY, data BLOB NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX results_by_end ON results (expires_at)",
    "CREATE TABLE limits (key TEXT PRIMARY KEY, value INTEGER NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX limits_by_end ON limits (expires_at)",
)

# How many entries a queue has, waiting or claimed, is kept and not counted: to look at a million of them takes 50 to
# 100 ms. It is kept for those with an id up to counted.up_to only, which moves up now and then, and the few above are
# counted when somebody asks. So a put has nothing to keep, nor has what is put and done within a second, nor a claim.
# Whatever else lets an entry go, or brings one back, says so: triggers that did would cost each message one part in a
# hundred.
_VERSION_2 = (
    # Whose pause it waits for: an entry that was set aside. It is in no index that a claim looks at.
    "ALTER TABLE messages ADD COLUMN held TEXT CHECK (held IS NULL OR state = 'waiting')",
    "DROP INDEX waiting",
    "CREATE INDEX waiting ON messages (queue, due_at, id) WHERE state = 'waiting' AND held IS NULL",
    # By whom and where it was set aside. A table and no second index of the messages: what goes well is to pay nothing
    # for it, and it changes only where somebody sets ``held``.
    """
    CREATE TABLE set_aside (
        id INTEGER PRIMARY KEY,
        actor TEXT NOT NULL,
        queue TEXT NOT NULL,
        due_at INTEGER NOT NULL
    )
    """,
    "CREATE INDEX set_aside_by_place ON set_aside (actor, queue, due_at, id)",
    """
    CREATE TRIGGER set_aside AFTER UPDATE OF held ON messages WHEN NEW.held IS NOT NULL BEGIN
        INSERT OR REPLACE INTO set_aside (id, actor, queue, due_at) VALUES (NEW.id, NEW.held, NEW.queue, NEW.due_at);
    END
    """,
    """
    CREATE TRIGGER let_go AFTER UPDATE OF held ON messages WHEN NEW.held IS NULL BEGIN
        DELETE FROM set_aside WHERE id = NEW.id;
    END
    """,
    """
    CREATE TABLE pauses (
        kind TEXT NOT NULL CHECK (kind IN ('queue', 'actor')),
        name TEXT NOT NULL,
        since INTEGER NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE minutes (
        at INTEGER NOT NULL,
        queue TEXT NOT NULL,
        what TEXT NOT NULL,
        times INTEGER NOT NULL,
        PRIMARY KEY (at, queue, what)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE totals (queue TEXT PRIMARY KEY, alive INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counted (one INTEGER PRIMARY KEY CHECK (one = 1), up_to INTEGER NOT NULL)",
    "INSERT INTO totals SELECT queue, count(*) FROM messages WHERE state IN ('waiting', 'claimed') GROUP BY queue",
    "INSERT INTO counted SELECT 1, coalesce(max(id), 0) FROM messages",
)

# What a move to another broker leaves behind here while it is under way, and what one that leads here has brought.
_JOURNEYS = (
    # One at a time. Its entries are claimed by worker -1, which no process is.
    "CREATE TABLE journey (worker INTEGER PRIMARY KEY CHECK (worker = -1), name TEXT NOT NULL, target TEXT NOT NULL)",
    "CREATE TABLE arrived (journey TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (journey, key)) WITHOUT ROWID",
)

#: The statements that lead from each version of the schema to the next; the version is the file's ``user_version``.
MIGRATIONS = (_VERSION_1, _VERSION_2, _JOURNEYS)

# -- Messages ----------------------------------------------------------------------------------------------------------

PUT = """
    INSERT INTO messages (id, queue, state, due_at, deliveries, data)
    VALUES (
        max(?, (SELECT coalesce(max(id), 0) + 1 FROM messages), (SELECT up_to + 1 FROM counted)), ?, 'waiting', ?, 0, ?
    )
"""
# Payloads are read as bytes, whatever another program has put there: a text that is none would make SQLite's reader
# fail after the claim.
CLAIM = """
    UPDATE messages SET state = 'claimed', worker = ?, token = ?, claimed_at = ?, deliveries = deliveries + 1
    WHERE id IN (
        SELECT id FROM messages WHERE state = 'waiting' AND held IS NULL AND queue = ? AND due_at <= ?
        ORDER BY due_at, id LIMIT ?
    )
    RETURNING id, CAST(data AS BLOB), due_at, deliveries
"""
HEAD = """
    SELECT due_at, id FROM messages WHERE state = 'waiting' AND held IS NULL AND queue = ? ORDER BY due_at, id LIMIT 1
"""
FINISH = "DELETE FROM messages WHERE id = ? AND token = ? AND state = 'claimed'"
RESCHEDULE = """
    UPDATE messages SET state = 'waiting', due_at = ?, data = ?, deliveries = 0,
        worker = NULL, token = NULL, claimed_at = NULL
    WHERE id = ? AND token = ? AND state = 'claimed'
"""
RELEASE = """
    UPDATE messages SET state = 'waiting', deliveries = deliveries - 1, worker = NULL, token = NULL, claimed_at = NULL
    WHERE id = ? AND token = ? AND state = 'claimed'
"""
RELEASE_ALL = """
    UPDATE messages SET state = 'waiting', deliveries = deliveries - 1, worker = NULL, token = NULL, claimed_at = NULL
    WHERE state = 'claimed'
"""
BURY = """
    UPDATE messages SET state = 'dead', died_at = ?, reason = ?, letter = ?, data = ?,
        worker = NULL, token = NULL, claimed_at = NULL
    WHERE id = ? AND token = ? AND state = 'claimed'
"""
REVIVE = """
    UPDATE messages SET state = 'waiting', due_at = ?, data = ?, deliveries = 0,
        died_at = NULL, reason = NULL, letter = NULL
    WHERE id = ? AND state = 'dead'
"""
DISCARD = "DELETE FROM messages WHERE id = ? AND state = 'dead'"
TRIM_BY_COUNT = """
    DELETE FROM messages WHERE id IN (
        SELECT id FROM messages WHERE state = 'dead' ORDER BY died_at DESC, id DESC LIMIT -1 OFFSET ?
    )
"""
TRIM_BY_AGE = "DELETE FROM messages WHERE state = 'dead' AND died_at < ?"
LETTER_COLUMNS = "id, queue, died_at, reason, CAST(letter AS BLOB), CAST(data AS BLOB)"
LETTERS = f"""
    SELECT {LETTER_COLUMNS} FROM messages WHERE state = 'dead' AND (died_at, id) < (?, ?)
    ORDER BY died_at DESC, id DESC LIMIT ?
"""
LETTER = f"SELECT {LETTER_COLUMNS} FROM messages WHERE id = ? AND state = 'dead'"
LETTER_TEXTS = "SELECT id, CAST(letter AS BLOB) FROM messages WHERE state = 'dead'"
COUNT_CLAIMED = "SELECT queue, count(*) FROM messages WHERE state = 'claimed' GROUP BY queue"
COUNT_REASONS = "SELECT reason, count(*) FROM messages WHERE state = 'dead' GROUP BY reason"
COUNT_DEAD = "SELECT queue, count(*) FROM messages WHERE state = 'dead' GROUP BY queue"
IS_IDLE = """
    SELECT NOT EXISTS (SELECT 1 FROM messages WHERE state = 'waiting' AND held IS NULL AND queue = :queue AND :waiting)
       AND NOT EXISTS (SELECT 1 FROM messages WHERE state = 'claimed' AND queue = :queue)
"""
FIND = """
    SELECT m.id, m.queue, m.state, CAST(m.data AS BLOB), m.due_at, m.deliveries, m.claimed_at, w.owner, m.held
    FROM messages AS m LEFT JOIN workers AS w ON w.id = m.worker WHERE instr(m.data, ?) > 0
"""
FLUSH = """
    DELETE FROM messages WHERE id IN (
        SELECT id FROM messages WHERE state = 'waiting' AND held IS NULL AND queue = :queue
        UNION ALL SELECT id FROM set_aside WHERE queue = :queue
    )
"""
FLUSH_SET_ASIDE = "DELETE FROM set_aside WHERE queue = :queue"
REGISTER = "INSERT INTO workers (file, owner, started_at) VALUES (?, ?, ?)"
WORKERS = "SELECT id, file, owner, started_at FROM workers ORDER BY id"
HELD_BY = """
    SELECT id, queue, CAST(data AS BLOB), deliveries, claimed_at, token FROM messages
    WHERE state = 'claimed' AND worker = ?
"""
REDELIVER = """
    UPDATE messages SET state = 'waiting', data = ?, worker = NULL, token = NULL, claimed_at = NULL
    WHERE id = ? AND token = ? AND state = 'claimed'
"""
UNREGISTER = "DELETE FROM workers WHERE id = ?"
UNREGISTER_ALL = "DELETE FROM workers"
ORPHANS = """
    SELECT id FROM messages WHERE state = 'claimed' AND worker NOT IN (SELECT id FROM workers)
        AND worker NOT IN (SELECT worker FROM journey)
"""

# -- Moving to another broker, and from one ----------------------------------------------------------------------------

COUNT_MOVABLE = "SELECT queue, count(*) FROM messages WHERE state = 'waiting' GROUP BY queue"
JOURNEY = "SELECT name, target FROM journey"
BEGIN_JOURNEY = "INSERT INTO journey (worker, name, target) VALUES (-1, ?, ?)"
END_JOURNEY = "DELETE FROM journey"
DEPART = """
    UPDATE messages SET state = 'claimed', held = NULL, worker = -1, token = ?, claimed_at = ?,
        deliveries = deliveries + 1
    WHERE id IN (SELECT id FROM messages WHERE state = 'waiting' AND queue = ? ORDER BY due_at, id LIMIT ?)
    RETURNING id, CAST(data AS BLOB), due_at, deliveries
"""
DEPARTED = """
    SELECT id, queue, CAST(data AS BLOB), due_at, deliveries, claimed_at, token FROM messages
    WHERE state = 'claimed' AND worker = -1 ORDER BY due_at, id
"""
LAY = """
    INSERT INTO messages (id, queue, state, due_at, deliveries, data, died_at, reason, letter)
    VALUES (
        max(?, (SELECT coalesce(max(id), 0) + 1 FROM messages), (SELECT up_to + 1 FROM counted)),
        ?, 'dead', ?, 0, ?, ?, ?, ?
    )
"""
NOTE = "INSERT OR IGNORE INTO arrived (journey, key) VALUES (?, ?)"
IS_NOTED = "SELECT 1 FROM arrived WHERE journey = ? AND key = ?"
FORGET = "DELETE FROM arrived WHERE journey = ? AND key = ?"
FORGET_JOURNEY = "DELETE FROM arrived WHERE journey = ?"
# -- The operator's moves ----------------------------------------------------------------------------------------------

MOVE = "UPDATE messages SET due_at = ? WHERE id = ? AND state = 'waiting' RETURNING queue"
CANCEL = "DELETE FROM messages WHERE id = ? AND state = 'waiting' RETURNING queue"
# Only while the actor is paused: what was set aside after it was resumed would lie there for ever.
HOLD = """
    UPDATE messages SET state = 'waiting', held = ?, deliveries = deliveries - 1,
        worker = NULL, token = NULL, claimed_at = NULL
    WHERE id = ? AND token = ? AND state = 'claimed'
        AND EXISTS (SELECT 1 FROM pauses WHERE kind = 'actor' AND name = ?)
"""
LET_GO = """
    UPDATE messages SET held = NULL WHERE id IN (
        SELECT id FROM set_aside WHERE actor = ? ORDER BY queue, due_at, id LIMIT ?
    )
"""
MOVE_SET_ASIDE = "UPDATE set_aside SET due_at = ? WHERE id = ?"
CANCEL_SET_ASIDE = "DELETE FROM set_aside WHERE id = ?"
# From name to name by the index, however many entries are held for each.
HELD_FOR = """
    WITH RECURSIVE names (name) AS (
        SELECT min(actor) FROM set_aside
        UNION ALL
        SELECT (SELECT min(actor) FROM set_aside WHERE actor > names.name) FROM names WHERE names.name IS NOT NULL
    )
    SELECT name FROM names WHERE name IS NOT NULL
"""
HELD_FOR_NOBODY = f"{HELD_FOR} AND name NOT IN (SELECT name FROM pauses WHERE kind = 'actor')"
PAUSE = "INSERT INTO pauses (kind, name, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
RESUME = "DELETE FROM pauses WHERE kind = ? AND name = ?"
PAUSES = "SELECT kind, name, since FROM pauses"

# -- Looking, for people -----------------------------------------------------------------------------------------------

_ENTRY = "m.id, m.queue, 'waiting', CAST(m.data AS BLOB), m.due_at, m.deliveries, NULL, NULL, m.held"
_WAITING = f"SELECT {_ENTRY} FROM messages AS m WHERE m.state = 'waiting' AND m.held IS NULL AND m.queue = ?"
_HELD = f"SELECT {_ENTRY} FROM set_aside AS h JOIN messages AS m ON m.id = h.id WHERE h.actor = ? AND h.queue = ?"
# What is due at the same instant as the last one, and then the rest: SQLite does not seek by (due_at, id) > (?, ?) but
# reads from due_at on, and a replay of a hundred thousand letters makes them all due at once.
_SAME_INSTANT = " AND {0}.due_at = ? AND {0}.id > ? ORDER BY {0}.id LIMIT ?"
_LATER_INSTANT = " AND {0}.due_at > ? ORDER BY {0}.due_at, {0}.id LIMIT ?"
WAITING_PAGE = (_WAITING + _SAME_INSTANT.format("m"), _WAITING + _LATER_INSTANT.format("m"))
HELD_PAGE = (_HELD + _SAME_INSTANT.format("h"), _HELD + _LATER_INSTANT.format("h"))
CLAIMED_ENTRIES = """
    SELECT m.id, m.queue, 'claimed', CAST(m.data AS BLOB), m.due_at, m.deliveries, m.claimed_at, w.owner, NULL
    FROM messages AS m LEFT JOIN workers AS w ON w.id = m.worker
    WHERE m.state = 'claimed' AND (m.due_at, m.id) > (?, ?) ORDER BY m.due_at, m.id
"""
ENTRY = """
    SELECT m.id, m.queue, m.state, CAST(m.data AS BLOB), m.due_at, m.deliveries, m.claimed_at, w.owner, m.held
    FROM messages AS m LEFT JOIN workers AS w ON w.id = m.worker WHERE m.id = ? AND m.state <> 'dead'
"""
RUN_BY = "SELECT id, queue, CAST(data AS BLOB), claimed_at FROM messages WHERE state = 'claimed' AND worker = ?"

# From name to name by the index, however many entries there are.
NEXT_QUEUE = "SELECT min(queue) FROM messages WHERE state = 'waiting' AND held IS NULL AND queue > ?"
NEXT_HELD = "SELECT min(queue) FROM set_aside WHERE actor = ? AND queue > ?"

# -- How many there are ------------------------------------------------------------------------------------------------

UP_TO = "SELECT up_to FROM counted"
TOTALS = "SELECT queue, alive FROM totals WHERE alive <> 0"
# By the row's id, and not by the index of all that waits.
UNCOUNTED = """
    SELECT queue, count(*) FROM messages NOT INDEXED WHERE id > (SELECT up_to FROM counted) AND state <> 'dead'
    GROUP BY queue
"""
MANY_UNCOUNTED = "SELECT 1 FROM messages NOT INDEXED WHERE id > (SELECT up_to FROM counted) LIMIT 1 OFFSET ?"
COUNT_ON = f"""
    INSERT INTO totals (queue, alive) {UNCOUNTED} ON CONFLICT (queue) DO UPDATE SET alive = alive + excluded.alive
"""
COUNTED = """
    UPDATE counted SET up_to = (SELECT max(id) FROM messages) WHERE up_to < (SELECT max(id) FROM messages)
"""
#: So many fewer, and one more or fewer if its id is among those that are counted.
COUNT_OUT = "UPDATE totals SET alive = alive - ? WHERE queue = ?"
COUNT_OUT_ONE = "UPDATE totals SET alive = alive - 1 WHERE queue = ? AND ? <= (SELECT up_to FROM counted)"
COUNT_IN_ONE = """
    INSERT INTO totals (queue, alive) SELECT queue, 1 FROM messages WHERE id = ? AND id <= (SELECT up_to FROM counted)
    ON CONFLICT (queue) DO UPDATE SET alive = alive + 1
"""
COUNT_OUT_WAITING = """
    UPDATE totals SET alive = (SELECT count(*) FROM messages WHERE state = 'claimed' AND queue = :queue)
    WHERE queue = :queue
"""
FORGET_TOTALS = "DELETE FROM totals"
COUNT_FROM_THE_START = "UPDATE counted SET up_to = 0"
COUNT_ALIVE = """
    SELECT queue, count(*) FROM messages WHERE state = 'waiting' AND held IS NULL GROUP BY queue
    UNION ALL SELECT queue, count(*) FROM set_aside GROUP BY queue
    UNION ALL SELECT queue, count(*) FROM messages WHERE state = 'claimed' GROUP BY queue
"""
COUNT_HELD = "SELECT queue, count(*), sum(due_at <= ?), min(due_at) FROM set_aside GROUP BY queue"
# What another program deleted is not set aside any more.
CLEAR_SET_ASIDE = """
    DELETE FROM set_aside WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.id = set_aside.id AND m.held = actor)
"""
SET_ASIDE_IN_ONE_PLACE = """
    SELECT m.id FROM messages AS m LEFT JOIN set_aside AS h ON h.id = m.id
    WHERE m.held IS NOT NULL AND (h.actor, h.queue, h.due_at) IS NOT (m.held, m.queue, m.due_at)
    UNION ALL SELECT h.id FROM set_aside AS h LEFT JOIN messages AS m ON m.id = h.id WHERE m.held IS NOT h.actor
"""
_IN_QUEUE = "FROM messages WHERE state = 'waiting' AND held IS NULL AND queue = ?"
LAST = f"SELECT due_at {_IN_QUEUE} ORDER BY due_at DESC LIMIT 1"
COUNT_DUE = f"SELECT count(*) {_IN_QUEUE} AND due_at <= ?"
COUNT_LATER = f"SELECT count(*) {_IN_QUEUE} AND due_at > ?"
SOME_DUE = f"SELECT count(*) FROM (SELECT 1 {_IN_QUEUE} AND due_at <= ? LIMIT ?)"
SOME_LATER = f"SELECT count(*) FROM (SELECT 1 {_IN_QUEUE} AND due_at > ? LIMIT ?)"
LEAST_AND_GREATEST = "SELECT (SELECT min(id) FROM messages), (SELECT max(id) FROM messages)"
SAMPLE = "SELECT due_at FROM messages NOT INDEXED WHERE id >= ? ORDER BY id LIMIT 1"

# -- Counters ----------------------------------------------------------------------------------------------------------

ADD_MINUTE = """
    INSERT INTO minutes (at, queue, what, times) VALUES (?, ?, ?, ?)
    ON CONFLICT (at, queue, what) DO UPDATE SET times = times + excluded.times
"""
MINUTES = "SELECT at, queue, what, times FROM minutes WHERE at > ? ORDER BY at, queue, what"
FORGET_MINUTES = "DELETE FROM minutes WHERE at <= ? OR at >= ?"

# -- Results and rate limits -------------------------------------------------------------------------------------------

STORE_RESULT = "INSERT OR REPLACE INTO results (key, data, expires_at) VALUES (?, ?, ?)"
GET_RESULT = "SELECT data FROM results WHERE key = ? AND expires_at > ?"
EXPIRE_RESULTS = "DELETE FROM results WHERE key IN (SELECT key FROM results WHERE expires_at <= ? LIMIT 16)"
STORE_LIMIT = "INSERT OR REPLACE INTO limits (key, value, expires_at) VALUES (?, ?, ?)"
GET_LIMIT = "SELECT value FROM limits WHERE key = ? AND expires_at > ?"
EXPIRE_LIMITS = "DELETE FROM limits WHERE key IN (SELECT key FROM limits WHERE expires_at <= ? LIMIT 16)"
