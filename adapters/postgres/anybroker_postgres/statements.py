"""The statements on the table, each for a whole batch.

Every moment is the server's. Claiming does not wait for a row that exists already: what exists is not inserted
(``NOT EXISTS``), and a claim that ran out is taken over only if nobody holds its row (``SKIP LOCKED``). Each statement
is a transaction of its own, and its rows come sorted by their hash, so batches of several processes cannot wait for
each other in a circle.
"""

from __future__ import annotations

from .ddl import qualified

__all__ = ["KEEPALIVE", "SESSION", "Statements", "settings"]

_CLAIM = """\
INSERT INTO {schema}anybroker_claim (hash, since, until, expires, owner, consumer_group, handler, source, id)
SELECT asked.hash, statement_timestamp(), statement_timestamp() + asked.lease * interval '1 second',
    statement_timestamp() + asked.retain * interval '1 second', asked.owner, asked.consumer_group, asked.handler,
    asked.source, asked.id
FROM unnest(%s::uuid[], %s::float8[], %s::float8[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS asked (hash, lease, retain, owner, consumer_group, handler, source, id)
WHERE NOT EXISTS (SELECT FROM {schema}anybroker_claim there WHERE there.hash = asked.hash)
ON CONFLICT (hash) DO NOTHING
RETURNING hash::text, fence, extract(epoch FROM since)::float8"""
"""Claim what nobody has ever claimed. Returns what was claimed."""

_TAKE_OVER = """\
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%s::uuid[], %s::float8[], %s::float8[], %s::text[]) AS asked (hash, lease, retain, owner)
), free AS MATERIALIZED (
    SELECT asked.* FROM asked JOIN {schema}anybroker_claim there ON there.hash = asked.hash
    WHERE NOT there.done AND there.until <= statement_timestamp()
    ORDER BY there.hash FOR UPDATE OF there SKIP LOCKED
), taken AS (
    UPDATE {schema}anybroker_claim there
    SET fence = DEFAULT, owner = free.owner, since = statement_timestamp(),
        until = statement_timestamp() + free.lease * interval '1 second',
        expires = statement_timestamp() + free.retain * interval '1 second'
    FROM free WHERE there.hash = free.hash
    RETURNING there.hash, there.fence, there.since
)
SELECT hash::text, fence, extract(epoch FROM since)::float8, NULL, NULL, NULL FROM taken
UNION ALL
SELECT asked.hash::text, NULL, NULL, there.done, extract(epoch FROM statement_timestamp() - there.since)::float8,
    CASE WHEN isfinite(there.until) THEN extract(epoch FROM there.until - statement_timestamp())::float8 ELSE 0 END
FROM asked LEFT JOIN {schema}anybroker_claim there ON there.hash = asked.hash"""
"""For what could not be claimed: what was taken over because it was released or ran out, and then how everything was
before."""

_OURS = """\
FROM unnest(%s::uuid[], %s::bigint[], %s::text[]{more}) AS held (hash, fence, owner{names})
WHERE there.hash = held.hash AND there.fence = held.fence AND there.owner = held.owner"""

_DONE = f"""\
UPDATE {{schema}}anybroker_claim there SET done = true
{_OURS.format(more="", names="")}
RETURNING there.fence"""

_EXTEND = f"""\
UPDATE {{schema}}anybroker_claim there SET until = statement_timestamp() + held.lease * interval '1 second'
{_OURS.format(more=", %s::float8[]", names=", lease")} AND NOT there.done
RETURNING there.fence, extract(epoch FROM there.until)::float8"""

_RELEASE = f"""\
UPDATE {{schema}}anybroker_claim there SET until = '-infinity', owner = NULL
{_OURS.format(more="", names="")} AND NOT there.done
RETURNING there.fence"""
"""The row stays, so that a claim never waits for a deletion that is not committed."""

_FORGET = """\
UPDATE {schema}anybroker_claim there SET until = '-infinity', owner = NULL
FROM unnest(%s::uuid[], %s::bigint[], %s::text[]) AS lost (hash, fence, owner)
WHERE there.hash = lost.hash AND there.fence > lost.fence AND there.owner = lost.owner AND NOT there.done"""
"""Release claims whose answer was lost: newer than all fencing numbers that were known when they were asked for."""

_IS_DONE = """\
SELECT there.fence FROM {schema}anybroker_claim there
JOIN unnest(%s::uuid[], %s::bigint[], %s::text[]) AS held (hash, fence, owner)
ON there.hash = held.hash AND there.fence = held.fence AND there.owner = held.owner AND there.done"""

_PURGE = """\
WITH old AS MATERIALIZED (
    SELECT hash FROM {schema}anybroker_claim
    WHERE expires <= statement_timestamp() AND (done OR until <= statement_timestamp())
    ORDER BY expires LIMIT %s FOR UPDATE SKIP LOCKED
)
DELETE FROM {schema}anybroker_claim there USING old WHERE there.hash = old.hash"""

_MARK = """\
UPDATE {schema}anybroker_claim SET done = true
WHERE hash = %s AND fence = %s AND owner = %s AND current_setting('anybroker.claim', true) = %s"""
"""The mark inside a handler's transaction, which must still be the one that was begun for it."""

SESSION = (
    ("enable_seqscan", "off"),  # a plan made while the table was small must not stay
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),  # rows are then visited in the order of the batch
    ("jit", "off"),
    ("default_transaction_isolation", "read committed"),
)
"""Settings of the connections that run batches."""
KEEPALIVE = (("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3"))
"""By these the server notices within half a minute that the client's machine is gone, and ends its transaction."""


class Statements:
    """All of them, for the tables in one schema."""

    def __init__(self, schema: str | None) -> None:
        def of(text: str) -> bytes:
            return text.format(schema=qualified(schema).replace("%", "%%")).encode()

        self.claim = of(_CLAIM)
        self.take_over = of(_TAKE_OVER)
        self.done = of(_DONE)
        self.extend = of(_EXTEND)
        self.release = of(_RELEASE)
        self.forget = of(_FORGET)
        self.is_done = of(_IS_DONE)
        self.purge = of(_PURGE)
        self.mark = of(_MARK)


def settings(pairs: tuple[tuple[str, str], ...]) -> bytes:
    """One statement that makes these settings for the session."""
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in pairs)
    return f"SELECT {calls}".encode()
