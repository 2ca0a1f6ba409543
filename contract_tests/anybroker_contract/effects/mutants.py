"""Ways of doing it wrong, put into the programs of a run: each has to be found."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from anybroker.outbox import Row, Taken
from anybroker.outbox.entry import SHARDS
from anybroker_postgres import PostgresOutbox, PostgresTransaction
from anybroker_postgres.connection import Connection

__all__ = ["MUTANTS", "Mutant", "mark_first", "put_in", "table_of"]


class Mutant(NamedTuple):
    """One of them."""

    text: str
    violation: str
    """What the checkers have to say, at least."""
    faults: tuple[str, ...] = ()
    """What has to be done for that, as :meth:`anybroker_contract.effects.plan.Fault.of` reads it."""


MUTANTS: Mapping[str, Mutant] = {
    "marks-apart": Mutant(
        "the mark is a transaction of its own, after that of the effect",
        "sales with several effects",
        ("worker:in-commit",) * 3,
    ),
    "marks-first": Mutant(
        "the mark is a transaction of its own, before that of the effect",
        "sales without an effect",
        ("worker:after-effect",),
    ),
    "publishes-at-once": Mutant(
        "what a handler publishes goes to the broker, not into its transaction",
        "events that were rolled back, or never written, and arrived",
    ),
    "publishes-outside": Mutant(
        "the shop publishes beside its transaction",
        "events that were rolled back, or never written, and arrived",
    ),
    "deletes-first": Mutant(
        "the relay deletes rows before the broker has them", "rows that never arrived", ("relay:before-send",) * 3
    ),
    "no-lease": Mutant("relays do not ask whose the rows are", "events that were sent again for no reason"),
    "skips-late": Mutant(
        "the relay remembers the last position, and looks for nothing below it", "rows that never arrived"
    ),
    "late-rows-later": Mutant(
        "rows that were committed late are looked for now and then, while later ones are relayed", "inversions"
    ),
}


class DeletesFirst(PostgresOutbox):
    """At most once."""

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """OutboxTable.rows."""
        found = await super().rows(shards, limit)
        if found:
            await super().remove([row.position for row in found])
        return found


class NoLease(PostgresOutbox):
    """Everything is everybody's."""

    async def take(self, relay: str, lease: float, /) -> Taken:
        """OutboxTable.take."""
        return Taken(frozenset(range(SHARDS)), frozenset())


class SkipsLate(PostgresOutbox):
    """A cursor, as in many a home-made outbox."""

    last = 0

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """OutboxTable.rows."""
        found = await self._fetch("read", self._statements.rows, self.last, list(shards), limit)
        self.last = max([self.last, *(row[0] for row in found)])
        return [Row(*row[:-1]) for row in found]


class LateRowsLater(SkipsLate):
    """Nothing is lost, and order is."""

    again_at = 0.0

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """OutboxTable.rows."""
        found = await super().rows(shards, limit)
        now = asyncio.get_running_loop().time()
        if now >= self.again_at:
            self.again_at = now + 0.5
            late = await self._fetch("read", self._statements.rows, 0, list(shards), limit)
            found = sorted({*found, *(Row(*row[:-1]) for row in late)})
        return found


_TABLES: Mapping[str, type[PostgresOutbox]] = {
    "deletes-first": DeletesFirst,
    "no-lease": NoLease,
    "skips-late": SkipsLate,
    "late-rows-later": LateRowsLater,
}


def table_of(mutant: str | None) -> type[PostgresOutbox]:
    """The outbox of a relay."""
    return _TABLES.get(mutant or "", PostgresOutbox)


def put_in(mutant: str | None) -> None:
    """Into this process."""
    if mutant == "marks-apart":
        PostgresTransaction._commit = _commit_apart  # type: ignore[method-assign] # that is the flaw


async def _commit_apart(self: Any, connection: Connection) -> bool:
    await connection.commit()
    return bool(await self._mark("done", self._claim))


async def mark_first(transaction: PostgresTransaction) -> None:
    """Before the effect."""
    await transaction._mark("done", transaction._claim)
