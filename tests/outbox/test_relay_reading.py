"""When a relay looks at its table again."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from anybroker import Bus, Event
from anybroker.outbox import OutboxRelay, SqliteOutbox

ROWS, BATCH = 200, 20


def test_a_backlog_is_read_on_where_the_first_pages_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to begin again, the table returns what is under way, page after page. None of these pages is the last one,
    so nothing is waited for; a poll of an hour shows it."""

    async def main() -> None:
        file = tmp_path / "shop.db"
        outbox = SqliteOutbox(file)
        table = SqliteOutbox(file)
        relay = OutboxRelay(table, batch=BATCH, poll=3600.0, lease=60.0)
        read = table.rows

        async def read_again(*arguments: object) -> object:
            """Each third look begins at the beginning."""
            looks.append(None)
            if len(looks) % 3 == 0:
                table.again()
            return await read(*arguments)  # type: ignore[arg-type] # they are the relay's

        async def woken(_: float) -> None:
            waits.append(len(looks))
            await asyncio.sleep(3600.0)

        looks: list[None] = []
        waits: list[int] = []
        monkeypatch.setattr(table, "rows", read_again)
        monkeypatch.setattr(table, "wait", woken)
        async with Bus("memory://", source="shop", consume=False, sinks=[outbox]) as bus:
            await bus.declare("orders", groups=["billing"])
            await table.open()
            with closing(sqlite3.connect(file)) as shop, shop:
                for number in range(ROWS):
                    event = Event.create({"n": number}, source="shop", type="sold", id=str(number), key=str(number))
                    await bus.publish("orders", event, within=shop)
            await table.close()
            relay.attach(bus)
            await relay.start()
            async with asyncio.timeout(20.0):
                while relay.relayed < ROWS:
                    assert not waits, f"it waits after {waits} looks with {relay.relayed} of {ROWS} relayed"
                    await asyncio.sleep(0.01)
            await relay.stop(1.0)

    asyncio.run(main())
