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

#: The statements that lead from each version of the schema to the next; the version is the file's ``user_version``.
MIGRATIONS = (_VERSION_1,)

# -- Messages ----------------------------------------------------------------------------------------------------------

PUT = """
    INSERT INTO messages (id, queue, state, due_at, deliveries, data)
    VALUES (max(?, (SELECT coalesce(max(id), 0) + 1 FROM messages)), ?, 'waiting', ?, 0, ?)
"""
CLAIM = """
    UPDATE messages SET state = 'claimed', worker = ?, token = ?, claimed_at = ?, deliveries = deliveries + 1
    WHERE id IN (
        SELECT id FROM messages WHERE state = 'waiting' AND queue = ? AND due_at <= ? ORDER BY due_at, id LIMIT ?
    )
    RETURNING id, data, due_at, deliveries
"""
NEXT_DUE = "SELECT due_at FROM messages WHERE state = 'waiting' AND queue = ? ORDER BY due_at LIMIT 1"
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
LETTER_COLUMNS = "id, queue, died_at, reason, letter, data"
LETTERS = f"""
    SELECT {LETTER_COLUMNS} FROM messages WHERE state = 'dead' AND (died_at, id) < (?, ?)
    ORDER BY died_at DESC, id DESC LIMIT ?
"""
LETTER = f"SELECT {LETTER_COLUMNS} FROM messages WHERE id = ? AND state = 'dead'"
COUNT_WAITING = """
    SELECT queue, sum(due_at <= ?), count(*), min(due_at) FROM messages WHERE state = 'waiting' GROUP BY queue
"""
COUNT_CLAIMED = "SELECT queue, count(*) FROM messages WHERE state = 'claimed' GROUP BY queue"
COUNT_DEAD = "SELECT queue, count(*) FROM messages WHERE state = 'dead' GROUP BY queue"
UNFINISHED = """
    SELECT (SELECT count(*) FROM messages WHERE state = 'waiting' AND queue = :queue)
         + (SELECT count(*) FROM messages WHERE state = 'claimed' AND queue = :queue)
"""
IS_IDLE = """
    SELECT NOT EXISTS (SELECT 1 FROM messages WHERE state = 'waiting' AND queue = :queue)
       AND NOT EXISTS (SELECT 1 FROM messages WHERE state = 'claimed' AND queue = :queue)
"""
FIND = """
    SELECT m.id, m.queue, m.state, m.data, m.due_at, m.deliveries, m.claimed_at, w.owner
    FROM messages AS m LEFT JOIN workers AS w ON w.id = m.worker WHERE instr(m.data, ?) > 0
"""
FLUSH = "DELETE FROM messages WHERE state = 'waiting' AND queue = ?"
REGISTER = "INSERT INTO workers (file, owner, started_at) VALUES (?, ?, ?)"
WORKERS = "SELECT id, file, owner FROM workers"
HELD_BY = """
    SELECT id, queue, data, deliveries, claimed_at, token FROM messages WHERE state = 'claimed' AND worker = ?
"""
REDELIVER = """
    UPDATE messages SET state = 'waiting', data = ?, worker = NULL, token = NULL, claimed_at = NULL
    WHERE id = ? AND token = ? AND state = 'claimed'
"""
UNREGISTER = "DELETE FROM workers WHERE id = ?"
UNREGISTER_ALL = "DELETE FROM workers"
ORPHANS = """
    SELECT id FROM messages WHERE state = 'claimed' AND worker NOT IN (SELECT id FROM workers)
"""

# -- Results and rate limits -------------------------------------------------------------------------------------------

STORE_RESULT = "INSERT OR REPLACE INTO results (key, data, expires_at) VALUES (?, ?, ?)"
GET_RESULT = "SELECT data FROM results WHERE key = ? AND expires_at > ?"
EXPIRE_RESULTS = "DELETE FROM results WHERE key IN (SELECT key FROM results WHERE expires_at <= ? LIMIT 16)"
STORE_LIMIT = "INSERT OR REPLACE INTO limits (key, value, expires_at) VALUES (?, ?, ?)"
GET_LIMIT = "SELECT value FROM limits WHERE key = ? AND expires_at > ?"
EXPIRE_LIMITS = "DELETE FROM limits WHERE key IN (SELECT key FROM limits WHERE expires_at <= ? LIMIT 16)"
