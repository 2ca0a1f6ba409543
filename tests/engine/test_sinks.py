"""``publish(…, within=transaction)``: a third party's sink writes events into the caller's transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from anybroker import Bus, Delivery, Event, MemoryBroker, PutsMany, Receipt, Sink
from anybroker.adapter import Outbound
from anybroker.errors import ConfigError, StateError
from anybroker.middleware import publish_middleware
from anybroker.middleware.outgoing import Outgoing
from anybroker.testing import settled

Run = Callable[..., Any]


class Table:
    """An outbox in a table of the caller's SQLite database."""

    def takes(self, within: object, /) -> bool:
        return isinstance(within, sqlite3.Connection)

    async def put(self, outbound: Outbound, within: sqlite3.Connection, /) -> Receipt:
        assert isinstance(outbound.event, Event)
        headers = ",".join(f"{name}={value}" for name, value in (outbound.headers or {}).items())
        row = (outbound.topic, outbound.event.id, outbound.event.data, outbound.key, headers)
        cursor = within.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", row)
        return Receipt(outbound.topic, str(cursor.lastrowid))


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE outbox (topic TEXT, id TEXT UNIQUE, data TEXT, key TEXT, headers TEXT)")
    connection.commit()
    yield connection
    connection.close()


def rows(database: sqlite3.Connection) -> list[Any]:
    return database.execute("SELECT topic, data, key, headers FROM outbox ORDER BY rowid").fetchall()


def test_an_event_becomes_a_part_of_the_transaction(run: Run, database: sqlite3.Connection) -> None:
    bus = Bus(MemoryBroker(), source="shop", sinks=[Table()])
    assert isinstance(Table(), Sink)

    async def main() -> None:
        async with bus:
            receipt = await bus.publish("orders", "1", type="t", key="k", headers={"tenant": "a"}, within=database)
            assert (receipt.topic, receipt.broker_id) == ("orders", "1")
            assert receipt.event is not None
            assert receipt.event.data == "1"
            database.rollback()
            assert rows(database) == []
            await bus.publish("orders", "2", type="t", within=database)
            database.commit()

    run(main())
    assert rows(database) == [("orders", "2", None, "")]
    assert bus.stats.published == 0, "nothing went to the broker"


def test_many_at_once_raise_the_first_failure(run: Run, database: sqlite3.Connection) -> None:
    bus = Bus(MemoryBroker(), source="shop", sinks=[Table()])
    events = [Event.create(str(n), type="t", source="shop", id=f"id-{min(n, 2)}") for n in range(4)]

    async def main() -> None:
        async with bus:
            receipts = await bus.publish_many("orders", events[:3], within=database)
            assert [each.broker_id for each in receipts if isinstance(each, Receipt)] == ["1", "2", "3"]
            with pytest.raises(sqlite3.IntegrityError):
                await bus.publish_many("orders", events[3:], within=database)

    run(main())


