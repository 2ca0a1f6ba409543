"""Reading several lanes, and what a broker may do meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anybroker import Event
from anybroker.adapter import HistoryPage, Peeked
from anybroker.errors import ConfigError, Unavailable
from anybroker.history.bounds import check_bound, extent, written
from anybroker.history.cursor import Cursor
from anybroker.history.reading import Reading
from anybroker.history.replay import _skip_deleted


def stored(lane: str, position: int, at: float) -> Peeked:
    event: Event[Any] = Event.create({}, type="t", source="s", id=f"{lane}{position}")
    return Peeked(event, lane, position, None, {}, at)


class Kept:
    """Lanes of a topic; each page has two events at most, and some positions have none."""

    def __init__(self, **lanes: list[Peeked]) -> None:
        self.lanes = lanes
        self.pages = 0

    async def history_extent(
        self, topic: str, /, *, since: datetime | None, until: datetime | None
    ) -> Mapping[str, tuple[int, int]]:
        return {lane: (events[0].position, events[-1].position + 1) for lane, events in self.lanes.items()}

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        self.pages += 1
        there = [each for each in self.lanes[lane] if begin <= each.position < end][:2]
        return HistoryPage(there, there[-1].position + 1 if there else end)


KEPT = {
    "a": [stored("a", 1, 1.0), stored("a", 2, 4.0), stored("a", 5, 5.0), stored("a", 9, 9.0)],
    "b": [stored("b", 7, 2.0), stored("b", 8, 3.0), stored("b", 9, 8.0), stored("b", 10, 7.0)],
}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lanes_are_read_in_the_order_of_time(size: int) -> None:
    async def main() -> None:
        reading = Reading(Kept(**KEPT), "orders", {"a": (1, 10), "b": (7, 11), "c": (4, 4)})
        found: list[str] = []
        while batch := await reading.take(size):
            assert len(batch) <= size
            found += [each.event.id for each in batch]  # type: ignore[union-attr]
        assert found == ["a1", "b7", "b8", "a2", "a5", "b9", "b10", "a9"]

    asyncio.run(main())


def test_each_page_is_read_once() -> None:
    async def main() -> None:
        kept = Kept(a=[stored("a", number, number) for number in range(1_000)])
        reading = Reading(kept, "orders", {"a": (0, 1_000)})
        while await reading.take(7):
            pass
        assert kept.pages == 500

    asyncio.run(main())


def test_a_broker_that_gives_nothing_does_not_hang() -> None:
    async def main() -> None:
        class Stuck(Kept):
            async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
                self.pages += 1
                return HistoryPage((), begin)

        stuck = Stuck()
        with pytest.raises(Unavailable, match="gives nothing of a from 3 on"):
            await Reading(stuck, "orders", {"a": (3, 9)}).take(10)
        assert stuck.pages < 20

    asyncio.run(main())


def test_bounds_leave_out_lanes_and_never_reach_beyond_what_is_kept() -> None:
    async def main() -> None:
        kept = Kept(**KEPT)
        assert await extent(kept, "orders", None, None) == {"a": (1, 10), "b": (7, 11)}
        assert await extent(kept, "orders", {"a": 0}, None) == {"a": (1, 10)}
        assert await extent(kept, "orders", {"a": 5}, {"a": 2}) == {"a": (5, 5)}
        assert await extent(kept, "orders", {"a": 5, "b": 8}, {"b": 99}) == {"b": (8, 11)}
        with pytest.raises(ConfigError, match=r"replay\(to=\).*no lane 'c'.*a, b"):
            await extent(kept, "orders", None, {"c": 1})

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong", ["2026-11-01", {"a": -1}, {"a": True}, {"a": "1"}, {1: 1}, {}, 3, datetime(2026, 1, 1)]
)
def test_a_bound_is_a_moment_or_positions(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"replay\(from_=\)"):
        check_bound("from_", wrong)


def test_bounds_are_compared_as_text() -> None:
    assert written({"b": 1, "a": 2}) == written({"a": 2, "b": 1}) == "a@2, b@1"
    assert written(datetime(2026, 11, 1, tzinfo=UTC)) == "2026-11-01T00:00:00+00:00"


# ----------------------------------------------------------------------------------------------------------- cursor


def test_a_cursor_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    cursor = Cursor({"topic": "orders"}, {"a": (1, 10)}, {"a": 1}, path)
    cursor.done(stored("a", 4, 1.0))
    cursor.counts["read"] = 3
    cursor.write(cursor.written())
    again = Cursor.read(path, {"topic": "orders"})
    assert (again.lanes, again.begins, again.counts) == ({"a": (5, 10)}, {"a": 1}, cursor.counts)
    assert (again.run, again.tries) == (cursor.run, 0)
    assert (again.passed, again.total) == (4, 9)
    assert path.stat().st_mode & 0o777 == 0o600, "its name is a secret of the copies"
    assert [each.name for each in tmp_path.iterdir()] == ["cursor"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "lanes": {"a": [1]}}'])
def test_what_is_not_a_cursor_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cursor"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"replay\(resume=\).*is not the file of a replay"):
        Cursor.read(path, {})


def test_what_was_deleted_meanwhile_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    cursor = Cursor({}, {"a": (5, 10), "b": (7, 11)}, {"a": 1, "b": 7})
    with caplog.at_level(logging.WARNING, "anybroker.history"):
        _skip_deleted(cursor, "orders", {"a": (8, 20), "b": (7, 20)})
    assert cursor.lanes == {"a": (8, 10), "b": (7, 11)}
    assert [record.getMessage() for record in caplog.records] == [
        "a: positions 5 to 7 were deleted before they were replayed, and are left out"
    ]
    with pytest.raises(ConfigError, match="no lane 'b' any more"):
        _skip_deleted(cursor, "orders", {"a": (8, 20)})
