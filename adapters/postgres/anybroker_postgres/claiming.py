"""What the connection for claims does with a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from anybroker.idempotency import DONE, Busy, Claim

from .arrays import array, columns
from .batches import Job
from .claims import PostgresClaim, plain
from .connection import Connection
from .statements import Statements

__all__ = ["Claiming"]


class Claiming:
    """Claims, a batch at a time. The value of each job is the claim, not granted yet."""

    def __init__(self, statements: Statements, ascii_only: bool) -> None:
        self._statements = statements
        self._ascii_only = ascii_only
        self._newest = 0
        """The highest fencing number that was granted here."""
        self._lost: dict[tuple[str, str], tuple[int, float]] = {}
        """Claims whose answer was lost, by hash and owner: the highest number that was known before, and when their
        leases have ended."""

    async def run(self, connection: Connection, jobs: list[Job]) -> None:
        """For Batches. The second copy of a key in one batch finds the first one's claim."""
        first: dict[str, Job] = {}
        copies = [job for job in jobs if first.setdefault(job.value.hash, job) is not job]
        asked = [first[hash_] for hash_ in sorted(first)]
        claims: list[PostgresClaim] = [job.value for job in asked]
        ascii_only = self._ascii_only
        cursor = await connection.execute(
            self._statements.claim,
            (
                array(claim.hash for claim in claims),
                array(claim.lease for claim in claims),
                array(claim.retain for claim in claims),
                [claim.owner for claim in claims],
                [plain(claim.key[0], ascii_only) for claim in claims],
                [plain(claim.key[1], ascii_only) for claim in claims],
                [plain(claim.key[2], ascii_only) for claim in claims],
                [plain(claim.key[3], ascii_only) for claim in claims],
            ),
        )
        for hash_, fence, since in await cursor.fetchall():
            self._grant(first[hash_], fence, since)
        if cursor.rowcount < len(asked):
            await self._take_over(connection, {job.value.hash: job for job in asked if job.answer is None})
        for job in copies:
            answer = first[job.value.hash].answer
            job.finish(Busy(0.0, answer.lease) if isinstance(answer, Claim) else answer)

    async def _take_over(self, connection: Connection, asked: dict[str, Job]) -> None:
        claims: list[PostgresClaim] = [job.value for job in asked.values()]
        cursor = await connection.execute(
            self._statements.take_over,
            (
                array(asked),
                array(claim.lease for claim in claims),
                array(claim.retain for claim in claims),
                [claim.owner for claim in claims],
            ),
        )
        for hash_, fence, since, done, age, left in sorted(await cursor.fetchall(), key=_not_taken):
            job = asked[hash_]
            if fence is not None:
                self._grant(job, fence, since)
            elif job.answer is None:  # without an age it was purged in between, and can be had at once
                job.finish(DONE if done else Busy(max(age or 0.0, 0.0), max(left or 0.0, 0.0)))

    def _grant(self, job: Job, fence: int, since: float) -> None:
        self._newest = max(self._newest, fence)
        job.value.begin(fence, since)
        job.finish(job.value)

    def lost(self, jobs: Iterable[Job]) -> None:
        """For Batches: these may have been claimed. They are released on the next connection."""
        now = asyncio.get_running_loop().time()
        for job in jobs:
            claim: PostgresClaim = job.value
            self._lost.setdefault((claim.hash, claim.owner), (self._newest, now + claim.lease))

    async def connected(self, connection: Connection) -> None:
        """For Batches: first on each new connection."""
        now = asyncio.get_running_loop().time()
        lost = sorted((hash_, newest, owner) for (hash_, owner), (newest, end) in self._lost.items() if end > now)
        if lost:
            await connection.execute(self._statements.forget, columns(lost))
        self._lost.clear()


def _not_taken(row: tuple[object, ...]) -> bool:
    return row[1] is None