class BatchTable(Table):
    """Writes a batch with one statement."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def put_many(self, batch: Sequence[Outbound], within: sqlite3.Connection, /) -> Sequence[Receipt]:
        self.batches.append(len(batch))
        return [await self.put(outbound, within) for outbound in batch]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_goes_to_a_sink_that_takes_it_whole(run: Run, database: sqlite3.Connection, count: int) -> None:
    table = BatchTable()
    bus = Bus(MemoryBroker(), source="shop", sinks=[table])
    assert isinstance(table, PutsMany)
    assert not isinstance(Table(), PutsMany)
    events = [Event.create(str(n), type="t", source="shop", id=f"id-{n}") for n in range(count)]

    async def main() -> None:
        async with bus:
            receipts = await bus.publish_many("orders", events, within=database)
            assert [each.event for each in receipts if isinstance(each, Receipt)] == events

    run(main())
    assert table.batches == ([3] if count == 3 else []), "one event is put by put()"
    assert [row[1] for row in rows(database)] == [event.data for event in events]


def test_a_failure_of_a_batch_is_raised(run: Run, database: sqlite3.Connection) -> None:
    bus = Bus(MemoryBroker(), source="shop", sinks=[BatchTable()])
    events = [Event.create(str(n), type="t", source="shop", id=f"id-{n % 2}") for n in range(3)]

    async def main() -> None:
        async with bus:
            with pytest.raises(sqlite3.IntegrityError):
                await bus.publish_many("orders", events, within=database)
            database.rollback()
            with pytest.raises(ConfigError, match="topic"):
                await bus.publish_many("no topic!", events, within=database)
        with pytest.raises(StateError):
            await bus.publish_many("orders", events, within=database)

    run(main())
    assert rows(database) == []


@pytest.mark.parametrize("wrong", ["none", "few", "text"])
def test_a_sink_that_returns_other_than_a_receipt_for_each_is_named(
    run: Run, database: sqlite3.Connection, wrong: str
) -> None:
    class Forgets(BatchTable):
        async def put_many(self, batch: Sequence[Outbound], within: sqlite3.Connection, /) -> Sequence[Receipt]:
            found: Any = {"none": None, "few": list(await super().put_many(batch[1:], within)), "text": ["row", "row"]}
            return found[wrong]  # type: ignore[no-any-return]

    bus = Bus(MemoryBroker(), source="shop", sinks=[Forgets()])

    async def main() -> None:
        async with bus:
            with pytest.raises(TypeError, match=r"Forgets.*receipt|Receipt"):
                await bus.publish_many("orders", [Event.create("1", type="t", source="s")] * 2, within=database)

    run(main())


@pytest.mark.parametrize("many", [False, True])
def test_publish_middleware_runs_around_it(run: Run, database: sqlite3.Connection, many: bool) -> None:
    @publish_middleware
    async def stamp(outgoing: Outgoing, call_next: Any) -> Receipt:
        outgoing.headers["stamp"] = "yes"
        assert outgoing.within is database
        receipt: Receipt = await call_next(outgoing)
        return receipt

    bus = Bus(MemoryBroker(), source="shop", sinks=[Table()], publish_middleware=[stamp])

    async def main() -> None:
        async with bus:
            if many:
                await bus.publish_many(
                    "orders", [Event.create(n, type="t", source="s", key="k") for n in "123"], within=database
                )
            else:
                await asyncio.gather(*(bus.publish("orders", n, type="t", key="k", within=database) for n in "123"))

    run(main())
    assert rows(database) == [("orders", n, "k", "stamp=yes") for n in "123"], "in the order of the publishes"


def test_what_a_handler_publishes_there_has_its_cause(run: Run, database: sqlite3.Connection) -> None:
    bus = Bus(MemoryBroker(), source="shop", sinks=[Table()])
    made: list[Event[Any] | None] = []

    @bus.subscribe("orders", group="billing")
    async def handle(event: Event[str], delivery: Delivery) -> None:
        made.append((await bus.publish("invoices", event.data, type="u", within=database)).event)
        assert delivery.attempt == 1

    async def main() -> None:
        async with bus:
            await bus.publish("orders", "1", type="t", id="cause")
            await settled(bus)

    run(main())
    assert made[0] is not None
    assert made[0]["causationid"] == "cause"


def test_no_sink_takes_it(run: Run, database: sqlite3.Connection) -> None:
    bus = Bus(MemoryBroker(), source="shop", sinks=[Table()])

    async def main() -> None:
        async with bus:
            with pytest.raises(ConfigError, match=r"publish\(within=\): no sink of the Bus takes a dict"):
                await bus.publish("orders", "1", type="t", within={})
            with pytest.raises(ConfigError):
                await bus.publish("no topic!", "1", type="t", within=database)
        with pytest.raises(StateError):
            await bus.publish("orders", "1", type="t", within=database)

    run(main())
    assert rows(database) == []


def test_what_is_not_a_sink_is_refused() -> None:
    with pytest.raises(ConfigError, match="str is not a Sink"):
        Bus(MemoryBroker(), source="shop", sinks=["table"])  # type: ignore[list-item]


class Slow(Table):
    """Takes long for what comes first, and notes how many puts of one transaction run at once."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.wait = 0.02

    async def put(self, outbound: Outbound, within: sqlite3.Connection, /) -> Receipt:
        self.running += 1
        self.most = max(self.most, self.running)
        self.wait /= 4
        await asyncio.sleep(self.wait)
        self.running -= 1
        return await super().put(outbound, within)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("around", [False, True])
