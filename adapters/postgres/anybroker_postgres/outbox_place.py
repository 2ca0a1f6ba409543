"""How far a relay has read the outbox, so that it looks at no row twice and misses none that is committed late."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Place", "Snapshot"]

_MOST_MARKS = 1000


class Snapshot(NamedTuple):
    """Which transactions had ended at a moment."""

    running: frozenset[int]
    """Those below the end that had not."""
    end: int
    """No transaction from this number on had ended; some may have begun."""

    @classmethod
    def of(cls, text: str) -> Snapshot:
        """Of a ``pg_snapshot``: ``xmin:xmax:running,…``."""
        _, end, running = text.split(":")
        return cls(frozenset(int(number) for number in running.split(",") if number), int(end))

    def has_ended(self, number: int) -> bool:
        """Whether this transaction had, or there never is one of this number."""
        return number < self.end and number not in self.running


class Place:
    """A row's position is drawn when it is written, and it appears when its transaction commits, so rows appear behind
    the last position that was read. Only those of transactions that ran when it was read can: a transaction has its
    number before it draws positions, so one that begins later writes behind all that had been read.

    What the ones that have ended since may have written is looked for from the position on that had been reached
    before they began. So neither a look walks over all that was deleted and is not vacuumed yet, nor does a
    transaction that stays open make each look longer.

    A later row of a key is written after the one before it was committed. So who looks for rows that appeared behind
    the cursor whenever there are new ones, and after having read these, has all of a key in order.
    """

    def __init__(self) -> None:
        self.cursor = 0
        """Behind it no row was returned yet."""
        self.out: set[int] = set()
        """Returned, and not yet removed."""
        self._running: frozenset[int] = frozenset()
        """Transactions that may have drawn positions up to the cursor, and had not ended when these were looked for."""
        self._marks: list[tuple[int, int]] = []
        """Cursors, each with a transaction: those with higher numbers began after it was reached."""

    def late_from(self, snapshot: Snapshot) -> int | None:
        """The position from which on this snapshot may show rows, up to the cursor, that were not there; None: none."""
        ended = [number for number in self._running if snapshot.has_ended(number)]
        if not ended:
            return None
        oldest = min(ended)
        return next((cursor for cursor, number in reversed(self._marks) if number < oldest), 0)

    def looked(self, snapshot: Snapshot) -> None:
        """All that had appeared before the cursor in this snapshot is returned."""
        self._running = frozenset(number for number in self._running if not snapshot.has_ended(number))

    def reached(self, position: int, snapshot: Snapshot, number: int) -> None:
        """All up to the position that this snapshot shows is returned, behind what :meth:`looked` says of it. A
        transaction got the ``number`` after the snapshot was taken."""
        self.cursor = max(self.cursor, position)
        self._running |= snapshot.running.union(range(snapshot.end, number))
        self._marks.append((self.cursor, number))
        oldest = min(self._running, default=number + 1)
        needed = next((at for at in range(len(self._marks) - 1, -1, -1) if self._marks[at][1] < oldest), 0)
        del self._marks[:needed]
        if len(self._marks) > _MOST_MARKS:  # a transaction stays open: looks begin a little earlier than they might
            del self._marks[1:_MOST_MARKS:2]

    def returned(self, rows: Iterable[tuple[int, ...]]) -> None:
        """Do not return these again."""
        self.out.update(row[0] for row in rows)

    def gone(self, positions: Sequence[int]) -> None:
        """These were removed."""
        self.out.difference_update(positions)
