"""What is finished in one lane of a cumulative broker: the position to commit, and the note of what lies beyond it.

The note is text of at most 4,000 ASCII characters that the adapter stores with the committed position::

    1|<position>|<finished ranges>|<attempts>

with ranges and attempts relative to the position. In ``1|1200|3-5,9|0:2``, 1203 to 1205 and 1209 are finished, and 1200
was started twice. The first field is the version. A reader that does not know it ignores the note: more is delivered
again, but nothing is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from ..adapter import count_of, number_of

__all__ = ["NOTE_LIMIT", "LaneLedger", "Note", "parse_note", "write_note"]

NOTE_LIMIT = 4000
"""Most characters of a note. Kafka-like brokers accept 4,096 bytes of metadata with a commit."""


class Note:
    """What a note says, in absolute positions."""

    __slots__ = ("attempts", "ranges")

    def __init__(self, ranges: list[tuple[int, int]], attempts: dict[int, int]) -> None:
        self.ranges = ranges
        """The finished ranges, as first and last position; the next one to arrive is at the end of the list. They stay
        ranges: 20 characters can name a billion positions, and any client that may commit can write them."""
        self.attempts = attempts

    def names(self, position: int) -> bool:
        """Whether it says that this position is finished. In any order; forgets nothing."""
        return any(first <= position <= last for first, last in self.ranges)

    def finished(self, position: int) -> bool:
        """Whether the position is finished; forgets it and everything below. Call it with increasing positions."""
        ranges = self.ranges
        while ranges and ranges[-1][1] < position:
            ranges.pop()
        if not ranges or ranges[-1][0] > position:
            return False
        last = ranges.pop()[1]
        if last > position:
            ranges.append((position + 1, last))
        return True


def _ranges(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for position in sorted(positions):
        if last is not None and position == last + 1:
            last = position
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = position
    if first is not None and last is not None:
        yield first, last


def write_note(
    position: int, finished: Iterable[int], attempts: dict[int, int], beyond: Iterable[tuple[int, int]] = ()
) -> tuple[str, bool]:
    """The note, and whether all of it fitted. Empty when there is nothing to note. ``beyond``: more finished ranges,
    above the others."""
    starts = ",".join(f"{at - position}:{count}" for at, count in sorted(attempts.items()) if at >= position)
    starts, fitted = _cut(starts, NOTE_LIMIT // 4)
    parts = (
        f"{first - position}-{last - position}" if last > first else f"{first - position}"
        for first, last in chain(_ranges(at for at in finished if at >= position), beyond)
    )
    head = f"1|{position}|"
    ranges, all_ranges = _cut(",".join(parts), NOTE_LIMIT - len(head) - len(starts) - 1)
    if not ranges and not starts:
        return "", fitted and all_ranges
    return f"{head}{ranges}|{starts}", fitted and all_ranges


def _cut(text: str, limit: int) -> tuple[str, bool]:
    """Whole comma-separated items of the text, within the limit."""
    if len(text) <= limit:
        return text, True
    return text[: max(text.rfind(",", 0, limit + 1), 0)], False


def parse_note(note: str) -> Note:
    """Read a note. Anything that the library did not write counts as empty, which is always safe. Another program may
    have written it, so its ranges are kept as ranges, however many positions they name."""
    version, _, rest = note.partition("|")
    if version != "1" or len(note) > NOTE_LIMIT:
        return Note([], {})
    try:
        base_text, ranges, starts = rest.split("|")
        base = after = _position(base_text)
        finished: list[tuple[int, int]] = []
        for item in filter(None, ranges.split(",")):
            first, _, last = item.partition("-")
            low, high = base + _position(first), base + _position(last or first)
            if not after <= low <= high:
                return Note([], {})
            finished.append((low, high))
            after = high + 1
        attempts = {}
        for item in filter(None, starts.split(",")):
            at, _, count = item.partition(":")
            if not (noted := count_of(count)):
                return Note([], {})
            attempts[base + _position(at)] = noted
    except ValueError:
        return Note([], {})
    finished.reverse()
    return Note(finished, attempts)


def _position(text: str) -> int:
    """A 64-bit number as the library writes it; ValueError for anything else, even what Python reads as a number."""
    if (position := number_of(text, 19)) is None:
        raise ValueError(text)
    return position


class LaneLedger:
    """Turns finished positions into the position to commit.

    Positions are received in increasing order, with gaps, and finish in any order. The committed position never passes
    an unfinished one.
    """

    __slots__ = ("_done", "_open", "attempts", "full", "next", "noted")

    def __init__(self, note: str = "") -> None:
        self._open: deque[int] = deque()
        self._done: set[int] = set()
        self.noted = parse_note(note)
        self.attempts: dict[int, int] = {}
        """Starts so far of events that wait for another start."""
        self.next: int | None = None
        """One past the last position received; None before the first."""
        self.full = False
        """The last note did not fit: the lane must not fetch until one does."""

    def __len__(self) -> int:
        """How many positions are received and not below the committed one."""
        return len(self._open)

    def receive(self, position: int) -> int:
        """Record a received position. Returns the starts noted for it, or -1 if it is already finished."""
        self._open.append(position)
        self.next = position + 1
        noted = self.noted
        if noted.ranges and noted.finished(position):
            self.finish(position)
            return -1
        if noted.attempts:
            starts = noted.attempts.pop(position, 0)
            if starts:
                self.attempts[position] = starts
            return starts
        return 0

    def finish(self, position: int) -> None:
        """The event at this position is done."""
        opened = self._open
        if self.attempts:
            self.attempts.pop(position, None)
        if opened and opened[0] == position:
            opened.popleft()
            done = self._done
            while opened and opened[0] in done:
                done.discard(opened.popleft())
        else:
            self._done.add(position)

    @property
    def position(self) -> int | None:
        """The first unfinished position; None before anything was received."""
        return self._open[0] if self._open else self.next

    def note(self) -> str:
        """What lies beyond :attr:`position`, to be stored with it; sets :attr:`full`.

        Includes what an earlier member noted and has not arrived again yet.
        """
        position = self.position
        if position is None:
            return ""
        ranges = self.noted.ranges
        attempts = {**self.noted.attempts, **self.attempts} if self.noted.attempts else self.attempts
        if not self._done and not ranges and not attempts:
            self.full = False
            return ""
        text, fitted = write_note(position, self._done, attempts, reversed(ranges))
        self.full = not fitted
        return text
