"""Looking at a topic: what is claimed, parked, delayed or in an inlet, and that the file stays as it was."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybroker.adapter import Ack, Outbound, Peek, Release
from anybroker.errors import MissingGroup

TABLES = ("ab_topic", "ab_group", "ab_segment", "ab_claim", "ab_parked", "ab_delayed")


async def look(broker: Any, group: str | None = "billing", **options: Any) -> list[int]:
    """The positions of what is shown."""
    page: Peek = await broker.adapter.peek(
        "orders", group=group, **{"limit": 100, "newest": False, "beyond": {}, **options}
    )
    assert page.exact
    assert {event.lane for event in page.events} <= {"orders"}
    return [event.position for event in page.events]


def content(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables but the members."""
    with closing(sqlite3.connect(path)) as connection:
        return {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in TABLES}


def test_what_a_group_has_not_settled_is_shown_wherever_it_is(
    opened: Any, kit: ModuleType, run: Any, path: Path
) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(8)))
            await broker.publish(Outbound(kit.make_event(8), "orders", not_before=time.time() + 600))
            await broker.publish(Outbound(kit.make_event(9), "orders", group="billing", hop="replay|1"))
            await broker.publish(Outbound(kit.make_event(10), "orders", group="stock", hop="replay|1"))
            receiver = await broker.join()
            claimed = await receiver.receive(4, lanes=None, timeout=5.0)
            parked, delayed, acked, _ = claimed
            assert await receiver.settle([Release(parked, 1), Release(delayed, 1, 600.0), Ack(acked)]) == [None] * 3
            before = content(path)
            expected = [position for position in range(1, 11) if position != acked.position]
            assert await look(broker) == expected
            assert await look(broker, newest=True) == expected[::-1]
            assert await look(broker, limit=3) == expected[:3]
            assert await look(broker, limit=3, beyond={"orders": 4}) == [5, 6, 7]
            assert (
                await look(broker, newest=True, limit=3, beyond={"orders": 5})
                == [position for position in expected[::-1] if position < 5][:3]
            )
            assert await look(broker, None) == list(range(1, 10))
            assert await look(broker, "stock") == [*range(1, 10), 11]
            assert content(path) == before
            await receiver.close()

    run(scenario())


def test_an_event_is_shown_as_it_is_received(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.publish(Outbound(kit.make_event(0), "orders", headers={"shop": "north"}))
            page: Peek = await broker.adapter.peek("orders", group="billing", limit=1, newest=False, beyond={})
            (peeked,) = page.events
            receiver = await broker.join()
            (inbound,) = await receiver.receive(1, lanes=None, timeout=5.0)
            assert (peeked.event, peeked.key, peeked.headers, peeked.raw, peeked.position) == (
                inbound.event,
                inbound.key,
                inbound.headers,
                inbound.raw,
                inbound.position,
            )
            assert (inbound.attempts, inbound.deliveries) == (0, 1)
            assert peeked.stored == pytest.approx(time.time(), abs=60)
            await receiver.close()

    run(scenario())


def test_a_page_spans_segments_and_no_other_topic(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            for number in range(5):
                await broker.publish(Outbound(kit.make_event(number), "orders"))
            assert await look(broker, None, beyond={"orders": 2}) == [3, 4, 5]
            assert await look(broker, None, newest=True, beyond={"orders": 3}) == [2, 1]
            assert await look(broker, None, beyond={"orders": 5}) == []
            assert await look(broker, None, newest=True, beyond={"orders": 1}) == []
            assert await look(broker, None, beyond={"another lane": 3}) == [1, 2, 3, 4, 5]

    run(scenario())


def test_live_members_are_counted_and_dead_ones_are_not(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker, opened() as other:
            members = [await broker.join(), await other.join()]
            assert await broker.adapter.members("orders", "billing") == 2
            assert await broker.adapter.members("orders", "stock") == 0
            other.adapter._store.remove_member(members[1]._member.member)
            members[1]._fifo.close()
            assert await broker.adapter.members("orders", "billing") == 1
            for member in members:
                await member.close()

    run(scenario())


def test_what_is_missing_is_named(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            with pytest.raises(MissingGroup, match="'nothing'"):
                await broker.adapter.peek("nothing", group=None, limit=1, newest=False, beyond={})
            with pytest.raises(MissingGroup, match="'nobody'"):
                await look(broker, "nobody")
            with pytest.raises(MissingGroup, match="'nobody'"):
                await broker.adapter.members("orders", "nobody")

    run(scenario())
