"""The tables of the SQLite store, and the statements on them. Everything runs in the store's own thread.

Each statement takes a whole batch as JSON, because the thread releases the interpreter's lock at each statement, and
getting it back can take as long as a commit under load.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, time
from typing import Any

from pydantic_core import from_json, to_json

from ..errors import ConfigError, HandlerExit
from ..kit.file_access import make_private, warn_of_readers
from ..kit.sqlite_file import files_of, make_durable, make_tables
from ._store import DONE, Busy, Claim, ClaimLost, Done, Key, StoreUnavailable
from ._writer import Job, RolledBack

__all__ = [
    "CLAIM",
    "DONE_JOB",
    "EXTEND",
    "NOTHING",
    "PARKING",
    "PURGE",
    "RELEASE",
    "STEP",
    "SqliteClaim",
    "apply",
    "connect",
]

VERSION = 1

NOTHING, DONE_JOB, RELEASE, EXTEND, CLAIM, STEP, PURGE, PARKING = range(8)
"""The kinds of jobs, in the order in which a batch runs them: what ends a claim comes before the next claim."""

_PURGE = 500
"""The most rows that one transaction deletes, so that no claim waits long behind it."""

TABLES = (
    "CREATE TABLE anybroker_idempotency(version INTEGER NOT NULL)",
    # key: a hash of group, handler, source and id. since, until: the machine's monotonic clock. expires: seconds since
    # the epoch after which the row may be forgotten.
    "CREATE TABLE anybroker_claim(fence INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, owner TEXT, "
    "since REAL NOT NULL, until REAL NOT NULL, lease REAL NOT NULL, expires REAL NOT NULL, "
    "done INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX anybroker_claim_expires ON anybroker_claim(expires)",
    # The steps that Transaction.run has committed for an event that is not done yet, with their results as JSON.
    "CREATE TABLE anybroker_step(key TEXT NOT NULL, step INTEGER NOT NULL, result TEXT, expires REAL NOT NULL, "
    "PRIMARY KEY(key, step)) WITHOUT ROWID",
    "CREATE INDEX anybroker_step_expires ON anybroker_step(expires)",
)


_STORE_FAILS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Errors from the user's code that are really the store's: they do not count as an attempt."""


class SqliteClaim(Claim):
    """A claim with what the tables need."""

    __slots__ = ("hash", "owner", "stepped")

    def __init__(self, key: Key, hash_: str, owner: str, lease: float, retain: float) -> None:
        super().__init__(key, 0, lease, retain, 0.0)
        self.hash = hash_
        self.owner = owner
        self.stepped = 0
        """How many steps the handler has run."""


class _Connection(sqlite3.Connection):
    """A connection that refuses to end the transaction while the user's code runs."""

    guarded = False

    def authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """Called when a statement is prepared. The store's own statements are not prepared while the user's code
        runs."""
        if self.guarded and (
            action == sqlite3.SQLITE_TRANSACTION or (action == sqlite3.SQLITE_SAVEPOINT and second == "anybroker")
        ):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


def connect(
    path: Path, busy_timeout: float, prepare: Callable[[sqlite3.Connection], object] | None
) -> sqlite3.Connection:
    """Open the file, make it durable, and create the tables. ``ConfigError`` or ``StoreUnavailable``."""
    if not path.parent.is_dir():
        raise ConfigError("idempotency", f"the folder {path.parent} does not exist", "Create it, or change the path.")
    connection: _Connection | None = None
    make_private(path)
    try:
        connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, factory=_Connection)
        _prepare(connection, path, busy_timeout)
        if prepare is not None:
            prepare(connection)
        connection.set_authorizer(connection.authorize)
    except sqlite3.Error as exc:
        if connection is not None:
            connection.close()
        if isinstance(exc, sqlite3.OperationalError):
            raise StoreUnavailable(f"the idempotency store {path}: {exc}") from exc
        raise ConfigError(
            "idempotency", f"{path}: {exc}", "Name an SQLite file, or a file that does not exist."
        ) from exc
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    warn_of_readers(files_of(path))
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, busy_timeout: float) -> None:
    # A mark has to survive a loss of power before the event is acknowledged.
    make_durable(connection, path, "idempotency", busy_timeout)
    statements = (*TABLES, f"INSERT INTO anybroker_idempotency VALUES ({VERSION})")
    make_tables(connection, path, "idempotency", version=VERSION, read_version=_version, statements=statements)


