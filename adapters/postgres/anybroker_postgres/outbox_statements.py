"""The statements on the outbox's tables. Every moment is the server's."""

from __future__ import annotations

from .ddl import qualified

__all__ = ["AGAIN", "OutboxStatements"]

AGAIN = "again"
"""Notifies that rows are there behind where relays have read."""

_COLUMNS = "id, aggregatetype, aggregateid, type, payload, headers, not_before, shard"
_READ = "position, shard, aggregatetype, aggregateid, payload, headers"

_VALUES = (
    "{0}, {0}, CAST({0} AS text), {0}, {0}, CAST({0} AS text), to_timestamp(CAST({0} AS float8)), CAST({0} AS smallint)"
)
_VALUES_OF_JSON = (
    "entry ->> 0, entry ->> 1, entry ->> 2, entry ->> 3, entry ->> 4, entry ->> 5, "
    "to_timestamp(CAST(entry ->> 6 AS float8)), CAST(entry ->> 7 AS smallint)"
)


class OutboxStatements:
    """Those for one schema."""

    def __init__(self, schema: str | None, channel: str) -> None:
        before = qualified(schema).replace("%", "%%")
        table, parked = f"{before}anybroker_outbox", f"{before}anybroker_outbox_parked"
        relay, shard = f"{before}anybroker_outbox_relay", f"{before}anybroker_outbox_shard"
        quoted = channel.replace("'", "''").replace("%", "%%")
        self.insert = (
            "WITH begun AS MATERIALIZED (SELECT pg_current_xact_id()), written AS ("
            f"INSERT INTO {table} ({_COLUMNS}) SELECT {_VALUES.format('%s')} FROM begun RETURNING position) "
            f"SELECT position, pg_notify('{quoted}', '') FROM written"
        )
        """One event: its position. The notification comes with the commit, once a transaction. The transaction has its
        number before the position is drawn: a relay concludes from the number which positions may still appear."""
        self.insert_many = (
            "WITH begun AS MATERIALIZED (SELECT pg_current_xact_id()), written AS ("
            f"INSERT INTO {table} ({_COLUMNS}) SELECT {_VALUES_OF_JSON} FROM begun, "
            "json_array_elements(CAST(CAST(%s AS text) AS json)) WITH ORDINALITY AS given (entry, number) "
            "ORDER BY number RETURNING position) "
            f"SELECT array_agg(position ORDER BY position), pg_notify('{quoted}', '') FROM written"
        )
        """Events as an array of arrays in JSON, which every driver can send: their positions, which are drawn in the
        order of the array, since defaults are computed after the sort. An array for each column is slower, because the
        client has to quote each text, and so is a pipeline of single statements."""
        self.snapshot = "SELECT pg_current_snapshot()::text"
        self.rows = (
            f"SELECT {_READ}, (SELECT pg_current_snapshot()::text || ':' || pg_current_xact_id()::text) FROM {table} "
            "WHERE position > %s AND not_before IS NULL AND shard = ANY(%s) ORDER BY position LIMIT %s"
        )
        """With the snapshot in which they are read, and, where there are some, the number of this transaction, which it
        gets then: those with higher ones began later. The end of a snapshot does not say that: one that has begun and
        no later one of which has ended is behind it."""
        self.missed = (
            f"SELECT {_READ}, (SELECT pg_current_snapshot()::text) FROM {table} "
            "WHERE position > %s AND position <= %s AND not_before IS NULL AND shard = ANY(%s) "
            "AND position <> ALL(%s) ORDER BY position LIMIT %s"
        )
        """Rows that were not there when the place was read, with the snapshot in which they are read now."""
        self.due = (
            f"SELECT {_READ} FROM {table} WHERE not_before <= clock_timestamp() AND shard = ANY(%s) "
            "AND position <> ALL(%s) ORDER BY not_before, position LIMIT %s"
        )
        self.remove = f"DELETE FROM {table} WHERE position = ANY(%s)"
        self.park = (
            "WITH rejected AS (SELECT * FROM unnest(%s::bigint[], %s::text[]) AS rejected (position, reason)), "
            f"gone AS (DELETE FROM {table} there USING rejected WHERE there.position = rejected.position "
            f"RETURNING there.position, {', '.join(f'there.{name.strip()}' for name in _COLUMNS.split(','))}, written) "
            f"INSERT INTO {parked} (position, {_COLUMNS}, written, reason) "
            f"SELECT gone.*, rejected.reason FROM gone JOIN rejected USING (position)"
        )
        self.parked = (
            "SELECT position, aggregatetype, aggregateid, id, type, reason, extract(epoch FROM since)::float8, payload "
            f"FROM {parked} ORDER BY position LIMIT %s"
        )
        self.parked_keys = f"SELECT DISTINCT aggregatetype, aggregateid FROM {parked} WHERE aggregateid IS NOT NULL"
        self.retry = (
            f"WITH back AS (DELETE FROM {parked} WHERE %s::bigint[] IS NULL OR position = ANY(%s) "
            f"RETURNING position, {_COLUMNS}, written) "
            f"INSERT INTO {table} (position, {_COLUMNS}, written) SELECT * FROM back"
        )
        self.tell = f"SELECT pg_notify('{quoted}', '{AGAIN}')"
        self.discard = f"DELETE FROM {parked} WHERE %s::bigint[] IS NULL OR position = ANY(%s)"
        self.waiting = (
            f"SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT %s) counted), "
            "(SELECT extract(epoch FROM clock_timestamp() - min(since))::float8 FROM ("
            f"(SELECT written FROM {table} WHERE not_before IS NULL ORDER BY position LIMIT 1) UNION ALL "
            f"(SELECT min(not_before) FROM {table} WHERE not_before <= clock_timestamp())) oldest (since)), "
            f"(SELECT count(*) FROM (SELECT FROM {parked} LIMIT %s) counted)"
        )
        self.meet = (
            f"DELETE FROM {relay} WHERE until < clock_timestamp()",
            f"INSERT INTO {relay} VALUES (%s, clock_timestamp() + %s * interval '1 second') "
            "ON CONFLICT (relay) DO UPDATE SET until = excluded.until",
            f"DELETE FROM {shard} WHERE relay NOT IN (SELECT relay FROM {relay})",
        )
        self.relays = f"SELECT relay FROM {relay}"
        self.holders = f"SELECT shard, relay FROM {shard}"
        self.lease = f"INSERT INTO {shard} SELECT unnest(%s::smallint[]), %s"
        self.give_up = f"DELETE FROM {shard} WHERE relay = %s AND shard = ANY(%s)"
        self.leave = (f"DELETE FROM {shard} WHERE relay = %s", f"DELETE FROM {relay} WHERE relay = %s")
