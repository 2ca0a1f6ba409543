"""What the connection for marks does with a batch: what changes or ends claims."""

from __future__ import annotations

from .arrays import array, columns
from .batches import Job
from .claims import PostgresClaim
from .connection import Connection
from .statements import Statements

__all__ = ["Marking"]

_PURGE = 1000
"""The most rows that one statement deletes, so that no mark waits long behind it."""


class Marking:
    """Marks, releases, extends and purges, a batch at a time; one statement for each kind.

    The value of a job is the claim; of ``extend`` a list of claims, of ``purge`` None."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._kinds = {
            "done": self._done,
            "release": self._release,
            "settle": self._settle,
            "extend": self._extend,
            "purge": self._purge,
        }

    async def run(self, connection: Connection, jobs: list[Job]) -> None:
        """For Batches."""
        kinds: dict[str, list[Job]] = {}
        for job in jobs:
            kinds.setdefault(job.kind, []).append(job)
        for kind, of_kind in kinds.items():
            await self._kinds[kind](connection, of_kind)

    async def _done(self, connection: Connection, jobs: list[Job]) -> None:
        ours = await self._fences(connection, self._statements.done, [job.value for job in jobs])
        for job in jobs:
            job.finish(job.value.fence in ours)

    async def _release(self, connection: Connection, jobs: list[Job]) -> None:
        await self._fences(connection, self._statements.release, [job.value for job in jobs])
        for job in jobs:
            job.finish(None)

    async def _settle(self, connection: Connection, jobs: list[Job]) -> None:
        """Whether transactions whose outcome was lost were committed. What was not is released: the statement waits for
        a commit that is still under way, and after it no mark of an older transaction can match."""
        claims = [job.value for job in jobs]
        released = await self._fences(connection, self._statements.release, claims)
        done = await self._fences(connection, self._statements.is_done, claims) if len(released) < len(claims) else ()
        for job in jobs:
            job.finish(job.value.fence in done)

    async def _extend(self, connection: Connection, jobs: list[Job]) -> None:
        claims: list[PostgresClaim] = sorted(
            {claim.fence: claim for job in jobs for claim in job.value}.values(), key=lambda claim: claim.hash
        )
        cursor = await connection.execute(
            self._statements.extend, (*columns(_rows(claims)), array(claim.lease for claim in claims))
        )
        until = dict(await cursor.fetchall())
        for job in jobs:
            for claim in job.value:
                claim.until = until.get(claim.fence, claim.until)
            job.finish([claim.fence in until for claim in job.value])

    async def _purge(self, connection: Connection, jobs: list[Job]) -> None:
        cursor = await connection.execute(self._statements.purge, (_PURGE,))
        for job in jobs:
            job.finish(cursor.rowcount)

    async def _fences(self, connection: Connection, statement: bytes, claims: list[PostgresClaim]) -> set[int]:
        """The fencing numbers that a statement on these claims returns."""
        cursor = await connection.execute(statement, columns(sorted(_rows(claims))))
        return {fence for (fence,) in await cursor.fetchall()}


def _rows(claims: list[PostgresClaim]) -> list[tuple[str, int, str]]:
    return [(claim.hash, claim.fence, claim.owner) for claim in claims]