def _version(connection: sqlite3.Connection) -> int | None:
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'anybroker_idempotency'").fetchone()
    return int(connection.execute("SELECT version FROM anybroker_idempotency").fetchone()[0]) if exists else None


def apply(connection: sqlite3.Connection, batch: Sequence[Job]) -> None:
    """Run the jobs, kind by kind. Raises sqlite3.Error for failures of the whole transaction."""
    kinds: dict[int, list[Job]] = {}
    for job in batch:
        kinds.setdefault(job.kind, []).append(job)
    for kind in sorted(kinds):
        _APPLY[kind](connection, kinds[kind])


def _nothing(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    """Do nothing: what was queued before is committed with this job or before it."""


def _claim(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    now, wall = monotonic(), time()
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.value.hash, job)
    hashes = to_json(list(first)).decode()
    rows = to_json(
        [(job.value.hash, job.value.owner, job.value.lease, wall + job.value.retain) for job in first.values()]
    ).decode()
    before = connection.execute("SELECT coalesce(max(fence), 0) FROM anybroker_claim").fetchone()[0]
    connection.execute(
        "INSERT INTO anybroker_claim(key, owner, lease, expires, since, until) SELECT value ->> 0, value ->> 1, "
        "value ->> 2, value ->> 3, ?, ? + (value ->> 2) FROM json_each(?) WHERE true ON CONFLICT(key) DO NOTHING",
        (now, now, rows),
    )
    current = from_json(
        connection.execute(
            "SELECT json_group_array(json_array(key, fence, done, since, until, lease)) FROM anybroker_claim "
            "WHERE key IN (SELECT value FROM json_each(?))",
            (hashes,),
        ).fetchone()[0]
    )
    claims = {row[0]: row for row in current}
    for job in jobs:
        claim: SqliteClaim = job.value
        _, fence, done, since, until, lease = claims[claim.hash]
        if fence > before and first[claim.hash] is job:
            job.result = _ours(claim, fence, now)
        elif done:
            job.result = DONE
        elif now < until <= now + lease and since <= now:
            job.result = Busy(now - since, until - now)
        else:  # expired, or made before the machine last started: the monotonic clock had not reached it yet
            fence = connection.execute(
                "REPLACE INTO anybroker_claim(key, owner, lease, expires, since, until) VALUES (?, ?, ?, ?, ?, ?)",
                (claim.hash, claim.owner, claim.lease, wall + claim.retain, now, now + claim.lease),
            ).lastrowid
            assert fence is not None
            claims[claim.hash] = (claim.hash, fence, 0, now, now + claim.lease, claim.lease)
            job.result = _ours(claim, fence, now)


def _ours(claim: SqliteClaim, fence: int, now: float) -> Claim | Busy | Done:
    claim.fence, claim.since, claim.until = fence, now, now + claim.lease
    return claim


def _done(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    fences = to_json([job.value.fence for job in jobs]).decode()
    # Marked again if it is already done: the first answer may have been lost.
    changed = connection.execute(
        "UPDATE anybroker_claim SET done = 1, owner = NULL WHERE fence IN (SELECT value FROM json_each(?))", (fences,)
    ).rowcount
    marked = None if changed == len(jobs) else _still_there(connection, fences)
    for job in jobs:
        job.result = marked is None or job.value.fence in marked
    stepped = [job.value.hash for job in jobs if job.value.stepped and job.result]
    if stepped:
        connection.execute(
            "DELETE FROM anybroker_step WHERE key IN (SELECT value FROM json_each(?))", (to_json(stepped).decode(),)
        )


def _still_there(connection: sqlite3.Connection, fences: str) -> set[int]:
    remaining = connection.execute(
        "SELECT json_group_array(fence) FROM anybroker_claim WHERE fence IN (SELECT value FROM json_each(?))", (fences,)
    ).fetchone()[0]
    return set(from_json(remaining))


def _release(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    connection.execute(
        "DELETE FROM anybroker_claim WHERE done = 0 AND fence IN (SELECT value FROM json_each(?))",
        (to_json([job.value.fence for job in jobs]).decode(),),
    )


def _extend(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    now = monotonic()
    for job in jobs:
        claims: Sequence[SqliteClaim] = job.value
        fences = to_json([claim.fence for claim in claims]).decode()
        changed = connection.execute(
            "UPDATE anybroker_claim SET until = ? + lease WHERE fence IN (SELECT value FROM json_each(?))",
            (now, fences),
        ).rowcount
        held = None if changed == len(claims) else _still_there(connection, fences)
        job.result = [held is None or claim.fence in held for claim in claims]


def _steps(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    assert isinstance(connection, _Connection)
    for job in jobs:
        _step(connection, job)


def _step(connection: _Connection, job: Job) -> None:
    """Run a function of the user in a savepoint: an exception from it does not undo the other jobs."""
    claim, step, function = job.value
    row = connection.execute(
        "SELECT s.key IS NOT NULL, s.result FROM anybroker_claim c LEFT JOIN anybroker_step s "
        "ON s.key = c.key AND s.step = ? WHERE c.fence = ? AND c.done = 0",
        (step, claim.fence),
    ).fetchone()
    if row is None:
        job.error = ClaimLost("another owner has the event: nothing was written")
        return
    if row[0]:
        job.result = _read(row[1])
        return
    connection.execute("SAVEPOINT anybroker -- begin")
    try:
        connection.guarded = True
        try:
            returned = function(connection)
        finally:
            connection.guarded = False
        result = None if returned is None else _written(returned)
        connection.execute(
            "INSERT INTO anybroker_step(key, step, result, expires) VALUES (?, ?, ?, ?)",
            (claim.hash, step, result, time() + claim.retain),
        )
        job.result = _read(result)
    except BaseException as exc:
        # SystemExit too: it would end the store's thread, and whatever waits for it would wait forever.
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _STORE_FAILS:
            raise
        job.error = _explained(exc)
        if not connection.in_transaction:  # INSERT OR ROLLBACK
            raise RolledBack(job) from exc
        connection.execute("ROLLBACK TO anybroker -- undo")
    connection.execute("RELEASE anybroker -- end")


def _read(result: str | None) -> Any:
    return None if result is None else from_json(result)


def _written(returned: object) -> str:
    try:
        return to_json(returned).decode()
    except ValueError as exc:
        raise TypeError(
            f"the function returned a {type(returned).__name__}, which is not JSON: its result is stored, and given to "
            "a second run of the handler. Return plain values"
        ) from exc


def _explained(exc: BaseException) -> Exception:
    if not isinstance(exc, Exception) or isinstance(exc, StopIteration | StopAsyncIteration):  # no future can hold it
        return HandlerExit("the function of Transaction.run", exc)
    if not (isinstance(exc, sqlite3.DatabaseError) and "not authorized" in str(exc)):
        return exc
    error = ConfigError(
        "Transaction.run(function)",
        "the function ends the store's transaction (commit, rollback, 'with connection' or executescript)",
        "Only execute statements in it; the store commits them with the mark.",
    )
    error.__cause__ = exc
    return error


def _parking(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    """Statements about parked keys, in the order in which they were asked for."""
    for job in jobs:
        job.result = job.value(connection)


def _purge(connection: sqlite3.Connection, jobs: list[Job]) -> None:
    wall, now = time(), monotonic()
    claims = connection.execute(
        "DELETE FROM anybroker_claim WHERE fence IN (SELECT fence FROM anybroker_claim WHERE expires < ? "
        "AND (done = 1 OR until NOT BETWEEN ? AND ? + lease) LIMIT ?)",
        (wall, now, now, _PURGE),
    ).rowcount
    steps = connection.execute(
        "DELETE FROM anybroker_step WHERE (key, step) IN "
        "(SELECT key, step FROM anybroker_step WHERE expires < ? LIMIT ?)",
        (wall, _PURGE),
    ).rowcount
    for job in jobs:
        job.result = claims + steps


_APPLY: dict[int, Callable[[sqlite3.Connection, list[Job]], None]] = {
    NOTHING: _nothing,
    DONE_JOB: _done,
    RELEASE: _release,
    EXTEND: _extend,
    CLAIM: _claim,
    STEP: _steps,
    PURGE: _purge,
    PARKING: _parking,
}