def test_a_transaction_gets_one_event_at_a_time_in_order(
    run: Run, database: sqlite3.Connection, many: bool, around: bool
) -> None:
    @publish_middleware
    async def nothing(outgoing: Outgoing, call_next: Any) -> Receipt:
        receipt: Receipt = await call_next(outgoing)
        return receipt

    sink = Slow()
    bus = Bus(MemoryBroker(), source="shop", sinks=[sink], publish_middleware=[nothing] if around else [])

    async def main() -> None:
        async with bus:
            if many:
                await bus.publish_many(
                    "orders", [Event.create(n, type="t", source="s") for n in "123"], within=database
                )
            else:
                await asyncio.gather(*(bus.publish("orders", n, type="t", within=database) for n in "123"))

    run(main())
    assert [row[1] for row in rows(database)] == ["1", "2", "3"]
    assert sink.most == 1


def test_a_transaction_that_waits_keeps_no_other_publish_of_its_key(run: Run, database: sqlite3.Connection) -> None:
    @publish_middleware
    async def nothing(outgoing: Outgoing, call_next: Any) -> Receipt:
        receipt: Receipt = await call_next(outgoing)
        return receipt

    class Waits(Table):
        async def put(self, outbound: Outbound, within: sqlite3.Connection, /) -> Receipt:
            await free.wait()
            return await super().put(outbound, within)

    free = asyncio.Event()
    bus = Bus(MemoryBroker(), source="shop", sinks=[Waits()], publish_middleware=[nothing])

    async def main() -> None:
        async with asyncio.timeout(5), bus:
            waiting = asyncio.create_task(bus.publish("orders", "1", type="t", key="k", within=database))
            await asyncio.sleep(0)
            await bus.publish("orders", "2", type="t", key="k")
            assert not waiting.done()
            free.set()
            await waiting

    run(main())


def test_a_draining_handler_still_writes_to_its_transaction(run: Run, database: sqlite3.Connection) -> None:
    bus = Bus(MemoryBroker(), source="shop", sinks=[Table()])
    started, free = asyncio.Event(), asyncio.Event()

    @bus.subscribe("orders", group="billing")
    async def handle(event: Event[str]) -> None:
        started.set()
        await free.wait()
        await bus.publish("invoices", "i", type="t", within=database)

    async def main() -> None:
        await bus.start()
        await bus.publish("orders", "1", type="t")
        await started.wait()
        closing = asyncio.create_task(bus.close())
        await asyncio.sleep(0)
        free.set()
        await closing

    run(main())
    assert [row[0] for row in rows(database)] == ["invoices"]


def test_a_sink_that_returns_no_receipt_is_named(run: Run, database: sqlite3.Connection) -> None:
    class Forgets(Table):
        async def put(self, outbound: Outbound, within: sqlite3.Connection, /) -> Receipt:
            return None  # type: ignore[return-value]

    bus = Bus(MemoryBroker(), source="shop", sinks=[Forgets()])

    async def main() -> None:
        async with bus:
            with pytest.raises(TypeError, match="returned None instead of a Receipt"):
                await bus.publish("orders", "1", type="t", within=database)

    run(main())
    with pytest.raises(ConfigError, match="is not a Sink"):
        Bus(MemoryBroker(), source="shop", sinks=[Table])  # type: ignore[list-item]
